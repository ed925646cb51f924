//! What was learnt and forgotten, on its way to those who keep it.
//!
//! The cache tells a [`Journal`] and goes on; whoever keeps it takes what has gathered. Per key only the last
//! word waits. The queue is bounded: what is learnt beyond its bound is dropped and counted, for it is only a
//! cache. What is forgotten is never dropped: where even that does not fit, everything is forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mark;
use super::record::{Fact, Record, Stamp};
use super::shared::Marks;

/// Records that may wait, and as many times that much of what is forgotten.
const MOST: usize = 65_536;
/// So many are not waited with.
const HALF: usize = MOST / 2;

/// Which of the cache's shares a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// Recipients that exist.
    Good,
    /// Recipients that do not.
    Bad,
}

/// The words of refusals, and where in them the address stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    /// The reply's code.
    pub code: u16,
    /// Its text, with a placeholder.
    pub text: Box<[u8]>,
}

/// Takes note of what the cache learns and forgets. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Queue>);

#[derive(Debug, Default)]
pub(super) struct Queue {
    pending: Mutex<Pending>,
    /// There is something to write.
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Pending {
    batch: Batch,
    urgency: Urgency,
}

/// Nothing depends on waking after so long without anything to write.
const IDLE: Duration = Duration::from_secs(3600);

/// How soon it is to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Urgency {
    /// When more has gathered.
    #[default]
    Soon,
    /// Now.
    Now,
    /// Now, and it is the last.
    Last,
}

/// What is to be written in one transaction: first what is forgotten, then the rest.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Everything is forgotten, and this is the epoch now.
    pub(super) cleared: Option<u32>,
    /// What is stored of recipients is to be forgotten.
    pub(super) emptied: bool,
    /// Domains that were forgotten, by hash, with their generation now.
    pub(super) generations: HashMap<u128, u32>,
    pub(super) texts: HashMap<u16, Template>,
    pub(super) good: HashMap<u128, Record>,
    pub(super) bad: HashMap<u128, Record>,
    /// What random names have shown of domains, by their hash.
    pub(super) marks: HashMap<u128, [u8; mark::LENGTH]>,
}

impl Journal {
    pub(super) const fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }

    /// `fact` was learnt of `key`, now.
    pub fn learnt(&self, shelf: Shelf, key: u128, fact: Fact) {
        self.heard(shelf, key, fact, Duration::ZERO);
    }

    /// `fact` was learnt of `key` elsewhere, so long ago.
    pub fn heard(&self, shelf: Shelf, key: u128, fact: Fact, age: Duration) {
        let record = Record { key, learnt: Stamp::now().before(age), fact };
        let mut pending = self.0.pending();
        let full = pending.batch.records() >= MOST;
        let waiting = pending.batch.shelf(shelf);
        if full && fact != Fact::Gone && !waiting.contains_key(&key) {
            drop(pending);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.insert(key, record);
        self.0.bound(&mut pending);
        // The first, and when it becomes worth writing at once; each other one costs no more than this.
        let wakes = matches!(pending.batch.records(), 1 | HALF);
        drop(pending);
        if wakes {
            self.0.wake.notify_one();
        }
    }

    /// What was known of `key` on `shelf` is known no more.
    pub fn gone(&self, shelf: Shelf, key: u128) {
        self.learnt(shelf, key, Fact::Gone);
    }

    /// Random names have shown that of a domain.
    pub fn marked(&self, domain: u128, marks: &Marks) {
        let mut pending = self.0.pending();
        if pending.batch.marks.len() < MOST {
            pending.batch.marks.insert(domain, mark::write(marks, Stamp::now()));
        }
        drop(pending);
        self.0.wake.notify_one();
    }

    /// A refusal that was not heard before, and its number.
    pub fn text(&self, number: u16, template: Template) {
        self.0.pending().batch.texts.insert(number, template);
    }

    /// A domain was forgotten: keys of earlier generations are made no more.
    pub fn forgot_domain(&self, domain: u128, generation: u32) {
        let mut pending = self.0.pending();
        pending.batch.generations.insert(domain, generation);
        pending.urgency = pending.urgency.max(Urgency::Now);
        drop(pending);
        self.0.wake.notify_one();
    }

    /// Everything was forgotten: keys of earlier epochs are made no more. Texts stay.
    pub fn forgot_all(&self, epoch: u32) {
        let mut pending = self.0.pending();
        pending.batch.clear(epoch);
        pending.urgency = pending.urgency.max(Urgency::Now);
        drop(pending);
        self.0.wake.notify_one();
    }
}

