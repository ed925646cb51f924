//! The list of everything that is measured: name, help, labels, buckets.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

use super::children::Label as _;
use super::{BackendState, BackendUse};
use crate::observe::AlarmKind;

#[derive(Debug)]
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) build_info: IntGaugeVec,
    pub(super) connections: IntCounterVec,
    pub(super) sessions: IntGaugeVec,
    pub(super) session_duration: Histogram,
    pub(super) recipients: IntCounterVec,
    pub(super) messages: IntCounterVec,
    pub(super) message_bytes: IntCounterVec,
    pub(super) transaction_added: Histogram,
    pub(super) probes: IntCounterVec,
    pub(super) probe_duration: Histogram,
    pub(super) verify_duration: HistogramVec,
    pub(super) cache_entries: IntGaugeVec,
    pub(super) cache_evictions: IntCounter,
    pub(super) cache_expired: IntCounter,
    pub(super) store_up: IntGaugeVec,
    pub(super) store_dropped: IntCounterVec,
    pub(super) shared_up: IntGaugeVec,
    pub(super) shared_operations: IntCounterVec,
    pub(super) shared_duration: HistogramVec,
    pub(super) shared_dropped: IntCounterVec,
    pub(super) contradicted: IntCounterVec,
    pub(super) alarms: IntGaugeVec,
    pub(super) harvest_bans: IntCounter,
    pub(super) harvest_clients: IntGauge,
    pub(super) route_up: IntGaugeVec,
    pub(super) backend_up: IntGaugeVec,
    pub(super) backend_addresses: IntGaugeVec,
    pub(super) backend_dns_up: IntGaugeVec,
    pub(super) backend_connections: IntGaugeVec,
    pub(super) tls_handshakes: IntCounterVec,
    pub(super) certificate_expiry: IntGaugeVec,
    pub(super) config_reloads: IntCounterVec,
    pub(super) last_reload_successful: IntGauge,
    pub(super) backend_connection_limit: IntGaugeVec,
}

impl Families {
    #[rustfmt::skip] // A table: one family a line.
    pub(super) fn new() -> Self {
        let r = Registry::new();
        Self {
            build_info: gauges(&r, "backstop_build_info", "Always 1; the version is a label.", &["version"]),
            connections: counters(&r, "backstop_connections_total", "Connections from clients.", &["listener", "result"]),
            sessions: gauges(&r, "backstop_sessions", "Sessions now, by what they are doing.", &["listener", "state"]),
            session_duration: histogram(&r, "backstop_session_duration_seconds", "Time from accept to close.", session_buckets()),
            recipients: counters(&r, "backstop_recipients_total", "Recipients answered, by answer and its source.", &["route", "result", "source"]),
            messages: counters(&r, "backstop_messages_total", "Messages whose data was begun.", &["route", "result"]),
            message_bytes: counters(&r, "backstop_message_bytes_total", "Octets of message data from clients.", &["route"]),
            transaction_added: histogram(&r, "backstop_transaction_added_seconds", "Time Backstop itself added to a transaction.", added_buckets()),
            probes: counters(&r, "backstop_probes_total", "Recipients asked about at a mail store.", &["route", "result"]),
            probe_duration: histogram(&r, "backstop_probe_duration_seconds", "Time from asking to the answer, queueing included.", probe_buckets()),
            verify_duration: histograms(&r, "backstop_verify_duration_seconds", "Time until a recipient's verdict was known.", &["source"], verify_buckets()),
            cache_entries: gauges(&r, "backstop_cache_entries", "Verdicts remembered.", &["verdict"]),
            cache_evictions: counter(&r, "backstop_cache_evictions_total", "Verdicts given up for want of room."),
            cache_expired: counter(&r, "backstop_cache_expired_total", "Verdicts given up since they were past all use."),
            store_up: gauges(&r, "backstop_store_up", "1 when the embedded store could be written when last tried; absent where there is none.", &[]),
            store_dropped: counters(&r, "backstop_store_dropped_total", "Verdicts not stored since too many were learnt at once.", &[]),
            shared_up: gauges(&r, "backstop_shared_up", "1 while this instance shares what it knows with others; absent where `cache.shared` is empty.", &[]),
            shared_operations: counters(&r, "backstop_shared_operations_total", "Requests to the shared memory.", &["operation", "result"]),
            shared_duration: histograms(&r, "backstop_shared_operation_duration_seconds", "Time a request to the shared memory took.", &["operation"], shared_buckets()),
            shared_dropped: counters(&r, "backstop_shared_dropped_total", "What was not shared since too much waited to be.", &[]),
            contradicted: counters(&r, "backstop_verdict_contradicted_total", "Cached verdicts that the delivery port contradicted.", &["route", "cached"]),
            harvest_bans: counter(&r, "backstop_harvest_bans_total", "Clients banned for asking for too many unknown recipients."),
            harvest_clients: register(&r, IntGauge::new("backstop_harvest_clients", "Clients whose recipients are counted.")),
            alarms: gauges(&r, "backstop_route_alarms", "Alarms raised, by what is wrong with the route; details at /readyz?verbose.", &["route", "kind"]),
            route_up: gauges(&r, "backstop_route_up", "1 while a backend of the route takes us for that use, when last tried.", &["route", "use"]),
            backend_up: gauges(&r, "backstop_backend_up", "1 when the backend took us when last tried; of several addresses one is enough.", &["route", "backend"]),
            backend_addresses: gauges(&r, "backstop_backend_addresses", "Addresses the backend has now, by what came of the last new session.", &["route", "backend", "state"]),
            backend_dns_up: gauges(&r, "backstop_backend_dns_up", "1 while DNS says where the backend is, or nothing is to be looked up; else what it said last is used.", &["route", "backend"]),
            backend_connections: gauges(&r, "backstop_backend_connections", "Connections to the backend that are in use; those that open or end, too.", &["route", "backend", "use"]),
            tls_handshakes: counters(&r, "backstop_tls_handshakes_total", "TLS handshakes, and sessions with a backend that went on without one.", &["side", "result"]),
            config_reloads: counters(&r, "backstop_config_reloads_total", "New configurations, by what became of them.", &["result"]),
            last_reload_successful: register(&r, IntGauge::new("backstop_config_last_reload_successful", "1 unless the last new configuration was refused: a restart with it would fail.")),
            certificate_expiry: gauges(&r, "backstop_certificate_expiry_timestamp_seconds", "When the certificate ceases to hold, by the file of its chain.", &["name"]),
            backend_connection_limit: gauges(&r, "backstop_backend_connection_limit", "Connections the backend is given at most, probes and deliveries together.", &["route", "backend"]),
            registry: r,
        }
    }

