//! Routes: which domains, to whom, and who knows their recipients.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::profile::refusals_endured;
use super::tls;
use crate::config::choice::{ClientAddress, Received, SourceKind};
use crate::config::destination::Destination;
use crate::config::finding::Findings;
use crate::config::leaf::Leaf;
use crate::config::recipients::{Listed, RecipientList};
use crate::config::routes::Routes;
use crate::config::settings::{self, Settings};
use crate::config::used::{Listener, RecipientSource, Route, Trace, Verify};
use crate::config::value::Period;
use crate::config::word::Name;
use crate::proto::address::{LocalCase, Mailbox};

/// Fills in what a route leaves to its other keys.
pub(super) fn complete(route: &mut settings::Route, postmaster: Option<&Mailbox>) {
    let settings::Route { name, domains, backends, verify, .. } = route;
    if name.is_none() {
        *name = domains.first().map(|domain| Name::derived(&domain.to_string()));
    }
    if verify.backends.is_empty() && verify.source == SourceKind::Callout {
        verify.backends.clone_from(backends);
    }
    if verify.fallback_sender.is_none() {
        verify.fallback_sender = postmaster.cloned();
    }
}

/// Checks all routes. None when there is none.
pub(super) fn check(settings: &Settings, listeners: &[Listener], findings: &mut Findings) -> Option<Routes> {
    if settings.route.is_empty() {
        let remedy = "write [[route]] with domains = [\"example.org\"] and backends = [\"10.0.0.5:25\"]";
        findings.follow("route", "no route, so mail for every domain would be refused", remedy);
    }
    unique_names(&settings.route, findings);
    unique_domains(&settings.route, findings);
    one_header(&settings.route, findings);
    tls::agreed(&settings.route, findings);
    let mut trust = tls::Trust::default();
    let mut routes = Vec::new();
    for (at, route) in settings.route.iter().enumerate() {
        let key = format!("route[{at}]");
        backends(&format!("{key}.backends"), &route.backends, listeners, findings);
        findings.at_least(&format!("{key}.max_connections"), route.max_connections, 2);
        checks(&key, route, findings);
        routes.push(Arc::new(Route {
            name: Arc::from(route.name.as_ref().map_or("", Name::as_str)),
            domains: route.domains.clone(),
            backends: route.backends.clone(),
            profile: route.profile,
            client_address: route.client_address,
            trace: trace(route),
            tls: trust.check(&key, route, findings),
            hide_ehlo: route.hide_ehlo.iter().map(|keyword| keyword.as_str().to_owned()).collect(),
            max_connections: route.max_connections,
            eject: route.eject.get(),
            balance: route.balance,
            check: route.check.unless_zero(),
            canary: route.canary.clone(),
            verify: verify(&format!("{key}.verify"), route, listeners, findings),
        }));
    }
    let routes = Routes::new(routes)?;
    warn_foreign(&settings.route, &routes, findings);
    Some(routes)
}

/// A backend is not greeted more often than once a second for nothing.
fn checks(key: &str, route: &settings::Route, findings: &mut Findings) {
    let least = Period::seconds(1);
    if route.check != Period::ZERO && route.check < least {
        let key = format!("{key}.check");
        findings.fault(&key, "more often than once a second", "write \"1s\" or more, or \"0s\" for never");
    }
    if route.check == Period::ZERO && route.canary.is_some() {
        let reason = "has no effect: check = \"0s\" checks nothing";
        findings.warn(&format!("{key}.canary"), reason, "write check = \"30s\", or remove it");
    }
}

/// The `Received:` line is for backends that learn of the client in no other way.
const fn trace(route: &settings::Route) -> Trace {
    match (route.received, route.client_address) {
        (Received::Always, _) | (Received::Auto, ClientAddress::None) => Trace::Received,
        (Received::Never, _) | (Received::Auto, _) => Trace::None,
    }
}

