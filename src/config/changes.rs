//! What differs between the configuration in force and a new one, and what of that can be taken over without a restart.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::used::Config;
use super::write::Shown;

/// What is made once and lives as long as the process: what is remembered, what is known of clients, the log, and the socket
/// of the admin endpoint.
const LASTING: [&str; 4] = ["cache.", "log.", "admin.address", "harvest.max_clients"];
/// What concerns every backend.
const OF_ALL_BACKENDS: [&str; 4] = ["hostname", "timeouts.backend_", "timeouts.tls_handshake", "dns.servers"];

/// What a new configuration changes.
#[derive(Debug, Clone)]
pub struct Changes {
    /// Routes, by name, of which nothing changes, nor of how their backends are spoken to.
    same_routes: HashSet<Arc<str>>,
    /// Keys that change, and take effect with a restart alone.
    late: Vec<String>,
    /// Keys that change.
    count: usize,
    certificates: bool,
}

impl Changes {
    /// Those from `old` to `new`, which keeps of `old` what cannot change in a running process.
    pub fn take_over(old: &Config, new: &mut Config) -> Self {
        let (before, after) = (table(old), table(new));
        let keys: HashSet<&str> = before.keys().chain(after.keys()).copied().collect();
        let mut changed: Vec<&str> =
            keys.into_iter().filter(|key| before.get(key) != after.get(key)).collect();
        changed.sort_unstable();
        let concern = |prefixes: &[&str]| changed.iter().any(|key| begins(key, prefixes));
        let same_routes = if concern(&OF_ALL_BACKENDS) { HashSet::new() } else { same_routes(old, new) };
        let mut late: Vec<_> =
            changed.iter().filter(|key| begins(key, &LASTING)).map(|key| (*key).to_owned()).collect();
        // Secrets are shown alike whatever they are.
        if old.store != new.store && !concern(&["cache."]) {
            late.push("cache.shared or cache.secret".to_owned());
        }
        let changes = Self { same_routes, late, count: changed.len(), certificates: concern(&["tls."]) };
        new.shown = new.shown.iter().map(|shown| in_force(shown, old)).collect();
        new.keep_lasting(old);
        changes
    }

    /// Whether nothing of `route` changes, nor of how its backends are spoken to.
    #[must_use]
    pub fn spare(&self, route: &str) -> bool {
        self.same_routes.contains(route)
    }

    /// Whether clients are shown certificates of other files, or in another way.
    #[must_use]
    pub const fn certificates(&self) -> bool {
        self.certificates
    }

    /// Keys that change, and take effect with a restart alone.
    #[must_use]
    pub fn late(&self) -> &[String] {
        &self.late
    }

    /// Keys that change.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }
}

impl Config {
    /// What cannot change in a running process is what `old` says.
    fn keep_lasting(&mut self, old: &Self) {
        (self.cache, self.store, self.log) = (old.cache.clone(), old.store.clone(), old.log.clone());
        self.harvest.max_clients = old.harvest.max_clients;
        let token = self.admin.take().and_then(|admin| admin.token);
        self.admin.clone_from(&old.admin);
        if let Some(admin) = &mut self.admin {
            admin.token = token;
        }
    }
}

fn begins(key: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| key.starts_with(prefix))
}

fn table(config: &Config) -> BTreeMap<&str, &str> {
    config.shown.iter().map(|shown| (shown.key.as_str(), shown.value.as_str())).collect()
}

fn in_force(shown: &Shown, old: &Config) -> Shown {
    let lasting = begins(&shown.key, &LASTING).then(|| old.shown.iter().find(|other| other.key == shown.key));
    lasting.flatten().unwrap_or(shown).clone()
}

fn same_routes(old: &Config, new: &Config) -> HashSet<Arc<str>> {
    let old_routes: BTreeMap<&str, _> =
        old.routes.iter().enumerate().map(|(at, route)| (&*route.name, of_route(old, at))).collect();
    let same = |(at, name): &(usize, Arc<str>)| {
        let after = of_route(new, *at);
        // The file it names may have changed though its name did not.
        let alone = after.get("tls_ca").is_none_or(|ca| *ca == "\"\"");
        alone && old_routes.get(&**name) == Some(&after)
    };
    let named = new.routes.iter().enumerate().map(|(at, route)| (at, Arc::clone(&route.name)));
    named.filter(same).map(|(_, name)| name).collect()
}

