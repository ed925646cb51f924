//! The backends, and the sessions kept open with them.
//!
//! A delivery session is taken when a client's first recipient is accepted and given back when the
//! transaction ends, so a client that idles holds none. It is reused by whoever comes next, as long as it is
//! young, has refused nothing, and answers RSET with 2yz (RFC 5321 §4.1.1.5); across clients only where that misleads
//! nobody about who is speaking (see [`Introduction`]).
//!
//! A session that is kept holds no permit: who waits for one would never get it. It stands in a slot nobody
//! needs, and leaves when a new connection needs that slot, or the backend finds that there are too many.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Opening, Permit, Use};
use super::connection::{Approach, Blame, Connection, Fault, Identity, Patience, Phase};
use super::habits::Habits;
use super::health::{Attempt, Health};
use super::introduction::{Fit, Introduction};
use super::lease::{Kept, Lease, Origin};
use super::secure::{Protection, Security, counted};
use crate::config::{BackendTls, Endpoint};
use crate::net::dial::Dialer;
use crate::observe::metrics::{BackendMetrics, BackendUse, TlsResult};
use crate::proto::ehlo::Extensions;
use crate::proto::proxy_header::Version;
use crate::proto::tls::TlsFacts;

/// Sessions kept idle per backend.
const MAX_KEPT: usize = 16;
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
    budget: Arc<Budget>,
    health: Health,
    habits: Habits,
    announced: Mutex<Option<Extensions>>,
    kept: Mutex<Vec<Kept>>,
    last_fault: Mutex<Option<String>>,
    /// When the last alarm was given.
    alarmed: Mutex<Option<Instant>>,
    /// Of the last new session.
    last_tls: Mutex<Option<TlsFacts>>,
    /// It refused XCLIENT in a session that had been another client's: Postfix asks whether that client is authorised.
    refuses_anew: AtomicBool,
    /// One for each route that names it.
    metrics: Vec<BackendMetrics>,
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
            Self::Busy | Self::Resting(_) => Blame::Backend,
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
    /// Where it listens.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.approach.endpoint
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
            if reuse == Reuse::Kept
                && let Some((kept, origin)) = self.take_kept(introduction, deadline).await?
            {
                return Ok(self.lend(kept, permit, origin, purpose));
            }
            match self.open(permit, purpose, introduction, deadline).await {
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
        purpose: Use,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let opening = timeout_at(deadline, self.budget.opening());
        let opening = opening.await.map_err(|_| LeaseFault::Busy)?;
        let Some(attempt) = self.health.attempt() else {
            return Err(LeaseFault::Resting(self.rests_for().unwrap_or_default()));
        };
        let opened = async {
            self.make_room().await;
            self.connect(&opening, introduction, deadline).await
        };
        match timeout_at(deadline, opened).await.unwrap_or(Err(Fault::Timeout(Phase::Greeting))) {
            Ok(connection) => {
                self.serves_us(&connection, attempt, opening);
                Ok(self.lend(Kept::new(connection, 0), permit, Origin::Fresh, purpose))
            }
            Err(fault) => {
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

    /// A new connection, in TLS as that is wanted. One that may go on without leaves time for it.
    async fn connect(
        &self,
        opening: &Opening,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Connection, Fault> {
        let protection = self.security.protection(deadline);
        let fault = match self.connect_with(opening, introduction, protection).await {
            Err(fault) if protection.yields_to(&fault) => fault,
            opened => return opened,
        };
        let opened = self.connect_with(opening, introduction, Protection::Absent).await?;
        self.count_tls(TlsResult::Fallback);
        // Who was in a hurry has seen nothing that others are to heed.
        if !fault.is_of_time() || self.security.was_patient(protection) {
            tracing::warn!(backend = %self.endpoint(), %fault, "no TLS with the backend: going on without for a while");
            self.security.avoid();
        }
        Ok(opened)
    }

    async fn connect_with(
        &self,
        opening: &Opening,
        introduction: &Introduction,
        protection: Protection<'_>,
    ) -> Result<Connection, Fault> {
        let opened = Connection::open(&self.approach, opening, introduction, protection).await;
        match &opened {
            Ok(connection) => {
                let handshake = connection.handshake();
                handshake.into_iter().for_each(|handshake| self.count_tls(counted(Ok(handshake))));
            }
            Err(Fault::Tls(fault)) => self.count_tls(counted(Err(fault))),
            Err(Fault::TlsForNothing(_)) => self.count_tls(TlsResult::Failed),
            Err(_) => {}
        }
        opened
    }

    /// Counts once, whichever routes name the backend.
    fn count_tls(&self, result: TlsResult) {
        self.metrics.first().into_iter().for_each(|series| series.tls_handshake(result));
    }

    fn serves_us(&self, connection: &Connection, attempt: Attempt<'_>, opening: Opening) {
        attempt.succeeded();
        opening.succeeded();
        self.metrics.iter().for_each(BackendMetrics::up);
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
                backend = %self.endpoint(), %fault,
                "the backend cannot be told who the client is: mail for it is deferred"
            );
        }
    }

    fn does_not(&self, fault: &Fault, attempt: Attempt<'_>) {
        // With connections of ours open it is well, and only has enough.
        if fault.is_crowded(&Introduction::Ourselves) && (self.budget.holders() > 1 || self.kept() > 0) {
            attempt.succeeded();
            return;
        }
        drop(attempt);
        self.budget.begin_slowly();
        self.metrics.iter().for_each(BackendMetrics::down);
        let news = lock(&self.last_fault).replace(fault.to_string()).is_none();
        if news {
            tracing::warn!(backend = %self.endpoint(), %fault, "backend does not serve us");
        }
    }

    /// Takes leave of the oldest sessions that stand in slots somebody holds a permit for by now.
    async fn make_room(&self) {
        loop {
            let oldest = {
                let mut shelf = lock(&self.kept);
                if shelf.len() <= self.budget.free() {
                    return;
                }
                shelf.remove(0)
            };
            oldest.leave().await;
        }
    }

    fn oldest_kept(&self) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        if shelf.is_empty() { None } else { Some(shelf.remove(0)) }
    }

    /// Keeps a session whose permit is about to be given back. Gives it back when there is no room for it.
    pub(super) fn keep(&self, kept: Kept) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        // Above a budget that shrank nothing is kept: it would be one connection too many.
        if shelf.len() < MAX_KEPT && shelf.len() < self.budget.free_but_for_one() {
            shelf.push(kept);
            None
        } else {
            Some(kept)
        }
    }

    fn lend(self: &Arc<Self>, kept: Kept, permit: Permit, origin: Origin, purpose: Use) -> Lease {
        let counted = match purpose {
            Use::Probe => BackendUse::Probe,
            Use::Delivery(_) | Use::Greeting => BackendUse::Delivery,
        };
        let counted = self.metrics.iter().map(|series| series.connection(counted)).collect();
        Lease::new(self, kept, permit, origin, counted)
    }

    /// A kept session that is for this client, or was made so. What the backend says of the client it would say in any
    /// other session, too.
    async fn take_kept(
        &self,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Option<(Kept, Origin)>, Fault> {
        if let Some(kept) = self.youngest_kept(introduction, Fit::AsItIs) {
            return Ok(Some((kept, Origin::Kept)));
        }
        while !self.refuses_anew.load(Ordering::Relaxed)
            && let Some(mut kept) = self.youngest_kept(introduction, Fit::Anew)
        {
            let introducing = timeout_at(deadline, kept.connection().introduce_anew(introduction));
            let Ok(introduced) = introducing.await else { break };
            let Err(fault) = introduced else {
                // As good as new: what it said just now was an answer.
                return Ok(Some((kept, Origin::Fresh)));
            };
            match fault.blame(introduction) {
                Blame::Client(_) | Blame::Unclear(_) => return Err(fault),
                // Whether it is one of the route a new session shows.
                Blame::Route => self.refuses_anew.store(true, Ordering::Relaxed),
                Blame::Backend => {}
            }
            tracing::debug!(backend = %self.endpoint(), %fault, "kept session lost");
        }
        Ok(None)
    }

    /// The youngest kept session that still looks alive.
    fn youngest_kept(&self, introduction: &Introduction, fit: Fit) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        while let Some(at) = shelf.iter().rposition(|kept| introduction.fit(kept.introduction()) == fit) {
            let mut kept = shelf.remove(at);
            if kept.is_fit() {
                return Some(kept);
            }
        }
        None
    }

    /// Takes leave of the sessions that are good for nobody once this session of a client is over.
    fn dismiss(&self, session: &str) {
        let mut shelf = lock(&self.kept);
        let bound = |kept: &Kept| kept.introduction().bound_to() == Some(session);
        let (bound, others): (Vec<_>, Vec<_>) = shelf.drain(..).partition(bound);
        *shelf = others;
        drop(shelf);
        for kept in bound {
            tokio::spawn(kept.leave());
        }
    }

    /// Takes leave of sessions nobody has needed for a while.
    pub fn sweep(&self) {
        let mut shelf = lock(&self.kept);
        let (forgotten, fit): (Vec<_>, Vec<_>) = shelf.drain(..).partition(Kept::is_forgotten);
        *shelf = fit;
        drop(shelf);
        for kept in forgotten {
            tokio::spawn(kept.leave());
        }
    }
}

