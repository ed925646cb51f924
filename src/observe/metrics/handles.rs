//! What one listener, route or backend counts, found by name once.
//!
//! Handles are cheap to clone. Guards count down when dropped, so a session that panics or is cancelled
//! leaves no ghost in a gauge.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntCounter, IntGauge};

use super::children::{Children, Label as _};
use super::families::Families;
use super::{
    BackendState, BackendUse, CacheKind, ConnectionResult, MessageResult, ProbeResult, RecipientResult,
    RecipientSource, RefusalCause, SessionState, TlsResult, TlsSide,
};

/// Numbers of a listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    connections: Arc<Children<ConnectionResult, IntCounter>>,
    sessions: Arc<Children<SessionState, IntGauge>>,
    tls: Arc<Children<TlsResult, IntCounter>>,
}

impl ListenerMetrics {
    pub(super) fn new(families: &Families, name: &str) -> Self {
        Self {
            connections: Arc::new(Children::new(|result: ConnectionResult| {
                families.connections.with_label_values(&[name, result.as_str()])
            })),
            sessions: Arc::new(Children::new(|state: SessionState| {
                families.sessions.with_label_values(&[name, state.as_str()])
            })),
            tls: tls(families, TlsSide::Client),
        }
    }

    /// A client connected.
    pub fn connection(&self, result: ConnectionResult) {
        self.connections.get(result).inc();
    }

    /// A TLS handshake with a client ended so. Counted for all listeners together.
    pub fn tls_handshake(&self, result: TlsResult) {
        self.tls.get(result).inc();
    }

    /// Sessions in this state now.
    #[must_use]
    pub fn sessions(&self, state: SessionState) -> u64 {
        u64::try_from(self.sessions.get(state).get()).unwrap_or(0)
    }

    /// A session began; it is idle and lasts as long as what is returned.
    pub fn session(&self) -> SessionGauge {
        let state = SessionState::Idle;
        self.sessions.get(state).inc();
        SessionGauge { sessions: Arc::clone(&self.sessions), state }
    }
}

/// A session's place in the gauge of its listener.
#[derive(Debug)]
#[must_use = "the session counts as long as this lives"]
pub struct SessionGauge {
    sessions: Arc<Children<SessionState, IntGauge>>,
    state: SessionState,
}

impl SessionGauge {
    /// Moves to another state, or stays.
    pub fn is(&mut self, state: SessionState) -> Moved {
        if state == self.state {
            return Moved::Nowhere;
        }
        self.sessions.get(self.state).dec();
        self.sessions.get(state).inc();
        self.state = state;
        Moved::Elsewhere
    }
}

/// Whether a session changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It did.
    Elsewhere,
    /// It was there already.
    Nowhere,
}

impl Drop for SessionGauge {
    fn drop(&mut self) {
        self.sessions.get(self.state).dec();
    }
}

/// Numbers of a route.
#[derive(Debug, Clone)]
pub struct RouteMetrics(Arc<Route>);

#[derive(Debug)]
struct Route {
    recipients: Children<RecipientResult, Children<RecipientSource, IntCounter>>,
    messages: Children<MessageResult, IntCounter>,
    message_bytes: IntCounter,
    probes: Children<ProbeResult, IntCounter>,
    contradicted: IntCounter,
    refusals: Children<RefusalCause, Refusals>,
}

/// Recipients refused for one cause, and those that shadow mode let pass. For the report, and in no family: so
/// many series would be looked at by nobody.
#[derive(Debug, Default)]
struct Refusals {
    refused: AtomicU64,
    would: AtomicU64,
}

/// Recipients of a route refused for one cause since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusalCount {
    /// Why.
    pub cause: RefusalCause,
    /// Those that were refused.
    pub refused: u64,
    /// Those that would have been, were it not for shadow mode.
    pub would: u64,
}

impl RouteMetrics {
    pub(super) fn new(families: &Families, name: &str) -> Self {
        Self(Arc::new(Route {
            recipients: Children::new(|result: RecipientResult| {
                Children::new(|source: RecipientSource| {
                    families.recipients.with_label_values(&[name, result.as_str(), source.as_str()])
                })
            }),
            messages: Children::new(|result: MessageResult| {
                families.messages.with_label_values(&[name, result.as_str()])
            }),
            message_bytes: families.message_bytes.with_label_values(&[name]),
            probes: Children::new(|result: ProbeResult| {
                families.probes.with_label_values(&[name, result.as_str()])
            }),
            contradicted: families.contradicted.with_label_values(&[name, CacheKind::Good.as_str()]),
            refusals: Children::new(|_| Refusals::default()),
        }))
    }

