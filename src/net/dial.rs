//! Connections to backends.
//!
//! One address is dialled: who a name's addresses are, and which is tried first, is decided before. A connection that
//! leads back to one of our own listeners is refused: mail would go round for ever.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::stream::Stream;
use super::transparent;
use crate::config::{Endpoint, EndpointTls};

/// One address where a backend listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Site {
    /// The name it is known by, its port, and what is spoken there first.
    pub endpoint: Endpoint,
    /// Where the name leads; none where the endpoint is an address, or nothing is looked up (within this process).
    pub address: Option<IpAddr>,
}

impl Site {
    /// The endpoint as it is written.
    #[must_use]
    pub const fn of(endpoint: Endpoint) -> Self {
        Self { endpoint, address: None }
    }

    /// The address, if it is known.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.or_else(|| self.endpoint.ip())
    }
}

/// `host:port`, with the address in brackets behind a name that was looked up: `mail.example.org[10.0.0.5]:25`.
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(ip) if self.endpoint.ip() != Some(ip) => {
                let tls = if self.endpoint.tls == EndpointTls::Implicit { "smtps://" } else { "" };
                write!(f, "{tls}{}[{ip}]:{}", self.endpoint.host, self.endpoint.port)
            }
            _ => self.endpoint.fmt(f),
        }
    }
}

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum DialFault {
    /// The name has no address.
    #[error("cannot resolve {0}")]
    Unresolvable(Site),
    /// Nobody answered in time.
    #[error("connecting to {0} took too long")]
    Timeout(Site),
    /// The address is one of our own listeners.
    #[error("{0} is this very proxy")]
    Ourselves(Site),
    /// The system says no.
    #[error("cannot connect to {0}: {1}")]
    Refused(Site, io::Error),
    /// The connection was to come from the client's address.
    #[error("cannot connect to {0} from the address of a client: {1}")]
    Transparent(Site, io::Error),
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

    /// We listen on an address no more.
    pub fn is_not_ours(&self, address: SocketAddr) {
        if let Self::Network(ours) = self {
            ours.write().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|own| *own != address);
        }
    }

    /// Notes an address we listen on.
    pub fn is_ours(&self, address: SocketAddr) {
        if let Self::Network(ours) = self {
            ours.write().unwrap_or_else(std::sync::PoisonError::into_inner).push(address);
        }
    }

    /// Whether names are looked up, or stand for themselves.
    #[must_use]
    pub const fn needs_addresses(&self) -> bool {
        matches!(self, Self::Network(_))
    }

    /// A new connection to `site`, within `timeout`.
    ///
    /// # Errors
    /// [`DialFault`].
    pub async fn dial(&self, site: &Site, origin: Origin, timeout: Duration) -> Result<Stream, DialFault> {
        match self {
            Self::Network(ours) => timeout_at(Instant::now() + timeout, connect(site, origin, ours))
                .await
                .unwrap_or_else(|_| Err(DialFault::Timeout(site.clone()))),
            Self::Memory(switchboard) => {
                let (near, far) = tokio::io::duplex(PIPE);
                switchboard
                    .send((site.endpoint.clone(), far))
                    .map_err(|_| DialFault::Refused(site.clone(), io::ErrorKind::ConnectionRefused.into()))?;
                Ok(Stream::Memory(near))
            }
        }
    }
}

/// Of many candidates the first may take what it could of so few.
const FEW: usize = 3;

/// Until when the first of so many candidates may take, of the time until `deadline`: one that hangs leaves
/// time for the others, and one of many has time enough to answer.
#[must_use]
pub fn turn(deadline: Instant, candidates: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(candidates.clamp(1, FEW)).unwrap_or(1)
}

async fn connect(site: &Site, origin: Origin, ours: &RwLock<Vec<SocketAddr>>) -> Result<Stream, DialFault> {
    let ip = site.ip().ok_or_else(|| DialFault::Unresolvable(site.clone()))?;
    let address = SocketAddr::new(ip, site.endpoint.port);
    let stream = match origin {
        Origin::Ours => {
            let connected = TcpStream::connect(address).await;
            connected.map_err(|fault| DialFault::Refused(site.clone(), fault))?
        }
        Origin::Client(client) if client.is_ipv4() != address.is_ipv4() => {
            let none =
                io::Error::new(io::ErrorKind::Unsupported, "the backend's address is not of its family");
            return Err(DialFault::Transparent(site.clone(), none));
        }
        Origin::Client(client) => {
            let connected = transparent::connect(client, address).await;
            connected.map_err(|fault| match transparent::is_of_the_address(&fault) {
                true => DialFault::Transparent(site.clone(), fault),
                false => DialFault::Refused(site.clone(), fault),
            })?
        }
    };
    if leads_home(&stream, ours) {
        return Err(DialFault::Ourselves(site.clone()));
    }
    // Commands are small and answered one by one: waiting to fill segments only delays them.
    let _ = stream.set_nodelay(true);
    Ok(Stream::Tcp(stream))
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

    #[tokio::test]
    async fn we_never_dial_ourselves() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // A name that leads here is caught, too.
        let endpoint = Endpoint { host: "mail.example.org".into(), port, tls: EndpointTls::Negotiated };
        let site = Site { endpoint, address: Some(IpAddr::from([127, 0, 0, 1])) };
        let dialer = Dialer::network();
        assert!(dialer.dial(&site, Origin::Ours, Duration::from_secs(5)).await.is_ok());
        dialer.is_ours(SocketAddr::new(IpAddr::from([0; 16]), port));
        let fault = dialer.dial(&site, Origin::Ours, Duration::from_secs(5)).await;
        assert!(matches!(fault, Err(DialFault::Ourselves(_))), "{fault:?}");
    }
}
