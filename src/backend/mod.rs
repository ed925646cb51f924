//! Being a client of the real server: sessions with it, how many there may be, what it announced.

mod budget;
mod connection;
mod envelope;
mod health;
mod introduction;
mod pool;

pub use budget::{Budget, Permit, Use};
pub use connection::{Blame, Connection, Fault, Identity, Patience, Phase};
pub use envelope::{EnvelopeFault, mail_command, rcpt_command};
pub use introduction::{Introduction, Means};
pub use pool::{Backend, Backends, Lease, LeaseFault, Origin, Quota};