/// How a backend is to be treated.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Connections it may have, at least 2.
    pub connections: usize,
    /// How long it rests after several faults in a row; zero: not at all.
    pub eject: Duration,
    /// Refusals it is taken to endure in one session until it shows how many.
    pub refusals: u32,
    /// The PROXY header it expects on every connection.
    pub header: Option<Version>,
    /// How it is spoken to; the same whoever names it.
    pub tls: BackendTls,
    /// How long it may take for its part of a TLS handshake.
    pub tls_handshake: Duration,
}

/// All backends, by where they listen, and in that order.
#[derive(Debug)]
pub struct Backends {
    by_endpoint: BTreeMap<Endpoint, Arc<Backend>>,
}

impl Backends {
    /// One backend for each endpoint; of several quotas for it the smaller of each part counts.
    pub fn new(
        endpoints: impl IntoIterator<Item = (Endpoint, Quota, BackendMetrics)>,
        dialer: &Dialer,
        identity: &Identity,
        patience: Patience,
    ) -> Self {
        let mut named: BTreeMap<Endpoint, (Quota, Vec<BackendMetrics>)> = BTreeMap::new();
        for (endpoint, quota, series) in endpoints {
            let (least, metrics) = named.entry(endpoint).or_insert_with(|| (quota.clone(), Vec::new()));
            least.connections = least.connections.min(quota.connections);
            least.eject = least.eject.min(quota.eject);
            least.refusals = least.refusals.min(quota.refusals);
            metrics.push(series);
        }
        let backend = |endpoint: Endpoint, quota: Quota, metrics| Backend {
            security: Security::new(quota.tls, &endpoint, quota.tls_handshake),
            approach: Approach {
                endpoint,
                dialer: dialer.clone(),
                identity: Identity { header: quota.header, ..identity.clone() },
                patience,
            },
            budget: Budget::new(quota.connections),
            health: Health::new(quota.eject),
            habits: Habits::starting_with(quota.refusals),
            announced: Mutex::default(),
            kept: Mutex::default(),
            last_fault: Mutex::default(),
            alarmed: Mutex::default(),
            last_tls: Mutex::default(),
            refuses_anew: AtomicBool::new(false),
            metrics,
        };
        let by_endpoint = named
            .into_iter()
            .map(|(endpoint, (quota, metrics))| {
                (endpoint.clone(), Arc::new(backend(endpoint, quota, metrics)))
            })
            .collect();
        Self { by_endpoint }
    }