impl Batch {
    pub(super) fn records(&self) -> usize {
        self.good.len() + self.bad.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { cleared, emptied, generations, texts, good, bad, marks } = self;
        cleared.is_none()
            && !emptied
            && generations.is_empty()
            && texts.is_empty()
            && good.is_empty()
            && bad.is_empty()
            && marks.is_empty()
    }

    const fn shelf(&mut self, shelf: Shelf) -> &mut HashMap<u128, Record> {
        match shelf {
            Shelf::Good => &mut self.good,
            Shelf::Bad => &mut self.bad,
        }
    }

    fn clear(&mut self, epoch: u32) {
        self.cleared = Some(epoch);
        self.generations.clear();
        self.good.clear();
        self.bad.clear();
    }
}

impl Urgency {
    fn max(self, other: Self) -> Self {
        match (self, other) {
            (Self::Last, _) | (_, Self::Last) => Self::Last,
            (Self::Now, _) | (_, Self::Now) => Self::Now,
            (Self::Soon, Self::Soon) => Self::Soon,
        }
    }
}

impl Queue {
    /// What has gathered, once there is something: at once when it is urgent, else after `gathering`.
    pub(super) fn take(&self, gathering: Duration) -> (Batch, Urgency) {
        let mut pending = self.pending();
        while pending.batch.is_empty() && pending.urgency == Urgency::Soon {
            pending = self.wait(pending, IDLE);
        }
        if pending.urgency == Urgency::Soon && pending.batch.records() < HALF {
            pending = self.wait(pending, gathering);
        }
        let urgency = pending.urgency;
        if urgency == Urgency::Now {
            pending.urgency = Urgency::Soon;
        }
        (std::mem::take(&mut pending.batch), urgency)
    }

    /// Gives back what could not be written. What was said since counts more.
    pub(super) fn give_back(&self, batch: Batch) {
        let mut pending = self.pending();
        let kept = pending.batch.cleared.is_none() && !pending.batch.emptied;
        if pending.batch.cleared.is_none() {
            pending.batch.cleared = batch.cleared;
            for (domain, generation) in batch.generations {
                pending.batch.generations.entry(domain).or_insert(generation);
            }
        }
        if kept {
            pending.batch.emptied = batch.emptied;
            for (shelf, records) in [(Shelf::Good, batch.good), (Shelf::Bad, batch.bad)] {
                for (key, record) in records {
                    if record.fact == Fact::Gone || pending.batch.records() < MOST {
                        pending.batch.shelf(shelf).entry(key).or_insert(record);
                    } else {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        for (number, template) in batch.texts {
            pending.batch.texts.entry(number).or_insert(template);
        }
        for (domain, marks) in batch.marks {
            pending.batch.marks.entry(domain).or_insert(marks);
        }
        self.bound(&mut pending);
    }

    /// Waits for so long, or until it is to end.
    pub(super) fn rest(&self, pause: Duration) {
        let goes_on = |pending: &mut Pending| pending.urgency != Urgency::Last;
        drop(self.wake.wait_timeout_while(self.pending(), pause, goes_on));
    }

    /// Whoever keeps it is to write what there is, and end.
    pub(super) fn close(&self) {
        self.pending().urgency = Urgency::Last;
        self.wake.notify_all();
    }

    /// Records that did not fit.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Where even what is forgotten does not fit: everything is.
    fn bound(&self, pending: &mut Pending) {
        if pending.batch.records() > 2 * MOST {
            self.dropped.fetch_add(pending.batch.records() as u64, Ordering::Relaxed);
            pending.batch.good.clear();
            pending.batch.bad.clear();
            pending.batch.emptied = true;
        }
    }

    fn wait<'p>(&self, pending: MutexGuard<'p, Pending>, longest: Duration) -> MutexGuard<'p, Pending> {
        self.wake
            .wait_timeout(pending, longest)
            .map_or_else(|poisoned| poisoned.into_inner().0, |woken| woken.0)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
