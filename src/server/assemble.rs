//! From a configuration to everything that sessions share.

use std::sync::Arc;

use crate::backend::{Backends, Identity, Patience, Quota};
use crate::config::{Config, RecipientSource};
use crate::net::dial::Dialer;
use crate::observe::Alarms;
use crate::observe::metrics::Metrics;
use crate::session::Context;
use crate::verify::{Keyring, ListFault, Verifier};

/// Makes the shared parts; nothing runs yet, and nothing is connected.
///
/// # Errors
/// [`ListFault`] when a recipient file cannot be read.
pub fn assemble(config: Config, dialer: &Dialer) -> Result<Context, ListFault> {
    assemble_with(config, dialer, Metrics::new(), Keyring::random())
}

/// The same, counting into `metrics`, which others may count into, too, and with the keys of `keyring`: what is
/// remembered then ages as it did in another process that had them.
///
/// # Errors
/// Those of [`assemble`].
pub fn assemble_with(
    config: Config,
    dialer: &Dialer,
    metrics: Metrics,
    keyring: Keyring,
) -> Result<Context, ListFault> {
    let backends = Arc::new(backends(&config, dialer, &metrics));
    let alarms = Alarms::default();
    let verifier = Arc::new(Verifier::new(&config, &backends, &metrics, &alarms)?.keyed(keyring));
    Ok(Context::new(Arc::new(config), verifier, backends, metrics, alarms))
}

/// One backend for each endpoint that any route names, for delivery or for asking.
fn backends(config: &Config, dialer: &Dialer, metrics: &Metrics) -> Backends {
    let endpoints = config.routes.iter().flat_map(|route| {
        let asked = match &route.verify.source {
            RecipientSource::Callout { backends } => backends.as_slice(),
            RecipientSource::File(_) => &[],
        };
        route.backends.iter().chain(asked).map(|endpoint| {
            let series = metrics.backend(&route.name, &endpoint.to_string());
            let quota = Quota {
                connections: route.max_connections,
                eject: route.eject,
                refusals: route.verify.refusals_endured,
                tls: route.tls.clone(),
                tls_handshake: config.timeouts.tls_handshake,
            };
            (endpoint.clone(), quota, series)
        })
    });
    let identity = Identity { hostname: config.hostname.as_str().into() };
    let patience = Patience {
        connect: config.timeouts.backend_connect,
        command: config.timeouts.backend_command,
        end_of_data: config.timeouts.backend_end_of_data,
    };
    Backends::new(endpoints, dialer, &identity, patience)
}
