//! TLS over a stream: to clients ([`Acceptor`]), to backends ([`Connector`]).
//!
//! Versions 1.2 and 1.3, rustls on ring, sessions resumed with tickets (and, in 1.2, by their number). Early
//! data is neither taken nor sent: SMTP is not safe to replay (RFC 8446 §8). What plaintext was read before a
//! handshake is the caller's affair: RFC 3207 §4.2 wants there to be none.

mod accept;
mod connect;
mod explain;
mod keyring;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};
use tokio::time::timeout;

use super::stream::Stream;
use crate::proto::tls::{TlsFacts, TlsVersion};
pub use accept::Acceptor;
pub use connect::Connector;
pub use keyring::{Keyring, REREAD_EVERY};
pub use stream::TlsStream;

/// A stream inside TLS.
#[derive(Debug)]
pub struct Secured {
    /// To speak on from now.
    pub stream: Stream,
    /// What was agreed on.
    pub facts: TlsFacts,
    /// Whether an earlier session was taken up.
    pub handshake: Handshake,
}

/// How a session came to its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Anew.
    Full,
    /// From an earlier session with the same peer.
    Resumed,
}

/// Why a handshake came to nothing. The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFault {
    /// The peer did not do its part in time.
    #[error("no TLS handshake in time")]
    Timeout,
    /// The peer closed or reset the connection.
    #[error("the connection ended in the TLS handshake")]
    Closed,
    /// What the peer said, or who it is, was not acceptable; or ours was not to the peer.
    #[error("TLS handshake failed: {}", explain::explain(.0))]
    Refused(rustls::Error),
    /// The system says no.
    #[error("connection failed in the TLS handshake: {0}")]
    Io(io::Error),
}

impl From<io::Error> for HandshakeFault {
    fn from(fault: io::Error) -> Self {
        if let Some(refused) = fault.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Refused(refused.clone());
        }
        match fault.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(fault),
        }
    }
}

/// Waits for a handshake, for so long.
async fn within<S>(
    patience: Duration,
    handshake: impl Future<Output = io::Result<S>>,
) -> Result<S, HandshakeFault> {
    match timeout(patience, handshake).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(HandshakeFault::Timeout),
    }
}

/// What a connection that shook hands has agreed on.
fn facts(connection: &CommonState, server_name: Option<&str>) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
        _ => TlsVersion::Tls13,
    };
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let cipher = match cipher {
        // rustls keeps the version in the names that IANA gave to the suites of TLS 1.3.
        Some("TLS13_AES_128_GCM_SHA256") => "TLS_AES_128_GCM_SHA256",
        Some("TLS13_AES_256_GCM_SHA384") => "TLS_AES_256_GCM_SHA384",
        Some("TLS13_CHACHA20_POLY1305_SHA256") => "TLS_CHACHA20_POLY1305_SHA256",
        Some(cipher) => cipher,
        None => "unknown",
    };
    TlsFacts { version, cipher, server_name: server_name.map(Into::into) }
}

fn kind(connection: &CommonState) -> Handshake {
    match connection.handshake_kind() {
        Some(HandshakeKind::Resumed) => Handshake::Resumed,
        _ => Handshake::Full,
    }
}

/// The one provider, always passed: a second one in the tree must not change what is spoken.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
