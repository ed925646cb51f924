//! The sessions a prober asks on: opened as questions wait, shared by all of them, left before the store
//! has had enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{Pending, Prober, Question, Work, most_sessions};
use crate::backend::{Introduction, Lease, Use};
use crate::net::dial::turn;
use crate::proto::verdict::Cause;
use crate::verify::conversation::Conversation;
use crate::verify::key::Key;
use crate::verify::probe::{self, Finding, Health};

/// Questions sent in one write.
pub(super) const MAX_BATCH: usize = 16;
/// Sessions a question may see end before it is given up.
const MAX_TRIES: u8 = 3;
/// Refusals after which a session is left at the latest: Postfix slows down after 10.
pub(super) const REFUSALS_ENDURED: u32 = 10;
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

impl Prober {
    /// Wakes an idle session, or opens another while there are fewer than the budget has room for.
    pub(super) fn man(self: &Arc<Self>, work: &mut Work) {
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
            if let Ok(mut lease) = backend.lease(Use::Probe, &Introduction::Ourselves, deadline).await
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
}

/// Whether another batch may be asked on this session.
fn is_fit(lease: &mut Lease, asked: usize, endured: u32) -> bool {
    let connection = lease.connection();
    connection.age() < MAX_AGE
        && connection.refusals() < endured
        && asked + MAX_BATCH <= RESETS_ENDURED
        && connection.quiet().is_ok()
}
