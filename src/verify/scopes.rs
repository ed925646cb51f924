//! All scopes of a route, found by domain.
//!
//! Domains that are written out have a scope from the start; those behind a wildcard are met as they come, and
//! kept up to [`MOST`]. Beyond, those behind `*` share one too: an attacker chooses them. So places are kept free by
//! giving up those nothing is lost with.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;

use super::cache::Cache;
use super::scope::{Common, Scope, ScopeReport};
use crate::config::{DomainPattern, Route, Routes};
use crate::proto::address::{Domain, Mailbox};

/// Domains behind wildcards that are kept in mind.
const MOST: usize = 10_000;

/// The scopes of one route.
#[derive(Debug)]
pub(super) struct Scopes {
    common: Common,
    by_domain: DashMap<Domain, Arc<Scope>>,
    /// What the domains below a wildcard share; for `*`, those that are too many.
    shared: HashMap<DomainPattern, Arc<Scope>>,
    /// Of recipients without a domain.
    bare: Arc<Scope>,
}

impl Scopes {
    /// Those of `route`. What `old` ones found out by asking the same servers in the same way holds on: whether they tell, and
    /// whether they are believed.
    pub(super) fn new(common: Common, route: &Route, cache: &Cache, old: Option<&Self>) -> Self {
        let old = old.filter(|old| old.common.asks_as(&common));
        let new = |name: &str| Scope::new(&common, name, cache.tally_of(&common.route, name));
        let by_domain = DashMap::new();
        let mut shared = HashMap::new();
        for pattern in &route.domains {
            let new = || new(&pattern.to_string());
            match pattern {
                DomainPattern::Exact(domain) => {
                    let known = old.and_then(|old| old.by_domain.get(domain).map(|scope| Arc::clone(&scope)));
                    by_domain.insert(domain.clone(), known.unwrap_or_else(new));
                }
                pattern => {
                    let known = old.and_then(|old| old.shared.get(pattern).cloned());
                    shared.insert(pattern.clone(), known.unwrap_or_else(new));
                }
            }
        }
        // Those that were met behind `*` are met again.
        if let Some(old) = old.filter(|_| route.domains.contains(&DomainPattern::Any)) {
            for met in old.by_domain.iter().filter(|met| met.is_unnamed()) {
                by_domain.entry(met.key().clone()).or_insert_with(|| Arc::clone(&met));
            }
        }
        let bare = old.map_or_else(|| new(""), |old| Arc::clone(&old.bare));
        Self { by_domain, shared, bare, common }
    }

    /// Whether `others` find out of the same servers what these do.
    pub(super) fn ask_as(&self, others: &Self) -> bool {
        self.common.asks_as(&others.common)
    }

    /// The scope of `mailbox`, which takes this route.
    pub(super) fn of(&self, mailbox: &Mailbox, routes: &Routes, cache: &Cache) -> Arc<Scope> {
        let Some(domain) = mailbox.domain() else { return Arc::clone(&self.bare) };
        if let Some(scope) = self.by_domain.get(domain) {
            return Arc::clone(&scope);
        }
        let pattern = routes.pattern(domain).unwrap_or(DomainPattern::Any);
        let full = self.by_domain.len() >= MOST;
        let scope = match self.shared.get(&pattern) {
            Some(shared) if full || pattern != DomainPattern::Any => Arc::clone(shared),
            _ if full => Arc::clone(&self.bare),
            _ => {
                let tally = cache.tally_of(&self.common.route, domain.as_str());
                Scope::unnamed(&self.common, domain.as_str(), tally)
            }
        };
        if full {
            return scope;
        }
        // Two that meet a domain at once must have one scope.
        Arc::clone(&self.by_domain.entry(domain.clone()).or_insert(scope))
    }

    /// Everything that was found out of `domain` is forgotten, and of those that share its scope.
    pub(super) fn reset(&self, domain: &Domain, routes: &Routes, cache: &Cache) {
        let met = self.by_domain.get(domain).map(|scope| Arc::clone(&scope));
        let shared = || routes.pattern(domain).and_then(|pattern| self.shared.get(&pattern)).map(Arc::clone);
        if let Some(scope) = met.or_else(shared) {
            self.reset_one(&scope, cache);
        }
    }