    /// The backend at `endpoint`.
    #[must_use]
    pub fn find(&self, endpoint: &Endpoint) -> Option<&Arc<Backend>> {
        self.by_endpoint.get(endpoint)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.by_endpoint.values()
    }

    /// All backends are to be met as after an outage: connections are opened a few at a time.
    pub fn begin_slowly(&self) {
        self.iter().for_each(|backend| backend.budget.begin_slowly());
    }

    /// Brings the metrics of the budgets up to date.
    pub fn observe(&self) {
        for backend in self.iter() {
            let limit = backend.budget.account().limit;
            backend.metrics.iter().for_each(|series| series.connection_limit(limit));
        }
    }

    /// A client's session is over: takes leave of what was introduced as its own.
    pub fn dismiss(&self, session: &str) {
        self.iter().for_each(|backend| backend.dismiss(session));
    }

    /// Takes leave of every session that is kept, and waits for those in use to end, for so long at most.
    pub async fn leave(&self, patience: Duration) {
        let leaving = self.iter().map(|backend| async move {
            let kept = std::mem::take(&mut *lock(&backend.kept));
            futures_util::future::join_all(kept.into_iter().map(Kept::leave)).await;
            backend.budget.unused().await;
        });
        let _ = tokio::time::timeout(patience, futures_util::future::join_all(leaving)).await;
    }

    /// What all of `endpoints` that were ever reached announced; none when none was.
    #[must_use]
    pub fn announced_by_all<'e>(&self, endpoints: impl Iterator<Item = &'e Endpoint>) -> Option<Extensions> {
        endpoints
            .filter_map(|endpoint| self.find(endpoint)?.announced())
            .reduce(|all, one| all.intersection(&one))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
