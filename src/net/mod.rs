//! Sockets without SMTP: streams, dialling, listening.

pub mod dial;
pub mod listen;
pub mod stream;
