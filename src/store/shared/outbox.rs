//! What was learnt, and what is to be done everywhere, and is not shared yet: bounded, and written by one task.
//!
//! While Redis is away it waits here, so that what was learnt alone is shared afterwards. What does not fit is dropped and counted,
//! for it is only a cache. Orders to forget are none: they have room of their own, keep their order, and where they are too many they
//! become the one to forget everything. Of anything else the last word counts.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::told::{Marks, Told};

/// Verdicts that may wait.
const MOST: usize = 65_536;
/// Orders to forget that may wait.
const MOST_FORGETS: usize = 10_000;
/// Orders to forget a recipient that are kept after they were carried out, for a Redis that loses everything.
const KEPT: usize = 1000;
/// Clients banned or pardoned, and as many domains whose generations, and whose marks, wait.
const MOST_OTHERS: usize = 10_000;

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

/// What is to be forgotten everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Forget {
    /// A recipient, as it is known everywhere in this epoch, and what its verdicts stand under.
    Recipient { key: u128, verdicts: Arc<[u128]>, epoch: u32 },
    /// A domain, which is in this generation here, in this epoch.
    Domain { hash: u128, generation: u32, epoch: u32 },
    /// Everything: this epoch has begun here.
    All { epoch: u32 },
}

/// What is to be told of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Ban {
        until: Instant,
        unknown: u32,
        known: u32,
    },
    /// No other order has its number.
    Pardon {
        number: u64,
    },
}

