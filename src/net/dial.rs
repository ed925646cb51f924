//! Connections to backends.
//!
//! A name is resolved at each dialling and its addresses are tried in turn, each for its share of the time. A connection that leads back to
//! one of our own listeners is refused: mail would go round for ever.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::stream::Stream;
use super::transparent;
use crate::config::Endpoint;

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The name has no address.
    #[error("cannot resolve {0}")]
    Unresolvable(Endpoint),
    /// Nobody answered in time.
    #[error("connecting to {0} took too long")]
    Timeout(Endpoint),
    /// The address is one of our own listeners.
    #[error("{0} is this very proxy")]
    Ourselves(Endpoint),
    /// The system says no.
    #[error("cannot connect to {0}: {1}")]
    Refused(Endpoint, io::Error),
    /// The connection was to come from the client's address.
    #[error("cannot connect to {0} from the address of a client: {1}")]
    Transparent(Endpoint, io::Error),
}

/// From which address a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Our own.
    Ours,
    /// This client's, see `client_address = "transparent"`.
    Client(SocketAddr),
}

/// How backends are reached.
#[derive(Debug, Clone)]
pub enum Dialer {
    /// Over the network, but never to these listening addresses of ours.
    Network(Arc<RwLock<Vec<SocketAddr>>>),
    /// Within this process: the other end of a new pipe is handed to whoever plays the backends.
    Memory(mpsc::UnboundedSender<(Endpoint, tokio::io::DuplexStream)>),
}

/// Octets a pipe within this process holds.
const PIPE: usize = 64 * 1024;

impl Dialer {
    /// A network dialer; listeners are made known to it as they are bound.
    #[must_use]
    pub fn network() -> Self {
        Self::Network(Arc::default())
    }

    /// Notes an address we listen on.
    pub fn is_ours(&self, address: SocketAddr) {
        if let Self::Network(ours) = self {
            ours.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(address);
        }
    }

    /// A new connection, within `timeout` over all addresses of the endpoint (those of the client's family, where it
    /// comes from the client's address).
    ///
    /// # Errors
    /// The [`DialFault`] of the last address tried.
    pub async fn dial(
        &self,
        endpoint: &Endpoint,
        origin: Origin,
        timeout: Duration,
    ) -> Result<Stream, DialFault> {
        match self {
            Self::Network(ours) => {
                let deadline = Instant::now() + timeout;
                timeout_at(deadline, connect(endpoint, origin, ours, deadline))
                    .await
                    .unwrap_or_else(|_| Err(DialFault::Timeout(endpoint.clone())))
            }
            Self::Memory(switchboard) => {
                let (near, far) = tokio::io::duplex(PIPE);
                switchboard.send((endpoint.clone(), far)).map_err(|_| {
                    DialFault::Refused(endpoint.clone(), io::ErrorKind::ConnectionRefused.into())
                })?;
                Ok(Stream::Memory(near))
            }
        }
    }
}

/// Until when the first of so many candidates may take, of the time until `deadline`: one that hangs leaves
/// time for the others.
#[must_use]
pub fn turn(deadline: Instant, candidates: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(candidates.max(1)).unwrap_or(u32::MAX)
}

async fn connect(
    endpoint: &Endpoint,
    origin: Origin,
    ours: &RwLock<Vec<SocketAddr>>,
    deadline: Instant,
) -> Result<Stream, DialFault> {
    let mut addresses: Vec<_> = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|_| DialFault::Unresolvable(endpoint.clone()))?
        .collect();
    let mut fault = DialFault::Unresolvable(endpoint.clone());
    if let Origin::Client(client) = origin {
        addresses.retain(|address| address.is_ipv4() == client.is_ipv4());
        let none = io::Error::new(io::ErrorKind::Unsupported, "the backend has no address of its family");
        fault = DialFault::Transparent(endpoint.clone(), none);
    }
    for (at, address) in addresses.iter().enumerate() {
        let connecting = async {
            match origin {
                Origin::Ours => TcpStream::connect(address).await,
                Origin::Client(client) => transparent::connect(client, *address).await,
            }
        };
        let attempt = timeout_at(turn(deadline, addresses.len() - at), connecting).await;
        match attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) if leads_home(&stream, ours) => return Err(DialFault::Ourselves(endpoint.clone())),
            Ok(stream) => {
                // Commands are small and answered one by one: waiting to fill segments only delays them.
                let _ = stream.set_nodelay(true);
                return Ok(Stream::Tcp(stream));
            }
            Err(refused) if origin != Origin::Ours && transparent::is_of_the_address(&refused) => {
                fault = DialFault::Transparent(endpoint.clone(), refused);
            }
            Err(refused) => fault = DialFault::Refused(endpoint.clone(), refused),
        }
    }
    Err(fault)
}

/// A socket whose two ends have one address is on this host; a listener of ours on that port and address,
/// or on all addresses, is then the one that took it.
fn leads_home(stream: &TcpStream, ours: &RwLock<Vec<SocketAddr>>) -> bool {
    let (Ok(near), Ok(far)) = (stream.local_addr(), stream.peer_addr()) else { return false };
    let far_ip = far.ip().to_canonical();
    let ours = ours.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    near.ip() == far.ip()
        && ours.iter().any(|own| own.port() == far.port() && covers(own.ip().to_canonical(), far_ip))
}

fn covers(listening: IpAddr, address: IpAddr) -> bool {
    listening.is_unspecified() || listening == address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointTls;

    #[tokio::test]
    async fn we_never_dial_ourselves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint { host: "127.0.0.1".into(), port, tls: EndpointTls::Negotiated };
        let dialer = Dialer::network();
        assert!(dialer.dial(&endpoint, Origin::Ours, Duration::from_secs(5)).await.is_ok());
        dialer.is_ours(SocketAddr::new(IpAddr::from([0; 16]), port));
        let fault = dialer.dial(&endpoint, Origin::Ours, Duration::from_secs(5)).await;
        assert!(matches!(fault, Err(DialFault::Ourselves(_))), "{fault:?}");
    }
}
