//! How the numbers moved in the last quarter of an hour, second by second, so that a page opened later has it too.
//!
//! Nothing is added where things happen: once a second the counters are read and what they grew by is kept.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::interval;

use super::Panel;
use super::answer::{self, Answer, Refusal};
use crate::observe::metrics::{Metrics, Totals};

/// Seconds that are kept.
const SECONDS: usize = 15 * 60;
/// The step.
const STEP: Duration = Duration::from_secs(1);

/// What was counted within a second.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Rates {
    /// The end of that second, since 1970.
    time: u64,
    accepted: u64,
    refused: u64,
    undetermined: u64,
    would_refuse: u64,
    /// Verdicts looked for, and those the cache had.
    verified: u64,
    cached: u64,
    /// Recipients asked about, and the time from asking to the answer, of all of them together.
    probes: u64,
    probe_seconds: f64,
    /// Sessions that ended.
    sessions: u64,
}

/// The last seconds.
#[derive(Debug)]
pub struct History {
    seconds: Mutex<VecDeque<Rates>>,
    latest: watch::Sender<Rates>,
}

/// `GET /api/v1/history`: the numbers of each second, the oldest first; as many in each list.
#[derive(Debug, Default, Serialize)]
struct Columns {
    step_seconds: u64,
    time: Vec<u64>,
    accepted: Vec<u64>,
    refused: Vec<u64>,
    undetermined: Vec<u64>,
    would_refuse: Vec<u64>,
    verified: Vec<u64>,
    cached: Vec<u64>,
    probes: Vec<u64>,
    probe_seconds: Vec<f64>,
    sessions: Vec<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self { seconds: Mutex::default(), latest: watch::Sender::new(Rates::default()) }
    }
}

impl History {
    /// Follows the counters, for ever.
    pub(super) async fn follow(&self, metrics: &Metrics) {
        let mut ticks = interval(STEP);
        ticks.tick().await;
        let mut before = metrics.totals();
        loop {
            ticks.tick().await;
            let now = metrics.totals();
            self.add(Rates::between(&before, &now));
            before = now;
        }
    }

    /// What the seconds to come will hold.
    pub(super) fn watch(&self) -> watch::Receiver<Rates> {
        self.latest.subscribe()
    }

    fn add(&self, rates: Rates) {
        let mut seconds = self.lock();
        if seconds.len() == SECONDS {
            seconds.pop_front();
        }
        seconds.push_back(rates);
        drop(seconds);
        self.latest.send_replace(rates);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Rates>> {
        self.seconds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rates {
    fn between(before: &Totals, now: &Totals) -> Self {
        Self {
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            accepted: now.accepted.saturating_sub(before.accepted),
            refused: now.refused.saturating_sub(before.refused),
            undetermined: now.undetermined.saturating_sub(before.undetermined),
            would_refuse: now.would_refuse.saturating_sub(before.would_refuse),
            verified: now.verified.saturating_sub(before.verified),
            cached: now.cached.saturating_sub(before.cached),
            probes: now.probes.saturating_sub(before.probes),
            probe_seconds: (now.probe_seconds - before.probe_seconds).max(0.0),
            sessions: now.sessions.saturating_sub(before.sessions),
        }
    }
}

/// The last seconds, or as many of them as `?seconds=N` says.
pub(super) fn show(panel: &Panel, parameters: &[(String, String)]) -> Result<Answer, Refusal> {
    let wanted = match parameters.iter().find(|(name, _)| name == "seconds") {
        None => SECONDS,
        Some((_, text)) => text.parse().map_err(|_| Refusal::Seconds(text.clone()))?,
    };
    let mut columns = Columns { step_seconds: STEP.as_secs(), ..Columns::default() };
    let seconds = panel.history.lock();
    for rates in seconds.range(seconds.len().saturating_sub(wanted)..) {
        columns.time.push(rates.time);
        columns.accepted.push(rates.accepted);
        columns.refused.push(rates.refused);
        columns.undetermined.push(rates.undetermined);
        columns.would_refuse.push(rates.would_refuse);
        columns.verified.push(rates.verified);
        columns.cached.push(rates.cached);
        columns.probes.push(rates.probes);
        columns.probe_seconds.push(rates.probe_seconds);
        columns.sessions.push(rates.sessions);
    }
    drop(seconds);
    Ok(answer::json(&columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_an_hour_is_kept() {
        let history = History::default();
        for second in 0..SECONDS as u64 + 10 {
            history.add(Rates { time: second, ..Rates::default() });
        }
        let seconds = history.lock();
        assert_eq!((seconds.len(), seconds[0].time), (SECONDS, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn each_second_holds_what_was_counted_in_it() {
        let (history, metrics) = (History::default(), Metrics::new());
        let mut watched = history.watch();
        let following = history.follow(&metrics);
        let counting = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            for sessions in [3_u64, 0, 2] {
                (0..sessions).for_each(|_| metrics.session_ended(STEP));
                watched.changed().await.expect("it follows");
                assert_eq!(watched.borrow_and_update().sessions, sessions);
            }
        };
        tokio::select! {
            () = following => {}
            () = counting => {}
        }
    }
}
