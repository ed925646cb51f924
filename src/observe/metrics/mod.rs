//! Numbers for operators, in Prometheus' text format.
//!
//! Names and labels are part of the contract. Every family is made in `families.rs`; every label is an enum
//! in `labels.rs` or a configured name (listener, route, backend): no address, no domain and no text of a
//! peer. What a handle can count is present with 0 from the moment the handle exists, so that `rate()` and
//! `absent()` tell the truth.
//!
//! Handles ([`RouteMetrics`], [`ListenerMetrics`], [`BackendMetrics`]) are found by name once and then count
//! with atomics alone. The same name gives handles on the same numbers, so a reload continues them. Known
//! limit: a name that a reload removed keeps its last numbers until the process ends.
//!
//! The registry is our own: two servers in one process do not share numbers. It has no prefix, because that
//! would rename the `process_*` family which stock dashboards expect.

mod children;
mod families;
mod handles;
mod labels;
mod process;
mod totals;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::AlarmKind;
use prometheus::{Histogram, IntCounter, IntGauge, TextEncoder};

pub(super) use children::{Children, Label};
use families::Families;
pub use handles::{BackendMetrics, ListenerMetrics, Moved, RefusalCount, RouteMetrics, SessionGauge};
pub use labels::{
    BackendState, BackendUse, CacheKind, ConnectionResult, MessageResult, ProbeResult, RecipientResult,
    RecipientSource, RefusalCause, ReloadResult, RouteState, SessionState, SharedOperation, SharedResult,
    TlsResult, TlsSide,
};
pub use totals::Totals;

/// What [`Metrics::render`] returns, as a `Content-Type`; Prometheus 3 insists on one.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Whether the store could be written when last tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreHealth {
    /// It could.
    Written,
    /// It could not.
    Failing,
}

/// All metrics of one server; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    families: Families,
    /// By name, so that whoever finds a route counts and reads the same.
    routes: Mutex<BTreeMap<Arc<str>, RouteMetrics>>,
    verify_duration: Children<RecipientSource, Histogram>,
    cache_entries: Children<CacheKind, IntGauge>,
    cache_evictions: IntCounter,
    /// The last total told of `cache_evictions`.
    evictions_known: AtomicU64,
    cache_expired: IntCounter,
    expired_known: AtomicU64,
    /// The same of what the store dropped.
    drops_known: AtomicU64,
    /// The same of what was not shared.
    unshared_known: AtomicU64,
    shared_operations: Children<SharedOperation, Children<SharedResult, IntCounter>>,
    reloads: Children<ReloadResult, IntCounter>,
    shared_duration: Children<SharedOperation, Histogram>,
    probe_duration: Histogram,
    session_duration: Histogram,
    transaction_added: Histogram,
    started: SystemTime,
}

impl Metrics {
    /// Begins at 0, now.
    #[must_use]
    pub fn new() -> Self {
        let families = Families::new();
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        families.last_reload_successful.set(1);
        Self(Arc::new(Inner {
            verify_duration: Children::new(|source: RecipientSource| {
                families.verify_duration.with_label_values(&[source.as_str()])
            }),
            cache_entries: Children::new(|kind: CacheKind| {
                families.cache_entries.with_label_values(&[kind.as_str()])
            }),
            cache_evictions: families.cache_evictions.clone(),
            evictions_known: AtomicU64::new(0),
            cache_expired: families.cache_expired.clone(),
            expired_known: AtomicU64::new(0),
            drops_known: AtomicU64::new(0),
            unshared_known: AtomicU64::new(0),
            shared_operations: Children::new(|operation: SharedOperation| {
                Children::new(|result: SharedResult| {
                    families.shared_operations.with_label_values(&[operation.as_str(), result.as_str()])
                })
            }),
            reloads: Children::new(|result: ReloadResult| {
                families.config_reloads.with_label_values(&[result.as_str()])
            }),
            shared_duration: Children::new(|operation: SharedOperation| {
                families.shared_duration.with_label_values(&[operation.as_str()])
            }),
            probe_duration: families.probe_duration.clone(),
            session_duration: families.session_duration.clone(),
            transaction_added: families.transaction_added.clone(),
            started: SystemTime::now(),
            routes: Mutex::default(),
            families,
        }))
    }

    /// The numbers of a route; "" counts what belongs to none.
    #[must_use]
    pub fn route(&self, name: &str) -> RouteMetrics {
        let mut routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = routes.get(name) {
            return known.clone();
        }
        let route = RouteMetrics::new(&self.0.families, name);
        routes.insert(name.into(), route.clone());
        route
    }

    /// All routes that anything was counted for, by name.
    #[must_use]
    pub fn routes(&self) -> Vec<(Arc<str>, RouteMetrics)> {
        let routes = self.0.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.iter().map(|(name, route)| (Arc::clone(name), route.clone())).collect()
    }

