//! Does a store tell its recipients from others? Found out with random names.
//!
//! A store that takes one is *blind*, or has a catch-all. One sighting marks it, a second name some seconds
//! later confirms the mark, and after `cache.blind_ttl` it is tested again: a catch-all that was switched off
//! must not be believed in for ever, nor a truthful store.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Seen, Sight};

/// A mark after a single sighting is tested again after so long: the first name may have met a fault.
const CONFIRM_AFTER: Duration = Duration::from_secs(10);
/// A test whose answer never came is made again after so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);

/// What random names have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// Nothing yet.
    Untested,
    /// A random name was refused.
    Truthful,
    /// One was taken, or several.
    Blind,
}

impl Truth {
    /// For people and machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Untested => "untested",
            Self::Truthful => "truthful",
            Self::Blind => "blind",
        }
    }
}

/// What became of a random name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sighting {
    /// It was refused as any unknown recipient is.
    Refused,
    /// It was taken.
    Taken,
}

/// The test of one answer (RCPT's, DATA's) for one domain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Test {
    truth: Truth,
    /// Random names taken in a row.
    taken: u32,
    last: Option<Instant>,
    /// A random name is on its way since then.
    under_way: Option<Instant>,
    /// The last random name got no answer.
    missed: bool,
}

impl Test {
    pub(super) const fn new() -> Self {
        Self { truth: Truth::Untested, taken: 0, last: None, under_way: None, missed: false }
    }

    pub(super) const fn truth(&self) -> Truth {
        self.truth
    }

    /// What was seen last, and how long ago.
    pub(super) fn seen(&self) -> Option<Seen> {
        let sight = match self.truth {
            Truth::Untested => return None,
            Truth::Truthful => Sight::Truthful,
            Truth::Blind => Sight::Blind,
        };
        Some(Seen { sight, age: self.last?.elapsed() })
    }

    /// Somebody else saw that, or we did before a restart. Gives whether it is news: what was seen here later counts, and nobody is
    /// believed to be truthful for longer than `ttl`.
    pub(super) fn recall(&mut self, seen: Seen, ttl: Duration) -> bool {
        let newer = self.last.is_none_or(|last| last.elapsed() > seen.age);
        if !newer || (seen.sight == Sight::Truthful && seen.age >= ttl) {
            return false;
        }
        let now = Instant::now();
        self.last = now.checked_sub(seen.age);
        (self.truth, self.taken) = match seen.sight {
            Sight::Truthful => (Truth::Truthful, 0),
            // Whoever saw it has confirmed it, or soon will.
            Sight::Blind => (Truth::Blind, 2),
        };
        true
    }

    /// Whether the last random name got no answer: where a session ends over what was asked before it, it is to
    /// be asked first.
    pub(super) const fn missed(&self) -> bool {
        self.missed
    }

    /// Whether a random name should be asked now. `ttl` is how long an outcome holds.
    pub(super) fn is_due(&self, ttl: Duration) -> bool {
        if self.under_way.is_some_and(|since| since.elapsed() < ABANDONED_AFTER) {
            return false;
        }
        let holds = if self.taken == 1 { CONFIRM_AFTER.min(ttl) } else { ttl };
        self.last.is_none_or(|last| last.elapsed() >= holds)
    }

    /// [`Self::is_due`], for whoever then asks.
    pub(super) fn begin(&mut self, ttl: Duration) -> bool {
        let due = self.is_due(ttl);
        if due {
            self.under_way = Some(Instant::now());
        }
        due
    }

    /// A random name was answered; none says nothing about it. Gives the new truth if it changed.
    pub(super) fn saw(&mut self, sighting: Option<Sighting>) -> Option<Truth> {
        self.under_way = None;
        self.missed = sighting.is_none();
        let before = self.truth;
        match sighting {
            None => return None,
            Some(Sighting::Refused) => (self.truth, self.taken) = (Truth::Truthful, 0),
            Some(Sighting::Taken) => (self.truth, self.taken) = (Truth::Blind, self.taken.saturating_add(1)),
        }
        self.last = Some(Instant::now());
        (self.truth != before).then_some(self.truth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(6 * 3600);

    #[tokio::test(start_paused = true)]
    async fn a_sighting_is_confirmed_soon_and_tested_again_later() {
        let mut test = Test::new();
        assert!(test.begin(TTL));
        assert!(!test.begin(TTL), "one name at a time");
        assert_eq!(test.saw(Some(Sighting::Taken)), Some(Truth::Blind));
        assert!(!test.is_due(TTL));
        tokio::time::advance(CONFIRM_AFTER).await;
        assert!(test.begin(TTL));
        assert_eq!(test.saw(Some(Sighting::Taken)), None);
        tokio::time::advance(TTL - Duration::from_secs(1)).await;
        assert!(!test.is_due(TTL));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(test.begin(TTL), "not for ever");
        assert_eq!(test.saw(Some(Sighting::Refused)), Some(Truth::Truthful));
        assert!(!test.is_due(TTL));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_saw_counts_where_it_is_later() {
        let seen = |sight, seconds| Seen { sight, age: Duration::from_secs(seconds) };
        let mut test = Test::new();
        assert!(!test.recall(seen(Sight::Truthful, 6 * 3600), TTL), "for hours and not for ever");
        assert!(test.recall(seen(Sight::Blind, 7 * 3600), TTL), "until somebody looks again");
        assert!(test.truth() == Truth::Blind && test.is_due(TTL));
        assert_eq!(test.saw(Some(Sighting::Refused)), Some(Truth::Truthful));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!test.recall(seen(Sight::Blind, 20), TTL));
        assert!(test.recall(seen(Sight::Blind, 5), TTL));
        assert!(!test.is_due(TTL));
        assert_eq!(test.seen(), Some(seen(Sight::Blind, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_without_an_answer_is_made_again() {
        let mut test = Test::new();
        assert!(test.begin(TTL));
        assert_eq!(test.saw(None), None);
        assert!(test.begin(TTL), "it said nothing");
        tokio::time::advance(ABANDONED_AFTER).await;
        assert!(test.begin(TTL), "nobody came back with an answer");
        assert_eq!(test.truth(), Truth::Untested);
    }
}
