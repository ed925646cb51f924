//! The state of everything, as JSON. Fields may be added; those that are there stay.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Panel;
use crate::config::{Endpoint, RecipientSource, Route};
use crate::observe::metrics::SessionState;

/// `GET /api/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Status<'p> {
    version: &'static str,
    hostname: &'p str,
    uptime_seconds: u64,
    state: State,
    /// By listener.
    sessions: BTreeMap<&'p str, Sessions>,
    cache: Cache,
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
}

#[derive(Debug, Serialize)]
struct Cache {
    good: usize,
    bad: usize,
    deferred: usize,
    evictions: u64,
    max_entries: usize,
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
}

#[derive(Debug, Serialize)]
struct BackendStatus {
    address: String,
    state: Reach,
    last_fault: Option<String>,
    /// Version and cipher suite of the last new session; none without TLS.
    tls: Option<String>,
    /// What it offered when it was reached last.
    announced: Option<Vec<String>>,
}

/// What came of the last new session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reach {
    Up,
    Down,
    Untried,
}

impl<'p> Status<'p> {
    /// The state now.
    pub(super) fn of(panel: &'p Panel) -> Self {
        let sizes = panel.verifier.sizes();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            hostname: &panel.config.hostname,
            uptime_seconds: panel.started.elapsed().as_secs(),
            state: match (panel.drain.is_announced(), panel.serving.is_cancelled()) {
                (true, _) => State::Draining,
                (false, true) => State::Serving,
                (false, false) => State::Starting,
            },
            sessions: sessions(panel),
            cache: Cache {
                good: sizes.good,
                bad: sizes.bad,
                deferred: sizes.deferred,
                evictions: sizes.evictions,
                max_entries: panel.config.cache.max_entries,
            },
            routes: panel.config.routes.iter().map(|route| RouteStatus::of(panel, route)).collect(),
        }
    }
}

fn sessions(panel: &Panel) -> BTreeMap<&str, Sessions> {
    let listeners = panel.config.listeners.iter().map(|listener| {
        let series = panel.metrics.listener(&listener.name);
        let sessions = Sessions {
            idle: series.sessions(SessionState::Idle),
            transaction: series.sessions(SessionState::Transaction),
        };
        (&*listener.name, sessions)
    });
    listeners.collect()
}

impl<'p> RouteStatus<'p> {
    fn of(panel: &Panel, route: &'p Route) -> Self {
        let statuses =
            |endpoints: &[Endpoint]| endpoints.iter().map(|e| BackendStatus::of(panel, e)).collect();
        Self {
            name: &route.name,
            domains: route.domains.iter().map(ToString::to_string).collect(),
            mode: route.verify.mode.as_str(),
            backends: statuses(&route.backends),
            asked: match &route.verify.source {
                RecipientSource::Callout { backends } => statuses(backends),
                RecipientSource::File(_) => Vec::new(),
            },
        }
    }
}

impl BackendStatus {
    fn of(panel: &Panel, endpoint: &Endpoint) -> Self {
        let backend = panel.backends.find(endpoint);
        let last_fault = backend.and_then(|backend| backend.last_fault());
        let announced = backend.and_then(|backend| backend.announced());
        Self {
            address: endpoint.to_string(),
            state: match (&last_fault, &announced) {
                (Some(_), _) => Reach::Down,
                (None, Some(_)) => Reach::Up,
                (None, None) => Reach::Untried,
            },
            last_fault,
            tls: backend.and_then(|backend| backend.last_tls()).map(|facts| facts.to_string()),
            announced: announced.map(|extensions| extensions.lines().collect()),
        }
    }
}
