//! How recipients are verified, rule by rule: the real session and the real prober before a scripted mail store, in
//! memory and on a paused clock.
//!
//! - `replies`: each row of what a probe's reply means is a test by name.
//! - `remembering`: each rule of what is remembered is one.
//! - `stores`: mail stores that behave as stores do.
//! - `askers`: anybody asks, leaves and waits in any order, and the store fails at any moment.
//! - `house`: Backstop between clients and the store.
//!
//! `docs/callout.md` says the same in sentences. Conversations word by word are in `tests/transcripts`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod askers;
mod house;
mod remembering;
mod replies;
mod stores;
