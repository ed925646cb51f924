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

/// Verdicts that may wait, and as many clients.
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

/// What a client was told since it was last counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) unknown: u32,
    pub(super) known: u32,
}

/// The same by when it was told, oldest first, for it counts for an hour from then on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deltas(Vec<(Instant, Delta)>);

/// What was told within this is counted as of one moment.
const SPAN: Duration = Duration::from_secs(180);
/// What was told longer ago counts no more.
const HOUR: Duration = Duration::from_secs(3600);

impl Deltas {
    /// Told now.
    pub(super) fn now(delta: Delta) -> Self {
        Self(vec![(Instant::now(), delta)])
    }

    /// With what was told later.
    pub(super) fn and(mut self, later: Self) -> Self {
        for (at, delta) in later.0 {
            match self.0.last_mut() {
                Some((since, waiting)) if at.saturating_duration_since(*since) < SPAN => {
                    *waiting = waiting.plus(delta);
                }
                _ => self.0.push((at, delta)),
            }
        }
        self.0.retain(|(at, _)| at.elapsed() < HOUR);
        self
    }

    /// As Redis is told of it: how many spans ago, unknown, known; of each.
    pub(super) fn argument(&self) -> String {
        let told = self.0.iter().filter(|(_, delta)| *delta != Delta::default());
        let each = told.map(|(at, Delta { unknown, known })| {
            format!("{} {unknown} {known}", at.elapsed().as_secs() / SPAN.as_secs())
        });
        each.collect::<Vec<_>>().join(",")
    }
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
    /// There is something to count.
    pub(super) count: Notify,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    orders: VecDeque<Order>,
    writes: HashMap<u128, Write>,
    deltas: HashMap<u128, Deltas>,
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

    /// A client was told something.
    pub(super) fn told(&self, client: u128, told: Deltas) {
        let mut pending = self.pending();
        if pending.deltas.len() >= MOST && !pending.deltas.contains_key(&client) {
            drop(pending);
            self.drop_one();
            return;
        }
        let waiting = pending.deltas.entry(client).or_default();
        let before = std::mem::take(waiting);
        // What comes back was told before what waits.
        let earlier = matches!((told.0.first(), before.0.first()), (Some((a, _)), Some((b, _))) if a < b);
        *waiting = if earlier { told.and(before) } else { before.and(told) };
        drop(pending);
        self.count.notify_one();
    }

    /// What `client` was told, to be sent now.
    pub(super) fn take_delta(&self, client: u128) -> Deltas {
        self.pending().deltas.remove(&client).unwrap_or_default()
    }

    /// Some clients and what they were told.
    pub(super) fn take_deltas(&self, most: usize) -> Vec<(u128, Deltas)> {
        let mut pending = self.pending();
        let clients: Vec<u128> = pending.deltas.keys().take(most).copied().collect();
        clients.into_iter().filter_map(|client| pending.deltas.remove_entry(&client)).collect()
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
        let waiting = pending.orders.len() + pending.writes.len() + pending.deltas.len();
        (waiting, self.dropped.load(Ordering::Relaxed))
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

impl Delta {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            unknown: self.unknown.saturating_add(other.unknown),
            known: self.known.saturating_add(other.known),
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

    #[tokio::test(start_paused = true)]
    async fn what_clients_were_told_is_counted_where_it_belongs() {
        let (outbox, one) = (Outbox::default(), Delta { unknown: 1, known: 2 });
        let minutes = |number: u64| tokio::time::advance(Duration::from_secs(number * 60));
        outbox.told(1, Deltas::now(one));
        minutes(10).await;
        outbox.told(1, Deltas::now(one));
        minutes(2).await;
        outbox.told(1, Deltas::now(one));
        minutes(40).await;
        let taken = outbox.take_delta(1);
        assert_eq!(taken.argument(), "17 1 2,14 2 4");
        // It could not be sent; meanwhile there was more, and the first is too old.
        outbox.told(1, Deltas::now(one));
        minutes(9).await;
        outbox.told(1, taken);
        assert_eq!(outbox.take_delta(1).argument(), "17 2 4,3 1 2");
        assert_eq!(outbox.take_delta(1), Deltas::default());
    }

    #[tokio::test]
    async fn what_does_not_fit_is_dropped_and_counted() {
        let outbox = Outbox::default();
        for key in 0..MOST as u128 + 5 {
            outbox.write(write(key, Some(Told::Good), false));
            outbox.told(key, Deltas::now(Delta { unknown: 1, known: 0 }));
        }
        assert_eq!(outbox.account(), (2 * MOST, 10));
        outbox.write(write(0, Some(Told::Gone), false));
        assert_eq!(outbox.account().1, 10, "a later word on the same key needs no room");
    }
}
