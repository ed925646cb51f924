//! Sums over all routes, for whoever draws how they grow.

use super::{Label as _, Metrics, ProbeResult, RecipientResult, RecipientSource};

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Recipients the backends took.
    pub accepted: u64,
    /// Recipients refused for good or for a limit.
    pub refused: u64,
    /// Recipients nobody could say anything about.
    pub undetermined: u64,
    /// Recipients that would have been refused, were it not for shadow mode.
    pub would_refuse: u64,
    /// Recipients whose verdict was looked for.
    pub verified: u64,
    /// Those of them that the cache answered.
    pub cached: u64,
    /// Recipients asked about at a mail store.
    pub probes: u64,
    /// Time from asking to the answer, of all of them together.
    pub probe_seconds: f64,
    /// Sessions that ended.
    pub sessions: u64,
}

impl Metrics {
    /// Everything until now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, route) in self.routes() {
            for result in RecipientResult::ALL {
                let recipients = route.recipients(*result);
                match result {
                    RecipientResult::Accepted => totals.accepted += recipients,
                    RecipientResult::Undetermined => totals.undetermined += recipients,
                    RecipientResult::Unknown
                    | RecipientResult::RelayDenied
                    | RecipientResult::Limited
                    | RecipientResult::Refused => totals.refused += recipients,
                }
            }
            totals.would_refuse += route.refusals().iter().map(|counted| counted.would).sum::<u64>();
            totals.probes += ProbeResult::ALL.iter().map(|result| route.probes(*result)).sum::<u64>();
        }
        // What the configuration says was not looked for.
        for source in [RecipientSource::Cache, RecipientSource::Shared, RecipientSource::Probe] {
            totals.verified += self.0.verify_duration.get(source).get_sample_count();
        }
        totals.cached = self.0.verify_duration.get(RecipientSource::Cache).get_sample_count();
        totals.probe_seconds = self.0.probe_duration.get_sample_sum();
        totals.sessions = self.0.session_duration.get_sample_count();
        totals
    }
}
