//! Being a client of the real server: sessions with it, how many there may be, what it announced.

mod budget;
mod connection;
mod envelope;
mod habits;
mod health;
mod introduction;
mod lease;
mod pool;
mod secure;
mod turns;

pub use budget::{Account, Budget, Opening, Permit, Round, Shrunk, Use};
pub use connection::{Approach, Blame, Connection, Fault, Identity, Patience, Phase};
pub use envelope::{EnvelopeFault, mail_command, rcpt_command};
pub use habits::{Habits, Learnt, MAX_BATCH, Trial};
pub use introduction::{Introduction, Means};
pub use lease::{Lease, Origin};
pub use pool::{Backend, Backends, LeaseFault, Quota};
pub use secure::{Handshaking, Protection};
pub use turns::{Place, Turns};
