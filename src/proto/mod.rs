//! SMTP as a language, and nothing else: no sockets, no clock, no log. Every function here is a pure one.

pub mod address;
pub mod body;
pub mod client;
pub mod command;
pub mod dialogue;
pub mod ehlo;
pub mod line;
pub mod parameter;
pub mod proxy_header;
pub mod received;
pub mod replies;
pub mod reply;
pub mod tls;
pub mod verdict;
pub mod xclient;
pub mod xtext;
