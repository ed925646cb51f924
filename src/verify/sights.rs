//! What random names have shown, beyond this process: kept in the store, and shared with other instances.
//!
//! A domain is a keyed hash of who is asked, as whom, and of its name; so a changed configuration never believes what was seen of
//! another server. Without this a restarted instance would trust the guard of a delivery port that has none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::time::Instant;

use super::scope::Scope;
use crate::store::{HashKey, Journal, Marks, Tier};

/// What is remembered of domains that were not met yet, at most.
const MOST: usize = 50_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sights {
    key: OnceLock<HashKey>,
    journal: OnceLock<Journal>,
    tier: OnceLock<Tier>,
    domains: Mutex<Domains>,
}

#[derive(Debug, Default)]
struct Domains {
    /// From the store, when they were so old.
    recalled: HashMap<u128, (Marks, Instant)>,
    met: HashMap<u128, Weak<Scope>>,
}

impl Sights {
    /// Domains are hashed with this key. Only the first counts.
    pub(super) fn begin(&self, key: HashKey) {
        let _ = self.key.set(key);
    }

    /// Takes what was stored; from now on what is seen is kept there.
    pub(super) fn keep_in(&self, journal: Journal, stored: Vec<(u128, Marks)>) {
        let now = Instant::now();
        self.domains()
            .recalled
            .extend(stored.into_iter().take(MOST).map(|(hash, marks)| (hash, (marks, now))));
        let _ = self.journal.set(journal);
    }

    /// From now on what is seen is shared.
    pub(super) fn share_with(&self, tier: Tier) {
        let _ = self.tier.set(tier);
    }

    /// A domain was met: what is known of it is known again.
    pub(super) fn met(&self, scope: &Arc<Scope>) {
        let Some(hash) = self.hash(scope) else { return };
        let recalled = {
            let mut domains = self.domains();
            domains.met.insert(hash, Arc::downgrade(scope));
            domains.recalled.remove(&hash)
        };
        if let Some((marks, since)) = recalled {
            scope.recall(&marks.aged(since.elapsed()));
        }
    }

    /// Nobody has this scope any more. Its domain may have been met anew.
    pub(super) fn lost(&self, scope: &Scope) {
        let Some(hash) = self.hash(scope) else { return };
        let mut domains = self.domains();
        if domains.met.get(&hash).is_some_and(|met| met.strong_count() == 0) {
            domains.met.remove(&hash);
        }
    }

    /// Something was seen.
    pub(super) fn saw(&self, scope: &Scope) {
        let Some(hash) = self.hash(scope) else { return };
        let marks = scope.marks();
        if let Some(journal) = self.journal.get() {
            journal.marked(hash, &marks);
        }
        if let Some(tier) = self.tier.get() {
            tier.mark(hash, marks);
        }
    }

    /// What a domain is called beyond this process.
    pub(super) fn hash(&self, scope: &Scope) -> Option<u128> {
        self.key.get().map(|key| key.hash(&scope.facts()))
    }

    /// The domain of a hash, if it was met.
    pub(super) fn find(&self, hash: u128) -> Option<Arc<Scope>> {
        self.domains().met.get(&hash)?.upgrade()
    }

    fn domains(&self) -> MutexGuard<'_, Domains> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
