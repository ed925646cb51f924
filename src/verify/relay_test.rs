//! Does the backend of a `*` route relay for the whole world?
//!
//! Such a route passes on mail for domains nobody named, trusting the backend to refuse what is not its own. A
//! backend that trusts our address may not, and we would be an open relay. So it is asked, at the start and every
//! `cache.blind_ttl`, about a recipient of a foreign domain, from a sender of another: MAIL, RCPT, RSET, never
//! data, and as ourselves. Which refusals count says [`foreign`]. Until a backend was seen to refuse, mail that only `*` covers does not go there, whoever sends it and however
//! its recipients are verified: this is about what we are, not about who they are. Where none was it is answered 451.
//!
//! Each backend is judged by itself. One that cannot be asked again keeps its good name for a while; only an
//! acceptance that was seen takes it away at once.
//! Each address is asked for itself: one that DNS adds is asked before any of that mail goes on through it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::foreign::{self, Outcome, Said, Whose};
use super::names;
use super::probe::{self, Finding};
use crate::backend::{Backend, Backends, Balancer, Lease};
use crate::config::{Config, DomainPattern, Route};
use crate::net::dial::Site;
use crate::observe::{AlarmKind, Alarms};
use crate::proto::address::{Domain, Mailbox};
use crate::proto::verdict::{Cause, Relaying, relaying};

/// A backend that could not be asked, or did not say, is asked again after so long.
const AGAIN_UNTESTED: Duration = Duration::from_secs(5);
/// One that relays is asked again after so long.
const AGAIN_RELAYS: Duration = Duration::from_secs(60);

