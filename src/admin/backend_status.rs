//! A destination and its backends, for the status. What stands beside `members` is about all of them together.

use serde::Serialize;

use super::Panel;
use crate::backend::{Backend, LookedUp, Member, Standing};
use crate::config::Destination;
use crate::observe::metrics::BackendState;
use crate::proto::ehlo::Extensions;

#[derive(Debug, Serialize)]
pub(super) struct BackendStatus {
    /// As the configuration names it.
    address: String,
    /// Up when one of its backends is.
    state: &'static str,
    /// Of the first of its backends that has one; of DNS where there is none.
    last_fault: Option<String>,
    /// Version and cipher suite of the last new session; none without TLS.
    tls: Option<String>,
    /// What it offered when it was reached last.
    announced: Option<Vec<String>>,
    connections: Option<Connections>,
    /// Null where nothing is looked up.
    dns: Option<Dns>,
    /// The addresses it leads to now, those that are used first before the others.
    members: Vec<MemberStatus>,
}

/// What came of looking a name up.
#[derive(Debug, Serialize)]
struct Dns {
    state: &'static str,
    /// Why what was said last is used.
    fault: Option<String>,
}

/// One address.
#[derive(Debug, Serialize)]
struct MemberStatus {
    address: String,
    /// SRV priority or MX preference.
    priority: u16,
    weight: u16,
    state: &'static str,
    last_fault: Option<String>,
    /// How long it is left alone yet.
    resting_seconds: Option<u64>,
    /// What a new session takes until it is greeted.
    latency_seconds: f64,
    tls: Option<String>,
    announced: Option<Vec<String>>,
    connections: Connections,
}

/// The connections it is given.
#[derive(Debug, Default, Serialize)]
struct Connections {
    /// At most, now.
    limit: usize,
    /// At most, at best.
    configured: usize,
    in_use: ByUse,
    waiting: ByUse,
    /// Open, and used by nobody.
    kept: usize,
    /// So many are opened at a time, after an outage; null: any number.
    opening_slowly: Option<usize>,
    /// How often it said that there are too many.
    refusals: u64,
    /// Whether it says that it is under pressure.
    pressure: bool,
}

#[derive(Debug, Default, Serialize)]
struct ByUse {
    probe: usize,
    delivery: usize,
}

impl BackendStatus {
    pub(super) fn of(panel: &Panel, named: &Destination) -> Self {
        let destination = panel.backends.find(named);
        let looked_up = destination.map_or(LookedUp::Never, |destination| destination.looked_up());
        let members = destination.map(|destination| destination.members()).unwrap_or_default();
        let backends = || members.iter().map(|member| &member.backend);
        let dns_fault = match &looked_up {
            LookedUp::Fault(fault) => Some(fault.clone()),
            LookedUp::Never | LookedUp::NotYet | LookedUp::Known => None,
        };
        let has = |state| backends().any(|backend| backend.state() == state);
        let announced = backends().filter_map(|backend| backend.announced());
        Self {
            address: named.to_string(),
            state: match (
                has(BackendState::Up),
                has(BackendState::Down) || (members.is_empty() && dns_fault.is_some()),
            ) {
                (true, _) => BackendState::Up,
                (false, true) => BackendState::Down,
                (false, false) => BackendState::Untried,
            }
            .as_str(),
            last_fault: backends()
                .find_map(|backend| backend.last_fault())
                .or_else(|| dns_fault.clone().filter(|_| members.is_empty())),
            tls: backends().find_map(|backend| backend.last_tls()).map(|facts| facts.to_string()),
            announced: announced.reduce(|all, one| all.intersection(&one)).map(|all| lines(&all)),
            connections: destination.map(|_| backends().fold(Connections::default(), Connections::with)),
            dns: Dns::of(looked_up),
            members: members.iter().map(MemberStatus::of).collect(),
        }
    }
}

impl Dns {
    fn of(looked_up: LookedUp) -> Option<Self> {
        match looked_up {
            LookedUp::Never => None,
            LookedUp::NotYet => Some(Self { state: "pending", fault: None }),
            LookedUp::Known => Some(Self { state: "ok", fault: None }),
            LookedUp::Fault(fault) => Some(Self { state: "failing", fault: Some(fault) }),
        }
    }
}

impl MemberStatus {
    fn of(member: &Member) -> Self {
        let Member { backend, tier, weight } = member;
        let resting = (backend.standing() == Standing::Resting).then(|| backend.rests_for()).flatten();
        Self {
            address: backend.site().to_string(),
            priority: *tier,
            weight: *weight,
            state: backend.state().as_str(),
            last_fault: backend.last_fault(),
            resting_seconds: resting.map(|rest| rest.as_secs()),
            latency_seconds: backend.latency().as_secs_f64(),
            tls: backend.last_tls().map(|facts| facts.to_string()),
            announced: backend.announced().map(|announced| lines(&announced)),
            connections: Connections::default().with(backend),
        }
    }
}

impl Connections {
    /// These, and those of one backend more.
    fn with(self, backend: &std::sync::Arc<Backend>) -> Self {
        let account = backend.budget().account();
        Self {
            limit: self.limit + account.limit,
            configured: self.configured + account.configured,
            in_use: self.in_use.with(account.probes, account.deliveries),
            waiting: self.waiting.with(account.waiting_probes, account.waiting_deliveries),
            kept: self.kept + backend.kept(),
            opening_slowly: self.opening_slowly.into_iter().chain(account.opening_slowly).min(),
            refusals: self.refusals + account.refusals,
            pressure: self.pressure || account.pressed,
        }
    }
}

impl ByUse {
    const fn with(self, probe: usize, delivery: usize) -> Self {
        Self { probe: self.probe + probe, delivery: self.delivery + delivery }
    }
}

fn lines(extensions: &Extensions) -> Vec<String> {
    extensions.lines().collect()
}
