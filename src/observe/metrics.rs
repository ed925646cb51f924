//! Metrics, spoken of in the words of the product.
//!
//! Every labelled series is made when its route, listener or backend is, at 0, so that rates exist from the
//! start and the hot path looks nothing up by text. Names and labels are an interface (see the contract).

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, exponential_buckets,
};

use super::labels::Label;
pub use super::labels::{
    BackendUse, CacheKind, ConnectionResult, MessageResult, ProbeResult, RecipientResult, RecipientSource,
    SessionState,
};

/// All metrics of one proxy. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: Registry,
    connections: IntCounterVec,
    sessions: IntGaugeVec,
    recipients: IntCounterVec,
    messages: IntCounterVec,
    message_bytes: IntCounterVec,
    probes: IntCounterVec,
    probe_duration: Histogram,
    verify_duration: Vec<Histogram>,
    cache_entries: Vec<IntGauge>,
    cache_evictions: IntCounter,
    contradicted: IntCounterVec,
    backend_up: IntGaugeVec,
    backend_connections: IntGaugeVec,
    session_duration: Histogram,
    added: Histogram,
    process: Process,
}

/// The `process_*` family.
#[derive(Debug)]
struct Process {
    cpu_seconds: Gauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    virtual_bytes: IntGauge,
    resident_bytes: IntGauge,
    start_time: Gauge,
}

/// Series of one route.
#[derive(Debug, Clone)]
pub struct RouteMetrics(Arc<RouteSeries>);

#[derive(Debug)]
struct RouteSeries {
    recipients: Vec<Vec<IntCounter>>,
    messages: Vec<IntCounter>,
    message_bytes: IntCounter,
    probes: Vec<IntCounter>,
    contradicted: IntCounter,
}

/// Series of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    connections: Vec<IntCounter>,
    sessions: Vec<IntGauge>,
}

/// Series of one backend.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    up: IntGauge,
    connections: Vec<IntGauge>,
}

/// A session counted in one state; moves with it, and is counted out when dropped.
#[derive(Debug)]
pub struct SessionGauge {
    sessions: Vec<IntGauge>,
    state: SessionState,
}

