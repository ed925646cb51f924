//! A backend, and the sessions kept open with it.
//!
//! A delivery session is taken when a client's first recipient is accepted and given back when the
//! transaction ends, so a client that idles holds none. It is reused by whoever comes next, as long as it is
//! young, has refused nothing, and answers RSET with 2yz (RFC 5321 §4.1.1.5); across clients only where that misleads
//! nobody about who is speaking (see [`Introduction`]).

mod shelf;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, Load, Opening, Permit, Use};
use super::connection::{Approach, Connection, Identity, Patience};
use super::fault::{Blame, Fault, Phase};
use super::habits::Habits;
use super::health::{Attempt, Health, Standing, Trier};
use super::introduction::Introduction;
use super::lease::{Kept, Lease, Origin};
use super::quota::Quota;
use super::secure::{Protection, Security, counted};
use super::shelves::Shelf;
use crate::config::Endpoint;
use crate::net::dial::{Dialer, Site};
use crate::observe::metrics::{BackendMetrics, BackendState, TlsResult};
use crate::proto::ehlo::Extensions;
use crate::proto::tls::TlsFacts;

/// Between two alarms of one backend.
const ALARM_EVERY: Duration = Duration::from_secs(60);
/// How often one lease tries again where there were too many connections: halved so often, any budget that
/// can be configured with reason is down to what the smallest backends allow.
const CROWDED_TRIES: usize = 6;

/// One server that mail can be given to or that can be asked.
#[derive(Debug)]
pub struct Backend {
    approach: Approach,
    security: Security,
    /// What its route says that it may have.
    connections: usize,
    budget: Arc<Budget>,
    health: Health,
    habits: Habits,
    announced: Mutex<Option<Extensions>>,
    kept: Shelf,
    last_fault: Mutex<Option<String>>,
    /// When the last alarm was given.
    alarmed: Mutex<Option<Instant>>,
    /// Of the last new session.
    last_tls: Mutex<Option<TlsFacts>>,
    /// It refused XCLIENT in a session that had been another client's: Postfix asks whether that client is authorised.
    refuses_anew: Mutex<Option<Instant>>,
    /// What a new session takes, smoothed, in microseconds; 0 is not known.
    latency: AtomicU64,
    /// When it was last given something to do, or checked.
    used: Mutex<Instant>,
    /// A check is under way.
    checking: AtomicBool,
    /// It refused the canary when it was checked last.
    refuses_canary: AtomicBool,
    /// No destination leads here any more.
    withdrawn: CancellationToken,
    /// Another is in its place.
    stands_down: AtomicBool,
    /// One for each route that names it.
    metrics: Vec<BackendMetrics>,
}

/// What all backends of a destination have in common.
#[derive(Debug, Clone)]
pub(super) struct Blueprint {
    pub(super) quota: Quota,
    pub(super) dialer: Dialer,
    pub(super) identity: Identity,
    pub(super) patience: Patience,
    pub(super) metrics: Vec<BackendMetrics>,
}

/// Why no session could be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFault {
    /// All connections the backend may have are in use.
    #[error("no free connection in time")]
    Busy,
    /// The backend failed several times in a row, and rests.
    #[error("it failed several times in a row and is left alone for {0:?}")]
    Resting(Duration),
    /// DNS does not name it any more.
    #[error("it is no longer one of its name's backends")]
    Withdrawn,
    /// The backend did not take us.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl LeaseFault {
    /// Whose fault it is, in a session that was to be introduced so.
    #[must_use]
    pub fn blame(&self, introduction: &Introduction) -> Blame {
        match self {
            Self::Fault(fault) => fault.blame(introduction),
            Self::Busy | Self::Resting(_) | Self::Withdrawn => Blame::Backend,
        }
    }
}

/// Whether a session of an earlier transaction will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Kept,
    Nothing,
}

impl Backend {
    /// A backend at `site` that nothing is known of yet; `budget` is what one before it takes up there, and has its limit until
    /// this one [takes effect](Self::take_effect).
    pub(super) fn new(site: Site, blueprint: &Blueprint, budget: Option<Arc<Budget>>) -> Arc<Self> {
        let Blueprint { quota, dialer, identity, patience, metrics } = blueprint.clone();
        let budget = budget.unwrap_or_else(|| Budget::new(quota.connections));
        Arc::new(Self {
            security: Security::new(quota.tls, &site.endpoint, quota.tls_handshake),
            approach: Approach { site, dialer, identity, patience },
            connections: quota.connections,
            kept: budget.shelves().open(),
            budget,
            health: Health::new(quota.eject),
            habits: Habits::starting_with(quota.refusals),
            announced: Mutex::default(),
            last_fault: Mutex::default(),
            alarmed: Mutex::default(),
            last_tls: Mutex::default(),
            refuses_anew: Mutex::default(),
            latency: AtomicU64::new(0),
            used: Mutex::new(Instant::now()),
            checking: AtomicBool::new(false),
            refuses_canary: AtomicBool::new(false),
            withdrawn: CancellationToken::new(),
            stands_down: AtomicBool::new(false),
            metrics,
        })
    }

