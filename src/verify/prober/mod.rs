//! Who asks the store: what is pending, what waits, and the sessions that work it off.
//!
//! One question is pending per key. Whoever wants its answer subscribes; the answer, a failure too, reaches
//! all who did. A subscriber that leaves harms no one, and a question nobody waits for any more, and that was
//! not sent yet, vanishes. Batches form from what waits; there is no artificial delay.
//!
//! Order of events, on which the promise of one probe rests: an answer is put into the cache, then the
//! pending entry is removed, then the subscribers hear of it. Whoever finds no pending entry therefore finds
//! the answer in the cache, and looks there while holding the entry's place.

mod consult;
mod queue;
mod round;
mod sessions;
mod settle;
mod work;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::consult::Wanted;
use self::queue::Full;
use self::work::Work;
use super::cache::{Cache, Known};
use super::conversation::{Conversation, Conversations};
use super::key::{AsIs, Key};
use super::scope::{Scope, Tested};
use super::sights::Sights;
use crate::backend::{Balancer, Learnt, MAX_BATCH};
use crate::net::dial::Site;
use crate::observe::Alarms;
use crate::observe::metrics::{Metrics, RecipientSource, RouteMetrics};
use crate::proto::address::Mailbox;
use crate::proto::reply::Reply;
use crate::proto::verdict::{Cause, Verdict};

pub use self::queue::{Asker, Urgency};

/// A first sender that was refused is tried again after so long.
const FIRST_SENDER_AGAIN: Duration = Duration::from_secs(3600);

/// An answer, with what was said for it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The conversation of the probe; empty when none was held.
    pub conversation: Conversation,
    /// Who gave it.
    pub source: RecipientSource,
}

/// Why the store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known, or only something stale: an answer that meanwhile came serves as well.
    Unknown,
    /// What is known to be good grows old: an answer another instance got lately serves as well.
    Refresh,
    /// What is known shall be confirmed, whatever it is: what was learnt before somebody asked does not count.
    Confirm,
}

/// Whom a prober asks, and how.
#[derive(Debug)]
pub struct Store {
    /// Whom.
    pub backends: Balancer,
    /// None is the null sender.
    pub sender: Option<Mailbox>,
    /// Used once the other is refused.
    pub fallback_sender: Option<Mailbox>,
    /// How long a session may be waited for.
    pub patience: Duration,
}

/// What probers of all stores share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) cache: Arc<Cache>,
    pub(super) conversations: Arc<Conversations>,
    pub(super) metrics: Metrics,
    pub(super) alarms: Alarms,
    pub(super) sights: Arc<Sights>,
}

/// The prober of one verification group.
#[derive(Debug)]
pub struct Prober {
    store: Store,
    shared: Shared,
    series: RouteMetrics,
    pending: DashMap<Key, Pending, AsIs>,
    work: Mutex<Work>,
    /// What the first sender was refused with, and when; forgotten when the fallback is refused too.
    refused_sender: Mutex<Option<(Reply, Instant)>>,
    /// Sessions in a row that ended without a single answer.
    fruitless: AtomicU32,
    /// Questions under way about what is known.
    rechecks: Arc<AtomicUsize>,
    /// Numbers the questions that have no key of their own.
    anonymous: AtomicU64,
}

/// Leave to ask once more about what is known; given back when dropped.
#[derive(Debug)]
pub(in crate::verify) struct Recheck(Arc<AtomicUsize>);

/// One recipient to be asked about.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    pub(super) key: Key,
    pub(super) mailbox: Mailbox,
    pub(super) scope: Arc<Scope>,
    /// A refusal older than this is not given to clients with a clean record unasked.
    pub(super) recheck: Duration,
}

impl Subject {
    /// What the cache holds the answer under.
    pub(super) fn entry(&self) -> Key {
        self.scope.entry(self.key)
    }
}

