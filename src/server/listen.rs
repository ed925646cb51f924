//! Accepting clients. No error of accept ends the process, and no panic of a session leaves it.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Bound, StartFault};
use crate::config::{Config, Listener};
use crate::net::inherited::Inherited;
use crate::net::listen::{self, AcceptFault, Reach, Sharing};
use crate::net::stream::Stream;
use crate::observe::metrics::ListenerMetrics;
use crate::session::{self, Context};

/// What the clients of one listening socket are served with.
#[derive(Debug)]
pub(super) struct Served {
    listener: Listener,
    series: ListenerMetrics,
    context: Arc<Context>,
}

/// One listening socket, which may outlive the configuration it was bound for.
#[derive(Debug)]
pub(super) struct Door {
    place: Place,
    pub(super) bound: Bound,
    /// The socket, until clients are accepted from it.
    socket: Option<TcpListener>,
    served: Arc<ArcSwap<Served>>,
    closing: CancellationToken,
}

/// Where a door is, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    listener: Arc<str>,
    address: SocketAddr,
    reach: Reach,
    sharing: Sharing,
}

impl Served {
    fn new(listener: &Listener, context: &Arc<Context>) -> Arc<Self> {
        let series = context.metrics.listener(&listener.name);
        Arc::new(Self { listener: listener.clone(), series, context: Arc::clone(context) })
    }
}

impl Place {
    /// All that `config` wants doors at.
    pub(super) fn all(config: &Config) -> impl Iterator<Item = (Self, &Listener)> {
        config.listeners.iter().flat_map(|listener| {
            listener.addresses.iter().map(move |address| {
                let place = Self {
                    listener: Arc::clone(&listener.name),
                    address: *address,
                    reach: if listener.transparent { Reach::Others } else { Reach::Own },
                    sharing: if listener.reuse_port { Sharing::Shared } else { Sharing::Alone },
                };
                (place, listener)
            })
        })
    }

    /// Whether a socket that was bound for `other` is the one for here. Which port 0 became only its listener knows.
    pub(super) fn is_that_of(&self, other: &Self) -> bool {
        self.address == other.address && (self.address.port() != 0 || self.listener == other.listener)
    }
}

impl Door {
    /// Binds a socket, or takes the one that was handed to us. Clients wait until [`Self::open`].
    pub(super) fn bind(
        (place, listener): (Place, &Listener),
        inherited: &mut Inherited,
        context: &Arc<Context>,
    ) -> Result<Self, StartFault> {
        let (socket, address) = bind(place.address, (place.reach, place.sharing), inherited)?;
        Ok(Self {
            bound: Bound { address, name: Arc::clone(&listener.name) },
            place,
            socket: Some(socket),
            served: Arc::new(ArcSwap::new(Served::new(listener, context))),
            closing: CancellationToken::new(),
        })
    }

    pub(super) const fn place(&self) -> &Place {
        &self.place
    }

    /// Whether it is not as `place` wants it, which only a new socket could be.
    pub(super) fn differs_from(&self, place: &Place) -> bool {
        (self.place.reach, self.place.sharing) != (place.reach, place.sharing)
    }

    /// Who comes from now on is served so.
    pub(super) fn serves(&mut self, listener: &Listener, context: &Arc<Context>) {
        self.served.store(Served::new(listener, context));
        self.bound.name = Arc::clone(&listener.name);
        self.place.listener = Arc::clone(&listener.name);
    }

    /// Begins to accept clients.
    pub(super) fn open(&mut self, sessions: &TaskTracker) {
        if let Some(socket) = self.socket.take() {
            let clerk = Clerk { served: Arc::clone(&self.served), sessions: sessions.clone() };
            tokio::spawn(clerk.accept(socket, self.closing.clone()));
        }
    }

    /// No more clients are accepted; sessions go on.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }
}

/// Binds `wanted`, or takes the socket that was handed to us. Gives the real address, too: that of IPv4 for `[::]` on a host
/// without IPv6.
pub(super) fn bind(
    wanted: SocketAddr,
    (reach, sharing): (Reach, Sharing),
    inherited: &mut Inherited,
) -> Result<(TcpListener, SocketAddr), StartFault> {
    let address = listen::on_this_host(wanted);
    // One of IPv6 may be handed to a process that may not make such sockets itself.
    let handed = inherited.take(wanted, reach).and_then(|handed| match handed {
        None if address != wanted => inherited.take(address, reach),
        handed => Ok(handed),
    });
    let socket = match handed {
        Ok(Some(socket)) => Ok(socket),
        Ok(None) => {
            if address != wanted {
                tracing::warn!(%wanted, %address, "this host has no IPv6: only clients that come over IPv4 are served");
            }
            listen::bind(address, reach, sharing)
        }
        Err(fault) => Err(fault),
    };
    let bound = socket.and_then(|socket| Ok((socket.local_addr()?, socket)));
    bound.map(|(address, socket)| (socket, address)).map_err(|fault| StartFault::Bind(address, fault))
}

/// Who accepts at one door.
#[derive(Debug, Clone)]
struct Clerk {
    served: Arc<ArcSwap<Served>>,
    sessions: TaskTracker,
}

impl Clerk {
    /// Accepts from `socket` until told to end. It is closed then, also while sessions go on: who comes later is
    /// refused by the system and tries another server, instead of waiting for a greeting. Who came before and waits in
    /// the socket's queue is told, rather than reset.
    async fn accept(self, socket: TcpListener, closing: CancellationToken) {
        let drain = self.served.load().context.drain.clone();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = drain.idle_ends() => break,
                () = closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, client)) => self.open_to(stream, client),
                Err(fault) => {
                    let kind = AcceptFault::of(&fault);
                    if kind == AcceptFault::Resources {
                        let listener = &self.served.load().listener.name;
                        tracing::warn!(%listener, %fault, "cannot accept for the moment");
                    }
                    tokio::time::sleep(kind.pause()).await;
                }
            }
        }
        while let Some(Ok((stream, client))) = socket.accept().now_or_never() {
            self.open_to(stream, client);
        }
    }

    /// Serves a client, to its end with the configuration that holds now.
    fn open_to(&self, stream: TcpStream, client: SocketAddr) {
        let served = self.served.load_full();
        // Replies are written whole; waiting to fill segments only delays them.
        let _ = stream.set_nodelay(true);
        let Served { listener, series, context } = &*served;
        self.sessions.spawn(session::run(Stream::Tcp(stream), client, listener, series, Arc::clone(context)));
    }
}
