//! Backstop: a transparent SMTP front proxy that refuses unknown recipients during the session.
//!
//! The map of the crate, from the top down; imports go down only (`tests/layers.rs` holds them to it):
//!
//! * [`cli`]: the commands.
//! * [`server`]: assemble, listen, drain.
//! * [`admin`]: metrics, health, the API. [`session`]: one client connection, from accept to close.
//! * [`guard`]: what a client may still do. [`verify`]: may this recipient be accepted?
//! * [`backend`]: being a client of the real server. [`store`]: what outlives this process.
//! * [`net`]: sockets without SMTP.
//! * [`config`]: settings as written, checked, used. [`observe`]: what happened, told once.
//! * [`proto`]: SMTP as a language; pure.
//!
//! One word per thing: a *client* speaks to us; a *backend* is a server we speak to; a *session* is one
//! connection, a *transaction* one message's worth of it (RFC 5321 §3.3); a *recipient* is what RCPT names; a
//! *verdict* is what is known of it; a *probe* asks the mail store, a *prober* does so for all who want to know;
//! to *drain* is to end without losing anything.

pub mod admin;
pub mod backend;
pub mod cli;
pub mod config;
pub mod guard;
pub mod net;
pub mod observe;
pub mod proto;
pub mod server;
pub mod session;
pub mod store;
pub mod verify;
