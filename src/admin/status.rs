//! The state of everything, as JSON. Fields may be added; those that are there stay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Panel;
use super::backend_status::BackendStatus;
use crate::config::{Destination, RecipientSource, Route, Validity};
use crate::observe::metrics::{ProbeResult, RouteMetrics, SessionState};
use crate::observe::{Alarm, Escaped};
use crate::store;
use crate::verify::{Mark, Progress, ScopeReport};

/// `GET /api/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status<'p> {
    version: &'static str,
    hostname: &'p str,
    uptime_seconds: u64,
    /// Which configuration since the start is in force.
    generation: u64,
    state: State,
    /// By listener.
    sessions: BTreeMap<&'p str, Sessions>,
    connections: ClientConnections,
    cache: Cache,
    clients: Clients,
    /// What is shown to clients that ask for TLS.
    certificates: Vec<CertificateStatus>,
    routes: Vec<RouteStatus<'p>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Starting,
    Serving,
    Draining,
}

#[derive(Debug, Serialize)]
struct Sessions {
    idle: u64,
    transaction: u64,
    data: u64,
}

/// Connections of clients, and how many there may be.
#[derive(Debug, Serialize)]
struct ClientConnections {
    open: usize,
    max: usize,
}

#[derive(Debug, Serialize)]
struct CertificateStatus {
    /// The file of its chain.
    chain: String,
    /// Seconds since 1970; null where it could not be read.
    not_before: Option<u64>,
    not_after: Option<u64>,
    /// Why clients that verify it will not send.
    fault: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Cache {
    good: usize,
    bad: usize,
    deferred: usize,
    evictions: u64,
    max_entries: usize,
    /// Verdicts looked for since the start, and those found here.
    lookups: u64,
    hits: u64,
    /// Null where verdicts are kept in memory alone.
    store: Option<Store>,
    /// Null where nothing is shared with other instances.
    shared: Option<Shared>,
}

#[derive(Debug, Serialize)]
struct Shared {
    address: String,
    up: bool,
    /// Why this instance is alone; null while it is not.
    fault: Option<String>,
    /// For how long it has been so.
    seconds: u64,
    /// What waits to be shared.
    waiting: usize,
    /// What was not shared since too much waited.
    dropped: u64,
}

#[derive(Debug, Serialize)]
struct Store {
    /// Why it cannot be written; null while it can.
    fault: Option<String>,
    records: u64,
    /// What was not stored since too much was learnt at once.
    dropped: u64,
}

/// Clients that asked for recipients and are remembered, and room for how many.
#[derive(Debug, Serialize)]
struct Clients {
    known: usize,
    max_clients: usize,
}

#[derive(Debug, Serialize)]
struct RouteStatus<'p> {
    name: &'p str,
    domains: Vec<String>,
    mode: &'static str,
    /// Who takes the mail.
    backends: Vec<BackendStatus>,
    /// Who is asked about recipients; nobody where a file tells.
    asked: Vec<BackendStatus>,
    /// What asking is like.
    probes: Option<Probes>,
    /// Domains and what is known of them, those with most good entries first.
    domains_known: Vec<DomainStatus>,
    alarms: Vec<AlarmStatus>,
    /// Domains whose recipients are to come alone: the server refuses whole messages for one of them.
    one_recipient: Vec<MarkStatus>,
}

#[derive(Debug, Serialize)]
struct MarkStatus {
    domain: String,
    remaining_seconds: u64,
}

#[derive(Debug, Serialize)]
struct Probes {
    sessions: usize,
    waiting: usize,
    /// Recipients asked about since the start, by the answer.
    asked: Asked,
    learnt: Vec<LearntStatus>,
}

#[derive(Debug, Serialize)]
struct Asked {
    deliverable: u64,
    undeliverable: u64,
    unknown: u64,
}

/// What a backend was seen to do.
#[derive(Debug, Serialize)]
struct LearntStatus {
    address: String,
    refusals_per_session: u32,
    recipients_per_transaction: u32,
    seconds_per_answer: f64,
}

#[derive(Debug, Serialize)]
struct DomainStatus {
    name: String,
    /// Whether the mail store tells its recipients from others, at RCPT and at DATA; whether the delivery port does.
    rcpt: &'static str,
    data: &'static str,
    delivery: &'static str,
    /// Its refusals are believed.
    believed: bool,
    good: u32,
}

#[derive(Debug, Serialize)]
struct AlarmStatus {
    kind: &'static str,
    about: String,
    detail: String,
    advice: &'static str,
    seconds: u64,
}

/// Domains of a route that are listed at most.
const MOST_DOMAINS: usize = 100;

