//! Which backends there are to examine, and what each is to us.

use crate::config::{Config, Destination, DomainPattern, Mode, Profile, RecipientSource, Route, TlsPolicy};
use crate::net::dial::Site;
use crate::proto::address::{Domain, Mailbox};
use crate::verify::examine::Plan;
use crate::verify::examine::judge::{Delivers, IsAsked, Local, Role, TlsWanted};

/// Domains asked about at each backend. More would tell little new, and cost it more.
const MAX_DOMAINS: usize = 5;

/// One destination to examine, or one of its backends.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) destination: Destination,
    pub(super) role: Role,
    /// Names of the routes whose mail it takes.
    pub(super) delivers_for: Vec<String>,
    /// Names of the routes that ask it.
    pub(super) asked_by: Vec<String>,
    /// Domains it is asked about.
    pub(super) domains: Vec<Domain>,
    /// Domains that are left out.
    pub(super) left_out: usize,
    known: Vec<Mailbox>,
    sender: Option<Mailbox>,
    fallback: Option<Mailbox>,
}

/// Every destination of every route, in the order written.
pub(super) fn all(config: &Config, known: &[Mailbox]) -> Vec<Target> {
    let mut destinations: Vec<&Destination> = Vec::new();
    for route in config.routes.iter() {
        for destination in route.backends.iter().chain(asked(route)) {
            if !destinations.contains(&destination) {
                destinations.push(destination);
            }
        }
    }
    destinations.into_iter().filter_map(|destination| Target::new(config, destination, known)).collect()
}

/// Whom a route asks about recipients.
fn asked(route: &Route) -> &[Destination] {
    match &route.verify.source {
        RecipientSource::Callout { backends } if route.verify.mode != Mode::Off => backends,
        RecipientSource::Callout { .. } | RecipientSource::File(_) => &[],
    }
}

impl Target {
    fn new(config: &Config, destination: &Destination, known: &[Mailbox]) -> Option<Self> {
        let delivering: Vec<_> = config.routes.iter().filter(|r| r.backends.contains(destination)).collect();
        let asking: Vec<_> = config.routes.iter().filter(|r| asked(r).contains(destination)).collect();
        let routes = || asking.iter().chain(&delivering);
        let first = routes().next()?;
        let of_ours = |mailbox: &&Mailbox| {
            config.routes.of(mailbox).is_some_and(|route| routes().any(|ours| ours.name == route.name))
        };
        let known: Vec<Mailbox> = known.iter().filter(of_ours).cloned().collect();
        let mut domains: Vec<Domain> = known.iter().filter_map(Mailbox::domain).cloned().collect();
        domains.extend(routes().flat_map(|route| &route.domains).filter_map(|pattern| match pattern {
            DomainPattern::Exact(domain) => Some(domain.clone()),
            DomainPattern::Below(_) | DomainPattern::Any => None,
        }));
        let mut seen = std::collections::HashSet::new();
        domains.retain(|domain| seen.insert(domain.clone()));
        let left_out = domains.len().saturating_sub(MAX_DOMAINS);
        domains.truncate(MAX_DOMAINS);
        let names = |routes: &[&std::sync::Arc<Route>]| routes.iter().map(|r| r.name.to_string()).collect();
        let (delivers_for, asked_by) = (names(&delivering), names(&asking));
        let anything = delivering.iter().any(|route| route.domains.contains(&DomainPattern::Any));
        let local = destination.name() == "localhost" || destination.ip().is_some_and(|ip| ip.is_loopback());
        let role = Role {
            delivers: match (delivering.is_empty(), anything) {
                (true, _) => Delivers::Nothing,
                (false, true) => Delivers::Anything,
                (false, false) => Delivers::Named,
            },
            asked: match (asking.is_empty(), delivering.iter().any(|r| r.verify.mode == Mode::Off)) {
                (false, _) => IsAsked::Decides,
                (true, true) => IsAsked::Never,
                (true, false) => IsAsked::Elsewhere,
            },
            profile: if routes().any(|route| route.profile == Profile::Exchange) {
                Profile::Exchange
            } else {
                Profile::Standard
            },
            tls: match first.tls.policy {
                TlsPolicy::Off => TlsWanted::Off,
                TlsPolicy::Opportunistic => TlsWanted::Offered,
                TlsPolicy::Required => TlsWanted::Demanded,
                TlsPolicy::Verify(_) | TlsPolicy::Pin(_) => TlsWanted::Proved,
            },
            local: if local { Local::Here } else { Local::Away },
            address: destination.to_string(),
            host: destination.name().to_owned(),
            hostname: config.hostname.to_string(),
            max_connections: routes().map(|route| route.max_connections).min().unwrap_or(2),
        };
        let (sender, fallback) = (first.verify.sender.clone(), first.verify.fallback_sender.clone());
        let destination = destination.clone();
        Some(Self { destination, role, delivers_for, asked_by, domains, left_out, known, sender, fallback })
    }

    /// One of the backends it leads to.
    pub(super) fn at(&self, site: &Site) -> Self {
        let mut one = self.clone();
        one.role.address = site.to_string();
        one.role.host.clone_from(&site.endpoint.host);
        if site.ip().is_some_and(|ip| ip.is_loopback()) {
            one.role.local = Local::Here;
        }
        one
    }

    /// What is to be found out about it.
    pub(super) fn plan(&self, connections: bool) -> Plan {
        Plan {
            domains: self.domains.clone(),
            known: self.known.clone(),
            sender: self.sender.clone(),
            fallback: self.fallback.clone(),
            connections: connections.then_some(self.role.max_connections),
        }
    }
}
