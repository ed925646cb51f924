//! What a client may still do: how many connections it may have, and how long it has when we end, how
//! it stands.

mod connections;
mod drain;
mod sources;
mod standing;

pub use connections::{Admission, Connections, Turned, Unread};
pub use drain::Drain;
pub use sources::{Sources, Told};
pub use standing::{Standing, Standings};
