//! A real HAProxy in front of a server, on a loopback port of its own: it tells the server who its clients are.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpStream;

use super::eventually;
use super::machine::{Directory, free_address};

/// An HAProxy. Dropping it ends it.
pub struct HaProxy {
    child: Child,
    address: SocketAddr,
    _directory: Directory,
}

impl HaProxy {
    /// Starts one before the server at `server`, with these options of its `server` line: `send-proxy`, `send-proxy-v2`.
    pub async fn before(server: SocketAddr, options: &str) -> Self {
        Self::configured(|address| {
            format!(
                "global\n  maxconn 100\n\
                 defaults\n  mode tcp\n  timeout connect 30s\n  timeout client 60s\n  timeout server 60s\n\
                 frontend in\n  bind {address}\n  default_backend out\n\
                 backend out\n  server store {server} {options}\n"
            )
        })
        .await
    }

    /// Starts one with the configuration that this gives for the address where it is to listen.
    pub async fn configured(configuration: impl Fn(SocketAddr) -> String) -> Self {
        loop {
            let directory = Directory::new("haproxy");
            let address = free_address();
            let file = directory.write("haproxy.cfg", configuration(address));
            let child = Command::new("haproxy")
                .args(["-db", "-f"])
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("HAProxy is installed");
            let mut haproxy = Self { child, address, _directory: directory };
            // A port that was taken meanwhile ends it.
            let up = eventually("HAProxy to listen or to end", || match haproxy.child.try_wait() {
                Ok(Some(_)) => Some(false),
                _ => std::net::TcpStream::connect(address).is_ok().then_some(true),
            });
            if up.await {
                return haproxy;
            }
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection to it from this address.
    pub async fn connect_from(&self, from: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(from).expect("a loopback address");
        socket.connect(self.address).await.expect("it listens")
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
