//! Does the backend of a `*` route relay for the whole world?
//!
//! Such a route passes on mail for domains nobody named, trusting the backend to refuse what is not its own. A
//! backend that trusts our address may not, and we would be an open relay. So it is asked, at the start and every
//! `cache.blind_ttl`, about a recipient of a foreign domain, from a sender of another: MAIL, RCPT, RSET, never
//! data. Until it was seen to refuse, mail that only `*` covers is answered 451, whoever sends it and however its
//! recipients are verified: this is about what we are, not about who they are.
//!
//! Each address is asked for itself: one that DNS adds is asked before any of that mail goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::names;
use super::probe::{self, Finding};
use crate::backend::{Backend, Backends, Balancer};
use crate::config::{Config, DomainPattern, Route};
use crate::net::dial::Site;
use crate::observe::{AlarmKind, Alarms};
use crate::proto::address::Domain;
use crate::proto::verdict::Cause;

/// A backend that could not be asked, or did not say, is asked again after so long.
const AGAIN_UNTESTED: Duration = Duration::from_secs(5);
/// One that relays is asked again after so long.
const AGAIN_RELAYS: Duration = Duration::from_secs(60);

/// The test of one route.
#[derive(Debug)]
pub(super) struct RelayTest {
    route: Arc<str>,
    backends: Balancer,
    sender: Domain,
    recipient: Domain,
    holds: Duration,
    alarms: Alarms,
    /// By where they listen.
    states: Mutex<HashMap<Site, State>>,
    running: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    outcome: Outcome,
    last: Instant,
}

/// What a test came to; of several the worst counts, which is the last here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It refuses foreign domains.
    Refuses,
    /// It could not be asked, or did not say.
    Untested,
    /// It takes mail for them.
    Relays,
}

impl RelayTest {
    /// The test of `route`; none where it names its domains.
    pub(super) fn of(
        route: &Route,
        config: &Config,
        backends: &Backends,
        alarms: &Alarms,
    ) -> Option<Arc<Self>> {
        let [sender, recipient] =
            route.domains.contains(&DomainPattern::Any).then(|| foreign_domains(config))?;
        Some(Arc::new(Self {
            route: Arc::clone(&route.name),
            backends: backends.balancer(&route.backends, route.balance),
            sender,
            recipient,
            holds: config.cache.blind_ttl,
            alarms: alarms.clone(),
            states: Mutex::default(),
            running: tokio::sync::Mutex::new(()),
        }))
    }

    /// Whether the last test of every backend went well. Without any there is none to trust.
    pub(super) fn passed(&self) -> bool {
        self.outcome() == Outcome::Refuses
    }

    fn outcome(&self) -> Outcome {
        let states = self.states();
        let of = |backend: Arc<Backend>| states.get(backend.site()).map_or(Outcome::Untested, |s| s.outcome);
        self.backends.backends().map(of).max().unwrap_or(Outcome::Untested)
    }

    /// Whether the route may serve. Tests first where nothing is known, and anew in the background when it is time.
    pub(super) async fn passes(self: &Arc<Self>) -> bool {
        if self.is_due() {
            let test = Arc::clone(self);
            let run = tokio::spawn(async move { test.run().await });
            if !self.passed() {
                let _ = run.await;
            }
        }
        self.passed()
    }

    fn is_due(&self) -> bool {
        self.backends.backends().any(|backend| self.is_due_of(&backend))
    }

    fn is_due_of(&self, backend: &Backend) -> bool {
        let Some(State { outcome, last }) = self.states().get(backend.site()).copied() else { return true };
        let holds = match outcome {
            Outcome::Refuses => self.holds,
            Outcome::Relays => AGAIN_RELAYS,
            Outcome::Untested => AGAIN_UNTESTED,
        };
        last.elapsed() >= holds
    }

    async fn run(&self) {
        let _one_at_a_time = self.running.lock().await;
        let backends: Vec<_> = self.backends.backends().collect();
        for backend in backends.iter().filter(|backend| self.is_due_of(backend)) {
            let outcome = self.ask(backend).await;
            self.states().insert(backend.site().clone(), State { outcome, last: Instant::now() });
        }
        self.states().retain(|site, _| backends.iter().any(|backend| backend.site() == site));
        let outcome = self.outcome();
        let detail = format!("asked about a recipient at {}", self.recipient);
        for (kind, when) in
            [(AlarmKind::OpenRelay, Outcome::Relays), (AlarmKind::RelayUntested, Outcome::Untested)]
        {
            if outcome == when {
                self.alarms.raise(&self.route, kind, "*", &detail);
            } else {
                self.alarms.clear(&self.route, kind, "*");
            }
        }
    }

    async fn ask(&self, backend: &Arc<Backend>) -> Outcome {
        let (Some(sender), Some(nobody)) =
            (names::nobody_at(&self.sender), names::nobody_at(&self.recipient))
        else {
            return Outcome::Untested;
        };
        // A foreign sender that is refused says nothing about relaying; the null sender is taken by everyone.
        match probe::ask_once(backend, Some(&sender), &nobody).await {
            Some(Finding::OtherSender(_)) => {
                outcome_of(probe::ask_once(backend, None, &nobody).await.as_ref())
            }
            finding => outcome_of(finding.as_ref()),
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<Site, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome_of(finding: Option<&Finding>) -> Outcome {
    match finding {
        // 252 takes it too.
        Some(Finding::Good | Finding::Unknown(Cause::Unverified)) => Outcome::Relays,
        Some(
            Finding::Bad(_) | Finding::Refused(_) | Finding::Unknown(Cause::RouteFault(_) | Cause::Policy(_)),
        ) => Outcome::Refuses,
        _ => Outcome::Untested,
    }
}

/// Two reserved domains (RFC 2606) that no route names: nobody's mail, and never ours to relay.
fn foreign_domains(config: &Config) -> [Domain; 2] {
    let reserved = ["example.com", "example.net", "example.org", "example.edu"];
    let mut foreign = reserved
        .iter()
        .filter_map(|name| Domain::parse(name).ok())
        .filter(|domain| config.routes.is_by_any(domain));
    let fallback = || Domain::parse("relay-test.invalid").expect("a domain");
    [foreign.next().unwrap_or_else(fallback), foreign.next().unwrap_or_else(fallback)]
}