/// A connection to a backend, counted out when dropped.
#[derive(Debug)]
pub struct BackendConnection(IntGauge);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own, so that two proxies in one process do not meet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let build = IntGaugeVec::new(
            Opts::new("backstop_build_info", "The version that runs; always 1."),
            &["version"],
        );
        register(r, build).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let verify = register(
            r,
            HistogramVec::new(
                // A cached answer takes microseconds, a probe milliseconds, a hanging store 25 seconds.
                histogram(
                    "backstop_verify_duration_seconds",
                    "Time to a verdict about one recipient.",
                    0.000_01,
                    4.0,
                    12,
                ),
                &["source"],
            ),
        );
        let entries = register(
            r,
            IntGaugeVec::new(Opts::new("backstop_cache_entries", "Recipients remembered."), &["verdict"]),
        );
        Self(Arc::new(Families {
            connections: counters(
                r,
                "backstop_connections_total",
                "Client connections.",
                &["listener", "result"],
            ),
            sessions: gauges(r, "backstop_sessions", "Client sessions open now.", &["listener", "state"]),
            recipients: counters(
                r,
                "backstop_recipients_total",
                "Recipients by what became of them and who decided.",
                &["route", "result", "source"],
            ),
            messages: counters(
                r,
                "backstop_messages_total",
                "Messages by what became of them.",
                &["route", "result"],
            ),
            message_bytes: counters(
                r,
                "backstop_message_bytes_total",
                "Octets of message data given to backends.",
                &["route"],
            ),
            probes: counters(
                r,
                "backstop_probes_total",
                "Questions put to the mail store.",
                &["route", "result"],
            ),
            probe_duration: register(
                r,
                Histogram::with_opts(histogram(
                    "backstop_probe_duration_seconds",
                    "Time from question to answer.",
                    0.001,
                    2.0,
                    14,
                )),
            ),
            verify_duration: children(|labels| verify.with_label_values(labels), &[], RecipientSource::ALL),
            cache_entries: children(|labels| entries.with_label_values(labels), &[], CacheKind::ALL),
            cache_evictions: register(
                r,
                IntCounter::new("backstop_cache_evictions_total", "Recipients forgotten for want of room."),
            ),
            contradicted: counters(
                r,
                "backstop_verdict_contradicted_total",
                "Remembered verdicts that the delivery port contradicted.",
                &["route", "cached"],
            ),
            backend_up: gauges(
                r,
                "backstop_backend_up",
                "Whether the backend took us when last tried.",
                &["route", "backend"],
            ),
            backend_connections: gauges(
                r,
                "backstop_backend_connections",
                "Connections to the backend.",
                &["route", "backend", "use"],
            ),
            session_duration: register(
                r,
                Histogram::with_opts(histogram(
                    "backstop_session_duration_seconds",
                    "Length of client sessions.",
                    0.001,
                    4.0,
                    12,
                )),
            ),
            added: register(
                r,
                // The goal is below 0.3 ms for a whole session.
                Histogram::with_opts(histogram(
                    "backstop_transaction_added_seconds",
                    "Time in a transaction spent neither on the client nor on the backend.",
                    0.000_025,
                    2.0,
                    14,
                )),
            ),
            process: Process::new(r),
            registry,
        }))
    }

    /// The series of a route; "" stands for recipients of no route.
    #[must_use]
    pub fn route(&self, name: &str) -> RouteMetrics {
        let f = &self.0;
        let recipients = RecipientResult::ALL
            .iter()
            .map(|result| {
                children(
                    |l| f.recipients.with_label_values(l),
                    &[name, result.as_str()],
                    RecipientSource::ALL,
                )
            })
            .collect();
        RouteMetrics(Arc::new(RouteSeries {
            recipients,
            messages: children(|l| f.messages.with_label_values(l), &[name], MessageResult::ALL),
            message_bytes: f.message_bytes.with_label_values(&[name]),
            probes: children(|l| f.probes.with_label_values(l), &[name], ProbeResult::ALL),
            contradicted: f.contradicted.with_label_values(&[name, CacheKind::Good.as_str()]),
        }))
    }

    /// The series of a listener.
    #[must_use]
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let f = &self.0;
        ListenerMetrics {
            connections: children(|l| f.connections.with_label_values(l), &[name], ConnectionResult::ALL),
            sessions: children(|l| f.sessions.with_label_values(l), &[name], SessionState::ALL),
        }
    }

    /// The series of a backend of a route.
    #[must_use]
    pub fn backend(&self, route: &str, backend: &str) -> BackendMetrics {
        let f = &self.0;
        BackendMetrics {
            up: f.backend_up.with_label_values(&[route, backend]),
            connections: children(
                |l| f.backend_connections.with_label_values(l),
                &[route, backend],
                BackendUse::ALL,
            ),
        }
    }

    /// A verdict was reached.
    pub fn verified(&self, source: RecipientSource, took: Duration) {
        if let Some(histogram) = self.0.verify_duration.get(source.index()) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A question was answered.
    pub fn probed(&self, took: Duration) {
        self.0.probe_duration.observe(took.as_secs_f64());
    }

    /// A session ended.
    pub fn session_ended(&self, took: Duration) {
        self.0.session_duration.observe(took.as_secs_f64());
    }

    /// A transaction ended, in which we ourselves took so long.
    pub fn added(&self, took: Duration) {
        self.0.added.observe(took.as_secs_f64());
    }

    /// What the cache holds; set before a rendering.
    pub fn cache(&self, kind: CacheKind, entries: usize) {
        if let Some(gauge) = self.0.cache_entries.get(kind.index()) {
            gauge.set(i64::try_from(entries).unwrap_or(i64::MAX));
        }
    }

    /// How many entries were pushed out since the start; set before a rendering.
    pub fn cache_evictions(&self, total: u64) {
        let counter = &self.0.cache_evictions;
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// Everything, in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.process.observe();
        let mut text = Vec::new();
        // Only a registry with two kinds under one name could fail, and ours is fixed.
        let _ = TextEncoder::new().encode(&self.0.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl RouteMetrics {
    /// A recipient was decided about.
    pub fn recipient(&self, result: RecipientResult, source: RecipientSource) {
        if let Some(counter) = self.0.recipients.get(result.index()).and_then(|of| of.get(source.index())) {
            counter.inc();
        }
    }

    /// A message ended.
    pub fn message(&self, result: MessageResult, octets: u64) {
        if let Some(counter) = self.0.messages.get(result.index()) {
            counter.inc();
        }
        self.0.message_bytes.inc_by(octets);
    }

    /// A question was answered.
    pub fn probe(&self, result: ProbeResult) {
        if let Some(counter) = self.0.probes.get(result.index()) {
            counter.inc();
        }
    }

    /// The delivery port refused a recipient that was remembered as good.
    pub fn contradicted(&self) {
        self.0.contradicted.inc();
    }
}

impl ListenerMetrics {
    /// A client connected.
    pub fn connection(&self, result: ConnectionResult) {
        if let Some(counter) = self.connections.get(result.index()) {
            counter.inc();
        }
    }

    /// Sessions in this state now.
    #[must_use]
    pub fn sessions(&self, state: SessionState) -> u64 {
        self.sessions.get(state.index()).map_or(0, |gauge| u64::try_from(gauge.get()).unwrap_or(0))
    }

    /// A session began.
    #[must_use]
    pub fn session(&self) -> SessionGauge {
        let gauge = SessionGauge { sessions: self.sessions.clone(), state: SessionState::Idle };
        gauge.count(1);
        gauge
    }
}

impl SessionGauge {
    /// The session does something else now.
    pub fn is(&mut self, state: SessionState) {
        if self.state != state {
            self.count(-1);
            self.state = state;
            self.count(1);
        }
    }

    fn count(&self, by: i64) {
        if let Some(gauge) = self.sessions.get(self.state.index()) {
            gauge.add(by);
        }
    }
}

impl Drop for SessionGauge {
    fn drop(&mut self) {
        self.count(-1);
    }
}

impl BackendMetrics {
    /// It took us.
    pub fn up(&self) {
        self.up.set(1);
    }

    /// It did not.
    pub fn down(&self) {
        self.up.set(0);
    }

    /// A connection is in use.
    #[must_use]
    pub fn connection(&self, purpose: BackendUse) -> BackendConnection {
        let gauge = self.connections.get(purpose.index()).cloned();
        let gauge = gauge.unwrap_or_else(|| self.up.clone());
        gauge.inc();
        BackendConnection(gauge)
    }
}

impl Drop for BackendConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Process {
    fn new(r: &Registry) -> Self {
        Self {
            cpu_seconds: register(
                r,
                Gauge::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
            ),
            open_fds: register(r, IntGauge::new("process_open_fds", "Number of open file descriptors.")),
            max_fds: register(
                r,
                IntGauge::new("process_max_fds", "Maximum number of open file descriptors."),
            ),
            virtual_bytes: register(
                r,
                IntGauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes."),
            ),
            resident_bytes: register(
                r,
                IntGauge::new("process_resident_memory_bytes", "Resident memory size in bytes."),
            ),
            start_time: register(
                r,
                Gauge::new(
                    "process_start_time_seconds",
                    "Start time of the process since unix epoch in seconds.",
                ),
            ),
        }
    }

    /// Reads `/proc`; where it cannot be read the gauges stay.
    #[expect(clippy::cast_precision_loss, reason = "seconds and ticks are far below 2^52")]
    fn observe(&self) {
        let Ok(process) = procfs::process::Process::myself() else { return };
        let ticks = procfs::ticks_per_second() as f64;
        if let Ok(stat) = process.stat() {
            self.cpu_seconds.set((stat.utime + stat.stime) as f64 / ticks);
            self.virtual_bytes.set(i64::try_from(stat.vsize).unwrap_or(i64::MAX));
            let resident = stat.rss.saturating_mul(procfs::page_size());
            self.resident_bytes.set(i64::try_from(resident).unwrap_or(i64::MAX));
            if let Ok(boot) = procfs::boot_time_secs() {
                self.start_time.set(boot as f64 + stat.starttime as f64 / ticks);
            }
        }
        if let Ok(count) = process.fd_count() {
            self.open_fds.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        if let Ok(limits) = process.limits() {
            if let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit {
                self.max_fds.set(i64::try_from(most).unwrap_or(i64::MAX));
            }
        }
    }
}

/// Names and labels are constants of this file, so both steps can only fail by a mistake in it.
fn register<C: Collector + Clone + 'static>(registry: &Registry, family: prometheus::Result<C>) -> C {
    let family = family.expect("a well-formed metric");
    registry.register(Box::new(family.clone())).expect("a metric registered once");
    family
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(name: &str, help: &str, start: f64, factor: f64, count: usize) -> HistogramOpts {
    let buckets = exponential_buckets(start, factor, count).unwrap_or_default();
    HistogramOpts::new(name, help).buckets(buckets)
}

/// One series for each value of the last label.
fn children<M, L: Label>(of: impl Fn(&[&str]) -> M, labels: &[&str], last: &[L]) -> Vec<M> {
    last.iter().map(|value| of(&[labels, &[value.as_str()]].concat())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_exists_from_the_start() {
        let metrics = Metrics::new();
        let _route = metrics.route("exchange");
        let _listener = metrics.listener("mx");
        let text = metrics.render();
        for line in [
            "backstop_recipients_total{result=\"unknown\",route=\"exchange\",source=\"cache\"} 0",
            "backstop_connections_total{listener=\"mx\",result=\"refused\"} 0",
            "backstop_cache_entries{verdict=\"deliverable\"} 0",
            "backstop_build_info{version=",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn gauges_follow_what_they_count() {
        let metrics = Metrics::new();
        let mut session = metrics.listener("mx").session();
        session.is(SessionState::Transaction);
        assert!(metrics.render().contains("backstop_sessions{listener=\"mx\",state=\"transaction\"} 1"));
        drop(session);
        assert!(metrics.render().contains("backstop_sessions{listener=\"mx\",state=\"transaction\"} 0"));
        metrics.cache_evictions(5);
        metrics.cache_evictions(7);
        assert!(metrics.render().contains("backstop_cache_evictions_total 7"));
    }
}
