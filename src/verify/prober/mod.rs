//! Who asks the store: what is pending, what waits, and the sessions that work it off.
//!
//! One question is pending per key. Whoever wants its answer subscribes; the answer, a failure too, reaches
//! all who did. A subscriber that leaves harms no one, and a question nobody waits for any more, and that was
//! not sent yet, vanishes. Batches form from what waits; there is no artificial delay.
//!
//! Order of events, on which the promise of one probe rests: an answer is put into the cache, then the
//! pending entry is removed, then the subscribers hear of it. Whoever finds no pending entry therefore finds
//! the answer in the cache, and looks there while holding the entry's place.

mod sessions;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use self::sessions::{MAX_BATCH, REFUSALS_ENDURED};
use super::cache::{Cache, Known};
use super::conversation::Conversation;
use super::key::{AsIs, Key};
use super::probe::Finding;
use crate::backend::Backend;
use crate::observe::metrics::{Metrics, ProbeResult, RouteMetrics};
use crate::proto::address::Mailbox;
use crate::proto::verdict::{Cause, StoreAnswered, Verdict};

/// Questions that may wait; more are answered "unknown" at once.
const MAX_WAITING: usize = 20_000;

/// An answer, with what was said for it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// The conversation of the probe; empty when none was held.
    pub conversation: Conversation,
}

/// Why the store is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known, or only something stale: an answer that meanwhile came serves as well.
    Unknown,
    /// What is known shall be confirmed, whatever it is.
    Confirm,
}

/// Whom a prober asks, and how.
#[derive(Debug)]
pub struct Store {
    /// Tried in order.
    pub backends: Vec<Arc<Backend>>,
    /// None is the null sender.
    pub sender: Option<Mailbox>,
    /// Used once the other is refused.
    pub fallback_sender: Option<Mailbox>,
    /// How long a session may be waited for.
    pub patience: Duration,
    /// Refusals it is taken to endure in one session until it shows how many.
    pub refusals_endured: u32,
}

/// The prober of one verification group.
#[derive(Debug)]
pub struct Prober {
    store: Store,
    cache: Arc<Cache>,
    metrics: (Metrics, RouteMetrics),
    pending: DashMap<Key, Pending, AsIs>,
    work: Mutex<Work>,
    /// The null sender was refused; forgotten when the fallback is refused too.
    use_fallback: AtomicBool,
    rechecks: Arc<Semaphore>,
    endured: AtomicU32,
}

#[derive(Debug, Default)]
struct Pending {
    subscribers: Vec<oneshot::Sender<Answer>>,
    /// Asked for its own sake: it stays when nobody waits.
    confirm: bool,
}

#[derive(Debug)]
struct Question {
    key: Key,
    mailbox: Mailbox,
    tries: u8,
    asked: Instant,
}

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<Question>,
    sessions: usize,
    /// Sessions that wait for a question, the longest idle first.
    idle: Vec<oneshot::Sender<()>>,
    /// No session waits for a question any more.
    leaving: bool,
}

impl Work {
    /// Wakes the session that became idle last. Gives whether there was one.
    fn wake(&mut self) -> bool {
        while let Some(idle) = self.idle.pop() {
            if idle.send(()).is_ok() {
                return true;
            }
        }
        false
    }
}

impl Prober {
    /// A prober without any session yet.
    #[must_use]
    pub fn new(store: Store, cache: Arc<Cache>, metrics: (Metrics, RouteMetrics)) -> Arc<Self> {
        let at_once = MAX_BATCH * most_sessions(&store);
        Arc::new(Self {
            endured: AtomicU32::new(store.refusals_endured.clamp(1, REFUSALS_ENDURED)),
            store,
            rechecks: Arc::new(Semaphore::new((at_once / 20).max(1))),
            cache,
            metrics,
            pending: DashMap::with_hasher(AsIs),
            work: Mutex::default(),
            use_fallback: AtomicBool::new(false),
        })
    }