    /// Takes the series of a backend away.
    pub(super) fn forget_route(&self, route: &str) {
        for purpose in BackendUse::ALL {
            let _ = self.route_up.remove_label_values(&[route, purpose.as_str()]);
        }
        for kind in AlarmKind::ALL {
            let _ = self.alarms.remove_label_values(&[route, kind.as_str()]);
        }
    }

    pub(super) fn forget_backend(&self, route: &str, backend: &str) {
        // What was never there cannot be taken away, and need not be.
        for gauges in [&self.backend_up, &self.backend_dns_up, &self.backend_connection_limit] {
            let _ = gauges.remove_label_values(&[route, backend]);
        }
        for state in BackendState::ALL {
            let _ = self.backend_addresses.remove_label_values(&[route, backend, state.as_str()]);
        }
        for purpose in BackendUse::ALL {
            let _ = self.backend_connections.remove_label_values(&[route, backend, purpose.as_str()]);
        }
    }
}

/// Goals: an answer within the 25 s of `route.verify.timeout`, a few milliseconds on a local network.
/// 1 ms to 32 s, doubling: the upper bounds around the goal are 16.4 and 32.8 s.
fn probe_buckets() -> Vec<f64> {
    doubling(0.001, 16)
}

/// Goals: a cached verdict costs nothing a client could notice (well under 1 ms), a probed one is a probe.
/// 62.5 µs to 32 s, doubling.
fn verify_buckets() -> Vec<f64> {
    doubling(0.000_062_5, 20)
}

/// Goals: well under a millisecond on a local network; nobody waits longer than 30 ms. 125 µs to 128 ms, doubling.
fn shared_buckets() -> Vec<f64> {
    doubling(0.000_125, 11)
}

/// Goal: below 0.3 ms for a transaction with cached recipients; with probed ones it is a probe. 31 µs to
/// 16 s, doubling.
fn added_buckets() -> Vec<f64> {
    doubling(0.000_031_25, 20)
}

/// Goal: tell refused dictionary attacks (under a second) from deliveries (seconds) and from clients that
/// hold a connection until a timeout of 5 to 10 minutes. 0.1 s to 819 s, doubling.
fn session_buckets() -> Vec<f64> {
    doubling(0.1, 14)
}

fn doubling(first: f64, count: usize) -> Vec<f64> {
    exponential_buckets(first, 2.0, count).expect("a positive start and a factor above 1")
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)))
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: Vec<f64>,
) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels))
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, family: prometheus::Result<C>) -> C {
    let family = family.expect("names and labels in this file are well formed");
    registry.register(Box::new(family.clone())).expect("names in this file are distinct");
    family
}
