//! From a configuration to everything that sessions share.

use std::sync::Arc;

use crate::backend::{Backends, Canary, Identity, Patience, Quota};
use crate::config::{self, Changes, ClientAddress, Config, RecipientSource, Route, Secret};
use crate::net::dial::Dialer;
use crate::observe::Alarms;
use crate::observe::metrics::Metrics;
use crate::proto::proxy_header::Version;
use crate::session::Context;
use crate::store::{HashKey, Opened, Tier};
use crate::verify::{ListFault, Verifier, bounds};

/// Makes the shared parts; nothing runs yet, and nothing is connected. Verdicts are remembered in memory.
///
/// # Errors
/// [`ListFault`] when a recipient file cannot be read.
pub fn assemble(config: Config, dialer: &Dialer) -> Result<Context, ListFault> {
    assemble_counting(config, dialer, Metrics::new())
}

/// The same, counting into `metrics`, which others may count into, too.
///
/// # Errors
/// Those of [`assemble`].
pub fn assemble_counting(config: Config, dialer: &Dialer, metrics: Metrics) -> Result<Context, ListFault> {
    assemble_with(config, dialer, metrics, in_memory)
}

/// The same with the store, where one is configured: what it knows is known, and it keeps what is learnt.
///
/// # Errors
/// Those of [`assemble`]. A store that cannot be used is none: it is warned about, and done without.
pub fn assemble_with_store(config: Config, dialer: &Dialer) -> Result<Context, ListFault> {
    assemble_with(config, dialer, Metrics::new(), stored)
}

fn in_memory(verifier: Verifier, config: &Config) -> Verifier {
    match &config.store.secret {
        Some(secret) => verifier.with_key(HashKey::of(secret.reveal())),
        None => verifier,
    }
}

fn stored(verifier: Verifier, config: &Config) -> Verifier {
    let Some(path) = &config.store.path else { return in_memory(verifier, config) };
    let (good, bad) = bounds(&config.cache);
    let secret = config.store.secret.as_ref().map(Secret::reveal);
    match Opened::open(path, secret, good, bad) {
        Ok(store) => verifier.with_store(store),
        Err(fault) => {
            tracing::warn!(%fault, "verdicts are remembered in memory alone, and a restart will be cold");
            in_memory(verifier, config)
        }
    }
}

fn assemble_with(
    config: Config,
    dialer: &Dialer,
    metrics: Metrics,
    remembering: fn(Verifier, &Config) -> Verifier,
) -> Result<Context, ListFault> {
    let backends = Arc::new(backends(&config, dialer, &metrics, None, |_| false));
    let alarms = Alarms::default();
    let verifier = remembering(Verifier::new(&config, &backends, &metrics, &alarms)?, &config);
    let tier = tier(&config, &metrics);
    let verifier = match &tier {
        Some(tier) => verifier.with_tier(tier.clone()),
        None => verifier,
    };
    Ok(Context::new(Arc::new(config), Arc::new(verifier), backends, metrics, alarms, tier))
}

/// The shared parts for another configuration, of which `changes` tells: what they leave as it is goes on as it is.
///
/// # Errors
/// Those of [`assemble`].
pub(super) fn reassemble(
    old: &Context,
    config: Config,
    changes: &Changes,
    dialer: &Dialer,
) -> Result<Context, ListFault> {
    // Whoever names a destination has a say in how it is treated, also the routes that are gone.
    let spared_by = |config: &Config, named: &config::Destination| {
        config.routes.iter().filter(|route| names(route, named)).all(|route| changes.spare(&route.name))
    };
    let is_kept = |named: &config::Destination| {
        let is_spared = spared_by(&config, named) && spared_by(&old.config, named);
        is_spared && old.backends.find(named).is_some()
    };
    let spared = |name: &str| {
        let route = config.routes.iter().find(|route| &*route.name == name);
        route.is_some_and(|route| changes.spare(name) && named_by(route).all(is_kept))
    };
    let backends = Arc::new(backends(&config, dialer, &old.metrics, Some(&old.backends), is_kept));
    let verifier = Arc::new(old.verifier.renewed(&config, &backends, spared)?);
    let acceptor = if changes.certificates() {
        Context::acceptor_for(&config, &old.metrics)
    } else {
        old.acceptor.clone()
    };
    Ok(old.renewed(Arc::new(config), verifier, backends, acceptor))
}

/// The destinations that `route` names, for delivery or for asking.
pub(super) fn named_by(route: &Route) -> impl Iterator<Item = &config::Destination> {
    let asked = match &route.verify.source {
        RecipientSource::Callout { backends } => backends.as_slice(),
        RecipientSource::File(_) => &[],
    };
    route.backends.iter().chain(asked)
}

fn names(route: &Route, named: &config::Destination) -> bool {
    named_by(route).any(|other| other == named)
}

/// What is shared with other instances, where that is wanted. Nothing is connected yet.
fn tier(config: &Config, metrics: &Metrics) -> Option<Tier> {
    let (shared, secret) = (config.store.shared.as_ref()?, config.store.secret.as_ref()?);
    let (good, bad) = bounds(&config.cache);
    Some(Tier::new(shared, HashKey::of(secret.reveal()), good.keeps.max(bad.keeps), metrics.clone()))
}

/// Whom checks ask about. Asked is as probes do.
fn canary(route: &Route) -> Option<Canary> {
    let recipient = route.canary.clone()?;
    let fallback_sender = route.verify.fallback_sender.as_ref().or(route.verify.sender.as_ref()).cloned();
    Some(Canary { recipient, fallback_sender })
}

/// One destination for each that any route names, for delivery or for asking.
fn backends(
    config: &Config,
    dialer: &Dialer,
    metrics: &Metrics,
    before: Option<&Backends>,
    is_kept: impl Fn(&config::Destination) -> bool,
) -> Backends {
    let named = config.routes.iter().flat_map(|route| {
        named_by(route).map(|named| {
            let series = metrics.backend(&route.name, &named.to_string());
            let header = match route.client_address {
                ClientAddress::ProxyV1 => Some(Version::One),
                ClientAddress::ProxyV2 => Some(Version::Two),
                ClientAddress::None | ClientAddress::Xclient | ClientAddress::Transparent => None,
            };
            let quota = Quota {
                connections: route.max_connections,
                eject: route.eject,
                refusals: route.verify.refusals_endured,
                header,
                tls: route.tls.clone(),
                tls_handshake: config.timeouts.tls_handshake,
                check: route.check,
                canary: canary(route),
            };
            (named.clone(), quota, series)
        })
    });
    let identity = Identity { hostname: Arc::clone(&config.hostname), header: None };
    let patience = Patience {
        connect: config.timeouts.backend_connect,
        command: config.timeouts.backend_command,
        end_of_data: config.timeouts.backend_end_of_data,
    };
    Backends::new(named, dialer, &identity, patience, &config.dns.servers, before, is_kept)
}
