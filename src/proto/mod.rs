//! SMTP as a language, and nothing else: no sockets, no clock, no log. Every function here is a pure one.

pub mod address;
pub mod body;
pub mod command;
pub mod dialogue;
pub mod ehlo;
pub mod line;
pub mod parameter;
pub mod replies;
pub mod reply;
pub mod tls;
pub mod verdict;
