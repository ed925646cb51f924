//! Sockets without SMTP: streams, dialling, listening, TLS.

pub mod dial;
pub mod listen;
pub mod stream;
pub mod tls;
