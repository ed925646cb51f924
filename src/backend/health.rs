//! Whether a backend is worth trying: a circuit breaker.
//!
//! Closed, it is tried. After several faults in a row it rests, for `eject` at first, twice as long after each
//! failed trial, a minute at most; then one caller tries while the others are still sent away. Only faults
//! before a session is open count: what happens in a transaction says nothing about the next connection.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Faults in a row that make a backend rest.
const FAULTS_ENDURED: u32 = 3;
/// Longest rest.
const MAX_REST: Duration = Duration::from_secs(60);

/// The breaker of one backend.
#[derive(Debug)]
pub(super) struct Health {
    /// The first rest; zero: never rests.
    eject: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Tried by everyone.
    Well { faults: u32 },
    /// Tried by nobody before this time.
    Resting { until: Instant, rest: Duration },
    /// Tried by one, who has not come back yet.
    OnTrial { rest: Duration },
}

/// Leave to try. Says what came of it, or counts as a fault when dropped before.
#[derive(Debug)]
pub(super) struct Attempt<'h> {
    health: Option<&'h Health>,
}

impl Health {
    pub(super) fn new(eject: Duration) -> Self {
        Self { eject, state: Mutex::new(State::Well { faults: 0 }) }
    }

    /// Leave to try now; none while the backend rests.
    pub(super) fn attempt(&self) -> Option<Attempt<'_>> {
        let mut state = self.state();
        match *state {
            State::Well { .. } => {}
            State::Resting { until, rest } if until <= Instant::now() => *state = State::OnTrial { rest },
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

    fn failed(&self) {
        let mut state = self.state();
        let rest = match *state {
            _ if self.eject.is_zero() => return,
            State::Well { faults } if faults + 1 < FAULTS_ENDURED => {
                *state = State::Well { faults: faults + 1 };
                return;
            }
            State::Well { .. } => self.eject,
            State::OnTrial { rest } => rest.saturating_mul(2),
            // A caller from before the rest began: it is counted already.
            State::Resting { .. } => return,
        };
        let rest = rest.min(MAX_REST);
        *state = State::Resting { until: Instant::now() + rest, rest };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// Whether the backend is well was not found out.
    pub(super) fn undecided(mut self) {
        // One on trial rests on: nothing speaks for it.
        if let Some(health) = self.health
            && matches!(*health.state(), State::Well { .. })
        {
            self.health = None;
        }
    }

    /// The backend took us.
    pub(super) fn succeeded(mut self) {
        if let Some(health) = self.health.take() {
            *health.state() = State::Well { faults: 0 };
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
            drop(health.attempt().unwrap());
        }
        for rest in [5, 10, 20, 40, 60, 60] {
            assert_eq!(health.rests_for(), Some(rest * SECOND));
            assert!(health.attempt().is_none());
            tokio::time::advance(rest * SECOND).await;
            let trial = health.attempt().unwrap();
            assert!(health.attempt().is_none(), "one trial at a time");
            drop(trial);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_goes_well_ends_the_rest() {
        let health = Health::new(5 * SECOND);
        for _ in 0..FAULTS_ENDURED {
            drop(health.attempt().unwrap());
        }
        tokio::time::advance(5 * SECOND).await;
        health.attempt().unwrap().succeeded();
        assert_eq!(health.rests_for(), None);
        for _ in 1..FAULTS_ENDURED {
            drop(health.attempt().unwrap());
        }
        health.attempt().unwrap().succeeded();
        drop(health.attempt().unwrap());
        assert_eq!(health.rests_for(), None, "only faults in a row count");
    }

    #[tokio::test(start_paused = true)]
    async fn zero_never_rests() {
        let health = Health::new(Duration::ZERO);
        for _ in 0..10 {
            drop(health.attempt().unwrap());
        }
        assert!(health.attempt().is_some());
    }
}
