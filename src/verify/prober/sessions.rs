//! The sessions a prober asks on: opened as questions wait, shared by all of them, left before the store
//! has had enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::round::Round;
use super::settle::{How, ProbeSender};
use super::work::{OVERDUE, PROMPT, Work};
use super::{Prober, Purpose, Question, Voice};
use crate::backend::{Habits, Introduction, Lease, MAX_BATCH, Use};
use crate::net::dial::turn;
use crate::proto::address::Mailbox;
use crate::verify::conversation::Conversation;
use crate::verify::probe::{self, Asked, Finding, Health};
use crate::verify::scope::AskAt;

/// RSETs without mail after which a session is left: Postfix counts 100.
const RESETS_ENDURED: usize = 90;
/// Age at which a session is left: Exchange closes after 10 minutes even in use.
const MAX_AGE: Duration = Duration::from_secs(8 * 60);
/// How long the last session waits for another question: Exchange closes after 5 idle minutes.
const IDLE: Duration = Duration::from_secs(4 * 60);
/// How long the others do.
const IDLE_SPARE: Duration = Duration::from_secs(5);
/// The pause before the next session when the last one ended without a single answer; it doubles with each further one.
const FRUITLESS_PAUSE: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Prober {
    /// Sees that what may be asked now is: wakes an idle session, or opens another where that is worth it.
    pub(super) fn man(self: &Arc<Self>, work: &mut Work) {
        let most = self.most_sessions();
        if !work.has_work(most) || work.wake() {
            return;
        }
        let batch = self.store.backends.backends().map(|backend| backend.habits().batch()).min();
        if work.wants_another(most, batch.unwrap_or(MAX_BATCH)) {
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
        tracing::error!("a probe session failed unexpectedly; all questions are given up");
        let mut work = self.work();
        work.sessions = work.sessions.saturating_sub(1);
        drop(work.waiting.take_all());
        drop(work);
        self.pending.clear();
    }

    /// One session after another, as long as there is something to ask.
    async fn serve(self: Arc<Self>) {
        loop {
            self.settle_undecidable();
            if self.is_done() {
                return;
            }
            self.breathe().await;
            match self.lease().await {
                Some(lease) => self.serve_with(lease).await,
                None if self.leave_to_others() => return,
                None => self.fail_all(),
            }
        }
    }

    /// Pauses where sessions end without a single answer: a backend that does so is not to be hammered.
    async fn breathe(&self) {
        let fruitless = self.fruitless.load(Ordering::Relaxed);
        if let Some(doublings) = fruitless.checked_sub(1) {
            sleep(FRUITLESS_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE)).await;
        }
    }

    /// Whether nothing waits for another session, or an idle one takes it; this one is over then.
    fn is_done(&self) -> bool {
        let mut work = self.work();
        let done = !work.has_work(self.most_sessions()) || work.wake();
        work.sessions -= usize::from(done);
        done
    }

    /// A backend that takes no more sessions still answers on those it has. Gives whether there are others.
    fn leave_to_others(&self) -> bool {
        let mut work = self.work();
        let others = work.sessions > 1;
        if others {
            work.sessions -= 1;
            // The question this session was to take may have found the others idle.
            if work.has_work(self.most_sessions()) {
                work.wake();
            }
        }
        others
    }

    /// A session with the first backend that gives one.
    async fn lease(&self) -> Option<Lease> {
        let deadline = Instant::now() + self.store.patience;
        let mut order = self.store.backends.order(None);
        while let Some(backend) = order.next() {
            let deadline = turn(deadline, order.len() + 1);
            // One that speaks unasked from the start would be left before anything was asked, and opened again.
            if let Ok(mut lease) = backend.lease(Use::Probe, &Introduction::Ourselves, deadline).await
                && lease.connection().quiet().is_ok()
            {
                return Some(lease);
            }
        }
        None
    }

    /// Works on one session until it is spent, lost, or idle for too long.
    async fn serve_with(self: &Arc<Self>, lease: Lease) {
        let mut session = Session { lease, resets: 0, heard: false };
        let backend = Arc::clone(session.lease.backend());
        let habits = backend.habits();
        let trial = habits.trial();
        let endured = || if trial.is_some() { habits.endured() } else { habits.proved() };
        while session.is_fit(endured()) && !backend.is_withdrawn() {
            let room = endured().saturating_sub(session.lease.connection().refusals()) as usize;
            let at_once = backend.budget().at_once(habits.batch());
            let under_way = UnderWay::begin(self);
            let round = self.next_round(under_way.number, room.min(at_once));
            if round.len() == 0 {
                drop(under_way);
                let idle = tokio::select! {
                    idle = self.idle() => idle,
                    // What is asked meanwhile finds another session, or gets one.
                    () = backend.withdrawn() => Idle::Over,
                };
                if idle == Idle::Over {
                    break;
                }
                continue;
            }
            match self.ask_overseen(&mut session, habits, round).await {
                Health::Well => {}
                // It waits for message data now: nothing may be said on it, not even QUIT.
                Health::Spent => return,
                Health::Lost(why) => {
                    tracing::debug!(backend = %backend.endpoint(), why, "probe session lost");
                    habits.cut_off_after(session.lease.connection().refusals());
                    let fruitless = |n: u32| if session.heard { 0 } else { n.saturating_add(1) };
                    let _ = self
                        .fruitless
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(fruitless(n)));
                    return;
                }
            }
        }
        let refusals = session.lease.connection().refusals();
        if refusals >= endured() {
            habits.endured_all(refusals);
        }
        session.lease.quit();
    }

    /// Asks. While that takes long, others are called for what waits.
    async fn ask_overseen(self: &Arc<Self>, session: &mut Session, habits: &Habits, round: Round) -> Health {
        let mut asking = std::pin::pin!(self.ask_round(session, habits, round));
        let mut patience = PROMPT;
        loop {
            match timeout(patience, &mut asking).await {
                Ok(health) => return health,
                Err(_) => self.man(&mut self.work()),
            }
            patience = OVERDUE;
        }
    }

    /// Waits for a question.
    async fn idle(&self) -> Idle {
        let (woken, patience) = {
            let (mut work, most) = (self.work(), self.most_sessions());
            if work.has_work(most) {
                return Idle::Asked;
            }
            if work.leaving {
                return Idle::Over;
            }
            // The only slot for probes is not sat upon: another group may need it.
            (work.wait(), if work.sessions > 1 || most == 1 { IDLE_SPARE } else { IDLE })
        };
        // A wake-up that comes as we give up is not lost: `serve` looks at the queue once more.
        match timeout(patience, woken).await {
            Ok(Ok(())) => Idle::Asked,
            _ => Idle::Over,
        }
    }

    async fn ask_round(self: &Arc<Self>, session: &mut Session, habits: &Habits, round: Round) -> Health {
        match round {
            Round::Recipients(questions) => self.ask_batch(session, habits, questions).await,
            Round::Data(question) => self.ask_at_data(session, question).await,
            Round::Nothing => Health::Well,
        }
    }

    async fn ask_at_data(self: &Arc<Self>, session: &mut Session, question: Question) -> Health {
        let (as_whom, sender) = self.sender(question.voice);
        session.resets += 1;
        let (finding, health) = probe::ask_at_data(&mut session.lease, sender, &question.mailbox).await;
        session.heard |= finding.is_some();
        let mut again = Vec::new();
        self.hear_aside(&question, finding.as_ref().map(|(finding, _)| finding));
        let (finding, said) = finding.unwrap_or_else(|| (Finding::Again, Conversation::default()));
        let how = How { at: AskAt::Data, sender: as_whom };
        self.answered(question, finding, said, how, &mut again);
        self.requeue(again);
        health
    }

    async fn ask_batch(
        self: &Arc<Self>,
        session: &mut Session,
        habits: &Habits,
        questions: Vec<Question>,
    ) -> Health {
        let (as_whom, sender) = self.sender(questions.first().map_or(Voice::Usual, |first| first.voice));
        let asked: Vec<_> = questions
            .iter()
            .map(|q| Asked { mailbox: &q.mailbox, alone: matches!(q.purpose, Purpose::Random(_)) })
            .collect();
        let began = Instant::now();
        let batch = probe::ask(&mut session.lease, sender, &asked, habits.recipients() as usize).await;
        session.resets += batch.resets;
        session.heard |= batch.answers() > 0;
        habits.answered(batch.findings.len(), began.elapsed());
        match batch.limit {
            Some(limit) => habits.limited_to(limit),
            None if batch.fullest >= habits.recipients() as usize => habits.took_all(),
            None => {}
        }
        let several = questions.iter().filter(|question| question.purpose == Purpose::Recipient).count() > 1;
        let usual = |first: &&Question| first.voice == Voice::Usual && several;
        let scope = questions.first().filter(usual).map(|first| Arc::clone(&first.scope));
        let answers = batch.answers();
        self.hear_batch(questions, batch.findings, answers, as_whom);
        let witnesses = scope.filter(|s| !s.is_braked()).map(|scope| scope.witnesses()).unwrap_or_default();
        match (&batch.health, witnesses.as_slice()) {
            (Health::Well, [one, other]) if habits.try_several() => {
                self.try_several(session, habits, sender, [one, other]).await
            }
            _ => batch.health,
        }
    }

    /// Hears what a batch came to, of which so many questions were answered.
    fn hear_batch(
        self: &Arc<Self>,
        questions: Vec<Question>,
        findings: Vec<(Finding, Conversation)>,
        answers: usize,
        as_whom: ProbeSender,
    ) {
        for (at, question) in questions.iter().enumerate() {
            let answer = findings.get(at).filter(|_| at < answers);
            self.hear_aside(question, answer.map(|(finding, _)| finding));
        }
        let how = How { at: AskAt::Recipient, sender: as_whom };
        let mut findings = findings.into_iter();
        let mut again = Vec::new();
        for (at, question) in questions.into_iter().enumerate() {
            let (finding, said) = findings.next().unwrap_or_else(|| {
                // The session was lost over the first question it left unanswered: those behind it were in no
                // way at fault, and go to the next session with as many tries as they had.
                let finding = if at > answers { Finding::Later } else { Finding::Again };
                (finding, Conversation::default())
            });
            self.answered(question, finding, said, how, &mut again);
        }
        self.requeue(again);
    }

    /// Finds out whether the backend takes a second recipient in a transaction: two that were good a moment ago
    /// are asked about in one. What it says of them is about the transaction, and not held against them.
    async fn try_several(
        &self,
        session: &mut Session,
        habits: &Habits,
        sender: Option<&Mailbox>,
        witnesses: [&Mailbox; 2],
    ) -> Health {
        let asked = witnesses.map(|mailbox| Asked { mailbox, alone: false });
        let trial = probe::ask(&mut session.lease, sender, &asked, asked.len()).await;
        session.resets += trial.resets;
        if trial.findings.len() == asked.len() && trial.findings.iter().all(|(f, _)| *f == Finding::Good) {
            habits.takes_several();
        }
        trial.health
    }

    /// As whom to ask, and its address.
    fn sender(&self, voice: Voice) -> (ProbeSender, Option<&Mailbox>) {
        let fallback = voice == Voice::Second || self.refused_sender().is_some();
        match &self.store.fallback_sender {
            Some(sender) if fallback => (ProbeSender::Fallback, Some(sender)),
            _ => (ProbeSender::First, self.store.sender.as_ref()),
        }
    }

    /// Asked before all others: these have waited longest. An idle session need not wait until this one is through.
    fn requeue(&self, again: Vec<Question>) {
        if again.is_empty() {
            return;
        }
        self.put_back(again);
        let mut work = self.work();
        if work.has_work(self.most_sessions()) {
            work.wake();
        }
    }
}

/// A round in the account of what sessions are at; out of it when dropped.
struct UnderWay<'p> {
    prober: &'p Prober,
    number: u64,
}

impl<'p> UnderWay<'p> {
    fn begin(prober: &'p Prober) -> Self {
        Self { prober, number: prober.work().begin() }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.prober.work().end(self.number);
    }
}

/// How a session's wait for a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    /// There may be one.
    Asked,
    /// None came in time, or none is to come.
    Over,
}

/// A session with the store.
struct Session {
    lease: Lease,
    /// RSETs sent on it.
    resets: usize,
    /// It has answered a question.
    heard: bool,
}

impl Session {
    /// Whether another batch may be asked on it.
    fn is_fit(&mut self, endured: u32) -> bool {
        let connection = self.lease.connection();
        connection.age() < MAX_AGE
            && connection.refusals() < endured
            && self.resets + MAX_BATCH <= RESETS_ENDURED
            && connection.quiet().is_ok()
    }
}
