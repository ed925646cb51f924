//! From a configuration to everything that sessions share.

use std::sync::Arc;

use crate::backend::{Backends, Identity, Patience, Quota};
use crate::config::{ClientAddress, Config, RecipientSource};
use crate::net::dial::Dialer;
use crate::observe::Alarms;
use crate::observe::metrics::Metrics;
use crate::proto::proxy_header::Version;
use crate::session::Context;
use crate::verify::{ListFault, Verifier};

/// Makes the shared parts; nothing runs yet, and nothing is connected.
///
/// # Errors
/// [`ListFault`] when a recipient file cannot be read.
pub fn assemble(config: Config, dialer: &Dialer) -> Result<Context, ListFault> {
    let metrics = Metrics::new();
    let backends = Arc::new(backends(&config, dialer, &metrics));
    let alarms = Alarms::default();
    let verifier = Arc::new(Verifier::new(&config, &backends, &metrics, &alarms)?);
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
            let header = match route.client_address {
                ClientAddress::ProxyV1 => Some(Version::One),
                ClientAddress::ProxyV2 => Some(Version::Two),
                ClientAddress::None | ClientAddress::Xclient | ClientAddress::Transparent => None,
            };
            let quota = Quota {
                connections: route.max_connections,
                eject: route.eject,
                header,
                tls: route.tls.clone(),
                tls_handshake: config.timeouts.tls_handshake,
            };
            (endpoint.clone(), quota, series)
        })
    });
    let identity = Identity { hostname: config.hostname.as_str().into(), header: None };
    let patience = Patience {
        connect: config.timeouts.backend_connect,
        command: config.timeouts.backend_command,
        end_of_data: config.timeouts.backend_end_of_data,
    };
    Backends::new(endpoints, dialer, &identity, patience)
}
