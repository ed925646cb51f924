//! Being a client of the real server: where it is, sessions with it, how many there may be, what it announced.

mod backends;
mod balance;
mod budget;
mod check;
mod connection;
mod destination;
mod envelope;
mod fault;
mod habits;
mod health;
mod introduction;
mod lease;
mod pool;
mod quota;
mod secure;
mod shelves;
#[cfg(test)]
mod tests;
mod turns;

pub use backends::Backends;
pub use balance::{Balancer, Order};
pub use budget::{Account, Budget, Opening, Permit, Round, Shrunk, Use};
pub use connection::{Approach, Connection, Identity, Patience};
pub use destination::{Destination, LookedUp, Member};
pub use envelope::{EnvelopeFault, mail_command, rcpt_command};
pub use fault::{Blame, Fault, Phase};
pub use habits::{Habits, Learnt, MAX_BATCH, Trial};
pub use health::Standing;
pub use introduction::{Introduction, Means};
pub use lease::{Lease, Origin};
pub use pool::{Backend, LeaseFault};
pub use quota::{Canary, Quota};
pub use secure::{Handshaking, Protection};
pub use turns::{Place, Turns};
