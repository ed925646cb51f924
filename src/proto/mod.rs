//! SMTP as a language, and nothing else: no sockets, no clock, no log. Every function here is a pure one.

pub mod address;
