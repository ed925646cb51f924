//! What all sessions of a configuration share, and what they offer.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backend::{Backends, Balancer};
use crate::config::{Config, Route, Trace};
use crate::guard::{Connections, Drain, Harvest, Sources};
use crate::net::tls::{Acceptor, Keyring};
use crate::observe::metrics::{Metrics, RouteMetrics};
use crate::observe::{Alarms, Events, Live};
use crate::proto::ehlo::{Extensions, Keyword};
use crate::proto::received;
use crate::verify::Verifier;

/// What all sessions share.
#[derive(Debug)]
pub struct Context {
    /// The configuration they began with.
    pub config: Arc<Config>,
    /// Who knows the recipients.
    pub verifier: Arc<Verifier>,
    /// Who takes the mail.
    pub backends: Arc<Backends>,
    /// What shakes hands with clients; none without a certificate.
    pub acceptor: Option<Acceptor>,
    /// Where what happens is counted.
    pub metrics: Metrics,
    /// What is wrong with routes.
    pub alarms: Alarms,
    /// Where what happens is told.
    pub events: Events,
    /// Who is here.
    pub live: Live,
    /// When sessions are to end.
    pub drain: Drain,
    /// Which clients guess recipients.
    pub harvest: Arc<Harvest>,
    /// How many connections there are.
    pub connections: Arc<Connections>,
    /// Where clients come from.
    pub sources: Sources,
    /// By route: who chooses among its backends.
    deliveries: HashMap<Arc<str>, Balancer>,
    routes: HashMap<Arc<str>, RouteMetrics>,
    no_route: RouteMetrics,
    hidden: Vec<Keyword>,
}

impl Context {
    /// A context for `config`.
    #[must_use]
    pub fn new(
        config: Arc<Config>,
        verifier: Arc<Verifier>,
        backends: Arc<Backends>,
        metrics: Metrics,
        alarms: Alarms,
    ) -> Self {
        let tls = &config.tls;
        let acceptor = (!tls.certificates.is_empty())
            .then(|| Acceptor::new(Keyring::new(&tls.certificates, metrics.clone()), tls.min_version));
        let routes = config.routes.iter().map(|r| (Arc::clone(&r.name), metrics.route(&r.name))).collect();
        let balancer = |route: &Arc<Route>| backends.balancer(&route.backends, route.balance);
        let deliveries =
            config.routes.iter().map(|route| (Arc::clone(&route.name), balancer(route))).collect();
        let no_route = metrics.route("");
        let limits = &config.limits;
        let connections = Connections::new(limits.max_connections, limits.max_connections_per_client);
        let harvest = Harvest::new(config.harvest.clone(), metrics.clone());
        let hidden =
            config.routes.iter().flat_map(|r| &r.hide_ehlo).filter_map(|name| Keyword::parse(name)).collect();
        Self {
            config,
            verifier,
            backends,
            acceptor,
            metrics,
            alarms,
            events: Events::default(),
            live: Live::default(),
            drain: Drain::default(),
            harvest,
            connections,
            sources: Sources::default(),
            deliveries,
            routes,
            no_route,
            hidden,
        }
    }

    /// Who chooses among the backends of `route`.
    pub(super) fn delivery(&self, route: &Route) -> Option<&Balancer> {
        self.deliveries.get(&route.name)
    }

    pub(super) fn route(&self, route: &Route) -> &RouteMetrics {
        self.routes.get(&route.name).unwrap_or(&self.no_route)
    }

    pub(super) fn route_or_none(&self, route: Option<&Arc<Route>>) -> &RouteMetrics {
        route.map_or(&self.no_route, |route| self.route(route))
    }

    /// What EHLO offers: what every backend that was reached announced, what we do ourselves, and our limits.
    pub(super) fn offer(&self) -> Extensions {
        let named = self.config.routes.iter().flat_map(|route| &route.backends);
        let mut offer = self.backends.announced_by_all(named).unwrap_or_else(Extensions::assumed);
        offer = offer.without(Keyword::StartTls).with(Keyword::Pipelining).with(Keyword::Limits);
        if self.config.routes.iter().any(|route| route.trace == Trace::Received) {
            // What we put before a message counts at the backend. Zero would be no limit at all.
            offer.max_size = offer.max_size.map(|max| max.saturating_sub(received::MOST).max(1));
        }
        if let Some(max) = self.config.limits.max_message_size {
            offer = offer.with(Keyword::Size);
            offer.max_size = Some(offer.max_size.map_or(max, |size| size.min(max)));
        }
        let most = u32::try_from(self.config.limits.max_recipients).unwrap_or(u32::MAX);
        offer.max_recipients = Some(offer.max_recipients.map_or(most, |max| max.min(most)));
        if self.config.routes.iter().nth(1).is_some() {
            // A transaction has one route, and which domains share one the client cannot know.
            offer.max_domains = Some(1);
        }
        self.hidden.iter().fold(offer, |offer, keyword| offer.without(*keyword))
    }
}
