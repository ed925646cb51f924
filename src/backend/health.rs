//! Whether a backend is worth trying: a circuit breaker.
//!
//! Closed, it is tried. After several faults in a row it rests, for `eject` at first, twice as long after each
//! failed trial, a minute at most; then one caller tries while the others are still sent away. Only faults
//! before a session is open count: what happens in a transaction says nothing about the next connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Faults in a row that make a backend rest.
const FAULTS_ENDURED: u32 = 3;
/// Longest rest.
const MAX_REST: Duration = Duration::from_secs(60);
/// A check that is to try a backend comes within so long after its rest.
const CHECK_COMES: Duration = Duration::from_secs(5);

/// A fault is held against a backend for so long where others serve as well.
const SHAKY: Duration = Duration::from_secs(5);

/// Whether a backend is worth trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is.
    Well,
    /// It failed a moment ago: after others that did not.
    Shaky,
    /// It rests.
    Resting,
}

/// The breaker of one backend.
#[derive(Debug)]
pub(super) struct Health {
    /// The first rest; zero: never rests.
    eject: Duration,
    state: Mutex<State>,
    /// Checks try one that rested.
    is_checked: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Tried by everyone.
    Well { faults: u32, last: Option<Instant> },
    /// Tried by nobody before this time.
    Resting { until: Instant, rest: Duration, why: Why },
    /// Tried by one, who has not come back yet.
    OnTrial { rest: Duration, why: Why },
}

/// Why a backend rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It took no session several times in a row.
    NoSession,
    /// It takes sessions, and is not well all the same.
    Condemned,
}

/// Who wants to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trier {
    /// Somebody who has something to ask or to deliver.
    User,
    /// A check, at the risk of nobody.
    Check,
}

/// Leave to try. Says what came of it, or counts as a fault when dropped before.
#[derive(Debug)]
pub(super) struct Attempt<'h> {
    health: Option<&'h Health>,
}

impl Health {
    pub(super) fn new(eject: Duration) -> Self {
        let state = Mutex::new(State::Well { faults: 0, last: None });
        Self { eject, state, is_checked: AtomicBool::new(false) }
    }

    /// From now on checks try it after its rest, so that users do only when none came for a while.
    pub(super) fn leave_trials_to_checks(&self) {
        self.is_checked.store(true, Ordering::Relaxed);
    }

