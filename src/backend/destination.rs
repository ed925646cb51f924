//! One destination of the configuration, and the backends it leads to now.
//!
//! Each address is a backend of its own: its connections, its health, what it was seen to do. What DNS says replaces
//! the set as a whole. An address that stays keeps its backend with all that was learnt; one that is gone gets no new
//! session and no new transaction, its idle sessions take leave, and what is under way with it ends in peace.
//!
//! A destination is followed once, for as long as anybody has it: sessions of an older configuration may, when the one
//! in force has another of the same name. That one begins with what this one knows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::pool::{Backend, Blueprint, lock};
use crate::config::{self, Endpoint, EndpointTls};
use crate::net::dial::Site;
use crate::net::resolve::{Answer, Follower, Found, Memory, Resolver};
use crate::observe::metrics::{BackendState, BackendUse};
use crate::proto::ehlo::Extensions;

/// What leads to backends.
#[derive(Debug)]
pub struct Destination {
    named: config::Destination,
    blueprint: Blueprint,
    /// The lowest tier first.
    members: ArcSwap<Vec<Member>>,
    looked_up: watch::Sender<LookedUp>,
    /// Who is asked about it; none while nobody follows it.
    resolver: watch::Sender<Option<Arc<Resolver>>>,
    /// What was said of it so far.
    memory: Mutex<Memory>,
    /// Addresses there were beyond those that are used.
    excess: AtomicUsize,
    /// What was withdrawn and is in use yet counts when the address comes back.
    budgets: Mutex<Budgets>,
}

/// What is taken up where.
type Budgets = HashMap<Site, Weak<Budget>>;

/// One backend of a destination.
#[derive(Debug, Clone)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Lower ones are used first.
    pub tier: u16,
    /// Its share among those of its tier.
    pub weight: u16,
}

/// What came of looking a destination up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookedUp {
    /// There is nothing to look up.
    Never,
    /// No answer came yet.
    NotYet,
    /// What DNS says is what is used.
    Known,
    /// What was said last is used, for this reason.
    Fault(String),
}

impl Destination {
    pub(super) fn new(named: config::Destination, blueprint: Blueprint) -> Arc<Self> {
        Self::with(named, blueprint, HashMap::new())
    }

    /// One whose backends go on with these budgets.
    fn with(named: config::Destination, blueprint: Blueprint, mut budgets: Budgets) -> Arc<Self> {
        let own = match named.endpoint() {
            Some(endpoint) => endpoint.clone(),
            None => Endpoint { host: named.name().to_owned(), port: 25, tls: named.tls() },
        };
        let (first, looked_up) = if blueprint.dialer.needs_addresses() && own.ip().is_none() {
            (Vec::new(), LookedUp::NotYet)
        } else {
            let site = Site::of(own);
            let budget = budgets.remove(&site).and_then(|budget| budget.upgrade());
            let backend = Backend::new(site, &blueprint, budget);
            (vec![Member { backend, tier: 0, weight: 1 }], LookedUp::Never)
        };
        Arc::new(Self {
            named,
            blueprint,
            members: ArcSwap::from_pointee(first),
            looked_up: watch::Sender::new(looked_up),
            resolver: watch::Sender::new(None),
            memory: Mutex::default(),
            excess: AtomicUsize::new(0),
            budgets: Mutex::new(budgets),
        })
    }

    /// One that is treated as `blueprint` says from now on, and leads where `old`, of the same name, does. The connections of
    /// sessions that began before count with its own.
    pub(super) fn after(old: &Self, blueprint: Blueprint) -> Arc<Self> {
        let mut budgets = lock(&old.budgets).clone();
        for Member { backend, .. } in &*old.members() {
            budgets.insert(backend.site().clone(), Arc::downgrade(backend.budget()));
        }
        let new = Self::with(old.named.clone(), blueprint, budgets);
        if new.looked_up() != LookedUp::Never {
            let memory = lock(&old.memory).clone();
            new.lead_to(memory.found().to_vec());
            *lock(&new.memory) = memory;
            new.is(old.looked_up());
        }
        new
    }

    /// As the configuration names it.
    #[must_use]
    pub const fn named(&self) -> &config::Destination {
        &self.named
    }

