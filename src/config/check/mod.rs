//! From settings as written to the configuration as used: what one value alone cannot know.
//!
//! Each part checks what it needs and goes on after a fault, so that all are found. What is built beside a
//! fault is never used.

mod harvest;
mod ineffective;
mod listeners;
mod profile;
mod routes;
mod tls;

use std::path::{Path, PathBuf};

use super::choice::ListenerTls;
use super::finding::Findings;
use super::leaf::Leaf;
use super::secret::Secret;
use super::settings::{self, Settings};
use super::used::{Admin, Cache, Config, Dns, Limits, Log, Shared, Store, Timeouts};
use super::value::Period;
use crate::proto::address::{Domain, Mailbox};

/// Shortest longest command line (RFC 5321 §4.5.3.1.4), and the longest: it is memory of each session.
const COMMAND_LINE: std::ops::RangeInclusive<usize> = 512..=65_536;

/// Checks settings as written, and fills in what they left out. None only with a fault.
pub(super) fn check(settings: &mut Settings, host_name: &str, findings: &mut Findings) -> Option<Config> {
    ineffective::warn(settings, findings);
    complete(settings, host_name, findings);
    let hostname = hostname(settings, host_name, findings);
    let listeners = listeners::check(&settings.listener, findings);
    tls::listeners(settings, findings);
    let routes = routes::check(settings, &listeners, findings);
    let config = Config {
        tls: tls::certificates(&settings.tls, findings),
        cache: cache(&settings.cache, findings),
        store: store(&settings.cache, findings),
        limits: limits(&settings.limits, findings),
        harvest: harvest::check(settings, findings),
        timeouts: timeouts(&settings.timeouts, findings),
        dns: Dns {
            servers: settings.dns.servers.iter().map(|server| server.0).collect(),
            client_names: settings.dns.client_names,
        },
        admin: admin(&settings.admin, findings),
        log: Log {
            format: settings.log.format,
            level: settings.log.level.as_str().to_owned(),
            redact: settings.log.redact,
        },
        hostname: hostname?.into(),
        listeners,
        routes: routes?,
        shown: Default::default(),
    };
    Some(config)
}

/// Fills in the defaults that depend on other keys.
fn complete(settings: &mut Settings, host_name: &str, findings: &Findings) {
    let Settings { hostname, listener, route, tls, .. } = settings;
    for listener in listener {
        let given = if tls.certificates.is_empty() { ListenerTls::Off } else { ListenerTls::StartTls };
        listener.tls.get_or_insert(given);
    }
    *hostname = hostname.take().or_else(|| Domain::parse(host_name).ok());
    let postmaster =
        hostname.as_ref().and_then(|hostname| Mailbox::parse(&format!("postmaster@{hostname}")).ok());
    for (at, route) in route.iter_mut().enumerate() {
        let written = |key: &str| findings.written.contains_key(&format!("route[{at}].{key}"));
        profile::preset(route, written);
        routes::complete(route, postmaster.as_ref());
    }
}

fn hostname(settings: &Settings, host_name: &str, findings: &mut Findings) -> Option<String> {
    let remedy = "write hostname = \"mx.example.org\", the name your MX record and your address resolve to";
    let Some(hostname) = &settings.hostname else {
        findings.follow("hostname", format!("the system's name {host_name:?} is not a domain name"), remedy);
        return None;
    };
    if looks_internal(hostname.as_str()) {
        let reason =
            format!("{:?} is no name of the public DNS; backends will not take it", hostname.as_str());
        findings.warn("hostname", reason, remedy);
    }
    Some(hostname.to_string())
}

/// Whether a name means something only where it was given: to one machine, cluster or pod.
fn looks_internal(hostname: &str) -> bool {
    let internal = [".local", ".localdomain", ".internal", ".svc"];
    let literal = hostname.starts_with('[');
    let first = hostname.split('.').next().unwrap_or(hostname);
    !literal
        && (!hostname.contains('.') || internal.iter().any(|end| hostname.ends_with(end)) || is_pod(first))
}

/// `NAME-7d9f8b6c5d-x2x4z`, as a deployment names its pods: a hash, then five letters, both from the
/// alphabet Kubernetes uses because it spells no words.
fn is_pod(label: &str) -> bool {
    let random = |part: &str| part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let mut parts = label.rsplit('-');
    let (suffix, hash) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    suffix.len() == 5 && random(suffix) && (6..=10).contains(&hash.len()) && random(hash)
}

fn cache(cache: &settings::Cache, findings: &mut Findings) -> Cache {
    findings.at_least("cache.max_entries", cache.max_entries, 1);
    findings.not_zero("cache.blind_ttl", cache.blind_ttl);
    Cache {
        max_entries: cache.max_entries,
        positive_ttl: cache.positive_ttl.get(),
        positive_refresh: cache.positive_refresh.get(),
        negative_ttl: cache.negative_ttl.get(),
        negative_ttl_max: cache.negative_ttl_max.max(cache.negative_ttl).get(),
        tempfail_ttl: cache.tempfail_ttl.get(),
        blind_ttl: cache.blind_ttl.get(),
        serve_stale: cache.serve_stale.get(),
    }
}