    /// The numbers of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics::new(&self.0.families, name)
    }

    /// The numbers of a backend as it is written in the configuration; down until it was first reached.
    #[must_use]
    pub fn backend(&self, route: &str, backend: &str) -> BackendMetrics {
        BackendMetrics::new(&self.0.families, route, backend)
    }

    /// A recipient's verdict was found, after so long.
    pub fn verified(&self, source: RecipientSource, took: Duration) {
        self.0.verify_duration.get(source).observe(took.as_secs_f64());
    }

    /// A session ended, after so long.
    pub fn session_ended(&self, lasted: Duration) {
        self.0.session_duration.observe(lasted.as_secs_f64());
    }

    /// A mail store was asked, and its answer (or giving up) took so long.
    pub fn probed(&self, took: Duration) {
        self.0.probe_duration.observe(took.as_secs_f64());
    }

    /// A transaction ended in which the client waited so long for us and not for its backend.
    pub fn added(&self, took: Duration) {
        self.0.transaction_added.observe(took.as_secs_f64());
    }

    /// The certificate of this name (a configured file) ceases to hold then.
    pub fn certificate_expires(&self, name: &str, when: SystemTime) {
        let seconds = when.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let gauge = self.0.families.certificate_expiry.with_label_values(&[name]);
        gauge.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// This certificate is not shown any more.
    pub fn forget_certificate(&self, name: &str) {
        let _ = self.0.families.certificate_expiry.remove_label_values(&[name]);
    }

    /// A new configuration came.
    pub fn reloaded(&self, result: ReloadResult) {
        self.0.reloads.get(result).inc();
        self.0.families.last_reload_successful.set(i64::from(result == ReloadResult::Done));
    }

    /// There is no route of this name any more; what was counted for it stays.
    pub fn forget_route(&self, route: &str) {
        self.0.families.forget_route(route);
    }

    /// Whether a backend of the route is there for a use; told before a rendering.
    pub fn route_up(&self, route: &str, purpose: BackendUse, state: RouteState) {
        let gauge = self.0.families.route_up.with_label_values(&[route, purpose.as_str()]);
        gauge.set(i64::from(state == RouteState::Up));
    }

    /// No route of this name has that backend any more: what is not there is not to be seen as down.
    pub fn forget_backend(&self, route: &str, backend: &str) {
        self.0.families.forget_backend(route, backend);
    }

    /// So many alarms of a kind are raised for a route; told before a rendering.
    pub fn alarms(&self, route: &str, kind: AlarmKind, raised: usize) {
        let gauge = self.0.families.alarms.with_label_values(&[route, kind.as_str()]);
        gauge.set(i64::try_from(raised).unwrap_or(i64::MAX));
    }

    /// A client was banned.
    pub fn harvest_ban(&self) {
        self.0.families.harvest_bans.inc();
    }

    /// So many clients are remembered; told before a rendering.
    pub fn harvest_clients(&self, clients: usize) {
        self.0.families.harvest_clients.set(i64::try_from(clients).unwrap_or(i64::MAX));
    }

    /// The cache holds so many entries of a kind. Counting them may be costly, so this is called by whoever
    /// is about to [`render`](Self::render).
    pub fn cache(&self, kind: CacheKind, entries: usize) {
        self.0.cache_entries.get(kind).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// The cache gave up so many entries for want of room since the start; told before a rendering, too.
    pub fn cache_evictions(&self, total: u64) {
        // Two scrapes at once must not both add the difference.
        let known = self.0.evictions_known.fetch_max(total, Ordering::Relaxed);
        self.0.cache_evictions.inc_by(total.saturating_sub(known));
    }

    /// The cache gave up so many entries past all use since the start; likewise.
    pub fn cache_expired(&self, total: u64) {
        let known = self.0.expired_known.fetch_max(total, Ordering::Relaxed);
        self.0.cache_expired.inc_by(total.saturating_sub(known));
    }

    /// Whether the store could be written, and what it dropped since the start; told before a rendering, too.
    pub fn store(&self, health: StoreHealth, dropped: u64) {
        let up = i64::from(health == StoreHealth::Written);
        self.0.families.store_up.with_label_values(&[] as &[&str]).set(up);
        let known = self.0.drops_known.fetch_max(dropped, Ordering::Relaxed);
        let counter = self.0.families.store_dropped.with_label_values(&[] as &[&str]);
        counter.inc_by(dropped.saturating_sub(known));
    }

    /// A request to the shared memory came to that, after so long where it was made.
    pub fn shared(&self, operation: SharedOperation, result: SharedResult, took: Option<Duration>) {
        self.0.shared_operations.get(operation).get(result).inc();
        if let Some(took) = took {
            self.0.shared_duration.get(operation).observe(took.as_secs_f64());
        }
    }

    /// Whether this instance shares what it knows, and what was not shared since the start; told before a rendering, too.
    pub fn sharing(&self, health: StoreHealth, dropped: u64) {
        let up = i64::from(health == StoreHealth::Written);
        self.0.families.shared_up.with_label_values(&[] as &[&str]).set(up);
        let known = self.0.unshared_known.fetch_max(dropped, Ordering::Relaxed);
        let counter = self.0.families.shared_dropped.with_label_values(&[] as &[&str]);
        counter.inc_by(dropped.saturating_sub(known));
    }

    /// Everything, as [`CONTENT_TYPE`].
    #[must_use]
    pub fn render(&self) -> String {
        let mut families = self.0.families.registry.gather();
        families.extend(process::families(self.0.started));
        let mut text = String::new();
        // The encoder refuses only nameless and empty families, and `gather` returns neither.
        if let Err(fault) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!(%fault, "metrics are incomplete");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
