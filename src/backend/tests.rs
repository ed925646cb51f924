//! What tests of this layer share.

use std::time::Duration;

use super::connection::{Identity, Patience};
use super::pool::Blueprint;
use super::quota::Quota;
use crate::config::{BackendTls, TlsPolicy};
use crate::net::dial::Dialer;
use crate::observe::metrics::Metrics;

/// Backends on the network, to which nothing is ever sent.
pub(super) fn blueprint() -> Blueprint {
    const SECOND: Duration = Duration::from_secs(1);
    Blueprint {
        quota: Quota {
            connections: 10,
            eject: 5 * SECOND,
            refusals: 9,
            header: None,
            tls: BackendTls { policy: TlsPolicy::Off, name: None },
            tls_handshake: SECOND,
            check: None,
            canary: None,
        },
        dialer: Dialer::network(),
        identity: Identity { hostname: "mx.example.org".into(), header: None },
        patience: Patience { connect: SECOND, command: SECOND, end_of_data: SECOND },
        metrics: vec![Metrics::new().backend("example.org", "mx:example.org")],
    }
}
