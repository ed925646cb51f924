//! The ill-store brake: mailboxes do not vanish in numbers, user tables do.
//!
//! When known-good recipients of a domain turn unknown in numbers, or one does together with another that is
//! asked for comparison (a *witness*), the store is ill and its refusals are not believed: 451, nothing
//! remembered, until it knows a recipient again. What set the brake off is kept in mind for its window, so
//! that a store that knows some of its mailboxes and not others does not get away with a few at a time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Recipients that turned count for so long.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Fewer are taken for what they look like: mailboxes that were closed.
const AT_LEAST: usize = 5;
/// The share of a domain's good entries, in percent, above which it is not.
const PERCENT: usize = 5;
/// While it is on, a witness is asked this often.
const RECOVERY_EVERY: Duration = Duration::from_secs(10);
/// Recipients that turned are kept in mind up to so many.
const MOST: usize = 1024;

/// The brake of one domain.
#[derive(Debug, Default)]
pub(super) struct Brake {
    turned: VecDeque<Instant>,
    on: bool,
    /// When a witness was asked last whether the store has recovered.
    asked: Option<Instant>,
}

/// What an event did to the brake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Braking {
    /// It is on now, and was not.
    Began,
    /// It is off now, and was not.
    Ended,
    /// As before.
    Unchanged,
}

impl Brake {
    /// Whether refusals are not to be believed.
    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    /// A good recipient was refused for good, of `good` that the domain had.
    pub(super) fn turned(&mut self, good: usize) -> Braking {
        let now = Instant::now();
        self.turned.push_back(now);
        while self.turned.len() > MOST || self.turned.front().is_some_and(|first| now - *first > WINDOW) {
            self.turned.pop_front();
        }
        let turned = self.turned.len();
        if turned >= AT_LEAST && turned * 100 > good.max(turned) * PERCENT {
            self.set()
        } else {
            Braking::Unchanged
        }
    }

    /// Of two good recipients that were asked together neither is known any more.
    pub(super) fn set(&mut self) -> Braking {
        if std::mem::replace(&mut self.on, true) { Braking::Unchanged } else { Braking::Began }
    }

    /// Whether a witness should be asked now if the store has recovered; the caller then does.
    pub(super) fn begin_recovery(&mut self) -> bool {
        let due = self.on && self.asked.is_none_or(|last| last.elapsed() >= RECOVERY_EVERY);
        if due {
            self.asked = Some(Instant::now());
        }
        due
    }

    /// The store knows a recipient.
    pub(super) fn knows(&mut self) -> Braking {
        if std::mem::replace(&mut self.on, false) { Braking::Ended } else { Braking::Unchanged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_that_turn_within_minutes_set_it_off() {
        let mut brake = Brake::default();
        for _ in 1..AT_LEAST {
            assert_eq!(brake.turned(20), Braking::Unchanged);
        }
        assert_eq!(brake.turned(20), Braking::Began);
        assert_eq!(brake.knows(), Braking::Ended);
        assert_eq!(brake.turned(20), Braking::Began, "what was seen is kept in mind");
        assert_eq!(brake.turned(20), Braking::Unchanged);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_of_many_or_over_a_long_time_are_closed_mailboxes() {
        let mut brake = Brake::default();
        for _ in 0..50 {
            assert_eq!(brake.turned(1000), Braking::Unchanged);
        }
        assert_eq!(brake.turned(1000), Braking::Began, "51 are more than 5 percent of 1000");
        let mut brake = Brake::default();
        for _ in 0..50 {
            assert_eq!(brake.turned(10), Braking::Unchanged);
            tokio::time::advance(WINDOW / 3).await;
        }
    }
}