/// The keys of the route at this place, without where it stands.
fn of_route(config: &Config, at: usize) -> BTreeMap<&str, &str> {
    let place = format!("route[{at}].");
    let shown = config.shown.iter();
    shown.filter_map(|shown| Some((shown.key.strip_prefix(&place)?, shown.value.as_str()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::load_text;

    fn config(text: &str) -> Config {
        load_text("changes", text, &[]).unwrap().config
    }

    const OLD: &str = "hostname = 'mx.example.org'\n\
        [[route]]\ndomains = ['a.example']\nbackends = ['10.0.0.1:25']\n\
        [[route]]\ndomains = ['b.example']\nbackends = ['10.0.0.2:25']\n[route.verify]\nrecheck = '5s'\n";

    #[test]
    fn a_route_that_stays_is_known_by_its_name_wherever_it_stands() {
        let old = config(OLD);
        let mut new = config(
            "hostname = 'mx.example.org'\n\
             [[route]]\ndomains = ['c.example']\nbackends = ['10.0.0.3:25']\n\
             [[route]]\ndomains = ['b.example']\nbackends = ['10.0.0.2:25']\n[route.verify]\nrecheck = '5s'\n\
             [[route]]\ndomains = ['a.example']\nbackends = ['10.0.0.1:25']\n[route.verify]\nmode = 'off'\n",
        );
        let changes = Changes::take_over(&old, &mut new);
        let spared: Vec<_> = ["a.example", "b.example", "c.example"].map(|name| changes.spare(name)).into();
        assert_eq!(spared, [false, true, false]);
        assert!(changes.late().is_empty() && !changes.certificates());
    }

    #[test]
    fn what_concerns_every_backend_spares_no_route() {
        let old = config(OLD);
        let mut same = config(OLD);
        let changes = Changes::take_over(&old, &mut same);
        assert!(changes.spare("a.example") && changes.count() == 0);
        let mut new = config(&format!("{OLD}[timeouts]\nbackend_connect = '1s'\n"));
        assert!(!Changes::take_over(&old, &mut new).spare("a.example"));
        let mut new = config(&format!("{OLD}[timeouts]\ndrain = '1s'\n"));
        assert!(Changes::take_over(&old, &mut new).spare("a.example"));
    }

    #[test]
    fn what_cannot_change_stays_and_is_told() {
        let old = config(OLD);
        let text = format!(
            "{OLD}[cache]\npositive_ttl = '1h'\n[harvest]\nmax_clients = 5000\nban = '1m'\n[log]\nlevel = 'debug'\n\
             [admin]\naddress = '127.0.0.1:1'\ntoken = 'secret'\n"
        );
        let mut new = config(&text);
        let changes = Changes::take_over(&old, &mut new);
        assert_eq!(
            changes.late(),
            ["admin.address", "cache.positive_ttl", "harvest.max_clients", "log.level"]
        );
        assert_eq!(new.cache.positive_ttl, old.cache.positive_ttl);
        assert_eq!(new.harvest.max_clients, old.harvest.max_clients);
        assert_ne!(new.harvest.ban, old.harvest.ban);
        let (new_admin, old_admin) = (new.admin.unwrap(), old.admin.unwrap());
        assert_eq!(new_admin.address, old_admin.address);
        assert!(new_admin.token.is_some() && old_admin.token.is_none());
        let shown = |key: &str| new.shown.iter().find(|shown| shown.key == key).unwrap().value.clone();
        assert_eq!((shown("harvest.ban"), shown("cache.positive_ttl")), ("\"1m\"".into(), "\"1d\"".into()));
        let old = config(&format!("{OLD}[cache]\nsecret = 'one'\n"));
        let mut new = config(&format!("{OLD}[cache]\nsecret = 'two'\n"));
        assert_eq!(Changes::take_over(&old, &mut new).late(), ["cache.shared or cache.secret"]);
    }
}
