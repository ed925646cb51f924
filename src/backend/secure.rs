//! TLS with one backend: when, with whom, and what follows when there is none.
//!
//! `opportunistic` goes on without TLS on a new connection after a handshake that failed (the old one is of no
//! use), and then does not try again for a while, so that not every session pays twice. The others never go on
//! without: RFC 3207 §4.1 leaves that to policy, and theirs is not to.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::fault::Fault;
use super::pool::lock;
use crate::config::{BackendTls, Endpoint, EndpointTls, TlsPolicy};
use crate::net::tls::{Connector, Handshake, HandshakeFault};
use crate::observe::metrics::TlsResult;

/// For so long a backend with which no TLS can be had is not asked for it again.
const AVOIDED: Duration = Duration::from_secs(600);

/// How one backend is spoken to.
#[derive(Debug)]
pub(super) struct Security {
    tls: BackendTls,
    when: EndpointTls,
    connector: Connector,
    /// For the backend's part of a handshake.
    patience: Duration,
    /// No TLS before this time.
    avoided: Mutex<Option<Instant>>,
}

/// TLS on one connection.
#[derive(Debug, Clone, Copy)]
pub enum Protection<'s> {
    /// None.
    Absent,
    /// Where the backend offers it.
    Offered(Handshaking<'s>),
    /// Or the session is none. The word names the policy.
    Demanded(Handshaking<'s>, &'static str),
}

/// How TLS comes about.
#[derive(Debug, Clone, Copy)]
pub struct Handshaking<'s> {
    /// Who shakes hands.
    pub connector: &'s Connector,
    /// For so long at most.
    pub patience: Duration,
}

impl Security {
    pub(super) fn new(tls: BackendTls, endpoint: &Endpoint, patience: Duration) -> Self {
        let connector = Connector::new(&tls, endpoint);
        Self { tls, when: endpoint.tls, connector, patience, avoided: Mutex::default() }
    }

    /// What the next connection is to have, which must be there before the deadline.
    pub(super) fn protection(&self, deadline: Instant) -> Protection<'_> {
        let left = deadline.saturating_duration_since(Instant::now());
        // One that hangs is cut in time to be told of as what it is.
        let patience = self.patience.min(left * 9 / 10);
        let handshaking = Handshaking { connector: &self.connector, patience };
        match self.tls.policy {
            TlsPolicy::Off => Protection::Absent,
            // There is no going on without where TLS comes first.
            TlsPolicy::Opportunistic if self.when == EndpointTls::Implicit => {
                Protection::Demanded(handshaking, "opportunistic")
            }
            TlsPolicy::Opportunistic if lock(&self.avoided).is_some_and(|until| Instant::now() < until) => {
                Protection::Absent
            }
            TlsPolicy::Opportunistic => {
                // One that hangs leaves time to go on without.
                Protection::Offered(Handshaking { patience: self.patience.min(left / 2), ..handshaking })
            }
            TlsPolicy::Required => Protection::Demanded(handshaking, "required"),
            TlsPolicy::Verify(_) => Protection::Demanded(handshaking, "verify"),
            TlsPolicy::Pin(_) => Protection::Demanded(handshaking, "pin"),
        }
    }

    /// Whether a backend had all the time for its handshake that it may take.
    pub(super) fn was_patient(&self, protection: Protection<'_>) -> bool {
        match protection {
            Protection::Offered(handshaking) | Protection::Demanded(handshaking, _) => {
                handshaking.patience == self.patience
            }
            Protection::Absent => true,
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
