//! Keys that another key makes ineffective. The configuration works without them, so they are warned about
//! and never refused; the settings are looked at as written, before anything is filled in.

use crate::config::choice::{BareNewline, Mode, RouteTls, SourceKind};
use crate::config::finding::Findings;
use crate::config::settings::{Cache, Route, Settings, Verify};
use crate::config::value::Period;

/// Warns about every one.
pub(super) fn warn(settings: &Settings, findings: &mut Findings) {
    let Settings { cache, limits, admin, .. } = settings;
    warn_cache(cache, findings);
    let per_client = "limits.max_connections_per_client";
    if findings.written.contains_key(per_client) && limits.max_connections_per_client > limits.max_connections
    {
        let reason =
            format!("has no effect: limits.max_connections ({}) is reached before", limits.max_connections);
        findings.warn(per_client, reason, "write a number below limits.max_connections");
    }
    if limits.bare_newline == BareNewline::Normalize && !limits.bare_newline_exempt.is_empty() {
        let reason = "has no effect: limits.bare_newline = \"normalize\" exempts everyone";
        findings.warn("limits.bare_newline_exempt", reason, "write bare_newline = \"reject\", or remove it");
    }
    warn_harvest(settings, findings);
    let tokens = [("admin.token", admin.token.is_some()), ("admin.token_file", admin.token_file.is_some())];
    for (key, _) in tokens.iter().filter(|(_, given)| *given && admin.address.is_none()) {
        let reason = "has no effect: admin.address is empty";
        findings.warn(key, reason, "write address = \"127.0.0.1:9525\" under [admin], or remove it");
    }
    for (at, route) in settings.route.iter().enumerate() {
        warn_tls(&format!("route[{at}]"), route, findings);
        warn_verify(&format!("route[{at}].verify"), &route.verify, cache, findings);
    }
}

fn warn_harvest(settings: &Settings, findings: &mut Findings) {
    let harvest = &settings.harvest;
    if harvest.tarpit_max < harvest.tarpit {
        let reason = format!(
            "{} has no effect: harvest.tarpit ({}) is already longer",
            harvest.tarpit_max, harvest.tarpit
        );
        findings.warn("harvest.tarpit_max", reason, "write a duration not below harvest.tarpit");
    }
    let off = [
        ("harvest.ban", harvest.max_unknown_per_hour == 0, "harvest.max_unknown_per_hour = 0 bans nobody"),
        ("harvest.tarpit_max", harvest.tarpit == Period::ZERO, "harvest.tarpit = \"0s\" makes nobody wait"),
    ];
    for (key, is_off, because) in off {
        if is_off && findings.written.contains_key(key) {
            findings.warn(key, format!("has no effect: {because}"), "remove it");
        }
    }
}

fn warn_cache(cache: &Cache, findings: &mut Findings) {
    if cache.positive_refresh >= cache.positive_ttl {
        let reason = format!(
            "{} has no effect: it is not before cache.positive_ttl ({}), when the entry ends",
            cache.positive_refresh, cache.positive_ttl
        );
        findings.warn("cache.positive_refresh", reason, "write a duration below cache.positive_ttl");
    }
    if cache.shared.is_none() && cache.shared_prefix != Cache::default().shared_prefix {
        let reason = "has no effect: cache.shared is empty";
        findings.warn("cache.shared_prefix", reason, "write cache.shared, or remove it");
    }
    if cache.negative_ttl_max < cache.negative_ttl {
        let reason = format!(
            "{} has no effect: cache.negative_ttl ({}) is already longer",
            cache.negative_ttl_max, cache.negative_ttl
        );
        findings.warn("cache.negative_ttl_max", reason, "write a duration not below cache.negative_ttl");
    }
}

fn warn_tls(key: &str, route: &Route, findings: &mut Findings) {
    let tls = route.tls;
    for (name, given, used) in [
        ("tls_pins", !route.tls_pins.is_empty(), tls == RouteTls::Pin),
        ("tls_ca", route.tls_ca.is_some(), tls == RouteTls::Verify),
        ("tls_name", route.tls_name.is_some(), tls != RouteTls::Off),
    ] {
        if given && !used {
            let reason = format!("has no effect: tls = {:?} does not look at it", tls.as_str());
            let remedy = "remove it, or write tls = \"verify\" (tls_ca, tls_name) or \"pin\" (tls_pins)";
            findings.warn(&format!("{key}.{name}"), reason, remedy);
        }
    }
}

fn warn_verify(key: &str, verify: &Verify, cache: &Cache, findings: &mut Findings) {
    let (because, asks) = match (verify.mode, verify.source) {
        (Mode::Off, _) => ("mode = \"off\" asks nobody", false),
        (_, SourceKind::File) => ("source = \"file\" asks nobody", false),
        (_, SourceKind::Callout) => ("source = \"callout\" reads no file", true),
    };
    let reads = verify.mode != Mode::Off && verify.source == SourceKind::File;
    let asked_for = asking_keys(verify).into_iter().filter(|_| !asks);
    let read_for = verify.file.iter().map(|_| "file").filter(|_| !reads);
    for name in asked_for.chain(read_for) {
        findings.warn(&format!("{key}.{name}"), format!("has no effect: {because}"), "remove it");
    }
    let longest = cache.negative_ttl.max(cache.negative_ttl_max);
    if asks && verify.recheck >= longest {
        let reason = format!(
            "{} has no effect: refusals are forgotten after {longest} (cache.negative_ttl_max)",
            verify.recheck
        );
        findings.warn(&format!("{key}.recheck"), reason, "write a duration below cache.negative_ttl_max");
    }
}

/// The keys about asking the store that are not at their defaults.
fn asking_keys(verify: &Verify) -> Vec<&'static str> {
    let default = Verify::default();
    let keys = [
        ("backends", verify.backends != default.backends),
        ("stage", verify.stage != default.stage),
        ("sender", verify.sender != default.sender),
        ("fallback_sender", verify.fallback_sender != default.fallback_sender),
        ("on_unknown", verify.on_unknown != default.on_unknown),
        ("timeout", verify.timeout != default.timeout),
        ("recheck", verify.recheck != default.recheck),
    ];
    keys.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
}
