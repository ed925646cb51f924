//! How many good entries each domain has.
//!
//! An entry has room for a number alone, so tallies have numbers. Clients choose the domains behind `*`: the numbers of those that
//! nobody looks at, and that have no entry, are given again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Tallies there may be before those that are of no use are looked for.
const ENOUGH: usize = 20_000;

/// Counts good entries by whoever opened the tally: how many has a domain?
#[derive(Debug, Clone)]
pub struct Tally {
    pub(super) number: u32,
    /// What it is called in the store, where numbers mean nothing.
    pub(super) mark: u32,
    count: Arc<AtomicU32>,
}

impl Tally {
    /// Good entries in the cache.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn one_more(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// All tallies; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Tallies(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    counts: RwLock<Vec<Arc<AtomicU32>>>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// What comes from the store is counted where it was.
    by_mark: HashMap<u32, Tally>,
    /// Numbers nobody has.
    free: Vec<u32>,
    /// With so many tallies numbers are looked for that nobody has any more.
    enough: usize,
}

impl Tallies {
    /// The tally of a mark.
    pub(super) fn of(&self, mark: u32) -> Tally {
        let mut names = self.names();
        if let Some(tally) = names.by_mark.get(&mark) {
            return tally.clone();
        }
        self.open(&mut names, mark)
    }

    /// The same, begun anew: what was counted so far is forgotten.
    pub(super) fn anew(&self, mark: u32) -> Tally {
        let mut names = self.names();
        match names.by_mark.get(&mark) {
            Some(tally) if tally.count() == 0 => tally.clone(),
            _ => self.open(&mut names, mark),
        }
    }

    /// An entry that was counted under that number is no more.
    pub(super) fn one_less(&self, number: u32) {
        let counts = self.0.counts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get(number as usize) {
            let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        }
    }

    /// There is no entry left.
    pub(super) fn clear(&self) {
        let counts = self.0.counts.read().unwrap_or_else(PoisonError::into_inner);
        counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
    }

    fn open(&self, names: &mut Names, mark: u32) -> Tally {
        let mut counts = self.0.counts.write().unwrap_or_else(PoisonError::into_inner);
        if names.free.is_empty() && counts.len() >= names.enough.max(ENOUGH) {
            names.give_up(&counts);
        }
        let count = Arc::new(AtomicU32::new(0));
        let number = match names.free.pop() {
            Some(number) if let Some(place) = counts.get_mut(number as usize) => {
                *place = Arc::clone(&count);
                number
            }
            _ => {
                counts.push(Arc::clone(&count));
                u32::try_from(counts.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let tally = Tally { number, mark, count };
        names.by_mark.insert(mark, tally.clone());
        tally
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// Finds the tallies that have no entry and that nobody holds.
    fn give_up(&mut self, counts: &[Arc<AtomicU32>]) {
        // One is ours, one stands among the counts.
        self.by_mark.retain(|_, tally| tally.count() > 0 || Arc::strong_count(&tally.count) > 2);
        let is_free =
            |count: &Arc<AtomicU32>| count.load(Ordering::Relaxed) == 0 && Arc::strong_count(count) == 1;
        let numbers = (0..).zip(counts).filter(|(_, count)| is_free(count)).map(|(number, _)| number);
        self.free = numbers.collect();
        self.enough = 2 * (counts.len() - self.free.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(tallies: &Tallies) -> usize {
        tallies.0.counts.read().unwrap().len()
    }

    #[test]
    fn any_number_of_domains_that_come_and_go_has_bounded_room() {
        let tallies = Tallies::default();
        let kept = tallies.of(1);
        let known = tallies.of(2);
        known.one_more();
        drop(known);
        for mark in 10..200_000 {
            drop(tallies.of(mark));
        }
        assert_eq!((numbers(&tallies), tallies.names().by_mark.len() <= ENOUGH), (ENOUGH, true));
        // Who is looked at, or has entries, stays who it is.
        kept.one_more();
        assert_eq!((tallies.of(1).count(), tallies.of(2).count()), (1, 1));
        assert_eq!((tallies.of(1).number, tallies.of(2).number), (0, 1));
    }

    #[test]
    fn many_that_are_in_use_have_numbers_of_their_own() {
        let tallies = Tallies::default();
        let held: Vec<Tally> = (0..50_000).map(|mark| tallies.of(mark)).collect();
        let distinct: std::collections::HashSet<u32> = held.iter().map(|tally| tally.number).collect();
        assert_eq!(distinct.len(), held.len());
    }

    #[test]
    fn what_is_begun_anew_leaves_its_number_with_its_last_entry() {
        let tallies = Tallies::default();
        let old = tallies.of(1);
        old.one_more();
        let new = tallies.anew(1);
        assert_eq!((old.count(), new.count()), (1, 0));
        let number = old.number;
        drop(old);
        tallies.names().give_up(&tallies.0.counts.read().unwrap());
        assert!(tallies.names().free.is_empty());
        tallies.one_less(number);
        tallies.names().give_up(&tallies.0.counts.read().unwrap());
        assert_eq!(tallies.names().free, [number]);
    }
}
