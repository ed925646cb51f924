//! What `backstop doctor` finds: each finding against a scripted backend, in memory and on a paused clock; what the
//! command says of real servers, of every Exchange, and of servers that cannot be reached, on real sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod command;
mod examination;
