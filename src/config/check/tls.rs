//! TLS: certificates that can be served, listeners that have one, backends whose proof can be checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;

use crate::config::certificate::{self, Certificate, CertificateFault, CertificateFiles, Part};
use crate::config::choice::{ListenerTls, MinVersion, RouteTls};
use crate::config::destination::Destination;
use crate::config::endpoint::EndpointTls;
use crate::config::finding::Findings;
use crate::config::settings::{self, Settings};
use crate::config::used::{BackendTls, Tls, TlsPolicy};
use crate::proto::tls::TlsVersion;

/// Reads the certificates.
pub(super) fn certificates(tls: &settings::Tls, findings: &mut Findings) -> Tls {
    let pairs = tls.certificates.iter().enumerate();
    let certificates = pairs.filter_map(|(at, pair)| certificate(at, pair, findings)).collect();
    let min_version = match tls.min_version {
        MinVersion::Tls12 => TlsVersion::Tls12,
        MinVersion::Tls13 => TlsVersion::Tls13,
    };
    Tls { certificates, min_version }
}

fn certificate(at: usize, pair: &settings::CertificatePair, findings: &mut Findings) -> Option<Certificate> {
    let key = format!("tls.certificates[{at}]");
    let files = CertificateFiles { chain: pair.chain.clone(), key: pair.key.clone() };
    let mut given = true;
    for (name, path) in [("chain", &pair.chain), ("key", &pair.key)] {
        if path.as_os_str().is_empty() {
            given = false;
            let remedy = "write { chain = \"/etc/backstop/tls.crt\", key = \"/etc/backstop/tls.key\" }";
            findings.follow(&format!("{key}.{name}"), "not given", remedy);
        }
    }
    if !given {
        return None;
    }
    match files.load() {
        Ok(certificate) => {
            let fault = certificate.validity.and_then(|validity| validity.fault_at(SystemTime::now()));
            if let Some(reason) = fault {
                findings.warn(
                    &format!("{key}.chain"),
                    reason,
                    "renew it; the new one is used without a restart",
                );
            }
            Some(certificate)
        }
        Err(CertificateFault { part, reason, remedy }) => {
            let name = if part == Part::Chain { "chain" } else { "key" };
            findings.fault(&format!("{key}.{name}"), reason, remedy);
            None
        }
    }
}

/// A listener that speaks TLS has something to show; what there is to show is shown somewhere.
pub(super) fn listeners(settings: &Settings, findings: &mut Findings) {
    let none = settings.tls.certificates.is_empty();
    let speaks = |listener: &settings::Listener| listener.tls.is_some_and(|tls| tls != ListenerTls::Off);
    for (at, _) in settings.listener.iter().enumerate().filter(|(_, listener)| none && speaks(listener)) {
        let remedy = "write certificates = [{ chain = \"/etc/backstop/tls.crt\", key = \"/etc/backstop/tls.key\" }] \
            under [tls]";
        findings.follow(&format!("listener[{at}].tls"), "there is no certificate for it", remedy);
    }
    if !none && !settings.listener.iter().any(speaks) {
        let reason = "has no effect: every listener has tls = \"off\"";
        findings.warn("tls.certificates", reason, "write tls = \"starttls\" in [[listener]], or remove it");
    }
}

/// A backend is spoken to in one way, whoever's mail it is: its sessions are shared.
pub(super) fn agreed(routes: &[settings::Route], findings: &mut Findings) {
    let mut first: HashMap<&Destination, usize> = HashMap::new();
    for (at, route) in routes.iter().enumerate() {
        for endpoint in route.backends.iter().chain(&route.verify.backends) {
            let owner = *first.entry(endpoint).or_insert(at);
            let same = routes.get(owner).is_none_or(|other| way(other) == way(route));
            if !same {
                let reason = format!("route[{owner}] speaks to {endpoint} in another way");
                let remedy = "write the same tls, tls_pins, tls_ca and tls_name in both";
                findings.follow(&format!("route[{at}].tls"), reason, remedy);
            }
        }
    }
}

fn way(route: &settings::Route) -> impl PartialEq + '_ {
    (route.tls, &route.tls_pins, &route.tls_ca, &route.tls_name)
}

/// The roots that backends are verified with; those of the system are read once.
#[derive(Debug, Default)]
pub(super) struct Trust {
    system: Option<Result<Arc<RootCertStore>, String>>,
}

impl Trust {
    /// Checks how the backends of a route are spoken to.
    pub(super) fn check(
        &mut self,
        key: &str,
        route: &settings::Route,
        findings: &mut Findings,
    ) -> BackendTls {
        if route.tls == RouteTls::Off {
            never_off(key, route, findings);
        }
        let policy = match route.tls {
            RouteTls::Off => TlsPolicy::Off,
            RouteTls::Opportunistic => TlsPolicy::Opportunistic,
            RouteTls::Required => TlsPolicy::Required,
            RouteTls::Pin => {
                if route.tls_pins.is_empty() {
                    let remedy = "write tls_pins = [\"sha256//...\"]; with tls = \"verify\" the log shows the key's pin";
                    findings.follow(&format!("{key}.tls_pins"), "tls = \"pin\" needs one", remedy);
                }
                TlsPolicy::Pin(route.tls_pins.clone())
            }
            RouteTls::Verify => TlsPolicy::Verify(self.roots(key, route, findings)),
        };
        BackendTls { policy, name: route.tls_name.as_ref().map(ToString::to_string) }
    }

    fn roots(&mut self, key: &str, route: &settings::Route, findings: &mut Findings) -> Arc<RootCertStore> {
        let named = route.backends.iter().all(|backend| backend.ip().is_none());
        if route.tls_name.is_none() && !named {
            let reason = "certificates hardly ever name an address";
            findings.warn(&format!("{key}.tls_name"), reason, "write the name in the backend's certificate");
        }
        let (at, roots) = if let Some(path) = &route.tls_ca {
            (format!("{key}.tls_ca"), certificate::roots(path).map(Arc::new))
        } else {
            let system = self.system.get_or_insert_with(|| certificate::system_roots().map(Arc::new));
            (format!("{key}.tls"), system.clone())
        };
        roots.unwrap_or_else(|reason| {
            let remedy = "write tls_ca = the PEM file of the CA that signed the backend's certificate, install \
                the system's roots (ca-certificates), or write tls = \"pin\"";
            findings.fault(&at, reason, remedy);
            Arc::new(RootCertStore::empty())
        })
    }
}

/// A port that speaks TLS from the first octet on cannot be spoken to without.
fn never_off(key: &str, route: &settings::Route, findings: &mut Findings) {
    let implicit = |endpoint: &&Destination| endpoint.tls() == EndpointTls::Implicit;
    if let Some(endpoint) = route.backends.iter().chain(&route.verify.backends).find(implicit) {
        let reason = format!("{endpoint} is TLS from the beginning");
        findings.fault(
            &format!("{key}.tls"),
            reason,
            "write tls = \"required\", or the backend as host:port",
        );
    }
}
