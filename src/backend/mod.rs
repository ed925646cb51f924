//! Being a client of the real server: sessions with it, how many there may be, what it announced.

mod budget;
mod connection;
mod envelope;
mod health;
mod pool;
mod secure;

pub use budget::{Budget, Permit, Use};
pub use connection::{Connection, Fault, Identity, Patience, Phase};
pub use envelope::{EnvelopeFault, mail_command, rcpt_command};
pub use pool::{Backend, Backends, Lease, LeaseFault, Origin, Quota};
pub use secure::Protection;
