//! The backends, and the sessions kept open with them.
//!
//! A delivery session is taken when a client's first recipient is accepted and given back when the
//! transaction ends, so a client that idles holds none. It is reused by whoever comes next, as long as it is
//! young, has refused nothing, and answers RSET with 2yz (RFC 5321 §4.1.1.5); across clients only where that misleads
//! nobody about who is speaking (see [`Introduction`]).
//!
//! A session that is kept holds no permit: who waits for one would never get it. It stands in a slot nobody
//! needs, and leaves when a new connection needs that slot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Permit, Use};
use super::connection::{Blame, Connection, Fault, Identity, Patience};
use super::health::Health;
use super::introduction::{Introduction, Reuse};
use crate::config::Endpoint;
use crate::net::dial::Dialer;
use crate::observe::metrics::{BackendConnection, BackendMetrics, BackendUse};
use crate::proto::ehlo::Extensions;
use crate::proto::proxy_header::Version;

/// Exchange closes after 10 minutes even in use: be gone before.
const MAX_AGE: Duration = Duration::from_secs(8 * 60);
/// An idle session costs the backend a process; what is not needed for so long is given back.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Sessions kept idle per backend.
const MAX_KEPT: usize = 16;
/// Between two alarms of one backend.
const ALARM_EVERY: Duration = Duration::from_secs(60);
/// Transactions in one session; servers count, and some close at a thousand.
const MAX_TRANSACTIONS: u32 = 500;

/// One server that mail can be given to or that can be asked.
#[derive(Debug)]
pub struct Backend {
    endpoint: Endpoint,
    dialer: Dialer,
    identity: Identity,
    patience: Patience,
    budget: Budget,
    health: Health,
    announced: Mutex<Option<Extensions>>,
    kept: Mutex<Vec<Kept>>,
    last_fault: Mutex<Option<String>>,
    /// When the last alarm was given.
    alarmed: Mutex<Option<Instant>>,
    /// One for each route that names it.
    metrics: Vec<BackendMetrics>,
}

/// A session between two transactions.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    transactions: u32,
    since: Instant,
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

/// Where a leased session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Opened for this lease.
    Fresh,
    /// Kept from an earlier transaction: it may be dead, and wants RSET first.
    Kept,
}

/// A session with a backend, for one transaction.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    connection: Connection,
    permit: Permit,
    transactions: u32,
    origin: Origin,
    _counted: Vec<BackendConnection>,
}