    /// The backends it leads to now.
    #[must_use]
    pub fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// What came of looking it up.
    #[must_use]
    pub fn looked_up(&self) -> LookedUp {
        self.looked_up.borrow().clone()
    }

    /// How long one of its backends may go without a session before it is checked, and which recipient it must take.
    pub(super) const fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// Whether its backends must take the same recipient as those of `other`.
    pub(super) fn shares_canary_of(&self, other: &Self) -> bool {
        let recipient = |of: &Self| of.blueprint.quota.canary.as_ref().map(|canary| canary.recipient.clone());
        recipient(self).is_some() && recipient(self) == recipient(other)
    }

    /// Waits until it was looked up once.
    pub(super) async fn is_looked_up(&self) {
        let mut looked_up = self.looked_up.subscribe();
        let _ = looked_up.wait_for(|state| *state != LookedUp::NotYet).await;
    }

    /// Looks it up once, within `patience`.
    pub(super) async fn look_up(&self, resolver: &Arc<Resolver>, patience: Duration) {
        if self.looked_up() != LookedUp::Never {
            let mut follower = Follower::new(resolver, &self.named);
            match timeout(patience, follower.ask()).await {
                Ok(answer) => drop(self.heard(answer, follower.memory())),
                Err(_) => self.is(LookedUp::Fault("no name server answers in time".to_owned())),
            }
        }
    }

    /// Asks `resolver` from now on. Follows it until `ended`, or until nobody has it any more; who follows already, goes on.
    /// Backends that come later than the first, or than `late`, are greeted.
    pub(super) fn follow(
        self: &Arc<Self>,
        resolver: &Arc<Resolver>,
        ended: &CancellationToken,
        late: Duration,
    ) {
        if self.looked_up() == LookedUp::Never {
            return;
        }
        let mut is_followed = false;
        self.resolver.send_if_modified(|asked| {
            is_followed = asked.is_some();
            let is_another = asked.as_ref().is_none_or(|asked| !Arc::ptr_eq(asked, resolver));
            if is_another {
                *asked = Some(Arc::clone(resolver));
            }
            is_another
        });
        if !is_followed {
            let following = Self::keep_up(Arc::downgrade(self), self.resolver.subscribe(), late);
            let ended = ended.clone();
            tokio::spawn(async move { ended.run_until_cancelled(following).await });
        }
    }

    /// Looks it up again as its answers end, and at once where somebody else is to be asked.
    async fn keep_up(
        destination: Weak<Self>,
        mut resolver: watch::Receiver<Option<Arc<Resolver>>>,
        late: Duration,
    ) {
        let began = Instant::now();
        let mut follower: Option<Follower> = None;
        loop {
            let Some(asked) = resolver.borrow_and_update().clone() else { return };
            if let Some(follower) = &mut follower {
                follower.turn_to(asked);
            } else {
                let Some(destination) = destination.upgrade() else { return };
                let memory = lock(&destination.memory).clone();
                follower = Some(Follower::going_on(&asked, &destination.named, memory));
            }
            let Some(follower) = &mut follower else { return };
            let answer = follower.ask().await;
            let again = answer.again;
            let Some(destination) = destination.upgrade() else { return };
            let is_first = destination.looked_up() == LookedUp::NotYet;
            let new = destination.heard(answer, follower.memory());
            // Those of the beginning are greeted together, before anybody is served.
            if !is_first || began.elapsed() > late {
                destination.greet(new);
            }
            drop(destination);
            if let Ok(Err(_)) = timeout(again, resolver.changed()).await {
                return;
            }
        }
    }

    /// Greets backends, so that it is known what they offer.
    fn greet(&self, backends: Vec<Arc<Backend>>) {
        let patience = self.blueprint.patience;
        let deadline = Instant::now() + patience.connect + patience.command;
        for backend in backends {
            tokio::spawn(async move { backend.greet(deadline).await });
        }
    }

