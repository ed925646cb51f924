//! What a backend was seen to do, as one who asks it about recipients learns it.
//!
//! Learnt from its behaviour rather than configured, taken for less than it was seen to be when it disappoints,
//! and forgotten slowly: by one with each session or transaction that goes well.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refusals in one session after which it is left at the latest: from the tenth on each further reply of Postfix, also
/// to RSET and to QUIT, takes a second.
const REFUSALS_ENDURED: u32 = 9;
/// Questions asked in one write.
pub const MAX_BATCH: usize = 16;
/// The same until its pace is known: behind a tarpit of five seconds a refusal the last of them is answered after 20.
const FIRST_BATCH: usize = 4;
/// What the answers to one batch may take together: whoever waits behind it waits as long.
const BATCH_TIME: Duration = Duration::from_secs(2);
/// A server that took one recipient only is tried again after so long.
const TRIAL_EVERY: Duration = Duration::from_secs(3600);

/// What is known of a backend's manners.
#[derive(Debug)]
pub struct Habits {
    /// Refusals it endures in one session, as far as is known.
    endured: AtomicU32,
    /// Recipients it takes in one transaction of a probe; 1 until it has shown more.
    recipients: AtomicU32,
    tried: Mutex<Option<Instant>>,
    /// Microseconds it takes for an answer, smoothed, at least 1; 0 is not known.
    pace: AtomicU64,
}

/// A view of them, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// Refusals it endures in one session.
    pub refusals: u32,
    /// Recipients it takes in one transaction of a probe.
    pub recipients: u32,
    /// What it takes for an answer.
    pub pace: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            endured: AtomicU32::new(REFUSALS_ENDURED),
            recipients: AtomicU32::new(1),
            tried: Mutex::new(None),
            pace: AtomicU64::new(0),
        }
    }
}

impl Habits {
    /// What is known now.
    #[must_use]
    pub fn learnt(&self) -> Learnt {
        Learnt {
            refusals: self.endured(),
            recipients: self.recipients(),
            pace: Duration::from_micros(self.pace.load(Ordering::Relaxed)),
        }
    }

    /// Refusals after which a session is left.
    #[must_use]
    pub fn endured(&self) -> u32 {
        self.endured.load(Ordering::Relaxed).clamp(1, REFUSALS_ENDURED)
    }

    /// It ended a session after this many refusals: the next ones are left earlier. By halves, since one end may
    /// have had another reason.
    pub fn cut_off_after(&self, refusals: u32) {
        if refusals > 0 {
            let endured = refusals.max(self.endured() / 2).min(REFUSALS_ENDURED);
            self.endured.store(endured, Ordering::Relaxed);
        }
    }

    /// A session went well for as many refusals as we dared.
    pub fn endured_all(&self) {
        let endured = self.endured();
        self.endured.store((endured + 1).min(REFUSALS_ENDURED), Ordering::Relaxed);
    }

    /// Recipients that may be asked about in one transaction.
    #[must_use]
    pub fn recipients(&self) -> u32 {
        self.recipients.load(Ordering::Relaxed).max(1)
    }

    /// Whether it is time to find out if it takes more than one; the asker then does.
    pub fn try_several(&self) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.recipients() == 1 && tried.is_none_or(|last| last.elapsed() >= TRIAL_EVERY);
        if due {
            *tried = Some(Instant::now());
        }
        due
    }

    /// It took a second recipient that is known to be good.
    pub fn takes_several(&self) {
        self.recipients.store(u32::try_from(MAX_BATCH).unwrap_or(1), Ordering::Relaxed);
    }

    /// It took so many recipients and said that the next was too many.
    pub fn limited_to(&self, recipients: usize) {
        let recipients = u32::try_from(recipients).unwrap_or(1).max(1);
        self.recipients.fetch_min(recipients, Ordering::Relaxed);
    }

    /// It took as many recipients as we dared, fewer than we would like.
    pub fn took_all(&self) {
        let dared = self.recipients();
        if dared > 1 && dared < u32::try_from(MAX_BATCH).unwrap_or(1) {
            self.recipients.store(dared + 1, Ordering::Relaxed);
        }
    }

    /// So many answers took so long.
    pub fn answered(&self, answers: usize, took: Duration) {
        let Some(each) = u32::try_from(answers).ok().filter(|n| *n > 0).map(|n| took / n) else { return };
        let (old, new) =
            (self.pace.load(Ordering::Relaxed), u64::try_from(each.as_micros()).unwrap_or(u64::MAX));
        // Slowness is believed at once, haste by and by.
        let pace = match old {
            0 => new,
            _ if new > old => old / 2 + new / 2,
            _ => old - (old - new) / 4,
        };
        self.pace.store(pace.max(1), Ordering::Relaxed);
    }

    /// Questions that may be asked in one write: fewer where each answer takes long, as with a tarpit.
    #[must_use]
    pub fn batch(&self) -> usize {
        let pace = self.pace.load(Ordering::Relaxed);
        if pace == 0 {
            return FIRST_BATCH;
        }
        let most = u64::try_from(BATCH_TIME.as_micros()).unwrap_or(u64::MAX) / pace;
        usize::try_from(most).unwrap_or(MAX_BATCH).clamp(1, MAX_BATCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_endures_is_learnt_by_halves_and_forgotten_by_ones() {
        let habits = Habits::default();
        habits.cut_off_after(0);
        assert_eq!(habits.endured(), REFUSALS_ENDURED, "it ended for another reason");
        habits.cut_off_after(3);
        assert_eq!(habits.endured(), 5);
        habits.cut_off_after(3);
        assert_eq!(habits.endured(), 3);
        for expected in [4, 5, 6] {
            habits.endured_all();
            assert_eq!(habits.endured(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_recipient_a_transaction_until_it_has_shown_more() {
        let habits = Habits::default();
        assert_eq!(habits.recipients(), 1);
        assert!(habits.try_several());
        assert!(!habits.try_several(), "not with every batch");
        tokio::time::advance(TRIAL_EVERY).await;
        assert!(habits.try_several());
        habits.takes_several();
        assert_eq!(habits.recipients(), 16);
        habits.limited_to(4);
        habits.took_all();
        assert_eq!(habits.recipients(), 5);
        habits.limited_to(1);
        habits.took_all();
        assert_eq!(habits.recipients(), 1, "to show more it must be tried");
    }

    #[test]
    fn a_slow_store_is_asked_little_at_a_time() {
        let habits = Habits::default();
        assert_eq!(habits.batch(), FIRST_BATCH, "it may be a tarpit");
        habits.answered(10, Duration::ZERO);
        assert_eq!(habits.batch(), MAX_BATCH);
        habits.answered(10, Duration::from_millis(10));
        assert_eq!(habits.batch(), MAX_BATCH);
        for _ in 0..5 {
            habits.answered(1, Duration::from_secs(5));
        }
        assert_eq!(habits.batch(), 1);
        for _ in 0..40 {
            habits.answered(16, Duration::from_millis(16));
        }
        assert_eq!(habits.batch(), MAX_BATCH);
    }
}
