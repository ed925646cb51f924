//! Sockets without SMTP: streams, names, dialling, listening, TLS, whom an address stands for.

pub mod client_key;
pub mod dial;
pub mod inherited;
pub mod listen;
pub mod resolve;
pub mod stream;
pub mod tls;
pub mod transparent;
