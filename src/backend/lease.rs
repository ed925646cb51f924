//! A session with a backend, lent for one transaction, and what becomes of it afterwards.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Permit;
use super::connection::Connection;
use super::introduction::Introduction;
use super::pool::Backend;

/// Exchange closes after 10 minutes even in use: be gone before.
const MAX_AGE: Duration = Duration::from_secs(8 * 60);
/// An idle session costs the backend a process; what is not needed for so long is given back.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Transactions in one session; servers count, and some close at a thousand.
const MAX_TRANSACTIONS: u32 = 500;

/// A session between two transactions.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Connection,
    transactions: u32,
    since: Instant,
}

/// Where a leased session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Opened for this lease, or introduced anew for it.
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
}

impl Kept {
    pub(super) fn new(connection: Connection, transactions: u32) -> Self {
        Self { connection, transactions, since: Instant::now() }
    }

    /// The session.
    pub(super) const fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Whom it is introduced as.
    pub(super) const fn introduction(&self) -> &Introduction {
        self.connection.introduction()
    }

    /// Whether somebody may be given it: it is young enough, and still looks alive.
    pub(super) fn is_fit(&mut self) -> bool {
        self.connection.age() < MAX_AGE
            && !self.is_forgotten()
            && self.transactions < MAX_TRANSACTIONS
            && self.connection.quiet().is_ok()
    }

    /// Whether nobody has needed it for a while.
    pub(super) fn is_forgotten(&self) -> bool {
        self.since.elapsed() >= MAX_IDLE
    }

    /// Says QUIT and closes.
    pub(super) async fn leave(self) {
        self.connection.quit().await;
    }
}

impl Lease {
    pub(super) fn new(backend: &Arc<Backend>, kept: Kept, permit: Permit, origin: Origin) -> Self {
        Self {
            backend: Arc::clone(backend),
            connection: kept.connection,
            permit,
            transactions: kept.transactions,
            origin,
        }
    }

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
        let mut kept = Kept::new(self.connection, self.transactions + 1);
        // Errors survive RSET at the backend; the next client should not pay for them.
        let worth = kept.connection.refusals() == 0 && kept.is_fit();
        let left = if worth { self.backend.keep(kept) } else { Some(kept) };
        // The permit goes back behind the session, so that who gets it finds the session.
        let permit = self.permit;
        if let Some(kept) = left {
            tokio::spawn(async move {
                kept.leave().await;
                drop(permit);
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
