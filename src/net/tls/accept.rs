//! TLS to clients.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

use super::stream::Records;
use super::{HandshakeFault, Keyring, Secured, TlsStream, facts, kind, provider, within};
use crate::net::stream::Stream;
use crate::proto::tls::TlsVersion;

/// Sessions of TLS 1.2 remembered for clients that take no tickets; a few hundred octets each.
const SESSIONS: usize = 1024;

/// Shakes hands with clients. One for ever: what changes are the keys in its ring.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    keyring: Arc<Keyring>,
}

impl Acceptor {
    /// Serves the certificates in `keyring`.
    #[must_use]
    pub fn new(keyring: Keyring, least: TlsVersion) -> Self {
        let keyring = Arc::new(keyring);
        let versions: &[_] = match least {
            TlsVersion::Tls12 => &[&TLS13, &TLS12],
            TlsVersion::Tls13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("ring has suites for both versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&keyring) as Arc<_>);
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        match rustls::crypto::ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(fault) => tracing::warn!(%fault, "no session tickets: every handshake is a full one"),
        }
        // A mail client takes a session up once, if ever.
        config.send_tls13_tickets = 1;
        Self { inner: TlsAcceptor::from(Arc::new(config)), keyring }
    }

    /// What it serves.
    #[must_use]
    pub const fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Waits for the client's part of the handshake, for so long.
    ///
    /// # Errors
    /// [`HandshakeFault`]; the connection is gone then.
    pub async fn accept(&self, stream: Stream, patience: Duration) -> Result<Secured, HandshakeFault> {
        let stream = within(patience, self.inner.accept(Records::new(stream))).await?;
        let (_, connection) = stream.get_ref();
        let (facts, handshake) = (facts(connection, connection.server_name()), kind(connection));
        Ok(Secured { stream: Stream::Tls(Box::new(TlsStream::new(stream))), facts, handshake })
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("keyring", &self.keyring).finish_non_exhaustive()
    }
}
