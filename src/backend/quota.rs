//! How a backend is to be treated.

use std::time::Duration;

use crate::config::BackendTls;
use crate::proto::address::Mailbox;
use crate::proto::proxy_header::Version;

/// What routes say of a backend.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Connections it may have, at least 2.
    pub connections: usize,
    /// How long it rests after several faults in a row; zero: not at all.
    pub eject: Duration,
    /// Refusals it is taken to endure in one session until it shows how many.
    pub refusals: u32,
    /// The PROXY header it expects on every connection.
    pub header: Option<Version>,
    /// How it is spoken to; the same whoever names it.
    pub tls: BackendTls,
    /// How long it may take for its part of a TLS handshake.
    pub tls_handshake: Duration,
    /// How long it may go without a session before it is checked; none: for ever.
    pub check: Option<Duration>,
    /// Whom it must accept then.
    pub canary: Option<Canary>,
}

/// A recipient that exists for certain, so that who refuses it is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Its address.
    pub recipient: Mailbox,
    /// Who asks where the null sender is refused.
    pub fallback_sender: Option<Mailbox>,
}

impl Quota {
    /// Where two routes name it, the smaller of each part counts; the first canary named.
    pub(super) fn also(&mut self, other: Self) {
        self.connections = self.connections.min(other.connections);
        self.eject = self.eject.min(other.eject);
        self.refusals = self.refusals.min(other.refusals);
        self.check = self.check.into_iter().chain(other.check).min();
        self.canary = self.canary.take().or(other.canary);
    }
}
