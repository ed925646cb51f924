//! May this recipient be accepted? Lists first, then what is remembered, then the mail store.
//!
//! A *verification group* is a store and how it is asked (backends, sender, stage); routes that share one share
//! its prober. What is known of a domain as a whole is its *scope*: whether the store is truthful about it, and
//! whether its refusals deserve belief.

mod apart;
mod brake;
mod cache;
mod callout;
mod conversation;
pub mod examine;
mod foreign;
mod groups;
mod judge;
mod key;
mod list;
mod names;
mod probe;
mod prober;
mod relay_test;
mod scope;
mod scopes;
mod sights;
mod texts;
mod tier;
mod truth;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use self::apart::Apart;
use crate::backend::{Backend, Backends};
use crate::config::{Config, Route, Routes};
use crate::observe::Alarms;
use crate::observe::metrics::{CacheKind, Metrics, RecipientSource, RouteMetrics, StoreHealth};
use crate::proto::address::{Domain, Mailbox};
use crate::proto::replies;
use crate::proto::reply::Reply;
use crate::proto::verdict::{Cause, StoreAnswered, Verdict};
use crate::store::{self, HashKey, Opened, Recalled, Stamp};
use callout::Callout;
use conversation::Conversations;
use groups::{Group, Groups};
use prober::{Shared, Subject};
use relay_test::RelayTest;
use scope::{AskAt, Scope};

pub use apart::{Kept, Mark};
pub use cache::{Cache, Contradicted, Entry, Freshness, Guard, Known, Sizes, Tally, bounds};
pub use conversation::Conversation;
pub use judge::{Decision, Judgement, decide};
pub use key::{Key, Keyring};
pub use list::{ListFault, ListFile};
pub use prober::{Answer, Asker, Prober, Progress, Store, Urgency, Why};
pub use scope::ScopeReport;
pub use truth::Truth;

/// Domains that were forgotten by name are counted up to here; beyond, everything is forgotten.
const MAX_GENERATIONS: usize = 10_000;

/// A verdict, with who gave it and what was said.
#[derive(Debug, Clone)]
pub struct Verified {
    /// The verdict.
    pub verdict: Verdict,
    /// Who gave it.
    pub source: RecipientSource,
    /// The probe's conversation, if one was held for this answer.
    pub conversation: Conversation,
}

/// Whether mail for a domain may be passed on, whoever its recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It may.
    Served,
    /// Only `*` covers it, and the backend was not seen to refuse foreign domains: we might be an open relay.
    RelayUntested,
}

/// Everything that is known of one recipient, for an operator.
#[derive(Debug)]
pub struct Explanation {
    /// The route that verifies it.
    pub route: Arc<Route>,
    /// What is remembered.
    pub entry: Option<Entry>,
    /// What a list says, if one does.
    pub listed: Option<Verdict>,
    /// What is known of its domain; none where a list is the store.
    pub scope: Option<ScopeReport>,
    /// Whether its domain is served at all.
    pub serving: Serving,
    /// Without asking: nobody could tell, for this reason.
    pub undecidable: Option<Cause>,
    /// The last conversation about it, and how long ago it was held.
    pub conversation: Option<(Duration, Conversation)>,
}

/// Verifies recipients of all routes.
#[derive(Debug)]
pub struct Verifier {
    keyring: Keyring,
    routes: Routes,
    shared: Shared,
    groups: HashMap<Arc<str>, (Group, RouteMetrics)>,
    /// By route, for those of every domain.
    relay_tests: HashMap<Arc<str>, Arc<RelayTest>>,
    apart: Arc<Apart>,
    blind_ttl: Duration,
    /// How often a domain was forgotten, by its hash.
    generations: Arc<DashMap<u128, u32>>,
    epoch: Arc<AtomicU32>,
    store: Option<Arc<store::Store>>,
}

impl Verifier {
    /// A verifier that knows nothing yet.
    ///
    /// # Errors
    /// [`ListFault`] when a route's recipient file cannot be read.
    pub fn new(
        config: &Config,
        backends: &Backends,
        metrics: &Metrics,
        alarms: &Alarms,
    ) -> Result<Self, ListFault> {
        let shared = Shared {
            cache: Arc::new(Cache::new(config.cache.clone())),
            conversations: Arc::new(Conversations::default()),
            metrics: metrics.clone(),
            alarms: alarms.clone(),
            sights: Arc::default(),
        };
        let Groups { by_route, relay_tests } =
            Groups::of(config, backends, &shared, (&Groups::default(), &|_| false))?;
        Ok(Self {
            keyring: Keyring::random(),
            routes: config.routes.clone(),
            shared,
            groups: by_route,
            relay_tests,
            apart: Arc::default(),
            blind_ttl: config.cache.blind_ttl,
            generations: Arc::default(),
            epoch: Arc::default(),
            store: None,
        })
    }