#[derive(Debug)]
struct Pending {
    subscribers: Vec<oneshot::Sender<Answer>>,
    /// The most urgent of those who asked.
    asker: Asker,
    wanted: Wanted,
    /// We hold the lease, so that no other instance asks.
    leased: bool,
    /// Asked for its own sake: it stays when nobody waits.
    confirm: bool,
    /// Somebody wants nothing to be remembered of what is under way.
    forget: bool,
}

impl Pending {
    /// Nobody waits for it, nor is it asked for its own sake.
    fn is_deserted(&self) -> bool {
        !self.confirm && self.subscribers.iter().all(oneshot::Sender::is_closed)
    }
}

#[derive(Debug, Clone)]
struct Question {
    key: Key,
    mailbox: Mailbox,
    scope: Arc<Scope>,
    asker: Asker,
    purpose: Purpose,
    voice: Voice,
    tries: u8,
    asked: Instant,
    /// Since when a refusal of what was good is looked into.
    doubted: Option<Instant>,
}

/// What a question is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Somebody, or the cache, wants to know.
    Recipient,
    /// A name nobody has: does the store tell?
    Random(Tested),
    /// A recipient that was good a moment ago, asked beside one that turned bad.
    Witness,
}

/// As whom a question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voice {
    /// As the sender that the store takes.
    Usual,
    /// As the fallback sender: is it this recipient, or our probe, that the store does not like?
    Second,
    /// As the usual sender once more, beside another recipient: the fallback sender was not heard.
    Last,
}

/// What a prober is doing, for operators.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Sessions it has.
    pub sessions: usize,
    /// Questions that wait.
    pub waiting: usize,
    /// What it has learnt of each backend.
    pub learnt: Vec<(Site, Learnt)>,
}

impl Prober {
    /// A prober without any session yet.
    #[must_use]
    pub(super) fn new(store: Store, shared: Shared, series: RouteMetrics) -> Arc<Self> {
        Arc::new(Self {
            store,
            shared,
            series,
            rechecks: Arc::default(),
            pending: DashMap::with_hasher(AsIs),
            work: Mutex::default(),
            refused_sender: Mutex::default(),
            fruitless: AtomicU32::new(0),
            anonymous: AtomicU64::new(0),
        })
    }

    /// Asks about a recipient on behalf of `asker`, or joins those who did.
    pub(super) fn ask(
        self: &Arc<Self>,
        subject: Subject,
        asker: Asker,
        why: Why,
    ) -> oneshot::Receiver<Answer> {
        let (subscriber, answer) = oneshot::channel();
        let key = subject.key;
        match self.pending.entry(key) {
            Entry::Occupied(mut pending) => {
                let waiting = pending.get_mut();
                waiting.subscribers.push(subscriber);
                waiting.wanted.and(Wanted::of(&subject, asker, why));
                if asker.urgency < waiting.asker.urgency {
                    waiting.asker = asker;
                }
                drop(pending);
                let mut work = self.work();
                work.waiting.hurry(key, asker);
                self.man(&mut work);
            }
            Entry::Vacant(place) => {
                let meanwhile = match why {
                    Why::Unknown => self.meanwhile(&subject),
                    Why::Refresh | Why::Confirm => None,
                };
                let tier = self.tier(&subject, asker, why).filter(|_| meanwhile.is_none());
                let at_once = match (meanwhile, &tier) {
                    (Some(verdict), _) => Some(verdict),
                    (None, Some(_)) => None,
                    (None, None) => {
                        let waiting = self.wait(subject.clone(), asker);
                        waiting.err().map(|Full| Verdict::Unknown(Cause::NoCapacity))
                    }
                };
                if let Some(verdict) = at_once {
                    let (conversation, source) = (Conversation::default(), RecipientSource::Probe);
                    let _ = subscriber.send(Answer { verdict, conversation, source });
                    return answer;
                }
                place.insert(Pending {
                    subscribers: vec![subscriber],
                    asker,
                    wanted: Wanted::of(&subject, asker, why),
                    leased: false,
                    confirm: why != Why::Unknown,
                    forget: false,
                });
                if let Some(tier) = tier {
                    tokio::spawn(Arc::clone(self).consult(tier, subject, why));
                }
            }
        }
        answer
    }

