//! The admin endpoint: metrics, health, an API that explains and forgets.
//!
//! Off loopback everything but health and metrics needs the token, for the rest would be an oracle to
//! harvesters. On loopback only changing calls do, when a token is set. Requests are bounded in size and
//! time, and connections in number; a browser that was lured here by another site is refused by the names
//! it brings (`Host`, `Origin`).

mod access;
mod answer;
mod recipients;
mod route;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backend::Backends;
use crate::config::{Config, Secret};
use crate::guard::Drain;
use crate::net::listen::AcceptFault;
use crate::observe::metrics::Metrics;
use crate::verify::Verifier;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// Largest request head, in octets.
const MAX_HEAD: usize = 16 * 1024;
/// How long a connection may last: scrapers come anew.
const CONNECTION: Duration = Duration::from_secs(300);

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
    /// When the proxy started.
    pub started: Instant,
}

/// Serves until `ended`.
pub async fn serve(socket: TcpListener, panel: Arc<Panel>, ended: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = ended.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(fault) => {
                tokio::time::sleep(AcceptFault::of(&fault).pause()).await;
                continue;
            }
        };
        // Above the bound a caller is simply not served: health probes come again.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (panel, ended) = (Arc::clone(&panel), ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = timeout(CONNECTION, connection(stream, peer, panel)) => {}
                () = ended.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, panel: Arc<Panel>) {
    let service = service_fn(move |request| {
        let panel = Arc::clone(&panel);
        async move { Ok::<_, std::convert::Infallible>(route::answer(&panel, peer.ip(), &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(fault) = served {
        tracing::debug!(%peer, %fault, "admin connection");
    }
}

#[cfg(test)]
mod tests;
