//! May this recipient be accepted? Lists first, then what is remembered, then the mail store.
//!
//! A *verification group* is a store and how it is asked (backends, sender); routes that share one share its
//! answers and its prober.

mod apart;
mod cache;
mod conversation;
pub mod examine;
mod key;
mod list;
mod names;
mod probe;
mod prober;
mod texts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::{Instant, timeout};

use self::apart::Apart;
use crate::backend::Backends;
use crate::config::{self, Config, OnUnknown, Route};
use crate::observe::metrics::{CacheKind, Metrics, RecipientResult, RecipientSource, RouteMetrics};
use crate::proto::address::{Domain, Mailbox};
use crate::proto::replies;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Cause, StoreAnswered, Verdict};

pub use apart::Mark;
pub use cache::{Cache, Contradicted, Entry, Freshness, Known, Sizes};
pub use conversation::Conversation;
pub use key::{Key, Keyring};
pub use list::{ListFault, ListFile};
pub use prober::{Answer, Prober, Store, Why};

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

/// What to do about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Give it to the delivery port.
    Forward,
    /// Refuse it with this reply.
    Refuse(Reply),
}

/// Whether a refusal that is remembered may be asked again for this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Its record is clean: a mailbox that is new may well be what it writes to.
    Recheck,
    /// What is remembered is good enough for it.
    Remembered,
}

/// Whether a recipient may share its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It may.
    Together,
    /// It is to come alone.
    Apart,
}

/// A decision, with who made it and what it is called.
#[derive(Debug)]
pub struct Judgement {
    /// What to do.
    pub decision: Decision,
    /// Who decided.
    pub source: RecipientSource,
    /// What a refusal is counted as.
    pub about: RecipientResult,
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
}

/// Whom one route asks.
#[derive(Debug)]
enum Group {
    /// The mail store; the identity goes into every key.
    Callout { identity: Vec<u8>, prober: Arc<Prober> },
    /// A list.
    List(Arc<ListFile>),
}

/// Verifies recipients of all routes.
#[derive(Debug)]
pub struct Verifier {
    keyring: Keyring,
    cache: Arc<Cache>,
    groups: HashMap<Arc<str>, (Group, RouteMetrics)>,
    apart: Apart,
    blind_ttl: Duration,
    generations: DashMap<Domain, u32>,
    epoch: AtomicU32,
    metrics: Metrics,
}

impl Verifier {
    /// A verifier that knows nothing yet.
    ///
    /// # Errors
    /// [`ListFault`] when a route's recipient file cannot be read.
    pub fn new(config: &Config, backends: &Backends, metrics: &Metrics) -> Result<Self, ListFault> {
        let cache = Arc::new(Cache::new(config.cache.clone()));
        let mut probers: HashMap<Vec<u8>, Arc<Prober>> = HashMap::new();
        let mut groups = HashMap::new();
        for route in config.routes.iter() {
            let series = metrics.route(&route.name);
            let group = match &route.verify.source {
                config::RecipientSource::File(path) => {
                    Group::List(Arc::new(ListFile::open(path, route.verify.local_case)?))
                }
                config::RecipientSource::Callout { backends: endpoints } => {
                    let identity = format!("{:?} {:?}", endpoints, route.verify.sender).into_bytes();
                    // The fallback sender is no part of what was asked, but of who asks.
                    let asker = format!("{:?} {:?}", identity, route.verify.fallback_sender).into_bytes();
                    let prober = probers.entry(asker).or_insert_with(|| {
                        let store = Store {
                            backends: endpoints.iter().filter_map(|e| backends.find(e).cloned()).collect(),
                            sender: route.verify.sender.clone(),
                            fallback_sender: route.verify.fallback_sender.clone(),
                            patience: route.verify.timeout,
                            refusals_endured: route.verify.refusals_endured,
                        };
                        Prober::new(store, Arc::clone(&cache), (metrics.clone(), series.clone()))
                    });
                    Group::Callout { identity, prober: Arc::clone(prober) }
                }
            };
            groups.insert(Arc::clone(&route.name), (group, series));
        }
        Ok(Self {
            keyring: Keyring::random(),
            cache,
            groups,
            apart: Apart::default(),
            blind_ttl: config.cache.blind_ttl,
            generations: DashMap::new(),
            epoch: AtomicU32::new(0),
            metrics: metrics.clone(),
        })
    }

    /// What to do about `mailbox`: its verdict, and the one place where an unknown one is decided.
    pub async fn judge(&self, route: &Arc<Route>, mailbox: &Mailbox, trust: Trust) -> Judgement {
        let Verified { verdict, source, .. } = self.verify(route, mailbox, trust).await;
        let (decision, about) = decide(verdict, route.verify.on_unknown);
        Judgement { decision, source, about }
    }

