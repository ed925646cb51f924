//! Whom each route asks, and what is found out about its backends as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::callout::Callout;
use super::list::{ListFault, ListFile};
use super::prober::Shared;
use super::relay_test::RelayTest;
use crate::backend::Backends;
use crate::config::{self, Config};
use crate::observe::metrics::RouteMetrics;

/// Whom one route asks.
#[derive(Debug, Clone)]
pub(super) enum Group {
    /// The mail store.
    Callout(Arc<Callout>),
    /// A list.
    List(Arc<ListFile>),
}

/// What routes are verified with.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) by_route: HashMap<Arc<str>, (Group, RouteMetrics)>,
    pub(super) relay_tests: HashMap<Arc<str>, Arc<RelayTest>>,
}

impl Groups {
    /// Those of `config`. The `old` ones of routes that are `spared` stay; of the others stays what was found out by asking the
    /// same servers in the same way.
    pub(super) fn of(
        config: &Config,
        backends: &Backends,
        shared: &Shared,
        (old, spared): (&Self, &dyn Fn(&str) -> bool),
    ) -> Result<Self, ListFault> {
        let kept = old.by_route.iter().filter(|(name, _)| spared(name));
        let callouts = kept.filter_map(|(_, (group, _))| group.callout());
        let mut probers = callouts.map(|c| (c.asker.clone(), Arc::clone(&c.prober))).collect();
        let mut groups = Self::default();
        for route in config.routes.iter() {
            let name = || Arc::clone(&route.name);
            let known = old.by_route.get(&route.name);
            if let Some(known) = known.filter(|_| spared(&route.name)) {
                groups.by_route.insert(name(), known.clone());
                let test = old.relay_tests.get(&route.name).cloned();
                groups.relay_tests.extend(test.map(|test| (name(), test)));
                continue;
            }
            let series = shared.metrics.route(&route.name);
            let group = match &route.verify.source {
                config::RecipientSource::File(path) => {
                    Group::List(Arc::new(ListFile::open(path, route.verify.local_case)?))
                }
                config::RecipientSource::Callout { backends: asked } => {
                    let known = known.and_then(|(group, _)| group.callout()).map(|callout| &**callout);
                    let sources = (shared, &series);
                    Group::Callout(Arc::new(Callout::new(
                        config,
                        route,
                        asked,
                        backends,
                        sources,
                        &mut probers,
                        known,
                    )))
                }
            };
            groups.by_route.insert(name(), (group, series));
            let test = RelayTest::of(route, config, backends, &shared.alarms);
            groups.relay_tests.extend(test.map(|test| (name(), test)));
        }
        Ok(groups)
    }
}

impl Group {
    /// The mail store, if it is one.
    pub(super) const fn callout(&self) -> Option<&Arc<Callout>> {
        match self {
            Self::Callout(callout) => Some(callout),
            Self::List(_) => None,
        }
    }
}