fn store(cache: &settings::Cache, findings: &mut Findings) -> Store {
    let secret = secret("cache.secret", (&cache.secret, &cache.secret_file), findings);
    if cache.shared.is_some() && cache.secret.is_none() && cache.secret_file.is_none() {
        let reason = "instances share hashes of addresses, and theirs would differ: there is no cache.secret";
        let remedy =
            "write the same secret or secret_file on all of them, such as what `openssl rand -hex 24` prints";
        findings.fault("cache.shared", reason, remedy);
    }
    let prefix = cache.shared_prefix.as_str().to_owned();
    let shared = cache.shared.clone().map(|address| Shared { address, prefix });
    Store { path: cache.path.clone(), secret, shared }
}

fn limits(limits: &settings::Limits, findings: &mut Findings) -> Limits {
    findings.at_least("limits.max_connections", limits.max_connections, 1);
    findings.at_least("limits.max_connections_per_client", limits.max_connections_per_client, 1);
    findings.at_least("limits.max_recipients", limits.max_recipients, 1);
    if !COMMAND_LINE.contains(&limits.max_command_line) {
        let reason = "not from 512 (RFC 5321 asks for it) to 65536 octets";
        findings.fault("limits.max_command_line", reason, "write 2048, or leave it out");
    }
    Limits {
        max_connections: limits.max_connections,
        max_connections_per_client: limits.max_connections_per_client,
        max_recipients: limits.max_recipients,
        max_message_size: limits.max_message_size.unless_zero(),
        routed_recipients: limits.routed_recipients,
        bypass: limits.bypass.iter().copied().collect(),
        max_command_line: limits.max_command_line,
        max_errors: Some(limits.max_errors).filter(|&errors| errors > 0),
        bare_newline: limits.bare_newline,
        bare_newline_exempt: limits.bare_newline_exempt.iter().copied().collect(),
    }
}

fn timeouts(timeouts: &settings::Timeouts, findings: &mut Findings) -> Timeouts {
    for (key, period) in [
        ("timeouts.command", timeouts.command),
        ("timeouts.command_line", timeouts.command_line),
        ("timeouts.data", timeouts.data),
        ("timeouts.proxy_header", timeouts.proxy_header),
        ("timeouts.tls_handshake", timeouts.tls_handshake),
        ("timeouts.backend_connect", timeouts.backend_connect),
        ("timeouts.backend_command", timeouts.backend_command),
        ("timeouts.backend_end_of_data", timeouts.backend_end_of_data),
    ] {
        findings.not_zero(key, period);
    }
    Timeouts {
        command: timeouts.command.get(),
        command_line: timeouts.command_line.get(),
        data: timeouts.data.get(),
        data_min_rate: timeouts.data_min_rate.unless_zero(),
        session: timeouts.session.unless_zero(),
        proxy_header: timeouts.proxy_header.get(),
        tls_handshake: timeouts.tls_handshake.get(),
        backend_connect: timeouts.backend_connect.get(),
        backend_command: timeouts.backend_command.get(),
        backend_end_of_data: timeouts.backend_end_of_data.get(),
        drain_delay: timeouts.drain_delay.get(),
        drain: timeouts.drain.get(),
    }
}

pub(super) fn admin(admin: &settings::Admin, findings: &mut Findings) -> Option<Admin> {
    let token = secret("admin.token", (&admin.token, &admin.token_file), findings);
    admin.address.map(|address| Admin { address, token })
}

/// The secret under `key`, or in the file that `key` with `_file` names.
fn secret(
    key: &str,
    (given, file): (&Option<Secret>, &Option<PathBuf>),
    findings: &mut Findings,
) -> Option<Secret> {
    let file_key = format!("{key}_file");
    match (given, file) {
        (Some(_), Some(_)) => {
            findings.fault(&file_key, format!("{key} is given too"), "write one of the two");
            None
        }
        (None, Some(path)) => secret_in(path, &file_key, findings),
        (given, None) => given.clone(),
    }
}

/// The secret in a file, without the line's end.
fn secret_in(path: &Path, key: &str, findings: &mut Findings) -> Option<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let secret = Secret::parse(text.trim());
            secret.map_err(|misread| findings.fault(key, "what it holds cannot be used", misread.remedy)).ok()
        }
        Err(error) => {
            let remedy = "write the path of a file that holds it and that Backstop may read";
            findings.fault(key, format!("cannot be read: {error}"), remedy);
            None
        }
    }
}

impl Findings {
    fn at_least(&mut self, key: &str, value: usize, least: usize) {
        if value < least {
            self.fault(key, format!("less than {least}"), format!("write {least} or more"));
        }
    }

    fn not_zero(&mut self, key: &str, period: Period) {
        if period == Period::ZERO {
            self.fault(
                key,
                "zero leaves no time at all",
                "write a duration such as \"60s\", or leave it out",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_nothing_outside_are_told_from_public_ones() {
        for (name, internal) in [
            ("mx", true),
            ("backstop-0", true),
            ("backstop-7d9f8b6c5d-x2x4z.example.org", true),
            ("backstop-0.backstop.mail.svc.cluster.local", true),
            ("ip-10-0-0-1.eu.compute.internal", true),
            ("mx.example.org", false),
            ("mx-out-mail.example.org", false),
            ("a-b-c.example.org", false),
            ("[192.0.2.1]", false),
        ] {
            assert_eq!(looks_internal(name), internal, "{name}");
        }
    }
}