/// A server expects a PROXY header on every connection or on none, whatever route leads to it.
fn one_header(routes: &[settings::Route], findings: &mut Findings) {
    let header = |route: &settings::Route| {
        let with = matches!(route.client_address, ClientAddress::ProxyV1 | ClientAddress::ProxyV2);
        with.then_some(route.client_address)
    };
    for (at, route) in routes.iter().enumerate() {
        let ours = || route.backends.iter().chain(&route.verify.backends);
        let differs = routes.iter().take(at).enumerate().find_map(|(place, other)| {
            let mut theirs = other.backends.iter().chain(&other.verify.backends);
            let shared = theirs.find(|backend| ours().any(|own| own == *backend))?;
            (header(route) != header(other)).then_some((place, other, shared))
        });
        if let Some((place, other, shared)) = differs {
            let reason = format!("route[{place}] has {:?} for {shared}", other.client_address.as_str());
            let remedy = "write the same client_address for both, or another port of that server";
            let key = format!("route[{at}].client_address");
            findings.fault_in(&key, route.client_address.as_str(), reason, remedy);
        }
    }
}

fn unique_names(routes: &[settings::Route], findings: &mut Findings) {
    for (at, route) in routes.iter().enumerate() {
        let key = format!("route[{at}].name");
        let written = findings.written.contains_key(&key);
        // Unnamed routes with the same first domain are told so about the domain.
        let alike = |other: &&settings::Route| {
            other.name == route.name && (written || other.domains.first() != route.domains.first())
        };
        if let Some(name) = routes.iter().take(at).find(alike).and_then(|other| other.name.as_ref()) {
            let reason = format!("another route is named {:?} too", name.as_str());
            findings.follow(&key, reason, "write a name of its own, such as name = \"second\"");
        }
    }
}

fn unique_domains(routes: &[settings::Route], findings: &mut Findings) {
    let mut owners = HashMap::new();
    for (at, route) in routes.iter().enumerate() {
        let key = format!("route[{at}].domains");
        if route.domains.is_empty() {
            findings.follow(&key, "no domain", "write domains = [\"example.org\"], or give --domain");
        }
        for domain in &route.domains {
            let Some(owner) = owners.insert(domain, at) else { continue };
            let whose = if owner == at { "this route".to_owned() } else { format!("route[{owner}]") };
            findings.fault_in(&key, &domain.to_string(), format!("{whose} has it already"), "write it once");
        }
    }
}

/// Checks a list of backends: given, each once, and none of them ourselves.
fn backends(key: &str, backends: &[Destination], listeners: &[Listener], findings: &mut Findings) {
    if backends.is_empty() {
        findings.follow(key, "no backend", "write backends = [\"10.0.0.5:25\"], or give --backend");
    }
    for (at, backend) in backends.iter().enumerate() {
        let text = backend.to_string();
        if backends.iter().take(at).any(|other| other == backend) {
            findings.fault_in(key, &text, "named twice", "write it once");
        }
        no_loop(key, backend, listeners, findings);
    }
}

/// A backend that is one of our listeners would give us our own mail for ever. Where a listener has all
/// addresses, loopback is very likely ours too, unless sockets are passed between network namespaces.
fn no_loop(key: &str, backend: &Destination, listeners: &[Listener], findings: &mut Findings) {
    let Some((ip, port)) = backend.ip().zip(backend.endpoint().map(|endpoint| endpoint.port)) else { return };
    let remedy = "write the address and port of the mail server";
    for listener in listeners {
        let same_port = listener.addresses.iter().filter(|address| address.port() == port);
        for address in same_port {
            let reason = format!("{backend} is listener {:?}, Backstop itself", listener.name);
            if address.ip() == ip {
                findings.fault_in(key, &backend.to_string(), reason, remedy);
            } else if address.ip().is_unspecified() && ip.is_loopback() {
                findings.warn(key, reason, remedy);
            }
        }
    }
}

