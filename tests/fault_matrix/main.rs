//! The fault matrix: the backend, or the client, fails at every step of a delivery, in every way it can.
//!
//! Each cell is one fault at one point, on real sockets, with a backend of its own. Asserted of every cell: the reply
//! to each command, what the backend stored, what is remembered of the recipients, and that mail flows afterwards.
//!
//! - `backend_fails`: the backend closes, resets, says 421, hangs, or hangs in the middle of a reply.
//! - `client_vanishes`: the client closes, resets, says that it sends no more, or falls silent.
//! - `cell`: what the cells have in common, and how many run at once.
//!
//! True of all cells: what was acknowledged is stored; a fault of the backend's connection is never a 5yz; it is never
//! remembered against an address (RFC 5321 §3.8, §4.5.3.2, §6.1).

#[path = "../support/mod.rs"]
mod support;

mod backend_fails;
mod cell;
mod client_vanishes;
