//! What a client may still do: how many connections it may have, and how long it has when we end.

mod connections;
mod drain;

pub use connections::{Admission, ClientKey, Connections, Turned};
pub use drain::Drain;