    /// A recipient was answered.
    pub fn recipient(&self, result: RecipientResult, source: RecipientSource) {
        self.0.recipients.get(result).get(source).inc();
    }

    /// Recipients answered so since the start.
    pub(super) fn recipients(&self, result: RecipientResult) -> u64 {
        let sources = self.0.recipients.get(result);
        RecipientSource::ALL.iter().map(|source| sources.get(*source).get()).sum()
    }

    /// Recipients the backends took since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.recipients(RecipientResult::Accepted)
    }

    /// Recipients asked about since the start, by result.
    #[must_use]
    pub fn probes(&self, result: ProbeResult) -> u64 {
        self.0.probes.get(result).get()
    }

    /// A recipient was refused.
    pub fn refusal(&self, cause: RefusalCause) {
        self.0.refusals.get(cause).refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A recipient would have been refused, were it not for shadow mode.
    pub fn shadow_refusal(&self, cause: RefusalCause) {
        self.0.refusals.get(cause).would.fetch_add(1, Ordering::Relaxed);
    }

    /// What was refused, as far as anything was.
    #[must_use]
    pub fn refusals(&self) -> Vec<RefusalCount> {
        let count = |cause: &RefusalCause| {
            let counted = self.0.refusals.get(*cause);
            let (refused, would) =
                (counted.refused.load(Ordering::Relaxed), counted.would.load(Ordering::Relaxed));
            (refused + would > 0).then_some(RefusalCount { cause: *cause, refused, would })
        };
        RefusalCause::ALL.iter().filter_map(count).collect()
    }

    /// A message came to its end, after so many octets of data.
    pub fn message(&self, result: MessageResult, octets: u64) {
        self.0.messages.get(result).inc();
        self.0.message_bytes.inc_by(octets);
    }

    /// A mail store was asked about a recipient and answered, or did not.
    pub fn probe(&self, result: ProbeResult) {
        self.0.probes.get(result).inc();
    }

    /// The backend refused a recipient that the cache held to be good. (What it holds to be bad is never
    /// given to the backend.)
    pub fn contradicted(&self) {
        self.0.contradicted.inc();
    }
}

/// Numbers of a backend within a route.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    up: IntGauge,
    addresses: Arc<Children<BackendState, IntGauge>>,
    dns_up: IntGauge,
    limit: IntGauge,
    connections: Arc<Children<BackendUse, IntGauge>>,
    tls: Arc<Children<TlsResult, IntCounter>>,
}

impl BackendMetrics {
    pub(super) fn new(families: &Families, route: &str, backend: &str) -> Self {
        Self {
            up: families.backend_up.with_label_values(&[route, backend]),
            addresses: Arc::new(Children::new(|state: BackendState| {
                families.backend_addresses.with_label_values(&[route, backend, state.as_str()])
            })),
            dns_up: families.backend_dns_up.with_label_values(&[route, backend]),
            limit: families.backend_connection_limit.with_label_values(&[route, backend]),
            connections: Arc::new(Children::new(|purpose: BackendUse| {
                families.backend_connections.with_label_values(&[route, backend, purpose.as_str()])
            })),
            tls: tls(families, TlsSide::Backend),
        }
    }

    /// A TLS handshake with the backend ended so. Counted for all backends together.
    pub fn tls_handshake(&self, result: TlsResult) {
        self.tls.get(result).inc();
    }

    /// The backend took our connection.
    pub fn up(&self) {
        self.up.set(1);
    }

    /// It did not.
    pub fn down(&self) {
        self.up.set(0);
    }

    /// So many of its addresses are in this state. Told before a rendering.
    pub fn addresses(&self, state: BackendState, number: usize) {
        self.addresses.get(state).set(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// DNS says where it is, or nothing is to be looked up. Told before a rendering.
    pub fn dns_up(&self) {
        self.dns_up.set(1);
    }

    /// DNS does not.
    pub fn dns_down(&self) {
        self.dns_up.set(0);
    }

    /// It is given so many connections at most. Told before a rendering.
    pub fn connection_limit(&self, limit: usize) {
        self.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// So many connections are in use for this. Told before a rendering.
    pub fn connections(&self, purpose: BackendUse, number: usize) {
        self.connections.get(purpose).set(i64::try_from(number).unwrap_or(i64::MAX));
    }
}

fn tls(families: &Families, side: TlsSide) -> Arc<Children<TlsResult, IntCounter>> {
    let counter =
        |result: TlsResult| families.tls_handshakes.with_label_values(&[side.as_str(), result.as_str()]);
    Arc::new(Children::new(counter))
}
