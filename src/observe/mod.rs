//! What happened, told once: the record of a session, the metrics, the log.

pub mod escape;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod record;