impl<'p> Status<'p> {
    /// The state now.
    pub(super) fn of(panel: &'p Panel) -> Self {
        let sizes = panel.verifier.sizes();
        let (known, max_clients) = panel.harvest.clients();
        let totals = panel.metrics.totals();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            hostname: &panel.config.hostname,
            uptime_seconds: panel.started.elapsed().as_secs(),
            generation: panel.generation,
            state: match (panel.drain.is_announced(), panel.serving.is_cancelled()) {
                (true, _) => State::Draining,
                (false, true) => State::Serving,
                (false, false) => State::Starting,
            },
            sessions: sessions(panel),
            connections: ClientConnections {
                open: panel.connections.open(),
                max: panel.config.limits.max_connections,
            },
            certificates: panel
                .keyring
                .iter()
                .flat_map(|keys| keys.served())
                .map(CertificateStatus::of)
                .collect(),
            cache: Cache {
                good: sizes.good,
                bad: sizes.bad,
                deferred: sizes.deferred,
                evictions: sizes.evictions,
                max_entries: panel.config.cache.max_entries,
                lookups: totals.verified,
                hits: totals.cached,
                store: panel.verifier.store().map(|store::Account { fault, records, dropped }| Store {
                    fault,
                    records,
                    dropped,
                }),
                shared: panel.verifier.tier().map(Shared::of),
            },
            clients: Clients { known, max_clients },
            routes: panel.config.routes.iter().map(|route| RouteStatus::of(panel, route)).collect(),
        }
    }
}

impl Shared {
    fn of(account: store::TierAccount) -> Self {
        let store::TierAccount { address, up, fault, since, waiting, dropped } = account;
        Self { address, up, fault, seconds: since.as_secs(), waiting, dropped }
    }
}

fn sessions(panel: &Panel) -> BTreeMap<&str, Sessions> {
    let listeners = panel.config.listeners.iter().map(|listener| {
        let series = panel.metrics.listener(&listener.name);
        let sessions = Sessions {
            idle: series.sessions(SessionState::Idle),
            transaction: series.sessions(SessionState::Transaction),
            data: series.sessions(SessionState::Data),
        };
        (&*listener.name, sessions)
    });
    listeners.collect()
}

impl<'p> RouteStatus<'p> {
    fn of(panel: &Panel, route: &'p Route) -> Self {
        let statuses =
            |named: &[Destination]| named.iter().map(|named| BackendStatus::of(panel, named)).collect();
        Self {
            name: &route.name,
            domains: route.domains.iter().map(ToString::to_string).collect(),
            mode: route.verify.mode.as_str(),
            backends: statuses(&route.backends),
            asked: match &route.verify.source {
                RecipientSource::Callout { backends } => statuses(backends),
                RecipientSource::File(_) => Vec::new(),
            },
            one_recipient: panel.verifier.marks(route).into_iter().map(MarkStatus::of).collect(),
            probes: panel
                .verifier
                .progress(route)
                .map(|progress| Probes::of(progress, &panel.metrics.route(&route.name))),
            domains_known: panel
                .verifier
                .scopes(route, MOST_DOMAINS)
                .into_iter()
                .map(DomainStatus::of)
                .collect(),
            alarms: panel
                .alarms
                .raised()
                .into_iter()
                .filter(|a| a.route == route.name)
                .map(AlarmStatus::of)
                .collect(),
        }
    }
}

impl Probes {
    fn of(progress: Progress, counted: &RouteMetrics) -> Self {
        let learnt = progress.learnt.into_iter().map(|(address, learnt)| LearntStatus {
            address: address.to_string(),
            refusals_per_session: learnt.refusals,
            recipients_per_transaction: learnt.recipients,
            seconds_per_answer: learnt.pace.as_secs_f64(),
        });
        let asked = Asked {
            deliverable: counted.probes(ProbeResult::Deliverable),
            undeliverable: counted.probes(ProbeResult::Undeliverable),
            unknown: counted.probes(ProbeResult::Unknown),
        };
        Self { sessions: progress.sessions, waiting: progress.waiting, asked, learnt: learnt.collect() }
    }
}

impl CertificateStatus {
    fn of((chain, validity): (PathBuf, Option<Validity>)) -> Self {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self {
            chain: Escaped(chain.to_string_lossy().as_bytes()).to_string(),
            not_before: validity.map(|validity| seconds(validity.from)),
            not_after: validity.map(|validity| seconds(validity.until)),
            fault: validity.and_then(|validity| validity.fault_at(SystemTime::now())),
        }
    }
}

impl DomainStatus {
    fn of(scope: ScopeReport) -> Self {
        Self {
            rcpt: scope.recipient.as_str(),
            data: scope.data.as_str(),
            delivery: scope.delivery.as_str(),
            believed: !scope.braked,
            good: scope.good,
            name: scope.name,
        }
    }
}

impl AlarmStatus {
    fn of(alarm: Alarm) -> Self {
        Self {
            kind: alarm.kind.as_str(),
            advice: alarm.kind.advice(),
            seconds: alarm.since.elapsed().as_secs(),
            about: alarm.about,
            detail: alarm.detail,
        }
    }
}

impl MarkStatus {
    fn of(mark: Mark) -> Self {
        Self { remaining_seconds: mark.remaining.as_secs(), domain: mark.domain }
    }
}