fn verify(key: &str, route: &settings::Route, listeners: &[Listener], findings: &mut Findings) -> Verify {
    let verify = &route.verify;
    let case = if verify.case_sensitive { LocalCase::Sensitive } else { LocalCase::Insensitive };
    findings.not_zero(&format!("{key}.timeout"), verify.timeout);
    contradictions(key, verify, case, findings);
    let sender = verify.sender.clone();
    let fallback_sender = verify.fallback_sender.clone().filter(|fallback| Some(fallback) != sender.as_ref());
    Verify {
        mode: verify.mode,
        source: source(key, verify, listeners, findings),
        allow: RecipientList::new(&verify.allow, case),
        deny: RecipientList::new(&verify.deny, case),
        stage: verify.stage,
        sender,
        fallback_sender,
        local_case: case,
        on_unknown: verify.on_unknown,
        timeout: verify.timeout.get(),
        recheck: verify.recheck.get(),
        refusals_endured: refusals_endured(route.profile),
    }
}

fn source(
    key: &str,
    verify: &settings::Verify,
    listeners: &[Listener],
    findings: &mut Findings,
) -> RecipientSource {
    match verify.source {
        SourceKind::Callout => {
            let key = format!("{key}.backends");
            // Not given means the route's own, which are checked where they stand.
            if findings.written.contains_key(&key) && !verify.backends.is_empty() {
                backends(&key, &verify.backends, listeners, findings);
            }
            RecipientSource::Callout { backends: verify.backends.clone() }
        }
        SourceKind::File => {
            let path = verify.file.clone().unwrap_or_default();
            readable(&format!("{key}.file"), &path, findings);
            RecipientSource::File(path)
        }
    }
}

/// The list of recipients must be there at the start: without it every recipient would be unknown.
fn readable(key: &str, path: &Path, findings: &mut Findings) {
    let remedy = "write the path of a file that Backstop may read, with one recipient or @domain per line";
    if path.as_os_str().is_empty() {
        findings.follow(key, "source = \"file\" needs one", "write file = \"/etc/backstop/recipients\"");
    } else if path.is_dir() {
        findings.fault(key, "is a directory", remedy);
    } else if let Err(error) = File::open(path) {
        findings.fault(key, format!("cannot be opened: {error}"), remedy);
    }
}

/// The very same entry cannot be taken and refused. (`@example.org` beside `ann@example.org` can.)
fn contradictions(key: &str, verify: &settings::Verify, case: LocalCase, findings: &mut Findings) {
    let canonical = |entry: &Listed| match entry {
        Listed::Mailbox(mailbox) => mailbox.canonical(case),
        Listed::Domain(domain) => format!("@{domain}"),
    };
    let allowed: Vec<String> = verify.allow.iter().map(canonical).collect();
    for entry in verify.deny.iter().filter(|entry| allowed.contains(&canonical(entry))) {
        let reason = "in `allow` and in `deny`";
        findings.fault_in(&format!("{key}.deny"), &entry.text(), reason, "write it in one of the two");
    }
}

/// An entry for a domain of another route, or of none, is never looked at.
fn warn_foreign(written: &[settings::Route], routes: &Routes, findings: &mut Findings) {
    for (at, (written, route)) in written.iter().zip(routes.iter()).enumerate() {
        let ours = |entry: &&Listed| {
            let found = entry.domain().map(|domain| routes.find(domain));
            found.is_none_or(|found| found.is_some_and(|found| Arc::ptr_eq(found, route)))
        };
        for (name, entries) in [("allow", &written.verify.allow), ("deny", &written.verify.deny)] {
            for entry in entries.iter().filter(|entry| !ours(entry)) {
                let reason = format!("{:?} has no effect: its domain is not this route's", entry.text());
                let remedy = "write it in the route that has the domain, or remove it";
                findings.warn(&format!("route[{at}].verify.{name}"), reason, remedy);
            }
        }
    }
}
