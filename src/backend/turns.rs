//! Waiting in turn: one line for each key, and the lines are served one after the other.
//!
//! A key that waits a thousand times and one that waits once get the next two places, so a client among many
//! cannot keep the others out; where all come from one address it is first come, first served. Who leaves is
//! found without looking at the others, and leaves nothing behind.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// What waits, by key.
#[derive(Debug)]
pub struct Turns<K, T> {
    lines: HashMap<K, Line<T>>,
    /// The keys in the order of their next turn. As many as there are lines.
    order: BTreeMap<u64, K>,
    next: u64,
    waiting: usize,
}

/// What waits for one key; never empty.
#[derive(Debug)]
struct Line<T> {
    turn: u64,
    places: BTreeMap<u64, T>,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<K> {
    key: K,
    number: u64,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), order: BTreeMap::new(), next: 0, waiting: 0 }
    }
}

impl<K: Copy + Eq + Hash, T> Turns<K, T> {
    /// Waits at the end of the line of `key`.
    pub fn join(&mut self, key: K, what: T) -> Place<K> {
        let number = self.number();
        let line = self.lines.entry(key).or_insert_with(|| {
            self.order.insert(number, key);
            Line { turn: number, places: BTreeMap::new() }
        });
        line.places.insert(number, what);
        self.waiting += 1;
        Place { key, number }
    }

    /// The first of the line whose turn it is; its key's next turn comes after that of all others.
    pub fn serve(&mut self) -> Option<T> {
        let (_, key) = self.order.pop_first()?;
        let turn = self.number();
        let Entry::Occupied(mut line) = self.lines.entry(key) else { return None };
        let (_, first) = line.get_mut().places.pop_first()?;
        if line.get().places.is_empty() {
            line.remove();
        } else {
            line.get_mut().turn = turn;
            self.order.insert(turn, key);
        }
        self.waiting -= 1;
        Some(first)
    }

    /// Gives up a place. None when its turn has come already.
    pub fn leave(&mut self, place: &Place<K>) -> Option<T> {
        let Entry::Occupied(mut line) = self.lines.entry(place.key) else { return None };
        let left = line.get_mut().places.remove(&place.number)?;
        if line.get().places.is_empty() {
            self.order.remove(&line.remove().turn);
        }
        self.waiting -= 1;
        Some(left)
    }

    /// How many wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_served_one_after_the_other() {
        let mut turns = Turns::default();
        for (key, what) in [('a', 1), ('a', 2), ('a', 3), ('b', 4), ('c', 5), ('b', 6)] {
            turns.join(key, what);
        }
        assert_eq!(turns.serve(), Some(1));
        turns.join('d', 7);
        let served: Vec<_> = std::iter::from_fn(|| turns.serve()).collect();
        assert_eq!(served, [4, 5, 2, 7, 6, 3]);
        assert!(turns.is_empty() && turns.lines.is_empty() && turns.order.is_empty());
    }

    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let mut turns = Turns::default();
        let first = turns.join('a', 1);
        let second = turns.join('a', 2);
        let other = turns.join('b', 3);
        assert_eq!(turns.leave(&first), Some(1));
        assert_eq!(turns.leave(&first), None);
        assert_eq!(turns.serve(), Some(2), "the line keeps its turn");
        assert_eq!(turns.leave(&second), None);
        assert_eq!(turns.leave(&other), Some(3));
        assert!(turns.is_empty() && turns.lines.is_empty() && turns.order.is_empty());
    }
}
