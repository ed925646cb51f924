//! Who asks the store: what is pending, what waits, and the sessions that work it off.
//!
//! One question is pending per key. Whoever wants its answer subscribes; the answer, a failure too, reaches
//! all who did. A subscriber that leaves harms no one, and a question nobody waits for any more, and that was
//! not sent yet, vanishes. Batches form from what waits; there is no artificial delay.
//!
//! Order of events, on which the promise of one probe rests: an answer is put into the cache, then the
//! pending entry is removed, then the subscribers hear of it. Whoever finds no pending entry therefore finds
//! the answer in the cache, and looks there while holding the entry's place.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use super::cache::{Cache, Known};
use super::conversation::Conversation;
use super::key::{AsIs, Key};
use super::probe::{self, Finding, Health};
use crate::backend::{Backend, Lease, Use};
use crate::net::dial::turn;
use crate::observe::metrics::{Metrics, ProbeResult, RouteMetrics};
use crate::proto::address::Mailbox;
use crate::proto::verdict::{Cause, StoreAnswered, Verdict};

/// Questions that may wait; more are answered "unknown" at once.
const MAX_WAITING: usize = 20_000;
/// Questions sent in one write.
const MAX_BATCH: usize = 16;
/// Sessions a question may see end before it is given up.
const MAX_TRIES: u8 = 3;
/// Refusals after which a session is left at the latest: Postfix slows down after 10.
const REFUSALS_ENDURED: u32 = 10;
/// RSETs without mail after which a session is left: Postfix counts 100.
const RESETS_ENDURED: usize = 90;
/// Age at which a session is left: Exchange closes after 10 minutes even in use.
const MAX_AGE: Duration = Duration::from_secs(8 * 60);
/// How long the last session waits for another question: Exchange closes after 5 idle minutes.
const IDLE: Duration = Duration::from_secs(4 * 60);
/// How long the others do.
const IDLE_SPARE: Duration = Duration::from_secs(5);
/// A question that waits for longer has sessions that are stuck before it.
const OVERDUE: Duration = Duration::from_secs(1);

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
            store,
            rechecks: Arc::new(Semaphore::new((at_once / 20).max(1))),
            cache,
            metrics,
            pending: DashMap::with_hasher(AsIs),
            work: Mutex::default(),
            use_fallback: AtomicBool::new(false),
            endured: AtomicU32::new(REFUSALS_ENDURED),
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

    /// Wakes an idle session, or opens another while there are fewer than the budget has room for.
    fn man(self: &Arc<Self>, work: &mut Work) {
        if work.waiting.is_empty() || work.wake() {
            return;
        }
        let most = most_sessions(&self.store);
        // A session takes a batch at a time; another is worth opening for what one batch leaves, or when a
        // question waits although all sessions are at work.
        let overdue = work.waiting.front().is_some_and(|question| question.asked.elapsed() > OVERDUE);
        let wanted = if overdue { work.sessions + 1 } else { work.waiting.len().div_ceil(MAX_BATCH) };
        if work.sessions < wanted.min(most) {
            work.sessions += 1;
            let prober = Arc::clone(self);
            tokio::spawn(async move {
                let serving = tokio::spawn(Arc::clone(&prober).serve());
                if serving.await.is_err() {
                    prober.recover();
                }
            });
        }
    }

    /// A session panicked. Nobody is to wait for what it had taken: all questions are given up.
    fn recover(&self) {
        tracing::error!("a probe session failed unexpectedly; all questions are asked anew");
        let mut work = self.work();
        work.sessions = work.sessions.saturating_sub(1);
        work.waiting.clear();
        drop(work);
        self.pending.clear();
    }

    /// One session after another, as long as there is something to ask.
    async fn serve(self: Arc<Self>) {
        loop {
            match self.lease().await {
                Some(lease) => self.serve_with(lease).await,
                None if self.leave_to_others() => return,
                None => self.fail_all(),
            }
            let mut work = self.work();
            if work.waiting.is_empty() {
                work.sessions -= 1;
                return;
            }
        }
    }

    /// A backend that takes no more sessions still answers on those it has. Gives whether there are others.
    fn leave_to_others(&self) -> bool {
        let mut work = self.work();
        let others = work.sessions > 1;
        if others {
            work.sessions -= 1;
            // The question this session was to take may have found the others idle.
            if !work.waiting.is_empty() {
                work.wake();
            }
        }
        others
    }

    /// A session with the first backend that gives one.
    async fn lease(&self) -> Option<Lease> {
        let backends = &self.store.backends;
        let deadline = Instant::now() + self.store.patience;
        for (at, backend) in backends.iter().enumerate() {
            let deadline = turn(deadline, backends.len() - at);
            // One that speaks unasked from the start would be left before anything was asked, and opened again.
            if let Ok(mut lease) = backend.lease(Use::Probe, deadline).await
                && is_fit(&mut lease, 0, self.endured())
            {
                return Some(lease);
            }
        }
        None
    }

    /// Works on one session until it is spent, lost, or idle for too long.
    async fn serve_with(self: &Arc<Self>, mut lease: Lease) {
        let mut asked = 0;
        while is_fit(&mut lease, asked, self.endured()) {
            let room = self.endured().saturating_sub(lease.connection().refusals()) as usize;
            let batch = self.next_batch(room.min(MAX_BATCH));
            if batch.is_empty() {
                if !self.idle().await {
                    break;
                }
                continue;
            }
            asked += batch.len();
            if let Health::Lost(why) = self.ask_overseen(&mut lease, batch).await {
                tracing::debug!(backend = %lease.backend().endpoint(), why, "probe session lost");
                self.cut_off_after(lease.connection().refusals());
                return;
            }
        }
        if lease.connection().refusals() >= self.endured() {
            self.endured.fetch_add(1, Ordering::Relaxed);
        }
        lease.quit();
    }

    /// Refusals this store endures in one session, as far as is known.
    fn endured(&self) -> u32 {
        self.endured.load(Ordering::Relaxed).clamp(1, REFUSALS_ENDURED)
    }

    /// The store ended a session, after this many refusals: the next ones are left earlier. By halves, since
    /// one end may have had another reason; what is learnt so is unlearnt one by one, with each session that
    /// goes well.
    fn cut_off_after(&self, refusals: u32) {
        if refusals > 0 {
            let endured = refusals.max(self.endured() / 2).min(REFUSALS_ENDURED);
            self.endured.store(endured, Ordering::Relaxed);
        }
    }

    /// Asks, and calls for another session when what waits meanwhile waits for too long.
    async fn ask_overseen(self: &Arc<Self>, lease: &mut Lease, batch: Vec<Question>) -> Health {
        let mut asking = std::pin::pin!(self.ask_batch(lease, batch));
        loop {
            match timeout(OVERDUE, &mut asking).await {
                Ok(health) => return health,
                Err(_) => self.man(&mut self.work()),
            }
        }
    }

    /// Waits for a question; false when none came in time.
    async fn idle(&self) -> bool {
        let (wake, woken) = oneshot::channel();
        let patience = {
            let mut work = self.work();
            if !work.waiting.is_empty() {
                return true;
            }
            if work.leaving {
                return false;
            }
            work.idle.retain(|gone| !gone.is_closed());
            work.idle.push(wake);
            // The only slot for probes is not sat upon: another group may need it.
            if work.sessions > 1 || most_sessions(&self.store) == 1 { IDLE_SPARE } else { IDLE }
        };
        // A wake-up that comes as we give up is not lost: `serve` looks at the queue once more.
        matches!(timeout(patience, woken).await, Ok(Ok(())))
    }

    /// The next questions that somebody still waits for.
    fn next_batch(&self, most: usize) -> Vec<Question> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let Some(question) = self.work().waiting.pop_front() else { break };
            let deserted =
                |_: &Key, p: &Pending| !p.confirm && p.subscribers.iter().all(oneshot::Sender::is_closed);
            if self.pending.remove_if(&question.key, deserted).is_none() {
                batch.push(question);
            }
        }
        batch
    }

    async fn ask_batch(self: &Arc<Self>, lease: &mut Lease, questions: Vec<Question>) -> Health {
        let fallback = self.use_fallback.load(Ordering::Relaxed);
        let sender = if fallback { &self.store.fallback_sender } else { &self.store.sender };
        let recipients: Vec<_> = questions.iter().map(|q| q.mailbox.clone()).collect();
        let batch = probe::ask(lease, sender.as_ref(), &recipients).await;
        let mut findings = batch.findings.into_iter();
        let mut again = Vec::new();
        let mut unanswered = 0;
        for mut question in questions {
            let (finding, said) = findings.next().unwrap_or_else(|| {
                unanswered += 1;
                (Finding::Again, Conversation::default())
            });
            // The session was lost over the first question it left unanswered: those behind it were in no
            // way at fault, and go to the next session with as many tries as they had.
            if unanswered > 1 {
                again.push(question);
                continue;
            }
            let finding = match finding {
                Finding::OtherSender(reply) if fallback || self.store.fallback_sender.is_none() => {
                    self.use_fallback.store(false, Ordering::Relaxed);
                    Finding::Unknown(Cause::RouteFault(reply))
                }
                Finding::OtherSender(_) if question.tries + 1 < MAX_TRIES => {
                    self.use_fallback.store(true, Ordering::Relaxed);
                    question.tries += 1;
                    again.push(question);
                    continue;
                }
                Finding::Again if question.tries + 1 < MAX_TRIES => {
                    question.tries += 1;
                    again.push(question);
                    continue;
                }
                Finding::Again => Finding::Unknown(Cause::Unreachable),
                Finding::OtherSender(reply) => Finding::Unknown(Cause::SenderRefused(reply)),
                finding => finding,
            };
            self.settle(&question, finding, said);
        }
        self.requeue(again);
        batch.health
    }

    /// Asked before all others: these have waited longest.
    fn requeue(self: &Arc<Self>, again: Vec<Question>) {
        if again.is_empty() {
            return;
        }
        let mut work = self.work();
        for question in again.into_iter().rev() {
            work.waiting.push_front(question);
        }
        self.man(&mut work);
    }

    /// No backend gives a session: nobody is to wait for one.
    fn fail_all(&self) {
        let waiting = std::mem::take(&mut self.work().waiting);
        for question in waiting {
            self.settle(&question, Finding::Unknown(Cause::Unreachable), Conversation::default());
        }
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

/// Whether another batch may be asked on this session.
fn is_fit(lease: &mut Lease, asked: usize, endured: u32) -> bool {
    let connection = lease.connection();
    connection.age() < MAX_AGE
        && connection.refusals() < endured
        && asked + MAX_BATCH <= RESETS_ENDURED
        && connection.quiet().is_ok()
}