/// How long a backend that was seen to refuse, and does not answer now, is still taken for one that does, beyond the
/// time that an outcome holds.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// The test of one route.
#[derive(Debug)]
pub(super) struct RelayTest {
    route: Arc<str>,
    backends: Balancer,
    sender: Domain,
    recipient: Domain,
    /// Who asks where the null sender is refused.
    fallback_sender: Option<Mailbox>,
    holds: Duration,
    alarms: Alarms,
    /// By where they listen.
    states: Mutex<HashMap<Site, State>>,
    running: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    outcome: Outcome,
    last: Option<Instant>,
    /// When it was seen to refuse, unless it was seen to take since.
    refused: Option<Instant>,
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
            fallback_sender: route.verify.fallback_sender.clone(),
            holds: config.cache.blind_ttl,
            alarms: alarms.clone(),
            states: Mutex::default(),
            running: tokio::sync::Mutex::new(()),
        }))
    }

    /// Whether the last test of a backend went well.
    pub(super) fn passed(&self) -> bool {
        self.backends.backends().any(|backend| self.passed_by(&backend))
    }

    /// Whether that of this one did.
    pub(super) fn passed_by(&self, backend: &Backend) -> bool {
        self.state_of(backend).passed(self.holds)
    }

    /// Whether the route may serve. Tests first where nothing is known, and anew in the background when it is time.
    pub(super) async fn passes(self: &Arc<Self>) -> bool {
        if self.backends.backends().any(|backend| self.is_due(&backend)) {
            let test = Arc::clone(self);
            let run = tokio::spawn(async move { test.run().await });
            if !self.passed() {
                let _ = run.await;
            }
        }
        self.passed()
    }

    fn is_due(&self, backend: &Backend) -> bool {
        self.state_of(backend).is_due(self.holds)
    }

    async fn run(&self) {
        let _one_at_a_time = self.running.lock().await;
        let backends: Vec<_> = self.backends.backends().collect();
        let due = backends.iter().filter(|backend| self.is_due(backend));
        futures_util::future::join_all(due.map(|backend| self.test(backend))).await;
        self.states().retain(|site, _| backends.iter().any(|backend| backend.site() == site));
        let relays = |state: State| state.outcome == Outcome::Relays;
        let untested = |state: State| state.outcome == Outcome::Untested && !state.passed(self.holds);
        self.tell(AlarmKind::OpenRelay, backends.iter().filter(|b| relays(self.state_of(b))));
        self.tell(AlarmKind::RelayUntested, backends.iter().filter(|b| untested(self.state_of(b))));
    }

    async fn test(&self, backend: &Arc<Backend>) {
        let outcome = self.ask(backend).await;
        self.states().entry(backend.site().clone()).or_insert(State::NEW).came_to(outcome);
    }

    /// One alarm for all backends that deserve it.
    fn tell<'b>(&self, kind: AlarmKind, deserve: impl Iterator<Item = &'b Arc<Backend>>) {
        let mut names: Vec<_> = deserve.map(|backend| backend.endpoint().to_string()).collect();
        names.dedup();
        if names.is_empty() {
            self.alarms.clear(&self.route, kind, "*");
        } else {
            let detail = format!("{}, asked about a recipient at {}", names.join(", "), self.recipient);
            self.alarms.raise(&self.route, kind, "*", &detail);
        }
    }

    async fn ask(&self, backend: &Arc<Backend>) -> Outcome {
        let (Some(sender), Some(recipients)) =
            (names::nobody_at(&self.sender), foreign::recipients(&self.recipient))
        else {
            return Outcome::Untested;
        };
        let Some(mut lease) = probe::session(backend).await else { return Outcome::Untested };
        let outcome = self.ask_in(&mut lease, &sender, &recipients).await;
        lease.quit();
        outcome
    }

    async fn ask_in(&self, lease: &mut Lease, sender: &Mailbox, recipients: &[Mailbox; 2]) -> Outcome {
        let ours = [None].into_iter().chain(self.fallback_sender.as_ref().map(Some));
        let senders = std::iter::once((Whose::Nobodys, Some(sender))).chain(ours.map(|of| (Whose::Ours, of)));
        let mut heard = Vec::new();
        for (whose, sender) in senders {
            // Of what a foreign sender hears only a yes counts.
            let asked = if whose == Whose::Nobodys { 1 } else { recipients.len() };
            for recipient in recipients.iter().take(asked) {
                let what = match probe::ask_one(lease, sender, recipient).await {
                    None => return Outcome::Untested,
                    Some(Finding::OtherSender(_)) => break,
                    Some(finding) => said_of(&finding),
                };
                let sender = sender.map_or("", Mailbox::written);
                heard.push(Said { sender, whose, recipient: recipient.written(), what });
                match what {
                    Relaying::Takes => return Outcome::Relays,
                    Relaying::Denies => break,
                    Relaying::RefusesIt | Relaying::Unclear => {}
                }
            }
        }
        foreign::outcome(&heard)
    }

    fn state_of(&self, backend: &Backend) -> State {
        self.states().get(backend.site()).copied().unwrap_or(State::NEW)
    }

    fn states(&self) -> MutexGuard<'_, HashMap<Site, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    const NEW: Self = Self { outcome: Outcome::Untested, last: None, refused: None };

    fn came_to(&mut self, outcome: Outcome) {
        let now = Some(Instant::now());
        (self.outcome, self.last) = (outcome, now);
        match outcome {
            Outcome::Refuses => self.refused = now,
            Outcome::Relays => self.refused = None,
            Outcome::Untested => {}
        }
    }

    fn passed(&self, holds: Duration) -> bool {
        self.outcome == Outcome::Refuses
            || self.refused.is_some_and(|refused| refused.elapsed() < holds.saturating_add(GRACE))
    }

    fn is_due(&self, holds: Duration) -> bool {
        let holds = match self.outcome {
            Outcome::Refuses => holds,
            Outcome::Relays => AGAIN_RELAYS,
            Outcome::Untested => AGAIN_UNTESTED,
        };
        self.last.is_none_or(|last| last.elapsed() >= holds)
    }
}

fn said_of(finding: &Finding) -> Relaying {
    match finding {
        // 252 takes it too.
        Finding::Good | Finding::Unknown(Cause::Unverified) => Relaying::Takes,
        Finding::Bad(reply) | Finding::Refused(reply) => relaying(reply),
        Finding::Unknown(cause) => cause.reply().map_or(Relaying::Unclear, relaying),
        _ => Relaying::Unclear,
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn after(outcomes: &[Outcome]) -> State {
        let mut state = State::NEW;
        for outcome in outcomes {
            state.came_to(*outcome);
        }
        state
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_seen_acceptance_takes_a_good_name_away_at_once() {
        use Outcome::{Refuses, Relays, Untested};
        for (outcomes, passed) in [
            (&[][..], false),
            (&[Untested], false),
            (&[Refuses], true),
            (&[Refuses, Untested, Untested], true),
            (&[Refuses, Relays], false),
            (&[Refuses, Relays, Untested], false),
            (&[Relays, Refuses], true),
        ] {
            assert_eq!(after(outcomes).passed(6 * HOUR), passed, "{outcomes:?}");
        }
        let mut silent = after(&[Refuses]);
        tokio::time::advance(29 * HOUR).await;
        silent.came_to(Untested);
        assert!(silent.passed(6 * HOUR) && !silent.is_due(6 * HOUR));
        tokio::time::advance(HOUR).await;
        assert!(!silent.passed(6 * HOUR) && silent.is_due(6 * HOUR));
    }
}
