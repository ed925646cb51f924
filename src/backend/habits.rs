//! What a backend was seen to do, as one who asks it about recipients learns it.
//!
//! Learnt from its behaviour rather than configured, taken for less than it was seen to be when it disappoints,
//! and forgotten slowly: by one with each session or transaction that goes well.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Refusals in one session after which it is left until the backend has shown that it endures more: from the tenth on
/// each further reply of Postfix, also to RSET and to QUIT, takes a second.
const REFUSALS_ENDURED: u32 = 9;
/// More are never dared.
const MOST_REFUSALS: u32 = 1000;
/// Questions asked in one write.
pub const MAX_BATCH: usize = 16;
/// The same until its pace is known: behind a tarpit of five seconds a refusal the last of them is answered after 20.
const FIRST_BATCH: usize = 4;
/// What the answers to one batch may take together: whoever waits behind it waits as long.
const BATCH_TIME: Duration = Duration::from_secs(2);
/// Answers that take so long, and [`SLOWER`] times as long as usual, while we ask for more than was proved, show that the backend has had enough.
const SLOW: Duration = Duration::from_millis(500);
/// See [`SLOW`].
const SLOWER: u32 = 8;
/// A limit that was met is tried again after so long.
const TRIAL_EVERY: Duration = Duration::from_secs(3600);

/// What is known of a backend's manners.
#[derive(Debug)]
pub struct Habits {
    patience: Mutex<Patience>,
    /// Recipients it takes in one transaction of a probe; 1 until it has shown more.
    recipients: AtomicU32,
    tried: Mutex<Option<Instant>>,
    /// Microseconds it takes for an answer, smoothed, at least 1; 0 is not known.
    pace: AtomicU64,
}

/// Refusals it endures in one session, as far as is known.
#[derive(Debug)]
struct Patience {
    endured: u32,
    /// As many were endured in a session that went well.
    proved: u32,
    /// How many more are dared the next time.
    step: u32,
    /// A session dares more than was proved.
    on_trial: bool,
    /// When it was last seen to have had enough.
    limit_met: Option<Instant>,
}

/// Leave to find out whether a backend endures more.
#[derive(Debug)]
pub struct Trial<'h>(&'h Habits);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.patience().on_trial = false;
    }
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

impl Habits {
    /// Nothing is known yet; it is taken to endure so many refusals in one session.
    #[must_use]
    pub fn starting_with(refusals: u32) -> Self {
        Self {
            patience: Mutex::new(Patience {
                endured: refusals.clamp(1, REFUSALS_ENDURED),
                proved: refusals.clamp(1, REFUSALS_ENDURED),
                step: 1,
                on_trial: false,
                limit_met: None,
            }),
            recipients: AtomicU32::new(1),
            tried: Mutex::new(None),
            pace: AtomicU64::new(0),
        }
    }

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
        self.patience().endured
    }

    /// It ended a session after this many refusals: the next ones are left earlier. By halves, since one end may
    /// have had another reason.
    pub fn cut_off_after(&self, refusals: u32) {
        if refusals > 0 {
            let mut patience = self.patience();
            let endured = refusals.max(patience.endured / 2).clamp(1, patience.endured.max(1));
            patience.met_limit(endured);
        }
    }

    /// Leave for one session to come to more refusals than was proved: to find out that it is too much costs all that
    /// is asked on it a wait. Over when dropped.
    pub fn trial(&self) -> Option<Trial<'_>> {
        let mut patience = self.patience();
        let due = patience.endured > patience.proved && !patience.on_trial;
        patience.on_trial |= due;
        // Made only when due: one that is dropped at once would wait for the lock held here.
        due.then(|| Trial(self))
    }

    /// Refusals after which a session without such leave is left.
    #[must_use]
    pub fn proved(&self) -> u32 {
        let patience = self.patience();
        patience.proved.min(patience.endured)
    }

    /// A session went well for so many refusals, as many as it might come to: more are dared, one at first. Not for a
    /// while after a limit was met, for to meet it costs somebody a wait.
    pub fn endured_all(&self, refusals: u32) {
        let mut patience = self.patience();
        patience.proved = patience.proved.max(refusals).min(patience.endured);
        if patience.proved < patience.endured {
            return;
        }
        if patience.endured < REFUSALS_ENDURED {
            patience.endured += 1;
        } else if patience.limit_met.is_none_or(|met| met.elapsed() >= TRIAL_EVERY) {
            patience.endured = (patience.endured + patience.step).min(MOST_REFUSALS);
            patience.step = patience.step.saturating_mul(2);
        }
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
        let Some(count) = u32::try_from(answers).ok().filter(|count| *count > 0) else { return };
        let each = took / count;
        let usual = Duration::from_micros(self.pace.load(Ordering::Relaxed)) * count;
        let mut patience = self.patience();
        if patience.endured > patience.proved && took >= SLOW && took >= usual * SLOWER {
            // It sleeps before it answers somebody who asks for too much. That says nothing of its pace.
            let proved = patience.proved;
            return patience.met_limit(proved);
        }
        drop(patience);
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

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Patience {
    fn met_limit(&mut self, endured: u32) {
        (self.endured, self.proved) = (endured, endured);
        self.step = 1;
        self.limit_met = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_it_endures_is_learnt_by_halves_and_forgotten_by_ones() {
        let habits = Habits::starting_with(REFUSALS_ENDURED);
        habits.cut_off_after(0);
        assert_eq!(habits.endured(), REFUSALS_ENDURED, "it ended for another reason");
        habits.cut_off_after(3);
        assert_eq!(habits.endured(), 4);
        habits.cut_off_after(3);
        assert_eq!(habits.endured(), 3);
        for expected in [4, 5, 6] {
            habits.endured_all(habits.endured());
            assert_eq!(habits.endured(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_that_endures_all_is_dared_more_and_one_that_slows_down_is_spared() {
        let habits = Habits::starting_with(REFUSALS_ENDURED);
        habits.answered(10, Duration::from_millis(10));
        habits.endured_all(habits.endured());
        assert_eq!((habits.endured(), habits.proved()), (10, 9));
        let trial = habits.trial();
        assert!(trial.is_some() && habits.trial().is_none(), "one session at a time finds out");
        habits.endured_all(9);
        assert_eq!(habits.endured(), 10, "the others prove nothing new");
        habits.answered(10, Duration::from_millis(1010));
        drop(trial);
        assert_eq!(habits.endured(), 9, "the tenth refusal was slept upon");
        assert!(habits.trial().is_none());
        assert_eq!(habits.batch(), MAX_BATCH, "which says nothing of its pace");
        habits.endured_all(habits.endured());
        assert_eq!(habits.endured(), 9, "not dared again at once");
        tokio::time::advance(TRIAL_EVERY).await;
        for expected in [10, 12, 16, 24] {
            habits.endured_all(habits.endured());
            assert_eq!(habits.endured(), expected);
        }
        (0..20).for_each(|_| habits.endured_all(habits.endured()));
        assert_eq!(habits.endured(), MOST_REFUSALS);
    }

    #[tokio::test(start_paused = true)]
    async fn one_recipient_a_transaction_until_it_has_shown_more() {
        let habits = Habits::starting_with(REFUSALS_ENDURED);
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
        let habits = Habits::starting_with(REFUSALS_ENDURED);
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
