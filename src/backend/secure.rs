//! TLS with one backend: when, with whom, and what follows when there is none.
//!
//! `opportunistic` goes on without TLS on a new connection after a handshake that failed (the old one is of no
//! use), and then does not try again for a while, so that not every session pays twice. The others never go on
//! without: RFC 3207 §4.1 leaves that to policy, and theirs is not to.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Fault;
use super::pool::lock;
use crate::config::{BackendTls, Endpoint, Opening, TlsPolicy};
use crate::net::tls::{Connector, Handshake, HandshakeFault};
use crate::observe::metrics::TlsResult;

/// For so long a backend with which no TLS can be had is not asked for it again.
const AVOIDED: Duration = Duration::from_secs(600);

/// How one backend is spoken to.
#[derive(Debug)]
pub(super) struct Security {
    tls: BackendTls,
    connector: Connector,
    opening: Opening,
    /// No TLS before this time.
    avoided: Mutex<Option<Instant>>,
}

/// TLS on one connection.
#[derive(Debug, Clone, Copy)]
pub enum Protection<'s> {
    /// None.
    Absent,
    /// Where the backend offers it.
    Offered(&'s Connector),
    /// Or the session is none. The word names the policy.
    Demanded(&'s Connector, &'static str),
}

impl Security {
    pub(super) fn new(tls: BackendTls, endpoint: &Endpoint) -> Self {
        Self {
            connector: Connector::new(&tls, endpoint),
            tls,
            opening: endpoint.opening,
            avoided: Mutex::default(),
        }
    }

    /// What the next connection is to have.
    pub(super) fn protection(&self) -> Protection<'_> {
        match self.tls.policy {
            TlsPolicy::Off => Protection::Absent,
            // There is no going on without where TLS comes first.
            TlsPolicy::Opportunistic if self.opening == Opening::Tls => {
                Protection::Demanded(&self.connector, "opportunistic")
            }
            TlsPolicy::Opportunistic if lock(&self.avoided).is_some_and(|until| Instant::now() < until) => {
                Protection::Absent
            }
            TlsPolicy::Opportunistic => Protection::Offered(&self.connector),
            TlsPolicy::Required => Protection::Demanded(&self.connector, "required"),
            TlsPolicy::Verify(_) => Protection::Demanded(&self.connector, "verify"),
            TlsPolicy::Pin(_) => Protection::Demanded(&self.connector, "pin"),
        }
    }

    /// No TLS could be had, and a session without it could.
    pub(super) fn avoid(&self) {
        *lock(&self.avoided) = Some(Instant::now() + AVOIDED);
    }
}

/// How a handshake is counted.
pub(super) const fn counted(handshake: Result<Handshake, &HandshakeFault>) -> TlsResult {
    match handshake {
        Ok(Handshake::Full) => TlsResult::Full,
        Ok(Handshake::Resumed) => TlsResult::Resumed,
        Err(HandshakeFault::Timeout) => TlsResult::Timeout,
        Err(_) => TlsResult::Failed,
    }
}

impl Protection<'_> {
    /// Whether a session without TLS is to be tried after this fault of one with it.
    pub(super) const fn yields_to(self, fault: &Fault) -> bool {
        matches!(self, Self::Offered(_)) && fault.is_of_tls()
    }
}