/// What is to be done everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// With its number: later ones are higher.
    Forget(u64, Forget),
    Client(u128, Word),
    /// Redis has lost what generation a domain was in, in this epoch.
    Generation {
        hash: u128,
        generation: u32,
        epoch: u32,
    },
    Mark(u128, Marks, Instant),
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
    forgets: VecDeque<(u64, Forget)>,
    /// How many there were.
    numbers: u64,
    /// Recipients that were forgotten lately.
    kept: VecDeque<Forget>,
    clients: HashMap<u128, Word>,
    generations: HashMap<u128, (u32, u32)>,
    marks: HashMap<u128, (Marks, Instant)>,
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

    /// Something is to be forgotten everywhere. `epoch` is the one that has begun here.
    pub(super) fn forget(&self, what: Forget, epoch: u32) {
        self.pending().forget(what, epoch);
        self.wake.notify_one();
    }

    /// A client was banned.
    pub(super) fn banned(&self, client: u128, until: Instant, (unknown, known): (u32, u32)) {
        let fits = put(&mut self.pending().clients, client, Word::Ban { until, unknown, known });
        self.put(fits);
    }

    /// A client was pardoned.
    pub(super) fn pardoned(&self, client: u128) {
        let mut pending = self.pending();
        let number = pending.next_number();
        let fits = put(&mut pending.clients, client, Word::Pardon { number });
        drop(pending);
        self.put(fits);
    }

    /// A domain is in this generation of this epoch.
    pub(super) fn generation(&self, hash: u128, generation: u32, epoch: u32) {
        let fits = put(&mut self.pending().generations, hash, (generation, epoch));
        self.put(fits);
    }

    /// Something was found out about a domain.
    pub(super) fn mark(&self, scope: u128, marks: Marks) {
        let fits = put(&mut self.pending().marks, scope, (marks, Instant::now()));
        self.put(fits);
    }

    fn put(&self, fits: Fits) {
        match fits {
            Fits::In => self.wake.notify_one(),
            Fits::Not => self.drop_one(),
        }
    }

    /// Redis has lost everything: what was forgotten lately is to be forgotten again. What was forgotten before this epoch is forgotten
    /// everywhere.
    pub(super) fn forget_again(&self, now: u32) {
        let mut pending = self.pending();
        let kept = std::mem::take(&mut pending.kept);
        for what in kept {
            let counts = matches!(what, Forget::Recipient { epoch, .. } if epoch >= now);
            if counts && pending.forgets.len() < MOST_FORGETS {
                pending.push(what);
            }
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// What is to be forgotten, in its order, then the rest.
    pub(super) fn take_orders(&self, most: usize) -> Vec<Order> {
        let mut pending = self.pending();
        let forgets = pending.forgets.len().min(most);
        let mut orders: Vec<Order> =
            pending.forgets.drain(..forgets).map(|(number, what)| Order::Forget(number, what)).collect();
        let left = |orders: &Vec<Order>| most - orders.len();
        let some = take(&mut pending.clients, left(&orders));
        orders.extend(some.into_iter().map(|(client, word)| Order::Client(client, word)));
        let some = take(&mut pending.generations, left(&orders));
        orders.extend(some.into_iter().map(|(hash, (generation, epoch))| Order::Generation {
            hash,
            generation,
            epoch,
        }));
        let some = take(&mut pending.marks, left(&orders));
        orders.extend(some.into_iter().map(|(scope, (marks, at))| Order::Mark(scope, marks, at)));
        orders
    }

    /// The number of the last order.
    pub(super) fn last_number(&self) -> u64 {
        self.pending().numbers
    }

    /// An order of ours began this epoch, when no order had a higher number than `last`: recipients that were to be forgotten before
    /// it are forgotten.
    pub(super) fn began(&self, now: u32, last: u64) {
        self.pending().forgets.retain(|(number, what)| !what.is_covered_by(now) || *number > last);
    }

    /// It was carried out.
    pub(super) fn carried_out(&self, order: Order) {
        if let Order::Forget(_, what @ Forget::Recipient { .. }) = order {
            let mut pending = self.pending();
            if pending.kept.len() >= KEPT {
                pending.kept.pop_front();
            }
            pending.kept.push_back(what);
        }
    }

    /// They could not be carried out. What was said meanwhile stands.
    pub(super) fn give_back_orders(&self, orders: Vec<Order>, epoch: u32) {
        let mut pending = self.pending();
        for order in orders.into_iter().rev() {
            match order {
                Order::Forget(number, what) => pending.forgets.push_front((number, what)),
                Order::Client(client, word) => drop(pending.clients.entry(client).or_insert(word)),
                Order::Generation { hash, generation, epoch } => {
                    pending.generations.entry(hash).or_insert((generation, epoch));
                }
                Order::Mark(scope, marks, at) => {
                    pending.marks.entry(scope).or_insert((marks, at));
                }
            }
        }
        pending.bound(epoch);
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

    /// What waits, and what was dropped until now.
    pub(super) fn account(&self) -> (usize, u64) {
        let pending = self.pending();
        let others = pending.clients.len() + pending.generations.len() + pending.marks.len();
        (pending.forgets.len() + others + pending.writes.len(), self.dropped.load(Ordering::Relaxed))
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Forget {
    /// Whether it is of an epoch before this one, and of a recipient: then it is void.
    pub(super) const fn is_covered_by(&self, now: u32) -> bool {
        matches!(self, Self::Recipient { epoch, .. } if *epoch < now)
    }
}

impl Pending {
    fn forget(&mut self, what: Forget, epoch: u32) {
        self.push(what);
        self.bound(epoch);
    }

    fn push(&mut self, what: Forget) {
        let number = self.next_number();
        self.forgets.push_back((number, what));
    }

    const fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Where they are too many everything is forgotten: nothing that was to be is kept.
    fn bound(&mut self, epoch: u32) {
        if self.forgets.len() > MOST_FORGETS {
            self.forgets.clear();
            self.push(Forget::All { epoch: epoch + 1 });
        }
    }
}

/// Whether there was room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fits {
    In,
    Not,
}

fn put<K: Eq + Hash, V>(words: &mut HashMap<K, V>, key: K, word: V) -> Fits {
    if words.len() >= MOST_OTHERS && !words.contains_key(&key) {
        return Fits::Not;
    }
    words.insert(key, word);
    Fits::In
}

fn take<K: Copy + Eq + Hash, V>(words: &mut HashMap<K, V>, most: usize) -> Vec<(K, V)> {
    let keys: Vec<K> = words.keys().take(most).copied().collect();
    keys.into_iter().filter_map(|key| words.remove_entry(&key)).collect()
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
    async fn orders_to_forget_are_crowded_out_by_nothing_and_keep_their_order() {
        let outbox = Outbox::default();
        let domain = |generation| Forget::Domain { hash: 7, generation, epoch: 0 };
        outbox.forget(domain(1), 0);
        let until = Instant::now();
        for client in 0..MOST_OTHERS as u128 + 3 {
            outbox.banned(client, until, (1, 0));
            outbox.mark(client, Marks::default());
            outbox.generation(client, 1, 0);
        }
        outbox.forget(domain(2), 0);
        assert_eq!(outbox.account(), (3 * MOST_OTHERS + 2, 9));
        let orders = outbox.take_orders(5);
        let forgets = [Order::Forget(1, domain(1)), Order::Forget(2, domain(2))];
        assert_eq!((orders.len(), &orders[..2]), (5, &forgets[..]));
        outbox.forget(domain(3), 0);
        outbox.give_back_orders(orders, 0);
        assert_eq!(outbox.take_orders(3)[2], Order::Forget(3, domain(3)));
    }

    #[tokio::test]
    async fn too_many_orders_to_forget_become_the_one_to_forget_everything() {
        let outbox = Outbox::default();
        let recipient = |key| Forget::Recipient { key, verdicts: [key].into(), epoch: 4 };
        (0..MOST_FORGETS as u128).for_each(|key| outbox.forget(recipient(key), 4));
        assert_eq!(outbox.account(), (MOST_FORGETS, 0));
        outbox.forget(recipient(0), 4);
        let last = MOST_FORGETS as u64 + 2;
        assert_eq!(outbox.take_orders(9), [Order::Forget(last, Forget::All { epoch: 5 })]);
        // What comes back finds that there are too many.
        let taken = vec![Order::Forget(1, recipient(1))];
        (0..MOST_FORGETS as u128).for_each(|key| outbox.forget(recipient(key), 5));
        outbox.give_back_orders(taken, 5);
        assert!(matches!(outbox.take_orders(9)[..], [Order::Forget(_, Forget::All { epoch: 6 })]));
    }

    #[tokio::test]
    async fn recipients_forgotten_lately_are_forgotten_again_in_a_redis_that_lost_them() {
        let outbox = Outbox::default();
        let recipient = |key, epoch| Forget::Recipient { key, verdicts: [key].into(), epoch };
        for key in 0..KEPT as u128 + 2 {
            outbox.carried_out(Order::Forget(1, recipient(key, 1)));
        }
        outbox.carried_out(Order::Forget(1, Forget::All { epoch: 1 }));
        outbox.forget_again(1);
        let orders = outbox.take_orders(MOST_FORGETS);
        assert_eq!((orders.len(), &orders[0]), (KEPT, &Order::Forget(1, recipient(2, 1))));
        // Nobody knows anything of an epoch that is over.
        outbox.carried_out(Order::Forget(1, recipient(1, 1)));
        outbox.carried_out(Order::Forget(1, recipient(2, 2)));
        outbox.forget_again(2);
        let again = KEPT as u64 + 1;
        assert_eq!(outbox.take_orders(9), [Order::Forget(again, recipient(2, 2))]);
    }

    #[tokio::test]
    async fn of_a_client_the_last_word_counts() {
        let outbox = Outbox::default();
        outbox.banned(1, Instant::now(), (1, 0));
        let taken = outbox.take_orders(9);
        outbox.pardoned(1);
        outbox.give_back_orders(taken, 0);
        assert_eq!(outbox.take_orders(9), [Order::Client(1, Word::Pardon { number: 1 })]);
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
