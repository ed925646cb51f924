//! How one session goes: the recipients it asked for, and how patient it has to be.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::hour::Tally;
use crate::config;

/// What a session has done so far.
#[derive(Debug, Default)]
pub struct Conduct {
    unknown: u32,
    accepted: bool,
    refusals: u32,
    /// Of recipients that are being looked up; atomic, because a batch is judged at once.
    now_unknown: AtomicU32,
    now_known: AtomicU32,
}

impl Conduct {
    /// A recipient was found to be unknown.
    pub fn named_unknown(&self) {
        self.now_unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// A recipient was accepted.
    pub fn named_known(&self) {
        self.now_known.fetch_add(1, Ordering::Relaxed);
    }

    /// What came of the recipients that were looked up since the last time.
    pub fn take(&mut self) -> Tally {
        let (unknown, known) = (&mut self.now_unknown, &mut self.now_known);
        let tally =
            Tally { unknown: std::mem::take(unknown.get_mut()), known: std::mem::take(known.get_mut()) };
        self.unknown = self.unknown.saturating_add(tally.unknown);
        self.accepted |= tally.known > 0;
        tally
    }

    /// How many recipients may be looked up, all of which may prove unknown; none when it had its share.
    #[must_use]
    pub fn allowance(&self, limits: &config::Harvest) -> usize {
        match limits.max_unknown_per_session {
            Some(most) if !self.accepted => most.saturating_sub(self.unknown) as usize,
            _ => usize::MAX,
        }
    }

    /// The pause before the next refusal: each is twice as long as the one before.
    pub fn pause(&mut self, limits: &config::Harvest) -> Duration {
        let doubled = 2_u32.saturating_pow(self.refusals);
        self.refusals = self.refusals.saturating_add(1);
        limits.tarpit.saturating_mul(doubled).min(limits.tarpit_max)
    }
}