    /// Asks about `mailbox`, or joins those who did.
    pub fn ask(self: &Arc<Self>, key: Key, mailbox: &Mailbox, why: Why) -> oneshot::Receiver<Answer> {
        let (subscriber, answer) = oneshot::channel();
        match self.pending.entry(key) {
            Entry::Occupied(mut pending) => pending.get_mut().subscribers.push(subscriber),
            Entry::Vacant(place) => {
                let meanwhile = match why {
                    Why::Unknown => self.meanwhile(key, mailbox),
                    Why::Confirm => None,
                };
                if let Some(verdict) = meanwhile {
                    let _ = subscriber.send(Answer { verdict, conversation: Conversation::default() });
                } else if let Some(question) = self.wait(key, mailbox) {
                    // Too many wait already.
                    drop(question);
                    let verdict = Verdict::Unknown(Cause::NoCapacity);
                    let _ = subscriber.send(Answer { verdict, conversation: Conversation::default() });
                } else {
                    let subscribers = vec![subscriber];
                    place.insert(Pending { subscribers, confirm: why == Why::Confirm });
                }
            }
        }
        answer
    }

    /// Asks about `mailbox` so that the cache may know; nobody waits.
    pub fn refresh(self: &Arc<Self>, key: Key, mailbox: &Mailbox) {
        if !self.pending.contains_key(&key) {
            drop(self.ask(key, mailbox, Why::Confirm));
        }
    }

    /// Leave to ask once more about what is known, within a twentieth of what can be asked at once.
    pub fn room_to_recheck(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.rechecks).try_acquire_owned().ok()
    }

    /// Sessions end as soon as nothing waits; each says QUIT.
    pub fn leave(&self) {
        let mut work = self.work();
        work.leaving = true;
        work.idle.clear();
    }

    /// What came into the cache between somebody's look there and now.
    fn meanwhile(&self, key: Key, mailbox: &Mailbox) -> Option<Verdict> {
        match self.cache.known(key, mailbox.written()) {
            Known::Good(super::cache::Freshness::Stale) | Known::Nothing => None,
            Known::Good(_) => Some(Verdict::Deliverable),
            Known::Bad(reply) => Some(Verdict::Undeliverable(reply)),
            Known::Deferred(cause) => Some(Verdict::Unknown(cause)),
        }
    }

    /// Puts a question in the queue and sees that a session takes it. Gives it back when the queue is full.
    fn wait(self: &Arc<Self>, key: Key, mailbox: &Mailbox) -> Option<Question> {
        let question = Question { key, mailbox: mailbox.clone(), tries: 0, asked: Instant::now() };
        let mut work = self.work();
        if work.waiting.len() >= MAX_WAITING {
            return Some(question);
        }
        work.waiting.push_back(question);
        self.man(&mut work);
        None
    }

    /// Remembers what a question came to, and tells all who wait.
    fn settle(&self, question: &Question, finding: Finding, conversation: Conversation) {
        let Question { key, mailbox, .. } = question;
        let (verdict, result) = match finding {
            Finding::Good => {
                self.cache.learn_good(*key);
                (Verdict::Deliverable, ProbeResult::Deliverable)
            }
            Finding::Bad(reply) => {
                self.cache.learn_bad(*key, &reply, mailbox.written());
                (Verdict::Undeliverable(reply), ProbeResult::Undeliverable)
            }
            Finding::Refused(reply) => (Verdict::Undeliverable(reply), ProbeResult::Undeliverable),
            Finding::Unknown(cause) => {
                // Only what the store itself said damps a stampede; its absence is never put on an address.
                if cause.store_answered() == StoreAnswered::NotAboutTheRecipient {
                    self.cache.learn_deferred(*key, &cause);
                }
                (Verdict::Unknown(cause), ProbeResult::Unknown)
            }
            Finding::OtherSender(_) | Finding::Again => {
                (Verdict::Unknown(Cause::Unreachable), ProbeResult::Unknown)
            }
        };
        self.metrics.0.probed(question.asked.elapsed());
        self.metrics.1.probe(result);
        if let Some((_, pending)) = self.pending.remove(key) {
            let answer = Answer { verdict, conversation };
            for subscriber in pending.subscribers {
                let _ = subscriber.send(answer.clone());
            }
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn most_sessions(store: &Store) -> usize {
    store.backends.iter().map(|backend| backend.budget().most_probes()).max().unwrap_or(1)
}