    /// Leave to try now; none while the backend rests.
    pub(super) fn attempt(&self, who: Trier) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let waits = who == Trier::User && self.is_checked.load(Ordering::Relaxed);
        let late = if waits { CHECK_COMES } else { Duration::ZERO };
        match *state {
            State::Well { .. } => {}
            State::Resting { until, rest, why } if until + late <= Instant::now() => {
                *state = State::OnTrial { rest, why };
            }
            State::Resting { .. } | State::OnTrial { .. } => return None,
        }
        Some(Attempt { health: Some(self) })
    }

    /// How long it rests yet; none when it is tried.
    pub(super) fn rests_for(&self) -> Option<Duration> {
        match *self.state() {
            State::Well { .. } => None,
            State::Resting { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            State::OnTrial { .. } => Some(Duration::ZERO),
        }
    }

    /// Whether it is worth trying.
    pub(super) fn standing(&self) -> Standing {
        match *self.state() {
            State::Well { last, .. } if last.is_some_and(|last| last.elapsed() < SHAKY) => Standing::Shaky,
            State::Well { .. } => Standing::Well,
            State::Resting { .. } | State::OnTrial { .. } => Standing::Resting,
        }
    }

    fn failed(&self) {
        let mut state = self.state();
        let rest = match *state {
            State::Well { .. } if self.eject.is_zero() => {
                *state = State::Well { faults: 0, last: Some(Instant::now()) };
                return;
            }
            State::Well { faults, .. } if faults + 1 < FAULTS_ENDURED => {
                *state = State::Well { faults: faults + 1, last: Some(Instant::now()) };
                return;
            }
            State::Well { .. } => self.eject,
            State::OnTrial { rest, .. } => rest.saturating_mul(2),
            // A caller from before the rest began: it is counted already.
            State::Resting { .. } => return,
        };
        *state = State::rest_for(rest, Why::NoSession);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rest_for(rest: Duration, why: Why) -> Self {
        let rest = rest.min(MAX_REST);
        Self::Resting { until: Instant::now() + rest, rest, why }
    }
}

impl Attempt<'_> {
    /// The backend took us, and is not well all the same: it rests at once. Sessions with users would clear its name
    /// between two checks.
    pub(super) fn condemned(mut self) {
        let Some(health) = self.health.take() else { return };
        let mut state = health.state();
        match *state {
            _ if health.eject.is_zero() => {
                *state = State::Well { faults: 0, last: Some(Instant::now()) };
            }
            State::Well { .. } => *state = State::rest_for(health.eject, Why::Condemned),
            State::OnTrial { rest, .. } => *state = State::rest_for(rest.saturating_mul(2), Why::Condemned),
            State::Resting { .. } => {}
        }
    }

    /// Whether the backend is well was not found out.
    pub(super) fn undecided(mut self) {
        // One on trial rests on: nothing speaks for it.
        if let Some(health) = self.health
            && matches!(*health.state(), State::Well { .. })
        {
            self.health = None;
        }
    }

    /// The backend took us, and does not say now whether it is well: one that was condemned rests on.
    pub(super) fn unless_condemned(mut self) -> Option<Self> {
        if let Some(health) = self.health {
            let mut state = health.state();
            if let State::OnTrial { rest, why: Why::Condemned } = *state {
                *state = State::rest_for(rest, Why::Condemned);
                self.health = None;
            }
        }
        self.health.is_some().then_some(self)
    }

    /// The backend took us.
    pub(super) fn succeeded(mut self) {
        if let Some(health) = self.health.take() {
            let mut state = health.state();
            // One that takes sessions and is not well takes those begun before it was found out.
            if !matches!(*state, State::Resting { why: Why::Condemned, .. }) {
                *state = State::Well { faults: 0, last: None };
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if let Some(health) = self.health {
            health.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn several_faults_in_a_row_make_a_backend_rest_for_longer_each_time() {
        let health = Health::new(5 * SECOND);
        for _ in 0..FAULTS_ENDURED {
            drop(health.attempt(Trier::User).unwrap());
        }
        for rest in [5, 10, 20, 40, 60, 60] {
            assert_eq!(health.rests_for(), Some(rest * SECOND));
            assert!(health.attempt(Trier::User).is_none());
            tokio::time::advance(rest * SECOND).await;
            let trial = health.attempt(Trier::User).unwrap();
            assert!(health.attempt(Trier::User).is_none(), "one trial at a time");
            drop(trial);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_goes_well_ends_the_rest() {
        let health = Health::new(5 * SECOND);
        for _ in 0..FAULTS_ENDURED {
            drop(health.attempt(Trier::User).unwrap());
        }
        tokio::time::advance(5 * SECOND).await;
        health.attempt(Trier::User).unwrap().succeeded();
        assert_eq!(health.rests_for(), None);
        for _ in 1..FAULTS_ENDURED {
            drop(health.attempt(Trier::User).unwrap());
        }
        health.attempt(Trier::User).unwrap().succeeded();
        drop(health.attempt(Trier::User).unwrap());
        assert_eq!(health.rests_for(), None, "only faults in a row count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_is_the_trial_where_there_are_checks() {
        let health = Health::new(5 * SECOND);
        health.leave_trials_to_checks();
        for _ in 0..FAULTS_ENDURED {
            drop(health.attempt(Trier::User).unwrap());
        }
        tokio::time::advance(5 * SECOND).await;
        assert!(health.attempt(Trier::User).is_none(), "no mail is the guinea pig");
        drop(health.attempt(Trier::Check).unwrap());
        tokio::time::advance(10 * SECOND).await;
        assert!(health.attempt(Trier::User).is_none());
        tokio::time::advance(CHECK_COMES).await;
        assert!(health.attempt(Trier::User).is_some(), "unless no check comes");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_condemned_rests_at_once_and_no_earlier_session_clears_it() {
        let health = Health::new(5 * SECOND);
        let before = health.attempt(Trier::User).unwrap();
        health.attempt(Trier::Check).unwrap().condemned();
        assert_eq!(health.standing(), Standing::Resting);
        before.succeeded();
        assert_eq!(health.standing(), Standing::Resting);
        tokio::time::advance(5 * SECOND).await;
        health.attempt(Trier::Check).unwrap().condemned();
        assert_eq!(health.rests_for(), Some(10 * SECOND));
        tokio::time::advance(10 * SECOND).await;
        health.attempt(Trier::Check).unwrap().succeeded();
        assert_eq!(health.standing(), Standing::Well);
    }

    #[tokio::test(start_paused = true)]
    async fn doubt_ends_the_rest_of_one_that_took_no_session_but_not_of_one_condemned() {
        let health = Health::new(5 * SECOND);
        for _ in 0..FAULTS_ENDURED {
            drop(health.attempt(Trier::User).unwrap());
        }
        tokio::time::advance(5 * SECOND).await;
        health.attempt(Trier::Check).unwrap().unless_condemned().unwrap().succeeded();
        assert_eq!(health.standing(), Standing::Well);
        health.attempt(Trier::Check).unwrap().condemned();
        tokio::time::advance(5 * SECOND).await;
        assert!(health.attempt(Trier::Check).unwrap().unless_condemned().is_none());
        assert_eq!(health.rests_for(), Some(5 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_never_rests() {
        let health = Health::new(Duration::ZERO);
        for _ in 0..10 {
            drop(health.attempt(Trier::User).unwrap());
        }
        assert!(health.attempt(Trier::User).is_some());
    }
}
