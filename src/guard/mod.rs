//! What a client may still do: how many connections it may have, and how long it has when we end, how
//! it stands.

mod connections;
mod drain;
mod standing;

pub use connections::{Admission, Connections, Turned};
pub use drain::Drain;
pub use standing::{Standing, Standings};
