//! Listening sockets, and what an error of accept means.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::transparent;

/// Connections the kernel keeps for us before they are accepted; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Whether others may listen where we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    Alone,
    /// Sockets that allow it too, of the same user (`SO_REUSEPORT`): each new connection goes to one of them.
    Shared,
}

/// Whose connections a listening socket takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those to its own address.
    Own,
    /// Also those to others that the system redirects here (TPROXY).
    Others,
}

/// Where this host listens when it is asked to at `wanted`: `[::]` stands for all addresses, and a host whose kernel has no IPv6 has
/// those of IPv4 alone. Any other address is itself.
#[must_use]
pub fn on_this_host(wanted: SocketAddr) -> SocketAddr {
    let has = |domain| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).is_ok();
    // Which error tells that differs between systems; who is out of descriptors has no socket of either family.
    if wanted.is_ipv6() && wanted.ip().is_unspecified() && !has(Domain::IPV6) && has(Domain::IPV4) {
        return SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted.port()));
    }
    wanted
}

/// Binds `address`. `[::]` takes IPv4 too, as an operator who writes it expects.
///
/// # Errors
/// Those of the system: address in use, permission denied (for [`Reach::Others`] without `CAP_NET_ADMIN`), …
pub fn bind(address: SocketAddr, reach: Reach, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the sockets of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_port(sharing == Sharing::Shared)?;
    if reach == Reach::Others {
        transparent::allow(&socket, address)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What to do about an error of accept. None ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFault {
    /// The client was gone before we had it: take the next one.
    Theirs,
    /// Out of descriptors or memory: others must end first.
    Resources,
}

impl AcceptFault {
    /// Sorts `fault`.
    #[must_use]
    pub fn of(fault: &io::Error) -> Self {
        match fault.kind() {
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionRefused => Self::Theirs,
            _ => Self::Resources,
        }
    }

    /// How long to wait before accepting again.
    #[must_use]
    pub const fn pause(self) -> Duration {
        match self {
            Self::Theirs => Duration::ZERO,
            Self::Resources => Duration::from_millis(50),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_wildcard_takes_both_families() {
        let listener = bind("[::]:0".parse().unwrap(), Reach::Own, Sharing::Alone).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (client, _) =
            tokio::join!(tokio::net::TcpStream::connect(("127.0.0.1", port)), listener.accept());
        assert!(client.is_ok());
    }

    #[test]
    fn no_accept_error_is_final() {
        for kind in [io::ErrorKind::ConnectionAborted, io::ErrorKind::Other, io::ErrorKind::OutOfMemory] {
            assert!(AcceptFault::of(&kind.into()).pause() <= Duration::from_secs(1));
        }
    }
}
