//! Accepting clients. No error of accept ends the process, and no panic of a session leaves it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use crate::config::Listener;
use crate::net::listen::AcceptFault;
use crate::net::stream::Stream;
use crate::observe::metrics::ListenerMetrics;
use crate::session::{self, Context};

/// What the clients of one listening socket are served with.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: Listener,
    pub(super) series: ListenerMetrics,
    pub(super) context: Arc<Context>,
    pub(super) sessions: TaskTracker,
}

impl Door {
    /// Accepts from `socket` until told to end. It is closed then, also while sessions go on: who comes later is
    /// refused by the system and tries another server, instead of waiting for a greeting. Who came before and waits in
    /// the socket's queue is told, rather than reset.
    pub(super) async fn serve(self, socket: TcpListener) {
        let door = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = door.context.drain.idle_ends() => break,
            };
            match accepted {
                Ok((stream, client)) => door.open_to(stream, client),
                Err(fault) => {
                    let kind = AcceptFault::of(&fault);
                    if kind == AcceptFault::Resources {
                        tracing::warn!(listener = %door.listener.name, %fault, "cannot accept for the moment");
                    }
                    tokio::time::sleep(kind.pause()).await;
                }
            }
        }
        while let Some(Ok((stream, client))) = socket.accept().now_or_never() {
            door.open_to(stream, client);
        }
    }

    fn open_to(self: &Arc<Self>, stream: TcpStream, client: SocketAddr) {
        let door = Arc::clone(self);
        self.sessions.spawn(async move { door.admit(stream, client).await });
    }

    /// Serves a client.
    async fn admit(&self, stream: TcpStream, client: SocketAddr) {
        // Replies are written whole; waiting to fill segments only delays them.
        let _ = stream.set_nodelay(true);
        session::run(Stream::Tcp(stream), client, &self.listener, &self.series, Arc::clone(&self.context))
            .await;
    }
}
