//! Connections under addresses that are not ours: taken for others (TPROXY), or made in a client's name.
//!
//! Both need `CAP_NET_ADMIN`, and a network that leads the other side's packets back here; neither can be seen
//! from a socket. Linux: `IP_TRANSPARENT` and `IP_FREEBIND` of ip(7), and the same for IPv6.
//!
//! Known limit: without `IP_BIND_ADDRESS_NO_PORT` (which no safe interface offers) a port is taken when the socket is bound:
//! one client has at most as many connections to all backends together as there are ephemeral ports.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Allows `socket` to have an address, in the family of `address`, that is not this host's. A dual-stack socket
/// is allowed it in both.
pub(super) fn allow(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
        if address.ip().is_unspecified() {
            socket.set_ip_transparent_v4(true)?;
        }
        Ok(())
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

/// Whether the system lets us have addresses that are not this host's.
///
/// # Errors
/// Why it does not: permission denied without `CAP_NET_ADMIN` or `CAP_NET_RAW`.
pub fn permitted() -> io::Result<()> {
    let nobodys = SocketAddr::from(([127, 0, 0, 1], 0));
    allow(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, nobodys)
}

/// Connects to `backend` from the address of `client`: from its port too where that is free, else from any.
///
/// # Errors
/// Those of the system: permission denied without `CAP_NET_ADMIN`, unreachable, …
pub(super) async fn connect(client: SocketAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let any_port = SocketAddr::new(client.ip(), 0);
    match attempt(client, backend).await {
        Err(fault) if is_taken(&fault) => attempt(any_port, backend).await,
        done => done,
    }
}

async fn attempt(from: SocketAddr, backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    allow(&socket, from)?;
    if from.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&from.into())?;
    TcpSocket::from_std_stream(socket.into()).connect(backend).await
}

/// Whether a connection failed for the address it was to come from, rather than for who was to take it.
pub(super) fn is_of_the_address(fault: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, PermissionDenied, Unsupported};
    matches!(fault.kind(), PermissionDenied | AddrInUse | AddrNotAvailable | InvalidInput | Unsupported)
}

/// Whether the port is in use here, or was for a connection between the same two ends a moment ago.
fn is_taken(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}
