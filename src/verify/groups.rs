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
    /// These, and those of the other routes of `config`; of no route that it has not.
    pub(super) fn and(
        mut self,
        config: &Config,
        backends: &Backends,
        shared: &Shared,
    ) -> Result<Self, ListFault> {
        let callouts = self.by_route.values().filter_map(|(group, _)| match group {
            Group::Callout(callout) => Some(callout),
            Group::List(_) => None,
        });
        let mut probers = callouts.map(|c| (c.asker.clone(), Arc::clone(&c.prober))).collect();
        let mut groups = Self::default();
        for route in config.routes.iter() {
            let name = || Arc::clone(&route.name);
            if let Some(kept) = self.by_route.remove(&route.name) {
                groups.by_route.insert(name(), kept);
                groups.relay_tests.extend(self.relay_tests.remove(&route.name).map(|test| (name(), test)));
                continue;
            }
            let series = shared.metrics.route(&route.name);
            let group = match &route.verify.source {
                config::RecipientSource::File(path) => {
                    Group::List(Arc::new(ListFile::open(path, route.verify.local_case)?))
                }
                config::RecipientSource::Callout { backends: asked } => {
                    let callout =
                        Callout::new(config, route, asked, backends, (shared, &series), &mut probers);
                    Group::Callout(Arc::new(callout))
                }
            };
            groups.by_route.insert(name(), (group, series));
            let test = RelayTest::of(route, config, backends, &shared.alarms);
            groups.relay_tests.extend(test.map(|test| (name(), test)));
        }
        Ok(groups)
    }
}