impl Backend {
    /// Where it listens.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its connections.
    #[must_use]
    pub const fn budget(&self) -> &Budget {
        &self.budget
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

    /// How long it is left alone yet; none when it is tried.
    #[must_use]
    pub fn rests_for(&self) -> Option<Duration> {
        self.health.rests_for()
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
        let permit = self.permit(purpose, deadline).await?;
        if purpose == Use::Delivery
            && let Some((kept, origin)) = self.take_kept(introduction, deadline).await
        {
            return Ok(self.leased(kept, permit, origin, purpose));
        }
        self.open(permit, purpose, introduction, deadline).await
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
        let permit = self.permit(purpose, deadline).await?;
        self.open(permit, purpose, introduction, deadline).await
    }

    async fn permit(&self, purpose: Use, deadline: Instant) -> Result<Permit, LeaseFault> {
        timeout_at(deadline, self.budget.permit(purpose)).await.map_err(|_| LeaseFault::Busy)
    }

    async fn open(
        self: &Arc<Self>,
        permit: Permit,
        purpose: Use,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let Some(attempt) = self.health.attempt() else {
            return Err(LeaseFault::Resting(self.rests_for().unwrap_or_default()));
        };
        let opened = async {
            self.make_room().await;
            let Self { dialer, endpoint, identity, .. } = &**self;
            Connection::open(dialer, endpoint, identity, self.patience, introduction).await
        };
        let opened =
            timeout_at(deadline, opened).await.unwrap_or(Err(Fault::Timeout(super::Phase::Greeting)));
        match opened {
            Ok(connection) => {
                attempt.succeeded();
                self.metrics.iter().for_each(BackendMetrics::up);
                self.heard(&connection);
                *lock(&self.last_fault) = None;
                let kept = Kept { connection, transactions: 0, since: Instant::now() };
                Ok(self.leased(kept, permit, Origin::Fresh, purpose))
            }
            Err(fault) if fault.blame(introduction) != Blame::Backend => {
                match fault.blame(introduction) {
                    // It is well, and does what it is there for.
                    Blame::Client(_) => attempt.succeeded(),
                    _ => {
                        attempt.undecided();
                        self.alarm(&fault);
                    }
                }
                Err(fault.into())
            }
            Err(fault) => {
                drop(attempt);
                self.metrics.iter().for_each(BackendMetrics::down);
                let news = lock(&self.last_fault).replace(fault.to_string()).is_none();
                if news {
                    tracing::warn!(backend = %self.endpoint, %fault, "backend does not serve us");
                }
                Err(fault.into())
            }
        }
    }

    /// What it announces, which is what others are offered: to one client it may announce less.
    fn heard(&self, connection: &Connection) {
        let mut announced = lock(&self.announced);
        if announced.is_none() || *connection.introduction() == Introduction::Ourselves {
            *announced = Some(*connection.announced());
        }
    }

    /// Mail is held up until somebody mends the configuration: said once a minute.
    fn alarm(&self, fault: &Fault) {
        let mut last = lock(&self.alarmed);
        if last.is_none_or(|last| last.elapsed() >= ALARM_EVERY) {
            *last = Some(Instant::now());
            tracing::error!(backend = %self.endpoint, %fault, "the backend cannot be told who the client is: mail for it is deferred");
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

    fn leased(self: &Arc<Self>, kept: Kept, permit: Permit, origin: Origin, purpose: Use) -> Lease {
        let counted = match purpose {
            Use::Probe => BackendUse::Probe,
            Use::Delivery => BackendUse::Delivery,
        };
        Lease {
            backend: Arc::clone(self),
            connection: kept.connection,
            permit,
            transactions: kept.transactions,
            origin,
            _counted: self.metrics.iter().map(|series| series.connection(counted)).collect(),
        }
    }

    /// A kept session that is for this client, or was made so.
    async fn take_kept(&self, introduction: &Introduction, deadline: Instant) -> Option<(Kept, Origin)> {
        if let Some(kept) = self.youngest_kept(introduction, Reuse::AsItIs) {
            return Some((kept, Origin::Kept));
        }
        while let Some(mut kept) = self.youngest_kept(introduction, Reuse::Anew) {
            let introducing = timeout_at(deadline, kept.connection.introduce_anew(introduction));
            match introducing.await {
                // As good as new: what it said just now was an answer.
                Ok(Ok(())) => return Some((kept, Origin::Fresh)),
                Ok(Err(fault)) => tracing::debug!(backend = %self.endpoint, %fault, "kept session lost"),
                Err(_) => return None,
            }
        }
        None
    }

    /// The youngest kept session that still looks alive.
    fn youngest_kept(&self, introduction: &Introduction, reuse: Reuse) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        let fits = |kept: &Kept| introduction.reuse(kept.connection.introduction()) == reuse;
        while let Some(at) = shelf.iter().rposition(fits) {
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
        let bound = |kept: &Kept| kept.connection.introduction().bound_to() == Some(session);
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
        let (fit, unfit): (Vec<_>, Vec<_>) =
            shelf.drain(..).partition(|kept| kept.since.elapsed() < MAX_IDLE);
        *shelf = fit;
        drop(shelf);
        for kept in unfit {
            tokio::spawn(kept.leave());
        }
    }
}

impl Kept {
    fn is_fit(&mut self) -> bool {
        self.connection.age() < MAX_AGE
            && self.since.elapsed() < MAX_IDLE
            && self.transactions < MAX_TRANSACTIONS
            && self.connection.quiet().is_ok()
    }

    async fn leave(self) {
        self.connection.quit().await;
    }
}

impl Lease {
    /// The session.
    pub const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Where it came from.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whose it is.
    #[must_use]
    pub const fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Gives a session back whose transaction is over. It is kept if it is worth it, else left.
    pub fn release(self) {
        let mut kept =
            Kept { connection: self.connection, transactions: self.transactions + 1, since: Instant::now() };
        // Errors survive RSET at the backend; the next client should not pay for them.
        let worth = kept.connection.refusals() == 0 && kept.is_fit();
        let mut shelf = lock(&self.backend.kept);
        // The permit goes back behind the session, so that who gets it finds the session.
        if worth && shelf.len() < MAX_KEPT {
            shelf.push(kept);
            drop(shelf);
            drop(self.permit);
        } else {
            drop(shelf);
            tokio::spawn(async move {
                kept.leave().await;
                drop(self.permit);
            });
        }
    }

    /// Says QUIT and closes, in the background.
    pub fn quit(self) {
        tokio::spawn(async move {
            self.connection.quit().await;
            drop(self.permit);
        });
    }

    /// Closes at once, in the middle of whatever it was.
    pub fn abort(self) {
        self.connection.abort();
    }
}

/// How a backend is to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Connections it may have, at least 2.
    pub connections: usize,
    /// How long it rests after several faults in a row; zero: not at all.
    pub eject: Duration,
    /// The PROXY header it expects on every connection.
    pub header: Option<Version>,
}

/// All backends, by where they listen.
#[derive(Debug)]
pub struct Backends {
    by_endpoint: HashMap<Endpoint, Arc<Backend>>,
}

impl Backends {
    /// One backend for each endpoint; of several quotas for it the smaller of each part counts.
    pub fn new(
        endpoints: impl IntoIterator<Item = (Endpoint, Quota, BackendMetrics)>,
        dialer: &Dialer,
        identity: &Identity,
        patience: Patience,
    ) -> Self {
        let mut named: HashMap<Endpoint, (Quota, Vec<BackendMetrics>)> = HashMap::new();
        for (endpoint, quota, series) in endpoints {
            let (least, metrics) = named.entry(endpoint).or_insert_with(|| (quota, Vec::new()));
            least.connections = least.connections.min(quota.connections);
            least.eject = least.eject.min(quota.eject);
            metrics.push(series);
        }
        let backend = |endpoint: Endpoint, quota: Quota, metrics| Backend {
            endpoint,
            dialer: dialer.clone(),
            identity: Identity { header: quota.header, ..identity.clone() },
            patience,
            budget: Budget::new(quota.connections),
            health: Health::new(quota.eject),
            announced: Mutex::default(),
            kept: Mutex::default(),
            last_fault: Mutex::default(),
            alarmed: Mutex::default(),
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
