//! What was learnt and is not shared yet: bounded, one last word per key, and written by one task.
//!
//! While Redis is away it waits here, so that what was learnt alone is shared afterwards. What does not fit is dropped and
//! counted, for it is only a cache.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::told::{Marks, Told};

/// Verdicts that may wait.
const MOST: usize = 65_536;
/// Bans, pardons and recipients to be forgotten that may wait.
const MOST_ORDERS: usize = 10_000;

/// A verdict on its way, or the end of a lease, or both.
#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) key: u128,
    pub(super) learnt: Option<Learnt>,
    pub(super) releases: bool,
}

/// A verdict, when it was learnt, and how long it is worth keeping from then on.
#[derive(Debug, Clone)]
pub(super) struct Learnt {
    pub(super) told: Told,
    pub(super) at: Instant,
    pub(super) lives: Duration,
}

/// What is to be done everywhere.
#[derive(Debug, Clone)]
pub(super) enum Order {
    Forget(u128),
    Domain { hash: u128, generation: u32, epoch: u32 },
    Epoch,
    Mark(u128, Marks, Instant),
    Ban { client: u128, until: Instant, unknown: u32, known: u32 },
    Pardon(u128),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
    /// There is something to write.
    pub(super) wake: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    orders: VecDeque<Order>,
    writes: HashMap<u128, Write>,
}

impl Outbox {
    /// A verdict was learnt, or a lease ends.
    pub(super) fn write(&self, write: Write) {
        let mut pending = self.pending();
        let full = pending.writes.len() >= MOST;
        match pending.writes.get_mut(&write.key) {
            Some(waiting) => waiting.follow(write),
            None if full => {
                drop(pending);
                self.drop_one();
                return;
            }
            None => drop(pending.writes.insert(write.key, write)),
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Something is to be done everywhere.
    pub(super) fn order(&self, order: Order) {
        let mut pending = self.pending();
        if pending.orders.len() >= MOST_ORDERS {
            pending.orders.pop_front();
            self.drop_one();
        }
        pending.orders.push_back(order);
        drop(pending);
        self.wake.notify_one();
    }

    /// The orders, oldest first.
    pub(super) fn take_orders(&self, most: usize) -> Vec<Order> {
        let mut pending = self.pending();
        let most = pending.orders.len().min(most);
        pending.orders.drain(..most).collect()
    }

    /// Some of what is to be written.
    pub(super) fn take_writes(&self, most: usize) -> Vec<Write> {
        let mut pending = self.pending();
        let keys: Vec<u128> = pending.writes.keys().take(most).copied().collect();
        keys.into_iter().filter_map(|key| pending.writes.remove(&key)).collect()
    }

    /// It could not be written. What was learnt meanwhile stands; leases end by themselves.
    pub(super) fn give_back(&self, write: Write) {
        if write.learnt.is_some() {
            let mut pending = self.pending();
            if pending.writes.len() < MOST {
                pending.writes.entry(write.key).or_insert(Write { releases: false, ..write });
            }
        }
    }

    /// They could not be carried out.
    pub(super) fn give_back_orders(&self, orders: Vec<Order>) {
        let mut pending = self.pending();
        for order in orders.into_iter().rev() {
            if pending.orders.len() < MOST_ORDERS {
                pending.orders.push_front(order);
            }
        }
    }

    /// What waits, and what was dropped until now.
    pub(super) fn account(&self) -> (usize, u64) {
        let pending = self.pending();
        (pending.orders.len() + pending.writes.len(), self.dropped.load(Ordering::Relaxed))
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write {
    /// `later` came before this was written.
    fn follow(&mut self, later: Self) {
        self.releases |= later.releases;
        if later.learnt.is_some() {
            self.learnt = later.learnt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: u128, told: Option<Told>, releases: bool) -> Write {
        let learnt = told.map(|told| Learnt { told, at: Instant::now(), lives: Duration::from_secs(1) });
        Write { key, learnt, releases }
    }

    #[tokio::test]
    async fn of_a_key_the_last_word_waits_and_the_lease_ends_with_it() {
        let outbox = Outbox::default();
        outbox.write(write(1, Some(Told::Good), false));
        outbox.write(write(1, None, true));
        outbox.write(write(1, Some(Told::Gone), false));
        let taken = outbox.take_writes(10);
        let [one] = taken.as_slice() else { panic!("{taken:?}") };
        assert!(one.releases && one.learnt.as_ref().is_some_and(|learnt| learnt.told == Told::Gone));
        // What could not be written does not replace what was learnt meanwhile.
        outbox.write(write(1, Some(Told::Good), false));
        outbox.give_back(one.clone());
        let taken = outbox.take_writes(10);
        assert!(taken[0].learnt.as_ref().is_some_and(|learnt| learnt.told == Told::Good), "{taken:?}");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let outbox = Outbox::default();
        for key in 0..MOST as u128 + 5 {
            outbox.write(write(key, Some(Told::Good), false));
        }
        assert_eq!(outbox.account(), (MOST, 5));
        outbox.write(write(0, Some(Told::Gone), false));
        assert_eq!(outbox.account().1, 5, "a later word on the same key needs no room");
    }
}
