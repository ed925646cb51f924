//! What a client may still do: how many connections it may have, how many recipients it may guess, and how long it has when
//! we end.

mod conduct;
mod connections;
mod drain;
mod elsewhere;
mod harvest;
mod hour;
mod ledger;
mod sources;

pub use conduct::Conduct;
pub use connections::{Admission, Connections, Turned, Unread};
pub use drain::Drain;
pub use harvest::{Ban, Event, Granted, Harvest, Held, Leave, Standing, Suspicion, Suspicions};
pub use hour::Tally;
pub use sources::{Sources, Told};