    /// What DNS says now. Gives the backends that are new.
    fn heard(&self, answer: Answer, memory: &Memory) -> Vec<Arc<Backend>> {
        lock(&self.memory).clone_from(memory);
        let Answer { found, excess, fault, .. } = answer;
        let news = self.looked_up();
        if self.excess.swap(excess, Ordering::Relaxed) != excess && excess > 0 {
            tracing::warn!(backend = %self.named, excess, "more addresses than are used");
        }
        match (&fault, &news) {
            (Some(fault), LookedUp::NotYet | LookedUp::Known) => {
                tracing::warn!(backend = %self.named, fault, "DNS does not say where it is now");
            }
            (None, LookedUp::Fault(_)) => tracing::info!(backend = %self.named, "DNS says again where it is"),
            _ => {}
        }
        let new = self.lead_to(found);
        new.iter().for_each(|backend| backend.take_effect());
        self.is(fault.map_or(LookedUp::Known, LookedUp::Fault));
        new
    }

    fn is(&self, looked_up: LookedUp) {
        self.looked_up.send_replace(looked_up);
    }

    /// Replaces its backends by those at `found`. Gives those that are new.
    pub(super) fn lead_to(&self, found: Vec<Found>) -> Vec<Arc<Backend>> {
        let old = self.members.load_full();
        let mut new = Vec::new();
        let members: Vec<Member> = found
            .into_iter()
            .map(|Found { tier, host, address, weight }| {
                let endpoint = Endpoint { host, port: address.port(), tls: self.tls() };
                let site = Site { endpoint, address: Some(address.ip()) };
                let known = old.iter().find(|member| *member.backend.site() == site);
                let backend = known.map(|member| Arc::clone(&member.backend)).unwrap_or_else(|| {
                    let budget = lock(&self.budgets).remove(&site).and_then(|budget| budget.upgrade());
                    let backend = Backend::new(site, &self.blueprint, budget);
                    new.push(Arc::clone(&backend));
                    backend
                });
                Member { backend, tier, weight }
            })
            .collect();
        let stays =
            |member: &&Member| members.iter().any(|other| Arc::ptr_eq(&other.backend, &member.backend));
        let (gone, same): (Vec<_>, Vec<_>) = old.iter().partition(|member| !stays(member));
        if !new.is_empty() || !gone.is_empty() {
            let list = |members: &[Member]| {
                let sites: Vec<String> =
                    members.iter().map(|member| member.backend.site().to_string()).collect();
                sites.join(" ")
            };
            let (new, gone) = (new.len(), gone.len());
            tracing::info!(backend = %self.named, new, gone, same = same.len(), now = list(&members), "looked up");
        }
        self.members.store(Arc::new(members));
        let mut budgets = lock(&self.budgets);
        budgets.retain(|_, budget| budget.strong_count() > 0);
        for Member { backend, .. } in gone {
            budgets.insert(backend.site().clone(), Arc::downgrade(backend.budget()));
            backend.withdraw();
        }
        new
    }

    const fn tls(&self) -> EndpointTls {
        self.named.tls()
    }

    /// What all of its backends that were ever reached announced; none when none was.
    pub(super) fn announced(&self) -> Option<Extensions> {
        let members = self.members.load();
        members
            .iter()
            .filter_map(|member| member.backend.announced())
            .reduce(|all, one| all.intersection(&one))
    }

