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
use crate::store::Tier;
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
    /// What is shared with other instances; none where this one is alone.
    pub tier: Option<Tier>,
    /// How many connections there are.
    pub connections: Arc<Connections>,
    /// Where clients come from.
    pub sources: Sources,
    tables: Tables,
}

/// What is looked up by route.
#[derive(Debug)]
struct Tables {
    /// Who chooses among its backends.
    deliveries: HashMap<Arc<str>, Balancer>,
    routes: HashMap<Arc<str>, RouteMetrics>,
    no_route: RouteMetrics,
    hidden: Vec<Keyword>,
}

impl Tables {
    fn of(config: &Config, backends: &Backends, metrics: &Metrics) -> Self {
        let balancer = |route: &Arc<Route>| backends.balancer(&route.backends, route.balance);
        let hidden = config.routes.iter().flat_map(|r| &r.hide_ehlo);
        Self {
            deliveries: config.routes.iter().map(|r| (Arc::clone(&r.name), balancer(r))).collect(),
            routes: config.routes.iter().map(|r| (Arc::clone(&r.name), metrics.route(&r.name))).collect(),
            no_route: metrics.route(""),
            hidden: hidden.filter_map(|name| Keyword::parse(name)).collect(),
        }
    }
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
        tier: Option<Tier>,
    ) -> Self {
        let acceptor = Self::acceptor_for(&config, &metrics);
        let tables = Tables::of(&config, &backends, &metrics);
        let limits = &config.limits;
        let connections = Connections::new(limits.max_connections, limits.max_connections_per_client);
        let harvest = Harvest::within(config.harvest.clone(), metrics.clone(), tier.clone());
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
            tier,
            connections,
            sources: Sources::default(),
            tables,
        }
    }

    /// A context for another configuration. What clients do goes on being counted, told and limited as one with this; so does
    /// the end, when it comes.
    #[must_use]
    pub fn renewed(
        &self,
        config: Arc<Config>,
        verifier: Arc<Verifier>,
        backends: Arc<Backends>,
        acceptor: Option<Acceptor>,
    ) -> Self {
        let (metrics, alarms) = (self.metrics.clone(), self.alarms.clone());
        let tables = Tables::of(&config, &backends, &metrics);
        Self {
            config,
            verifier,
            backends,
            acceptor,
            metrics,
            alarms,
            events: self.events.clone(),
            live: self.live.clone(),
            drain: self.drain.clone(),
            harvest: Arc::clone(&self.harvest),
            connections: Arc::clone(&self.connections),
            tier: self.tier.clone(),
            sources: Sources::default(),
            tables,
        }
    }

    /// What shakes hands with clients as `config` says; none without a certificate.
    #[must_use]
    pub fn acceptor_for(config: &Config, metrics: &Metrics) -> Option<Acceptor> {
        let tls = &config.tls;
        (!tls.certificates.is_empty())
            .then(|| Acceptor::new(Keyring::new(&tls.certificates, metrics.clone()), tls.min_version))
    }

    /// Who chooses among the backends of `route`.
    pub(super) fn delivery(&self, route: &Route) -> Option<&Balancer> {
        self.tables.deliveries.get(&route.name)
    }

    pub(super) fn route(&self, route: &Route) -> &RouteMetrics {
        self.tables.routes.get(&route.name).unwrap_or(&self.tables.no_route)
    }

    pub(super) fn route_or_none(&self, route: Option<&Arc<Route>>) -> &RouteMetrics {
        route.map_or(&self.tables.no_route, |route| self.route(route))
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
        self.tables.hidden.iter().fold(offer, |offer, keyword| offer.without(*keyword))
    }
}
