//! The keys about clients that guess recipients.

use std::time::Duration;

use crate::config::finding::Findings;
use crate::config::settings::Settings;
use crate::config::used::Harvest;

/// The longest pause: clients wait five minutes for a greeting or a reply to RCPT (RFC 5321 §4.5.3.2).
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// More in an hour are not counted exactly.
const MOST_UNKNOWN: usize = 50_000;

/// Checks them. Who is exempt elsewhere is exempt here too.
pub(super) fn check(settings: &Settings, findings: &mut Findings) -> Harvest {
    let Settings { harvest, limits, listener, .. } = settings;
    let fronts = listener.iter().flat_map(|listener| &listener.trusted);
    findings.not_zero("harvest.ban", harvest.ban);
    findings.at_least("harvest.max_clients", harvest.max_clients, 1000);
    for (key, pause) in [
        ("harvest.tarpit", harvest.tarpit),
        ("harvest.tarpit_max", harvest.tarpit_max),
        ("harvest.greet_delay", harvest.greet_delay),
    ] {
        if pause.get() > LONGEST_PAUSE {
            let reason = format!("{pause} is longer than 2m: clients would give up waiting");
            findings.fault(key, reason, "write \"10s\", or leave it out");
        }
    }
    for (key, most) in [
        ("harvest.max_unknown_per_session", harvest.max_unknown_per_session),
        ("harvest.max_unknown_per_hour", harvest.max_unknown_per_hour),
    ] {
        if most > MOST_UNKNOWN {
            let reason = format!("more than {MOST_UNKNOWN}");
            findings.fault(key, reason, format!("write {MOST_UNKNOWN} or less, or 0 for any number"));
        }
    }
    Harvest {
        max_unknown_per_session: unless_zero(harvest.max_unknown_per_session),
        max_unknown_per_hour: unless_zero(harvest.max_unknown_per_hour),
        ban: harvest.ban.get(),
        exempt: harvest.exempt.iter().chain(&limits.bypass).chain(fronts).copied().collect(),
        tarpit: harvest.tarpit.get(),
        tarpit_max: harvest.tarpit_max.max(harvest.tarpit).get(),
        greet_delay: harvest.greet_delay.unless_zero(),
        max_clients: harvest.max_clients,
    }
}

fn unless_zero(most: usize) -> Option<u32> {
    u32::try_from(most).ok().filter(|&most| most > 0)
}