    /// Whether one of its backends took us when it was last tried.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.members.load().iter().any(|member| member.backend.state() == BackendState::Up)
    }

    /// Brings its metrics up to date.
    pub(super) fn observe(&self) {
        let members = self.members.load();
        let is = |state| members.iter().filter(|member| member.backend.state() == state).count();
        let states = [BackendState::Up, BackendState::Down, BackendState::Untried].map(|s| (s, is(s)));
        let up = self.is_up();
        let dns_up = matches!(self.looked_up(), LookedUp::Never | LookedUp::Known);
        let mut accounts: Vec<_> = members.iter().map(|member| member.backend.budget().account()).collect();
        let limit = accounts.iter().map(|account| account.limit).sum();
        // Sessions with addresses it no longer has go on until they end.
        accounts.extend(lock(&self.budgets).values().filter_map(Weak::upgrade).map(|b| b.account()));
        let probes = accounts.iter().map(|account| account.probes).sum();
        let deliveries = accounts.iter().map(|account| account.deliveries).sum();
        for series in &self.blueprint.metrics {
            if up {
                series.up();
            } else {
                series.down();
            }
            if dns_up {
                series.dns_up();
            } else {
                series.dns_down();
            }
            states.iter().for_each(|(state, number)| series.addresses(*state, *number));
            series.connection_limit(limit);
            series.connections(BackendUse::Probe, probes);
            series.connections(BackendUse::Delivery, deliveries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Use;
    use crate::backend::tests::blueprint;
    use crate::observe::metrics::Metrics;

    fn at(host: &str, address: &str, tier: u16) -> Found {
        Found { tier, host: host.into(), address: address.parse().unwrap(), weight: 1 }
    }

    fn destination() -> Arc<Destination> {
        Destination::new(config::Destination::Mx("example.org".into()), blueprint())
    }

    #[tokio::test]
    async fn an_address_that_stays_keeps_its_backend_and_one_that_goes_is_withdrawn() {
        let destination = destination();
        assert_eq!(destination.looked_up(), LookedUp::NotYet);
        let new = destination.lead_to(vec![at("a", "10.0.0.1:25", 1), at("b", "10.0.0.2:25", 2)]);
        assert_eq!(new.len(), 2);
        let new = destination.lead_to(vec![at("b", "10.0.0.2:25", 1), at("c", "10.0.0.3:25", 2)]);
        let members = destination.members();
        assert_eq!((new.len(), members.len(), members[0].tier), (1, 2, 1));
        assert_eq!(members[0].backend.site().to_string(), "b[10.0.0.2]:25");
        assert!(!members[0].backend.is_withdrawn());
        let again = destination.lead_to(Vec::new());
        assert!(again.is_empty() && destination.members().is_empty());
        assert!(members.iter().all(|member| member.backend.is_withdrawn()));
    }

    #[tokio::test]
    async fn connections_in_use_are_those_of_all_its_addresses_in_every_route() {
        let metrics = Metrics::new();
        let metrics_of = |route| metrics.backend(route, "mx:example.org");
        let blueprint = Blueprint { metrics: ["one", "two"].map(metrics_of).into(), ..blueprint() };
        let destination = Destination::new(config::Destination::Mx("example.org".into()), blueprint);
        let members = destination.lead_to(vec![at("a", "10.0.0.1:25", 1), at("b", "10.0.0.2:25", 1)]);
        let shown = || {
            destination.observe();
            let text = metrics.render();
            let lines = text.lines().filter(|line| line.starts_with("backstop_backend_connections{"));
            let figures: Vec<_> = lines.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
            figures.join(" ")
        };
        assert_eq!(shown(), "0 0 0 0");
        let mut used = Vec::new();
        for (member, purpose) in
            members.iter().flat_map(|member| [(member, Use::Probe), (member, Use::Greeting)])
        {
            used.push(member.budget().permit(purpose).await);
        }
        used.push(members[0].budget().permit(Use::Greeting).await);
        assert_eq!(shown(), "3 2 3 2");
        // It leads to the second no more.
        destination.lead_to(vec![at("a", "10.0.0.1:25", 1)]);
        drop(members);
        assert_eq!(shown(), "3 2 3 2");
        drop(used);
        assert_eq!(shown(), "0 0 0 0");
    }

    #[tokio::test]
    async fn one_is_followed_once_and_not_when_nobody_has_it_any_more() {
        let destination = destination();
        let resolver = Resolver::new(&["127.0.0.1:1".parse().unwrap()]);
        let ended = CancellationToken::new();
        for _ in 0..3 {
            destination.follow(&resolver, &ended, Duration::ZERO);
        }
        let tasks = tokio::runtime::Handle::current().metrics();
        assert_eq!((tasks.num_alive_tasks(), destination.resolver.receiver_count()), (1, 1));
        let ours = Arc::downgrade(&destination);
        drop(destination);
        assert!(ours.upgrade().is_none());
        while tasks.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_in_use_of_a_withdrawn_backend_counts_when_it_comes_back() {
        let destination = destination();
        let first = destination.lead_to(vec![at("a", "10.0.0.1:25", 1)]).remove(0);
        let permit = first.budget().permit(Use::Greeting).await;
        drop(first);
        destination.lead_to(Vec::new());
        let second = destination.lead_to(vec![at("a", "10.0.0.1:25", 1)]).remove(0);
        assert_eq!(second.budget().holders(), 1);
        drop(permit);
        destination.lead_to(Vec::new());
        drop(second);
        let third = destination.lead_to(vec![at("a", "10.0.0.1:25", 1)]).remove(0);
        assert_eq!(third.budget().holders(), 0);
    }
}