    /// What it is known by.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.approach.site.endpoint
    }

    /// Where it listens.
    #[must_use]
    pub const fn site(&self) -> &Site {
        &self.approach.site
    }

    /// How much of what it may be given is in use.
    pub(super) fn load(&self) -> Load {
        self.budget.load()
    }

    /// How long it may take.
    pub(super) const fn patience(&self) -> Patience {
        self.approach.patience
    }

    /// How long ago it was last given something to do, or checked.
    pub(super) fn idle_for(&self) -> Duration {
        lock(&self.used).elapsed()
    }

    /// Whether a check may begin: one at a time.
    pub(super) fn begin_check(&self) -> bool {
        !self.checking.swap(true, Ordering::Relaxed)
    }

    /// A check is over.
    pub(super) fn end_check(&self) {
        *lock(&self.used) = Instant::now();
        self.checking.store(false, Ordering::Relaxed);
    }

    /// Whether it refused the canary when it was checked last.
    pub(super) fn refuses_canary(&self) -> bool {
        self.refuses_canary.load(Ordering::SeqCst)
    }

    /// Whether it refuses the canary was found out. Gives what was so before.
    pub(super) fn found_to_refuse_canary(&self, refuses: bool) -> bool {
        // Of two found out at once one at least sees the other.
        self.refuses_canary.swap(refuses, Ordering::SeqCst)
    }

    /// Its breaker.
    pub(super) const fn health(&self) -> &Health {
        &self.health
    }

    /// Whether it is worth trying.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.health.standing()
    }

    /// What a new session with it takes until it is greeted, smoothed; zero when none was opened yet.
    #[must_use]
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency.load(Ordering::Relaxed))
    }

    /// Ends when no destination leads here any more.
    pub async fn withdrawn(&self) {
        self.withdrawn.cancelled().await;
    }

    /// Whether no destination leads here any more: what is under way ends, and nothing new begins.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.is_cancelled()
    }

    /// No destination leads here any more.
    pub(super) fn withdraw(&self) {
        self.withdrawn.cancel();
        self.keep_none();
    }

    /// From now on it may have as many connections as its route says, those of one before it included.
    pub(super) fn take_effect(&self) {
        self.budget.allow(self.connections);
    }

    /// Another is in its place for all clients to come: it serves those it has, and keeps nothing for later.
    pub(super) fn stand_down(&self) {
        self.stands_down.store(true, Ordering::Relaxed);
        self.keep_none();
    }

    /// Greets it, so that it is known what it offers.
    pub async fn greet(self: &Arc<Self>, deadline: Instant) {
        if let Ok(lease) = self.lease_fresh(Use::Greeting, &Introduction::Ourselves, deadline).await {
            lease.quit();
        }
    }

    /// Takes leave of every session that is kept, and waits for those in use to end.
    pub(super) async fn leave(&self) {
        let kept = std::mem::take(&mut *lock(&self.kept));
        futures_util::future::join_all(kept.into_iter().map(Kept::leave)).await;
        self.budget.unused().await;
    }

    /// Its connections.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What it was seen to do.
    #[must_use]
    pub const fn habits(&self) -> &Habits {
        &self.habits
    }

    /// What it announced last; none when it was never reached.
    #[must_use]
    pub fn announced(&self) -> Option<Extensions> {
        *lock(&self.announced)
    }

    /// What was wrong when it was tried last; none when it took us.
    #[must_use]
    pub fn last_fault(&self) -> Option<String> {
        lock(&self.last_fault).clone()
    }

    /// What was agreed on with it when it took us last; none without TLS.
    #[must_use]
    pub fn last_tls(&self) -> Option<TlsFacts> {
        lock(&self.last_tls).clone()
    }

    /// What came of the last new session.
    #[must_use]
    pub fn state(&self) -> BackendState {
        match (self.last_fault(), self.announced()) {
            (Some(_), _) => BackendState::Down,
            (None, Some(_)) => BackendState::Up,
            (None, None) => BackendState::Untried,
        }
    }

    /// How long it is left alone yet; none when it is tried.
    #[must_use]
    pub fn rests_for(&self) -> Option<Duration> {
        self.health.rests_for()
    }

    /// Sessions kept open that nobody uses.
    #[must_use]
    pub fn kept(&self) -> usize {
        lock(&self.kept).len()
    }

    /// A session for `purpose` before `deadline`: a kept one, else a new one.
    ///
    /// # Errors
    /// [`LeaseFault`].
    pub async fn lease(
        self: &Arc<Self>,
        purpose: Use,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let reuse = if purpose == Use::Probe { Reuse::Nothing } else { Reuse::Kept };
        self.lease_one(purpose, introduction, reuse, deadline).await
    }

    /// A new session, also when one is kept.
    ///
    /// # Errors
    /// [`LeaseFault`].
    pub async fn lease_fresh(
        self: &Arc<Self>,
        purpose: Use,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        self.lease_one(purpose, introduction, Reuse::Nothing, deadline).await
    }

    /// A new session beside the budget and the breaker, for who examines the backend and will not keep it.
    /// What it hears of too many connections is not held against the budget: that is what is being found out.
    ///
    /// # Errors
    /// The [`Fault`] that kept it from being opened.
    pub async fn open_aside(&self) -> Result<Connection, Fault> {
        let aside = Budget::new(0).opening().await;
        let patience = self.approach.patience;
        self.connect(&aside, &Introduction::Ourselves, Instant::now() + patience.connect + patience.command)
            .await
    }

    /// Where the backend has too many connections of ours the budget is smaller by now, and one that ends
    /// makes room for this one: the client need not know.
    async fn lease_one(
        self: &Arc<Self>,
        purpose: Use,
        introduction: &Introduction,
        reuse: Reuse,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let mut tries = 0;
        loop {
            let permit = timeout_at(deadline, self.budget.permit(purpose));
            let permit = permit.await.map_err(|_| LeaseFault::Busy)?;
            if self.is_withdrawn() {
                return Err(LeaseFault::Withdrawn);
            }
            if reuse == Reuse::Kept
                && let Some((kept, origin)) = self.take_kept(introduction, deadline).await?
            {
                return Ok(self.lend(kept, permit, origin));
            }
            match self.open(permit, introduction, deadline).await {
                Err(LeaseFault::Fault(fault)) if fault.is_crowded(introduction) && tries < CROWDED_TRIES => {
                    let oldest = self.oldest_kept();
                    if oldest.is_none() && self.budget.is_unused() {
                        return Err(fault.into());
                    }
                    if let Some(oldest) = oldest {
                        oldest.leave().await;
                    }
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn open(
        self: &Arc<Self>,
        permit: Permit,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let opening = timeout_at(deadline, self.budget.opening());
        let opening = opening.await.map_err(|_| LeaseFault::Busy)?;
        let Some(attempt) = self.health.attempt(Trier::User) else {
            return Err(LeaseFault::Resting(self.rests_for().unwrap_or_default()));
        };
        timeout_at(deadline, self.make_room()).await.map_err(|_| LeaseFault::Busy)?;
        let began = Instant::now();
        let opened = self.connect(&opening, introduction, deadline).await;
        match opened.inspect(|_| self.took(began.elapsed())) {
            Ok(connection) if self.is_withdrawn() => {
                attempt.succeeded();
                connection.quit().await;
                Err(LeaseFault::Withdrawn)
            }
            Ok(connection) => {
                self.serves_us(&connection, attempt, opening);
                Ok(self.lend(Kept::new(connection, 0), permit, Origin::Fresh))
            }
            Err(fault) => {
                let fault = fault.in_the_light_of(introduction, self.announced().is_some());
                match fault.blame(introduction) {
                    Blame::Backend => self.does_not(&fault, attempt),
                    // It is well, and does what it is there for.
                    Blame::Client(_) => attempt.succeeded(),
                    Blame::Unclear(_) => attempt.undecided(),
                    Blame::Route => {
                        attempt.undecided();
                        self.alarm(&fault);
                    }
                }
                Err(fault.into())
            }
        }
    }

    /// A new session took so long until it was greeted.
    pub(super) fn took(&self, time: Duration) {
        let new = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let old = self.latency.load(Ordering::Relaxed);
        // An eighth of each new one: about the last ten count.
        let smoothed = if old == 0 { new } else { old - old / 8 + new / 8 };
        self.latency.store(smoothed.max(1), Ordering::Relaxed);
    }

    /// A new connection, in TLS as that is wanted. One that may go on without leaves time for it.
    pub(super) async fn connect(
        &self,
        opening: &Opening,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Connection, Fault> {
        let protection = self.security.protection(deadline);
        let fault = match self.connect_with(opening, introduction, protection, deadline).await {
            Err(fault) if protection.yields_to(&fault) => fault,
            opened => return opened,
        };
        let opened = self.connect_with(opening, introduction, Protection::Absent, deadline).await?;
        self.count_tls(TlsResult::Fallback);
        // Who was in a hurry has seen nothing that others are to heed, nor has whoever the backend may have meant.
        let is_told_the_client = introduction.bound_to().is_some();
        if !is_told_the_client && (!fault.is_of_time() || self.security.was_patient(protection)) {
            tracing::warn!(backend = %self.site(), %fault, "no TLS with the backend: going on without for a while");
            self.security.avoid();
        }
        Ok(opened)
    }

    async fn connect_with(
        &self,
        opening: &Opening,
        introduction: &Introduction,
        protection: Protection<'_>,
        deadline: Instant,
    ) -> Result<Connection, Fault> {
        let dialling = timeout_at(deadline, Connection::dial(&self.approach, opening, introduction));
        let mut connection = dialling.await.unwrap_or(Err(Fault::Timeout(Phase::Greeting)))?;
        let setting_up = connection.set_up(&self.approach.identity, introduction, protection);
        let set_up = match timeout_at(deadline, setting_up).await {
            Ok(set_up) => set_up,
            Err(_) => Err(Fault::Timeout(connection.phase())),
        };
        match &set_up {
            Err(Fault::Tls(fault)) => self.count_tls(counted(Err(fault))),
            Err(Fault::TlsForNothing(_)) => self.count_tls(TlsResult::Failed),
            // What came behind it is no matter of TLS.
            Ok(()) | Err(_) => {
                connection.handshake().into_iter().for_each(|h| self.count_tls(counted(Ok(h))));
            }
        }
        set_up.map(|()| connection)
    }

    /// Counts once, whichever routes name the backend.
    fn count_tls(&self, result: TlsResult) {
        self.metrics.first().into_iter().for_each(|series| series.tls_handshake(result));
    }

    pub(super) fn serves_us(&self, connection: &Connection, attempt: Attempt<'_>, opening: Opening) {
        attempt.succeeded();
        opening.succeeded();
        let mut announced = lock(&self.announced);
        // What others are offered: to one client it may announce less.
        if let Some(to_us) = connection.announced_to_us() {
            *announced = Some(*to_us);
        } else {
            announced.get_or_insert(*connection.announced());
        }
        drop(announced);
        *lock(&self.last_fault) = None;
        *lock(&self.last_tls) = connection.tls().cloned();
    }

    /// Mail is held up until somebody mends the configuration: said once a minute.
    fn alarm(&self, fault: &Fault) {
        let mut last = lock(&self.alarmed);
        if last.is_none_or(|last| last.elapsed() >= ALARM_EVERY) {
            *last = Some(Instant::now());
            tracing::error!(
                backend = %self.site(), %fault,
                "the backend cannot be told who the client is: mail for it is deferred"
            );
        }
    }

    pub(super) fn does_not(&self, fault: &Fault, attempt: Attempt<'_>) {
        // With connections of ours open it is well, and only has enough.
        if fault.is_crowded(&Introduction::Ourselves)
            && (self.budget.holders() > 1 || self.budget.shelves().len() > 0)
        {
            attempt.succeeded();
            return;
        }
        drop(attempt);
        self.budget.begin_slowly();
        self.is_faulty(fault.to_string());
    }

    /// It takes sessions, and is not well: nobody is to be given one that is kept.
    pub(super) fn is_not_well(&self, fault: String) {
        self.is_faulty(fault);
        self.keep_none();
    }

    fn is_faulty(&self, fault: String) {
        let mut last = lock(&self.last_fault);
        if last.is_none() {
            tracing::warn!(backend = %self.site(), %fault, "backend does not serve us");
        }
        *last = Some(fault);
    }

    fn lend(self: &Arc<Self>, kept: Kept, permit: Permit, origin: Origin) -> Lease {
        *lock(&self.used) = Instant::now();
        Lease::new(self, kept, permit, origin)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
