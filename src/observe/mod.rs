//! What happened, told once: one log line per session and per refused recipient, and the metrics.
//!
//! Nothing here decides anything. [`metrics::Metrics`] are a value that is passed along, so two servers can
//! live in one test; global are only the log's subscriber and the count of sessions that names them.
//!
//! Text from a peer is data. It reaches a log only through [`Escaped`], and no label of a metric is ever
//! made from it.

mod alarm;
pub mod escape;
mod event;
mod live;
pub mod log;
pub mod metrics;
pub mod record;
pub mod redact;
mod session_id;
mod text;

#[cfg(test)]
mod captured;

pub use alarm::{Alarm, AlarmKind, Alarms};
pub use escape::{Escaped, EscapedWhole};
pub use event::{
    Event, Events, Heard, Listener, MOST_LISTENERS, RecipientCounts, RecipientRefused, SessionEnded,
};
pub use live::{Live, OpenSession};
pub use session_id::SessionId;