    /// A verifier for another configuration, which knows what this one does. Routes that `spared` names are verified as
    /// before: what was found out of their stores stays, and what is asked there is asked once by both.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn renewed(
        &self,
        config: &Config,
        backends: &Backends,
        spared: impl Fn(&str) -> bool,
    ) -> Result<Self, ListFault> {
        let old = Groups { by_route: self.groups.clone(), relay_tests: self.relay_tests.clone() };
        let Groups { by_route, relay_tests } = Groups::of(config, backends, &self.shared, (&old, &spared))?;
        Ok(Self {
            keyring: self.keyring.clone(),
            routes: config.routes.clone(),
            shared: self.shared.clone(),
            groups: by_route,
            relay_tests,
            apart: Arc::clone(&self.apart),
            blind_ttl: self.blind_ttl,
            generations: Arc::clone(&self.generations),
            epoch: Arc::clone(&self.epoch),
            store: self.store.clone(),
        })
    }

    /// No session with a store is kept any more that `other` does not use, too.
    pub fn leave_but_for(&self, other: &Self) {
        let used: Vec<_> = other.callouts().map(|callout| Arc::as_ptr(&callout.prober)).collect();
        let unused = self.callouts().filter(|callout| !used.contains(&Arc::as_ptr(&callout.prober)));
        unused.for_each(|callout| callout.prober.leave());
    }

    /// Whether `other` asks the same servers about recipients of `route` in the same way.
    #[must_use]
    pub fn asks_as(&self, other: &Self, route: &str) -> bool {
        let group = |of: &'_ Self| of.groups.get(route).map(|(group, _)| group.clone());
        match (group(self), group(other)) {
            (Some(Group::Callout(ours)), Some(Group::Callout(theirs))) => ours.scopes.ask_as(&theirs.scopes),
            _ => false,
        }
    }

    /// The same, hashing addresses with `key`.
    #[must_use]
    pub fn with_key(self, key: HashKey) -> Self {
        self.shared.sights.begin(key);
        Self { keyring: Keyring::of(key), ..self }
    }

    /// The same, with everything `store` knows, and keeping there what is learnt.
    #[must_use]
    pub fn with_store(self, mut store: Opened) -> Self {
        let cache = &self.shared.cache;
        let Recalled { epoch, generations, marks, .. } = cache.recall(&mut store, Stamp::now());
        self.epoch.store(epoch, Ordering::Relaxed);
        for (domain, generation) in generations {
            self.generations.insert(domain, generation);
        }
        let key = store.key();
        let store = store.start();
        cache.keep_in(store.journal());
        let sights = &self.shared.sights;
        sights.begin(key);
        sights.keep_in(store.journal(), marks);
        self.callouts().for_each(|callout| callout.scopes.each(|scope| sights.met(scope)));
        Self { keyring: Keyring::of(key), store: Some(Arc::new(store)), ..self }
    }

    /// Writes what was learnt and is not stored yet; not longer than `patience`.
    pub async fn put_away(&self, patience: Duration) {
        if let Some(store) = &self.store {
            store.close(patience).await;
        }
    }

    /// How the store is doing; none where there is none.
    #[must_use]
    pub fn store(&self) -> Option<store::Account> {
        self.store.as_deref().map(store::Store::account)
    }

    /// What to do about `mailbox`: its verdict, and what that leads to.
    pub async fn judge(&self, route: &Arc<Route>, mailbox: &Mailbox, asker: Asker) -> Judgement {
        let Verified { verdict, source, .. } = self.verify(route, mailbox, asker).await;
        let cause = judge::refusal_cause(&verdict, source);
        let (decision, about) = decide(verdict, route.verify.on_unknown);
        Judgement { decision, source, about, cause }
    }

    /// The verdict on `mailbox`, within `verify.timeout`.
    pub async fn verify(&self, route: &Arc<Route>, mailbox: &Mailbox, asker: Asker) -> Verified {
        let began = Instant::now();
        let verified = match self.listed(route, mailbox) {
            Some(verdict) => Verified::of(verdict, RecipientSource::Policy),
            None => self.callout(route, mailbox, asker).await,
        };
        self.shared.metrics.verified(verified.source, began.elapsed());
        verified
    }

    /// What the configuration itself says.
    fn listed(&self, route: &Route, mailbox: &Mailbox) -> Option<Verdict> {
        if route.verify.deny.contains(mailbox) {
            return Some(Verdict::Undeliverable(replies::UNKNOWN_RECIPIENT));
        }
        if route.verify.allow.contains(mailbox) {
            return Some(Verdict::Deliverable);
        }
        match self.groups.get(&route.name) {
            Some((Group::List(list), _)) if list.contains(mailbox) => Some(Verdict::Deliverable),
            Some((Group::List(_), _)) => Some(Verdict::Undeliverable(replies::UNKNOWN_RECIPIENT)),
            _ => None,
        }
    }

    async fn callout(&self, route: &Arc<Route>, mailbox: &Mailbox, asker: Asker) -> Verified {
        let remembered = |verdict| Verified::of(verdict, RecipientSource::Cache);
        let Some((callout, subject)) = self.question(route, mailbox) else {
            return remembered(Verdict::Unknown(Cause::Unreachable));
        };
        let scope = Arc::clone(&subject.scope);
        let verified = self.remembered_or_asked(route, callout, subject, asker).await;
        if verified.verdict == Verdict::Deliverable {
            callout.test_delivery(&scope, mailbox);
        }
        verified
    }

    async fn remembered_or_asked(
        &self,
        route: &Arc<Route>,
        callout: &Callout,
        subject: Subject,
        asker: Asker,
    ) -> Verified {
        let remembered = |verdict| Verified::of(verdict, RecipientSource::Cache);
        let cache = &self.shared.cache;
        match cache.known(subject.entry(), subject.mailbox.written(), subject.scope.guard()) {
            Known::Good(freshness @ (Freshness::Fresh | Freshness::Aging)) => {
                subject.scope.recalls(&subject.mailbox);
                // While the store's refusals are not believed, what it knows tells whether it has recovered.
                if freshness == Freshness::Aging || subject.scope.is_braked() {
                    callout.prober.refresh(subject);
                }
                remembered(Verdict::Deliverable)
            }
            Known::Bad(reply) => {
                let old = remembered(Verdict::Undeliverable(reply));
                let young = cache.bad_since(subject.entry()) < Some(route.verify.recheck);
                if asker.urgency != Urgency::Clean || young {
                    return old;
                }
                // A new mailbox works within a minute, as long as that is a small part of the probing.
                let Some(_room) = callout.prober.room_to_recheck() else { return old };
                match callout.asked(subject, asker, Why::Confirm, route).await {
                    Verified { verdict: Verdict::Unknown(_), .. } => old,
                    new => new,
                }
            }
            Known::Deferred(cause) => remembered(Verdict::Unknown(cause)),
            Known::Nothing if undecidable(&subject.scope) => remembered(Verdict::Unknown(Cause::Blind)),
            Known::Good(Freshness::Stale) | Known::Nothing => {
                let verified = callout.asked(subject.clone(), asker, Why::Unknown, route).await;
                let Verdict::Unknown(cause) = &verified.verdict else { return verified };
                let (entry, written) = (subject.entry(), subject.mailbox.written());
                // The store cannot be asked: what it said last, to us or to another instance, still stands.
                match cache.known(entry, written, subject.scope.guard()) {
                    Known::Good(_) if cause.store_answered() == StoreAnswered::Nothing => {
                        remembered(Verdict::Deliverable)
                    }
                    Known::Bad(reply) => remembered(Verdict::Undeliverable(reply)),
                    _ => verified,
                }
            }
        }
    }

    /// Whether mail for `mailbox` may be passed on, whoever it is and however recipients of `route` are verified. Finds
    /// out first where nothing is known.
    pub async fn serves(&self, route: &Route, mailbox: &Mailbox) -> Serving {
        match self.relay_test(route, mailbox) {
            Some(test) if !test.passes().await => Serving::RelayUntested,
            _ => Serving::Served,
        }
    }

    /// Whether mail for `mailbox` may be passed on through `backend`, by what is known.
    #[must_use]
    pub fn serves_through(&self, route: &Route, mailbox: &Mailbox, backend: &Backend) -> Serving {
        match self.relay_test(route, mailbox) {
            Some(test) if !test.passed_by(backend) => Serving::RelayUntested,
            _ => Serving::Served,
        }
    }

    /// The test that decides whether mail for `mailbox` is passed on; none where its domain is named.
    fn relay_test(&self, route: &Route, mailbox: &Mailbox) -> Option<&Arc<RelayTest>> {
        mailbox.domain().filter(|domain| self.routes.is_by_any(domain))?;
        self.relay_tests.get(&route.name)
    }

    /// Finds out of every `*` route whether its backend relays for the whole world.
    pub async fn test_relays(&self) {
        futures_util::future::join_all(self.relay_tests.values().map(RelayTest::passes)).await;
    }

    /// Asks the store now, whatever is remembered.
    pub async fn probe(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Verified {
        match self.question(route, mailbox) {
            Some((callout, subject)) => callout.asked(subject, Asker::OPERATOR, Why::Confirm, route).await,
            None => self.verify(route, mailbox, Asker::OPERATOR).await,
        }
    }

    /// Who is asked about `mailbox`, and as what; none where a list is the store.
    fn question(&self, route: &Route, mailbox: &Mailbox) -> Option<(&Callout, Subject)> {
        let (Group::Callout(callout), _) = self.groups.get(&route.name)? else { return None };
        let scope = callout.scopes.of(mailbox, &self.routes, &self.shared.cache);
        let forgotten =
            mailbox.domain().and_then(|domain| self.generations.get(&self.hash(domain)).map(|g| *g));
        let forgotten = forgotten.unwrap_or(0);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let canonical = mailbox.canonical(route.verify.local_case);
        let parts: [&[u8]; 4] =
            [&callout.identity, &forgotten.to_le_bytes(), &epoch.to_le_bytes(), canonical.as_bytes()];
        let (key, recheck) = (self.keyring.key(&parts), route.verify.recheck);
        Some((callout, Subject { key, mailbox: mailbox.clone(), scope, recheck }))
    }

    /// The delivery port refused `mailbox` itself in these words, whom `source` let pass. A good entry is gone at once, unless the store,
    /// asked about it and beside another recipient, is not to be believed. Gives what that says of the store.
    pub async fn contradicted(
        &self,
        route: &Arc<Route>,
        mailbox: &Mailbox,
        (word, source): (&Reply, RecipientSource),
        asker: Asker,
    ) -> Contradicted {
        let Some((callout, subject)) = self.question(route, mailbox) else { return Contradicted::Nothing };
        let (cache, scope, entry) = (&self.shared.cache, Arc::clone(&subject.scope), subject.entry());
        scope.forget(entry);
        let held = || cache.held_good(entry, scope.guard());
        // What a probe said for this very recipient a moment ago needs no other.
        if held() && source != RecipientSource::Probe && !scope.is_braked() {
            match callout.asked(subject, asker, Why::Confirm, route).await.verdict {
                // It is remembered as bad now.
                Verdict::Undeliverable(_) => return self.counted_contradiction(route),
                // Nobody could be asked whether all of them are gone.
                Verdict::Unknown(cause) if cause.store_answered() == StoreAnswered::Nothing => {
                    return Contradicted::StoreIll;
                }
                // A bare 550 may be about the client: the same server knows the mailbox.
                Verdict::Deliverable if word.enhanced().is_none() && callout.delivers_where_it_asks() => {
                    return Contradicted::Nothing;
                }
                Verdict::Deliverable | Verdict::Unknown(_) => {}
            }
        }
        let held = held();
        if held {
            scope.turned(mailbox);
        }
        if scope.is_braked() {
            return Contradicted::StoreIll;
        }
        cache.contradict(entry);
        if held { self.counted_contradiction(route) } else { Contradicted::Nothing }
    }

    fn counted_contradiction(&self, route: &Route) -> Contradicted {
        if let Some((_, series)) = self.groups.get(&route.name) {
            series.contradicted();
        }
        Contradicted::Good
    }

    /// What is known of `mailbox`, without asking anybody.
    #[must_use]
    pub fn explain(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Explanation {
        let asked = self.question(route, mailbox);
        let subject = asked.as_ref().map(|(_, subject)| subject);
        let untested = self.relay_test(route, mailbox).is_some_and(|test| !test.passed());
        let entry =
            subject.and_then(|s| self.shared.cache.entry(s.entry(), mailbox.written(), s.scope.guard()));
        Explanation {
            route: Arc::clone(route),
            entry,
            listed: self.listed(route, mailbox),
            scope: subject.map(|subject| subject.scope.report()),
            serving: if untested { Serving::RelayUntested } else { Serving::Served },
            undecidable: subject.filter(|subject| undecidable(&subject.scope)).map(|_| Cause::Blind),
            conversation: subject.and_then(|subject| self.shared.conversations.last(subject.key)),
        }
    }

    /// What is known of the domains of `route`, `most` of them.
    #[must_use]
    pub fn scopes(&self, route: &Route, most: usize) -> Vec<ScopeReport> {
        match self.groups.get(&route.name) {
            Some((Group::Callout(callout), _)) => callout.scopes.reports(most),
            _ => Vec::new(),
        }
    }

    /// What the prober of `route` is doing; none where a list is the store.
    #[must_use]
    pub fn progress(&self, route: &Route) -> Option<Progress> {
        match self.groups.get(&route.name)? {
            (Group::Callout(callout), _) => Some(callout.prober.progress()),
            (Group::List(_), _) => None,
        }
    }

    fn callouts(&self) -> impl Iterator<Item = &Callout> {
        self.groups.values().filter_map(|(group, _)| match group {
            Group::Callout(callout) => Some(&**callout),
            Group::List(_) => None,
        })
    }

    /// Forgets one recipient.
    pub fn forget(&self, route: &Route, mailbox: &Mailbox) {
        if let Some((callout, subject)) = self.question(route, mailbox) {
            callout.prober.forget(subject.key);
            subject.scope.forget(subject.entry());
            self.shared.cache.forget(subject.entry());
            self.forget_elsewhere(subject.key);
        }
    }

    /// Forgets all recipients of a domain: their keys are made anew from now on.
    pub fn forget_domain(&self, domain: &Domain) {
        if self.generations.len() >= MAX_GENERATIONS {
            self.forget_all();
        }
        self.apart.forget(domain.as_str());
        self.callouts().for_each(|callout| callout.scopes.reset(domain, &self.routes, &self.shared.cache));
        let hash = self.hash(domain);
        let mut generation = self.generations.entry(hash).or_insert(0);
        *generation += 1;
        if let Some(store) = &self.store {
            store.journal().forgot_domain(hash, *generation);
        }
        if let Some(tier) = self.shared.cache.tier() {
            tier.forget_domain(hash, *generation);
        }
    }

    fn hash(&self, domain: &Domain) -> u128 {
        self.hash_of(domain.as_str())
    }

    fn hash_of(&self, domain: &str) -> u128 {
        self.keyring.key(&[b"domain", domain.as_bytes()]).to_bits()
    }

    /// Forgets everything. Answers that are under way belong to the past too.
    pub fn forget_all(&self) {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        self.begin_epoch(epoch);
        if let Some(tier) = self.shared.cache.tier() {
            tier.forget_all(epoch);
        }
    }

    /// Nothing that was known before the epoch is known.
    fn begin_epoch(&self, epoch: u32) {
        // In a new epoch all keys are new; what was forgotten before need not be known.
        self.generations.clear();
        self.apart.clear();
        self.shared.cache.clear();
        self.callouts().for_each(|callout| callout.scopes.reset_all(&self.shared.cache));
        if let Some(store) = &self.store {
            store.journal().forgot_all(epoch);
        }
    }

    /// Lets idle probe sessions end.
    pub fn leave(&self) {
        self.callouts().for_each(|callout| callout.prober.leave());
    }

    /// How much is remembered.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.shared.cache.sizes()
    }

    /// Gives up what is past all use. May take a while.
    pub fn sweep(&self) {
        self.shared.cache.sweep();
        self.callouts().for_each(|callout| callout.scopes.sweep());
    }

    /// Brings the metrics of the cache up to date.
    pub fn observe(&self) {
        let (sizes, metrics) = (self.shared.cache.sizes(), &self.shared.metrics);
        metrics.cache(CacheKind::Good, sizes.good);
        metrics.cache(CacheKind::Bad, sizes.bad);
        metrics.cache(CacheKind::Deferred, sizes.deferred);
        metrics.cache_evictions(sizes.evictions);
        metrics.cache_expired(sizes.expired);
        if let Some(store::TierAccount { up, dropped, .. }) = self.tier() {
            metrics.sharing(if up { StoreHealth::Written } else { StoreHealth::Failing }, dropped);
        }
        if let Some(store::Account { fault, dropped, .. }) = self.store() {
            metrics.store(if fault.is_none() { StoreHealth::Written } else { StoreHealth::Failing }, dropped);
        }
    }

    /// Keeps recipient files in step with what is on disk; ends when dropped.
    pub async fn watch_lists(&self) {
        loop {
            tokio::time::sleep(list::LOOK_EVERY).await;
            for (group, _) in self.groups.values() {
                if let Group::List(list) = group {
                    list.look();
                }
            }
        }
    }
}

impl Verified {
    /// Without a conversation.
    fn of(verdict: Verdict, source: RecipientSource) -> Self {
        Self { verdict, source, conversation: Conversation::default() }
    }
}

/// Nobody can tell, and it is not yet time to find out whether that has changed.
fn undecidable(scope: &Scope) -> bool {
    scope.ask_at() == AskAt::Nowhere && !scope.test_is_due()
}

/// How often idle sessions and lists are looked after.
pub const TIDY_EVERY: Duration = Duration::from_secs(5);
