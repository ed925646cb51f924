//! The backends, and the sessions kept open with them.
//!
//! A delivery session is taken when a client's first recipient is accepted and given back when the
//! transaction ends, so a client that idles holds none. It is reused by whoever comes next, as long as it is
//! young, has refused nothing, and answers RSET with 2yz (RFC 5321 §4.1.1.5). Across clients that misleads
//! nobody, for the backend is not told who the client is.
//!
//! A session that is kept holds no permit: who waits for one would never get it. It stands in a slot nobody
//! needs, and leaves when a new connection needs that slot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::budget::{Budget, Permit, Use};
use super::connection::{Connection, Fault, Identity, Patience};
use super::health::Health;
use super::secure::{Protection, Security, counted};
use crate::config::{BackendTls, Endpoint};
use crate::net::dial::Dialer;
use crate::observe::metrics::{BackendConnection, BackendMetrics, BackendUse, TlsResult};
use crate::proto::ehlo::Extensions;
use crate::proto::tls::TlsFacts;

/// Exchange closes after 10 minutes even in use: be gone before.
const MAX_AGE: Duration = Duration::from_secs(8 * 60);
/// An idle session costs the backend a process; what is not needed for so long is given back.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Sessions kept idle per backend.
const MAX_KEPT: usize = 16;
/// Transactions in one session; servers count, and some close at a thousand.
const MAX_TRANSACTIONS: u32 = 500;

/// One server that mail can be given to or that can be asked.
#[derive(Debug)]
pub struct Backend {
    endpoint: Endpoint,
    dialer: Dialer,
    identity: Identity,
    patience: Patience,
    security: Security,
    budget: Budget,
    health: Health,
    announced: Mutex<Option<Extensions>>,
    kept: Mutex<Vec<Kept>>,
    last_fault: Mutex<Option<String>>,
    /// Of the last new session.
    last_tls: Mutex<Option<TlsFacts>>,
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

    /// A session for `purpose` before `deadline`: a kept one, else a new one.
    ///
    /// # Errors
    /// [`LeaseFault`].
    pub async fn lease(self: &Arc<Self>, purpose: Use, deadline: Instant) -> Result<Lease, LeaseFault> {
        let permit = self.permit(purpose, deadline).await?;
        if purpose == Use::Delivery
            && let Some(kept) = self.take_kept()
        {
            return Ok(self.leased(kept, permit, Origin::Kept, purpose));
        }
        self.open(permit, purpose, deadline).await
    }

    /// A new session, also when one is kept.
    ///
    /// # Errors
    /// [`LeaseFault`].
    pub async fn lease_fresh(self: &Arc<Self>, purpose: Use, deadline: Instant) -> Result<Lease, LeaseFault> {
        let permit = self.permit(purpose, deadline).await?;
        self.open(permit, purpose, deadline).await
    }

    async fn permit(&self, purpose: Use, deadline: Instant) -> Result<Permit, LeaseFault> {
        timeout_at(deadline, self.budget.permit(purpose)).await.map_err(|_| LeaseFault::Busy)
    }

    async fn open(
        self: &Arc<Self>,
        permit: Permit,
        purpose: Use,
        deadline: Instant,
    ) -> Result<Lease, LeaseFault> {
        let Some(attempt) = self.health.attempt() else {
            return Err(LeaseFault::Resting(self.rests_for().unwrap_or_default()));
        };
        let opened = async {
            self.make_room().await;
            self.connect(deadline).await
        };
        let opened =
            timeout_at(deadline, opened).await.unwrap_or(Err(Fault::Timeout(super::Phase::Greeting)));
        match opened {
            Ok(connection) => {
                attempt.succeeded();
                self.metrics.iter().for_each(BackendMetrics::up);
                *lock(&self.announced) = Some(*connection.announced());
                *lock(&self.last_fault) = None;
                *lock(&self.last_tls) = connection.tls().cloned();
                let kept = Kept { connection, transactions: 0, since: Instant::now() };
                Ok(self.leased(kept, permit, Origin::Fresh, purpose))
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

    /// A new connection, in TLS as that is wanted. One that may go on without leaves time for it.
    async fn connect(&self, deadline: Instant) -> Result<Connection, Fault> {
        let protection = self.security.protection();
        let mut patience = self.patience;
        if matches!(protection, Protection::Offered(_)) {
            let left = deadline.saturating_duration_since(Instant::now());
            patience.tls_handshake = patience.tls_handshake.min(left / 2);
        }
        let fault = match self.open_with(patience, protection).await {
            Err(fault) if protection.yields_to(&fault) => fault,
            opened => return opened,
        };
        let opened = self.open_with(patience, Protection::Absent).await?;
        tracing::warn!(backend = %self.endpoint, %fault, "no TLS with the backend: going on without for a while");
        self.security.avoid();
        self.count_tls(TlsResult::Fallback);
        Ok(opened)
    }

    async fn open_with(&self, patience: Patience, protection: Protection<'_>) -> Result<Connection, Fault> {
        let (dialer, endpoint, identity) = (&self.dialer, &self.endpoint, &self.identity);
        let opened = Connection::open(dialer, endpoint, identity, patience, protection).await;
        match &opened {
            Ok(connection) => {
                connection
                    .handshake()
                    .into_iter()
                    .for_each(|handshake| self.count_tls(counted(Ok(handshake))));
            }
            Err(Fault::Tls(fault)) => self.count_tls(counted(Err(fault))),
            Err(_) => {}
        }
        opened
    }

    /// Counts once, whichever routes name the backend.
    fn count_tls(&self, result: TlsResult) {
        self.metrics.first().into_iter().for_each(|series| series.tls_handshake(result));
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

    /// The youngest kept session that still looks alive.
    fn take_kept(&self) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        while let Some(mut kept) = shelf.pop() {
            if kept.is_fit() {
                return Some(kept);
            }
        }
        None
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
#[derive(Debug, Clone)]
pub struct Quota {
    /// Connections it may have, at least 2.
    pub connections: usize,
    /// How long it rests after several faults in a row; zero: not at all.
    pub eject: Duration,
    /// How it is spoken to; the same whoever names it.
    pub tls: BackendTls,
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
            let (least, metrics) = named.entry(endpoint).or_insert_with(|| (quota.clone(), Vec::new()));
            least.connections = least.connections.min(quota.connections);
            least.eject = least.eject.min(quota.eject);
            metrics.push(series);
        }
        let backend = |endpoint: Endpoint, quota: Quota, metrics| Backend {
            security: Security::new(quota.tls, &endpoint),
            endpoint,
            dialer: dialer.clone(),
            identity: identity.clone(),
            patience,
            budget: Budget::new(quota.connections),
            health: Health::new(quota.eject),
            announced: Mutex::default(),
            kept: Mutex::default(),
            last_fault: Mutex::default(),
            last_tls: Mutex::default(),
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