    /// Everything that was found out is forgotten.
    pub(super) fn reset_all(&self, cache: &Cache) {
        let met: Vec<_> = self.by_domain.iter().map(|scope| Arc::clone(&scope)).collect();
        for scope in met.iter().chain(self.shared.values()).chain([&self.bare]) {
            self.reset_one(scope, cache);
        }
    }

    /// Gives up domains that only `*` covers, where they are many, and nothing is lost with them.
    pub(super) fn sweep(&self) {
        if self.by_domain.len() > MOST / 2 {
            self.by_domain.retain(|_, scope| Arc::strong_count(scope) > 1 || !scope.is_dispensable());
        }
    }

    fn reset_one(&self, scope: &Scope, cache: &Cache) {
        scope.reset(cache.tally_anew(&self.common.route, scope.name()));
    }

    /// Every scope there is.
    pub(super) fn each(&self, mut at: impl FnMut(&Arc<Scope>)) {
        self.by_domain.iter().for_each(|scope| at(&scope));
        self.shared.values().for_each(&mut at);
        at(&self.bare);
    }

    /// What is known of each, up to `most`, those of which most is known first.
    pub(super) fn reports(&self, most: usize) -> Vec<ScopeReport> {
        let mut reports: Vec<_> = self
            .by_domain
            .iter()
            .map(|scope| scope.report())
            .chain(self.shared.values().map(|s| s.report()))
            .collect();
        reports.sort_by(|a, b| (b.good, &a.name).cmp(&(a.good, &b.name)));
        reports.dedup_by(|a, b| a.name == b.name);
        reports.truncate(most);
        reports
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Environment, Source};
    use crate::verify::cache::tests::lifetimes;
    use crate::verify::scope::Tested;
    use crate::verify::truth::Sighting;

    #[tokio::test(start_paused = true)]
    async fn domains_that_anybody_may_name_keep_no_places_for_ever() {
        let file = std::env::temp_dir().join(format!("backstop-scopes-{}.toml", std::process::id()));
        std::fs::write(&file, "[[route]]\ndomains = ['example.org', '*']\nbackends = ['10.0.0.1:25']\n")
            .unwrap();
        let environment = Environment { host_name: "mx.example.org".to_owned(), ..Environment::default() };
        let routes = config::load_in(&Source::File(file.clone()), &environment).unwrap().config.routes;
        std::fs::remove_file(file).unwrap();
        let (cache, route) = (Cache::new(lifetimes()), routes.iter().next().unwrap());
        let common = Common {
            route: Arc::clone(&route.name),
            stage: route.verify.stage,
            blind_ttl: Duration::from_secs(3600),
            alarms: Default::default(),
            identity: Arc::from(&b"store"[..]),
            sights: Arc::default(),
        };
        let scopes = Scopes::new(common, route, &cache, None);
        let of = |domain: &str| scopes.of(&Mailbox::parse(&format!("a@{domain}")).unwrap(), &routes, &cache);
        of("blind.test").tested(Tested::Recipient, Sighting::Taken);
        let in_use = of("in-use.test");
        (0..MOST).for_each(|number| drop(of(&format!("d{number}.test"))));
        let crowded = of("late.test");
        assert_eq!(crowded.name(), "*", "no place is left");
        scopes.sweep();
        let left: Vec<_> = scopes.by_domain.iter().map(|scope| scope.name().to_owned()).collect();
        for kept in ["example.org", "blind.test", "in-use.test"] {
            assert!(left.iter().any(|name| name == kept), "{kept} of {left:?}");
        }
        assert_eq!(left.len(), 3, "{left:?}");
        assert_eq!(of("late.test").name(), "late.test");
        assert!(Arc::ptr_eq(&of("in-use.test"), &in_use));
    }
}
