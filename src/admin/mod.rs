//! The admin endpoint: health, metrics, the API, as HTTP/1.1 on a socket of its own (RFC 9110, RFC 9112).
//!
//! Here: accepting callers and the bounds of a connection. What is answered is said by `request`, who may
//! ask by `access`. A caller can hold no more than this:
//!
//! * 64 connections at once, the next ones wait to be accepted; each serves one request;
//! * 16 of these are for `/livez` and `/readyz` alone: whoever asks for more while 48 requests are under way gets 503;
//! * a header of 16 KiB within 5 seconds, within 1 while fewer than 16 places are free; a body means nothing here and is read up to 16 KiB only;
//! * an answer within 60 seconds, and 75 for the connection from its first octet to its last;
//! * a stream of events, of which there are 16 at most, for as long as it is read and the process lasts.
//!
//! Known limits: no TLS. A proxy on this machine that adds no header makes loopback callers of all its own.

mod access;
mod answer;
mod backend_status;
mod clients;
mod configuration;
mod events;
mod health;
mod history;
mod orders;
mod page;
mod recipients;
mod refusals;
mod request;
mod sessions;
mod status;
mod target;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backends;
use crate::config::{Config, Secret};
use crate::guard::{Connections, Drain, Harvest};
use crate::net::listen::AcceptFault;
use crate::net::tls::Keyring;
use crate::observe::metrics::Metrics;
use crate::observe::{Alarms, Events, Live};
use crate::verify::Verifier;
use answer::{Refusal, Stalled};

pub use history::History;
pub use orders::{Order, Orders, Reloaded};

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Of these, for who asks whether we live: were they held by others, the process would be ended for it.
const RESERVED: usize = 16;
/// Octets of a request's header.
const MAX_HEADER: usize = 16 * 1024;
/// Octets of a request's body that are read, to be thrown away.
const MAX_BODY: usize = 16 * 1024;
/// How long a request's header may take, and its body.
const READING: Duration = Duration::from_secs(5);
/// How long a request's header may take when places are scarce.
const READING_SCARCE: Duration = Duration::from_secs(1);
/// How long a connection may take: reading twice, `request::DEADLINE`, and writing.
const CONNECTION: Duration = Duration::from_secs(75);
/// How long a request under way has when the process ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the endpoint shows and works on.
#[derive(Debug, Clone)]
pub struct Panel {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Who knows the recipients.
    pub verifier: Arc<Verifier>,
    /// Who takes the mail.
    pub backends: Arc<Backends>,
    /// What is wrong with routes.
    pub alarms: Alarms,
    /// What is counted.
    pub metrics: Metrics,
    /// How it moved.
    pub history: Arc<History>,
    /// What happens.
    pub events: Events,
    /// Who is here.
    pub live: Live,
    /// How many are here.
    pub connections: Arc<Connections>,
    /// What clients are shown; none without a certificate.
    pub keyring: Option<Arc<Keyring>>,
    /// Who guesses recipients.
    pub harvest: Arc<Harvest>,
    /// Whether we are ending.
    pub drain: Drain,
    /// Cancelled once all listeners accept.
    pub serving: CancellationToken,
    /// What callers must present.
    pub token: Option<Secret>,
    /// When the proxy started.
    pub started: Instant,
    /// Cancelled when the endpoint is to end.
    pub ended: CancellationToken,
    /// Whom orders go to.
    pub orders: Orders,
    /// Which configuration since the start is in force.
    pub generation: u64,
}

/// Serves until the end, then lets the requests under way finish.
pub async fn serve(socket: TcpListener, panel: Arc<ArcSwap<Panel>>) {
    let connections = TaskTracker::new();
    let lasting = panel.load_full();
    let serving = async {
        tokio::join!(accept(&socket, &panel, &connections), lasting.history.follow(&lasting.metrics));
    };
    lasting.ended.run_until_cancelled(serving).await;
    drop(socket);
    connections.close();
    connections.wait().await;
}

/// Takes caller after caller, as long as there is room. No error of accept ends this.
async fn accept(socket: &TcpListener, panel: &ArcSwap<Panel>, connections: &TaskTracker) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let unreserved = Arc::new(Semaphore::new(MAX_CONNECTIONS - RESERVED));
    // Nobody closes the semaphore, so this goes on until it is dropped.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        match socket.accept().await {
            Ok((stream, caller)) => {
                let (panel, unreserved) = (panel.load_full(), Arc::clone(&unreserved));
                let reading = if room.available_permits() < RESERVED { READING_SCARCE } else { READING };
                connections.spawn(async move {
                    let caller = caller.ip().to_canonical();
                    converse(stream, caller, &panel, (&unreserved, reading)).await;
                    drop(place);
                });
            }
            Err(fault) => {
                let kind = AcceptFault::of(&fault);
                if kind == AcceptFault::Resources {
                    tracing::warn!(listener = "admin", %fault, "cannot accept for the moment");
                }
                sleep(kind.pause()).await;
            }
        }
    }
}

/// One connection: a request, whose header comes within `reading`, and its answer. Unless it is for health, it takes
/// one of the `unreserved` places until the connection ends.
async fn converse(
    stream: TcpStream,
    caller: IpAddr,
    panel: &Panel,
    (unreserved, reading): (&Semaphore, Duration),
) {
    let stream_stalled: OnceLock<CancellationToken> = OnceLock::new();
    let place_held: OnceLock<SemaphorePermit<'_>> = OnceLock::new();
    let service = service_fn(async |request: Request<Incoming>| {
        let (request, body) = request.into_parts();
        if !request::is_for_health(&request) {
            let Ok(place) = unreserved.try_acquire() else {
                return Ok(Refusal::Busy(MAX_CONNECTIONS - RESERVED).into());
            };
            let _ = place_held.set(place);
        }
        discard(body).await;
        let answer = request::answer(panel, caller, &request).await;
        if let Some(Stalled(stalled)) = answer.extensions().get() {
            let _ = stream_stalled.set(stalled.clone());
        }
        Ok::<_, Infallible>(answer)
    });
    let overdue = async {
        sleep(CONNECTION).await;
        if let Some(stalled) = stream_stalled.get() {
            stalled.cancelled().await;
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(reading)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // How it ended is the caller's affair: nothing of ours depends on it.
        _ = connection.as_mut() => return,
        () = overdue => return,
        () = panel.ended.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(FAREWELL, connection).await;
}

/// Reads a body that means nothing: closing on unread octets would reset the connection under our answer.
async fn discard(body: Incoming) {
    let _ = timeout(READING, Limited::new(body, MAX_BODY).collect()).await;
}