    /// Asks about a recipient so that the cache may know; nobody waits.
    pub(super) fn refresh(self: &Arc<Self>, subject: Subject) {
        if !self.pending.contains_key(&subject.key) {
            drop(self.ask(subject, Asker::BACKGROUND, Why::Refresh));
        }
    }

    /// What is under way for `key` is not to be remembered.
    pub(super) fn forget(&self, key: Key) {
        if let Some(mut pending) = self.pending.get_mut(&key) {
            pending.forget = true;
        }
    }

    /// Leave to ask once more about what is known, within a twentieth of what can be asked at once.
    pub(in crate::verify) fn room_to_recheck(&self) -> Option<Recheck> {
        // The store's hosts, and what they endure, are known better as time passes.
        let most = (MAX_BATCH * self.most_sessions() / 20).max(1);
        let one_more = |rechecks| (rechecks < most).then_some(rechecks + 1);
        self.rechecks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Recheck(Arc::clone(&self.rechecks)))
    }

    /// What the first sender was refused with, unless that was so long ago that it is tried again.
    fn refused_sender(&self) -> Option<Reply> {
        let refused = self.refused_sender.lock().unwrap_or_else(PoisonError::into_inner);
        refused
            .as_ref()
            .filter(|(_, when)| when.elapsed() < FIRST_SENDER_AGAIN)
            .map(|(reply, _)| reply.clone())
    }

    /// Sessions end as soon as nothing waits; each says QUIT.
    pub fn leave(&self) {
        self.work().leave();
    }

    /// As whom it asks; the second where the first is refused.
    pub(super) fn senders(&self) -> [Option<&Mailbox>; 2] {
        let Store { sender, fallback_sender, .. } = &self.store;
        [sender.as_ref(), fallback_sender.as_ref().or(sender.as_ref())]
    }

    /// What it is doing.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let work = self.work();
        let learnt =
            self.store.backends.backends().map(|b| (b.site().clone(), b.habits().learnt())).collect();
        Progress { sessions: work.sessions, waiting: work.waiting.len(), learnt }
    }

    /// What came into the cache between somebody's look there and now.
    fn meanwhile(&self, subject: &Subject) -> Option<Verdict> {
        match self.shared.cache.known(subject.entry(), subject.mailbox.written(), subject.scope.guard()) {
            Known::Good(super::cache::Freshness::Stale) | Known::Nothing => None,
            Known::Good(_) => Some(Verdict::Deliverable),
            Known::Bad(reply) => Some(Verdict::Undeliverable(reply)),
            Known::Deferred(cause) => Some(Verdict::Unknown(cause)),
        }
    }

    /// Puts a question in the queue and sees that a session takes it.
    fn wait(self: &Arc<Self>, subject: Subject, asker: Asker) -> Result<(), Full> {
        let Subject { key, mailbox, scope, .. } = subject;
        let question = Question {
            key,
            mailbox,
            scope,
            asker,
            purpose: Purpose::Recipient,
            voice: Voice::Usual,
            tries: 0,
            asked: Instant::now(),
            doubted: None,
        };
        let mut work = self.work();
        work.waiting.push(question)?;
        self.man(&mut work);
        Ok(())
    }

    /// A question that nobody subscribes to, in the scope of another.
    fn aside(&self, beside: &Question, mailbox: Mailbox, purpose: Purpose) -> Question {
        let number = self.anonymous.fetch_add(1, Ordering::Relaxed);
        Question {
            key: Key::anonymous(number),
            mailbox,
            purpose,
            tries: 0,
            asked: Instant::now(),
            ..beside.clone()
        }
    }

    /// Sessions there may be now.
    fn most_sessions(&self) -> usize {
        self.store.backends.most_probes()
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recheck {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
