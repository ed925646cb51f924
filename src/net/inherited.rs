//! Sockets that whoever started us listens on already (systemd's socket activation, `sd_listen_fds(3)`).
//!
//! A listener takes the one that has its address, so neither names nor an order must be agreed on. The port is then never
//! closed: who connects while we are restarted waits in its queue, and we need no privilege to bind it.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::SockRef;

use super::listen::Reach;
use super::transparent;

/// What was handed over and not yet taken.
#[derive(Debug, Default)]
pub struct Inherited(Vec<TcpListener>);

impl Inherited {
    /// What was handed to this process. Asked a second time, there is nothing left.
    #[must_use]
    pub fn of_process() -> Self {
        let mut handed = listenfd::ListenFd::from_env();
        // What is no listening TCP socket is not for us.
        Self((0..handed.len()).filter_map(|at| handed.take_tcp_listener(at).ok().flatten()).collect())
    }

    /// The socket that listens on `address`, if there is one, with this reach.
    ///
    /// # Errors
    /// Those of the system when the socket is prepared for us.
    pub fn take(&mut self, address: SocketAddr, reach: Reach) -> io::Result<Option<tokio::net::TcpListener>> {
        let Some(at) = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == address))
        else {
            return Ok(None);
        };
        let socket = self.0.swap_remove(at);
        if reach == Reach::Others {
            transparent::allow(&SockRef::from(&socket), address)?;
        }
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket).map(Some)
    }

    /// The addresses nobody took.
    pub fn left(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|socket| socket.local_addr().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_taken_once_by_its_address() {
        let handed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = handed.local_addr().unwrap();
        let mut inherited = Inherited(vec![TcpListener::bind("127.0.0.1:0").unwrap(), handed]);
        let taken = inherited.take(address, Reach::Own).unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        assert!(inherited.take(address, Reach::Own).unwrap().is_none());
        assert_eq!(inherited.left().count(), 1);
    }
}
