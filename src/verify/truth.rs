//! Does a store tell its recipients from others? Found out with random names.
//!
//! A store that takes one is *blind*, or has a catch-all. One sighting marks it, a second name some seconds
//! later confirms the mark, and after `cache.blind_ttl` it is tested again: a catch-all that was switched off
//! must not be believed in for ever, nor a truthful store.
//!
//! A name that got no clear answer is not asked again at once: the pause doubles, and meanwhile questions go out
//! without one. So a store that greylists, or ends its sessions over unknown names, is asked what clients want to know.

use std::time::Duration;

use tokio::time::Instant;

use super::probe::Finding;
use crate::store::{Seen, Sight};

/// A mark after a single sighting is tested again after so long: the first name may have met a fault.
const CONFIRM_AFTER: Duration = Duration::from_secs(10);
/// A test whose answer never came is made again after so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// The pause after a test without a clear answer; it doubles with each further one.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Tests without a clear answer after which none is hoped for.
const HOPES: u32 = 3;

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
    /// It is not known, in so many words.
    Unknown,
    /// It was refused for good, without a word about the recipient: a second one must be too.
    Refused,
    /// It was taken.
    Taken,
    /// It was answered, and the answer says nothing.
    Vague,
    /// The session ended before its answer.
    Lost,
}

impl Sighting {
    /// What the answer to a random name comes to; none where its session ended first.
    pub(super) const fn of(finding: Option<&Finding>) -> Self {
        match finding {
            Some(Finding::Good) => Self::Taken,
            Some(Finding::Bad(_)) => Self::Unknown,
            Some(Finding::Refused(_)) => Self::Refused,
            Some(_) => Self::Vague,
            None => Self::Lost,
        }
    }
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
    /// The last random name got no answer: its session ended.
    missed: bool,
    /// Random names without a clear answer in a row.
    unclear: u32,
    /// No other is asked before.
    not_before: Option<Instant>,
    /// A name was refused without a word about the recipient.
    refused: bool,
}

impl Test {
    pub(super) const fn new() -> Self {
        Self {
            truth: Truth::Untested,
            taken: 0,
            last: None,
            under_way: None,
            missed: false,
            unclear: 0,
            not_before: None,
            refused: false,
        }
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

    /// Whether nothing was ever found out, often enough for nothing to be hoped for.
    pub(super) const fn is_hopeless(&self) -> bool {
        matches!(self.truth, Truth::Untested) && self.unclear >= HOPES
    }

    /// Whether a random name should be asked now. `ttl` is how long an outcome holds.
    pub(super) fn is_due(&self, ttl: Duration) -> bool {
        if self.under_way.is_some_and(|since| since.elapsed() < ABANDONED_AFTER)
            || self.not_before.is_some_and(|time| Instant::now() < time)
        {
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

    /// What became of a random name. Gives the new truth if it changed.
    pub(super) fn saw(&mut self, sighting: Sighting) -> Option<Truth> {
        self.under_way = None;
        self.missed = sighting == Sighting::Lost;
        let before = self.truth;
        match sighting {
            Sighting::Vague | Sighting::Lost => {
                // Once lost it is asked again at once: sessions end for many reasons.
                let first_lost = self.unclear == 0 && sighting == Sighting::Lost;
                let pause = PAUSE.saturating_mul(1 << self.unclear.min(16)).min(LONGEST_PAUSE);
                self.unclear = self.unclear.saturating_add(1);
                self.not_before = (!first_lost).then(|| Instant::now() + pause);
                return None;
            }
            Sighting::Refused if !std::mem::replace(&mut self.refused, true) => {
                self.not_before = Some(Instant::now() + CONFIRM_AFTER);
                return None;
            }
            Sighting::Unknown | Sighting::Refused => (self.truth, self.taken) = (Truth::Truthful, 0),
            Sighting::Taken => (self.truth, self.taken) = (Truth::Blind, self.taken.saturating_add(1)),
        }
        self.refused = false;
        self.unclear = 0;
        self.not_before = None;
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
        assert_eq!(test.saw(Sighting::Taken), Some(Truth::Blind));
        assert!(!test.is_due(TTL));
        tokio::time::advance(CONFIRM_AFTER).await;
        assert!(test.begin(TTL));
        assert_eq!(test.saw(Sighting::Taken), None);
        tokio::time::advance(TTL - Duration::from_secs(1)).await;
        assert!(!test.is_due(TTL));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(test.begin(TTL), "not for ever");
        assert_eq!(test.saw(Sighting::Unknown), Some(Truth::Truthful));
        assert!(!test.is_due(TTL));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_saw_counts_where_it_is_later() {
        let seen = |sight, seconds| Seen { sight, age: Duration::from_secs(seconds) };
        let mut test = Test::new();
        assert!(!test.recall(seen(Sight::Truthful, 6 * 3600), TTL), "for hours and not for ever");
        assert!(test.recall(seen(Sight::Blind, 7 * 3600), TTL), "until somebody looks again");
        assert!(test.truth() == Truth::Blind && test.is_due(TTL));
        assert_eq!(test.saw(Sighting::Unknown), Some(Truth::Truthful));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!test.recall(seen(Sight::Blind, 20), TTL));
        assert!(test.recall(seen(Sight::Blind, 5), TTL));
        assert!(!test.is_due(TTL));
        assert_eq!(test.seen(), Some(seen(Sight::Blind, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_test_without_a_clear_answer_is_made_again_after_a_pause_that_doubles() {
        for unclear in [Sighting::Lost, Sighting::Vague] {
            let mut test = Test::new();
            let mut pauses = Vec::new();
            while pauses.len() < 8 {
                assert!(test.begin(TTL));
                assert_eq!(test.saw(unclear), None);
                assert_eq!(test.missed(), unclear == Sighting::Lost);
                let since = Instant::now();
                while !test.is_due(TTL) {
                    tokio::time::advance(Duration::from_secs(1)).await;
                }
                pauses.push(since.elapsed().as_secs());
            }
            let first = if unclear == Sighting::Lost { 0 } else { 10 };
            assert_eq!(pauses, [first, 20, 40, 80, 160, 300, 300, 300]);
            assert!(test.is_hopeless());
            assert!(test.begin(TTL));
            tokio::time::advance(ABANDONED_AFTER).await;
            assert!(test.begin(TTL), "nobody came back with an answer");
            assert_eq!(test.saw(Sighting::Unknown), Some(Truth::Truthful));
            assert!(!test.is_hopeless());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_does_not_speak_of_the_recipient_counts_when_it_is_repeated() {
        let mut test = Test::new();
        assert!(test.begin(TTL));
        assert_eq!(test.saw(Sighting::Refused), None);
        assert_eq!(test.truth(), Truth::Untested);
        assert!(!test.begin(TTL), "not at once: the same fault would answer");
        tokio::time::advance(CONFIRM_AFTER).await;
        assert!(test.begin(TTL));
        assert_eq!(test.saw(Sighting::Taken), Some(Truth::Blind), "the first was a fault");
        tokio::time::advance(CONFIRM_AFTER).await;
        for truth in [None, Some(Truth::Truthful)] {
            assert!(test.begin(TTL));
            assert_eq!(test.saw(Sighting::Refused), truth);
            tokio::time::advance(CONFIRM_AFTER).await;
        }
    }
}