    /// The verdict on `mailbox`, within `verify.timeout`.
    pub async fn verify(&self, route: &Arc<Route>, mailbox: &Mailbox, trust: Trust) -> Verified {
        let began = Instant::now();
        let verified = match self.listed(route, mailbox) {
            Some(verdict) => {
                Verified { verdict, source: RecipientSource::Policy, conversation: Conversation::default() }
            }
            None => self.callout(route, mailbox, trust).await,
        };
        self.metrics.verified(verified.source, began.elapsed());
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

    async fn callout(&self, route: &Arc<Route>, mailbox: &Mailbox, trust: Trust) -> Verified {
        let remembered = |verdict| Verified {
            verdict,
            source: RecipientSource::Cache,
            conversation: Conversation::default(),
        };
        let Some((key, prober)) = self.question(route, mailbox) else {
            return remembered(Verdict::Unknown(Cause::Unreachable));
        };
        match self.cache.known(key, mailbox.written()) {
            Known::Good(Freshness::Fresh) => remembered(Verdict::Deliverable),
            Known::Good(Freshness::Aging) => {
                prober.refresh(key, mailbox);
                remembered(Verdict::Deliverable)
            }
            Known::Bad(reply) => {
                let old = remembered(Verdict::Undeliverable(reply));
                if trust == Trust::Remembered || self.cache.bad_since(key) < Some(route.verify.recheck) {
                    return old;
                }
                // A new mailbox works within a minute, as long as that is a small part of the probing.
                let Some(_room) = prober.room_to_recheck() else { return old };
                match self.asked(prober, key, mailbox, Why::Confirm, route).await {
                    Verified { verdict: Verdict::Unknown(_), .. } => old,
                    new => new,
                }
            }
            Known::Deferred(cause) => remembered(Verdict::Unknown(cause)),
            Known::Good(Freshness::Stale) => {
                match self.asked(prober, key, mailbox, Why::Unknown, route).await {
                    // The store cannot be asked: what it said last still stands.
                    Verified { verdict: Verdict::Unknown(cause), .. }
                        if cause.store_answered() == StoreAnswered::Nothing =>
                    {
                        remembered(Verdict::Deliverable)
                    }
                    verified => verified,
                }
            }
            Known::Nothing => self.asked(prober, key, mailbox, Why::Unknown, route).await,
        }
    }

    /// Asks the store now, whatever is remembered.
    pub async fn probe(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Verified {
        match self.question(route, mailbox) {
            Some((key, prober)) => self.asked(prober, key, mailbox, Why::Confirm, route).await,
            None => self.verify(route, mailbox, Trust::Remembered).await,
        }
    }

    async fn asked(
        &self,
        prober: &Arc<Prober>,
        key: Key,
        mailbox: &Mailbox,
        why: Why,
        route: &Route,
    ) -> Verified {
        let answer = timeout(route.verify.timeout, prober.ask(key, mailbox, why)).await;
        let (verdict, conversation) = match answer {
            Ok(Ok(Answer { verdict, conversation })) => (verdict, conversation),
            Ok(Err(_)) => (Verdict::Unknown(Cause::Unreachable), Conversation::default()),
            Err(_) => (Verdict::Unknown(Cause::Timeout), Conversation::default()),
        };
        Verified { verdict, source: RecipientSource::Probe, conversation }
    }

    /// The key of `mailbox` and who asks about it; none where a list is the store.
    fn question(&self, route: &Route, mailbox: &Mailbox) -> Option<(Key, &Arc<Prober>)> {
        let (Group::Callout { identity, prober }, _) = self.groups.get(&route.name)? else { return None };
        let generation =
            mailbox.domain().and_then(|domain| self.generations.get(domain).map(|g| *g)).unwrap_or(0);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let canonical = mailbox.canonical(route.verify.local_case);
        let parts: [&[u8]; 4] =
            [identity, &generation.to_le_bytes(), &epoch.to_le_bytes(), canonical.as_bytes()];
        Some((self.keyring.key(&parts), prober))
    }

    /// The delivery port refused `mailbox` itself: a good entry is gone at once.
    pub fn contradicted(&self, route: &Route, mailbox: &Mailbox) {
        let Some((key, _)) = self.question(route, mailbox) else { return };
        if self.cache.contradict(key) == Contradicted::Good
            && let Some((_, series)) = self.groups.get(&route.name)
        {
            series.contradicted();
        }
    }

    /// The delivery port refused a whole message for one recipient, and nobody knows which: from now on each
    /// recipient in the domains of `recipients` is to come alone, for `cache.blind_ttl`.
    pub fn keep_apart<'m>(&self, route: &Arc<Route>, recipients: impl Iterator<Item = &'m Mailbox>) {
        for mailbox in recipients {
            self.apart.mark(&route.name, domain_of(mailbox), self.blind_ttl);
        }
    }

    /// Whether `mailbox` may share its transaction with other recipients.
    #[must_use]
    pub fn kept(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Kept {
        if self.apart.is_marked(&route.name, domain_of(mailbox)) { Kept::Apart } else { Kept::Together }
    }

    /// The domains of `route` whose recipients are to come alone.
    #[must_use]
    pub fn marks(&self, route: &Route) -> Vec<Mark> {
        self.apart.of(&route.name)
    }

    /// What is known of `mailbox`, without asking anybody.
    #[must_use]
    pub fn explain(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Explanation {
        let entry =
            self.question(route, mailbox).and_then(|(key, _)| self.cache.entry(key, mailbox.written()));
        Explanation { route: Arc::clone(route), entry, listed: self.listed(route, mailbox) }
    }

    /// Forgets one recipient.
    pub fn forget(&self, route: &Route, mailbox: &Mailbox) {
        if let Some((key, _)) = self.question(route, mailbox) {
            self.cache.forget(key);
        }
    }

    /// Forgets all recipients of a domain: their keys are made anew from now on.
    pub fn forget_domain(&self, domain: &Domain) {
        if self.generations.len() >= MAX_GENERATIONS {
            self.generations.clear();
            self.forget_all();
        }
        self.apart.forget(domain.as_str());
        *self.generations.entry(domain.clone()).or_insert(0) += 1;
    }

    /// Forgets everything. Answers that are under way belong to the past too.
    pub fn forget_all(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.apart.clear();
        self.cache.clear();
    }

    /// Lets idle probe sessions end.
    pub fn leave(&self) {
        for (group, _) in self.groups.values() {
            if let Group::Callout { prober, .. } = group {
                prober.leave();
            }
        }
    }

    /// How much is remembered.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.cache.sizes()
    }

    /// Brings the metrics of the cache up to date.
    pub fn observe(&self) {
        let sizes = self.cache.sizes();
        self.metrics.cache(CacheKind::Good, sizes.good);
        self.metrics.cache(CacheKind::Bad, sizes.bad);
        self.metrics.cache(CacheKind::Deferred, sizes.deferred);
        self.metrics.cache_evictions(sizes.evictions);
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

/// Empty for the bare postmaster.
fn domain_of(mailbox: &Mailbox) -> &str {
    mailbox.domain().map_or("", Domain::as_str)
}

/// What a verdict leads to. The only place where an unknown one is decided.
#[must_use]
pub fn decide(verdict: Verdict, on_unknown: OnUnknown) -> (Decision, RecipientResult) {
    let cause = match verdict {
        Verdict::Deliverable => return (Decision::Forward, RecipientResult::Accepted),
        Verdict::Undeliverable(reply) => return (Decision::Refuse(reply), RecipientResult::Unknown),
        Verdict::Unknown(cause) => cause,
    };
    let decision = match (on_unknown, cause.store_answered()) {
        (OnUnknown::Accept, _) | (OnUnknown::Live, StoreAnswered::NotAboutTheRecipient) => Decision::Forward,
        (OnUnknown::Live | OnUnknown::Tempfail, _) => Decision::Refuse(undetermined(&cause)),
    };
    (decision, RecipientResult::Undetermined)
}

/// The store's own words where they are temporary, or a policy it states for good; else ours.
fn undetermined(cause: &Cause) -> Reply {
    match cause {
        Cause::Policy(reply) => replies::passed_on(reply.clone()),
        Cause::Deferred(reply) if reply.class() == Class::Transient => replies::passed_on(reply.clone()),
        _ => replies::UNDETERMINED,
    }
}

/// How often idle sessions and lists are looked after.
pub const TIDY_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verdict_is_decided_by_its_cause() {
        use OnUnknown::{Accept, Live, Tempfail};
        let greylisted = Reply::fixed(450, "4.2.0 greylisted");
        let policy = Reply::fixed(550, "5.7.1 blocked");
        let fault = Reply::fixed(554, "5.7.1 relay access denied");
        let refuse = |reply: &Reply| Decision::Refuse(reply.clone());
        for (cause, on_unknown, decision) in [
            (Cause::Deferred(greylisted.clone()), Live, Decision::Forward),
            (Cause::Deferred(greylisted.clone()), Tempfail, refuse(&greylisted)),
            (Cause::Deferred(greylisted.clone()), Accept, Decision::Forward),
            (Cause::Policy(policy.clone()), Live, Decision::Forward),
            (Cause::Policy(policy.clone()), Tempfail, refuse(&policy)),
            (Cause::Unverified, Live, Decision::Forward),
            (Cause::Unverified, Tempfail, refuse(&replies::UNDETERMINED)),
            (Cause::RouteFault(fault), Live, refuse(&replies::UNDETERMINED)),
            (Cause::Unreachable, Live, refuse(&replies::UNDETERMINED)),
            (Cause::Timeout, Live, refuse(&replies::UNDETERMINED)),
            (Cause::Unreachable, Accept, Decision::Forward),
        ] {
            let name = format!("{cause:?} {on_unknown:?}");
            assert_eq!(decide(Verdict::Unknown(cause), on_unknown).0, decision, "{name}");
        }
    }
}
