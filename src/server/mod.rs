//! The whole proxy: assembled from a configuration, listening, draining.

mod assemble;
mod housekeeping;
mod listen;
mod reload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::config::{ClientAddress, Config, Route};
use crate::net::dial::Dialer;
use crate::net::inherited::Inherited;
use crate::net::listen::{Reach, Sharing};
use crate::net::transparent;
use crate::session::Context;
use crate::verify::ListFault;
use listen::{Door, Place};

pub use assemble::{assemble, assemble_counting, assemble_with_store};
pub use housekeeping::greet_backends;
pub use reload::Reloaded;

/// Why the proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// An address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, std::io::Error),
    /// A recipient file cannot be read.
    #[error(transparent)]
    List(#[from] ListFault),
}

/// A socket that is being listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// With the real port.
    pub address: SocketAddr,
    /// Of the listener; `admin` for the admin endpoint.
    pub name: Arc<str>,
}

/// A running proxy.
#[derive(Debug)]
pub struct Server {
    /// What clients that come now are served with.
    current: Arc<ArcSwap<Context>>,
    dialer: Dialer,
    doors: Vec<Door>,
    admin: Option<TcpListener>,
    panel: Arc<ArcSwap<admin::Panel>>,
    bound: Vec<Bound>,
    sessions: TaskTracker,
    /// The admin endpoint and the housekeeping outlive the sessions.
    ended: CancellationToken,
    /// Backends are neither looked up nor checked any more: nothing new begins with them.
    parted: CancellationToken,
    /// Ends what is done on the side for the configuration in force.
    replaced: CancellationToken,
    /// All listeners accept.
    serving: CancellationToken,
}

impl Server {
    /// Binds all listeners. Clients that connect wait until [`Self::serve`].
    ///
    /// # Errors
    /// [`StartFault`]; nothing is listened on then.
    pub fn bind(config: Config) -> Result<Self, StartFault> {
        Self::bind_over(config, Inherited::default(), admin::Orders::default())
    }

    /// Binds as [`Self::bind`] does, but for sockets that were handed to us. Who may gives `orders` at the admin endpoint.
    ///
    /// # Errors
    /// [`StartFault`]; nothing is listened on then.
    pub fn bind_over(
        config: Config,
        mut inherited: Inherited,
        orders: admin::Orders,
    ) -> Result<Self, StartFault> {
        let dialer = Dialer::network();
        let context = Arc::new(assemble_with_store(config, &dialer)?);
        say_what_is_not_permitted(&context.config);
        let places = Place::all(&context.config);
        let doors = places.map(|place| Door::bind(place, &mut inherited, &context));
        let doors = doors.collect::<Result<Vec<_>, _>>()?;
        let mut bound: Vec<Bound> = doors.iter().map(|door| door.bound.clone()).collect();
        let admin = match &context.config.admin {
            Some(admin) => {
                let own = (Reach::Own, Sharing::Alone);
                let (socket, address) = listen::bind(admin.address, own, &mut inherited)?;
                bound.push(Bound { address, name: "admin".into() });
                Some(socket)
            }
            None => None,
        };
        bound.iter().for_each(|bound| dialer.is_ours(bound.address));
        for address in inherited.left() {
            tracing::warn!(%address, "a socket was handed over that no listener has as its address");
        }
        let (ended, parted, serving) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let panel = Arc::new(panel(&context, orders, &serving, &ended));
        Ok(Self {
            dialer,
            doors,
            admin,
            panel: Arc::new(ArcSwap::new(panel)),
            bound,
            sessions: TaskTracker::new(),
            replaced: parted.child_token(),
            ended,
            parted,
            serving,
            current: Arc::new(ArcSwap::new(context)),
        })
    }

    /// Begins to serve: the admin endpoint first, clients once the backends have been greeted.
    pub async fn serve(&mut self) {
        if let Some(socket) = self.admin.take() {
            tokio::spawn(admin::serve(socket, Arc::clone(&self.panel)));
        }
        let context = self.context();
        context.backends.follow(&self.parted, LOOKED_UP).await;
        tokio::spawn(housekeeping::share(Arc::clone(&self.current), self.ended.clone()));
        tokio::join!(greet_backends(&context), context.verifier.test_relays());
        self.doors.iter_mut().for_each(|door| door.open(&self.sessions));
        self.keep_house(&context);
        self.serving.cancel();
    }

    /// What is done on the side as long as this configuration is in force.
    fn keep_house(&self, context: &Arc<Context>) {
        tokio::spawn(housekeeping::tidy(Arc::clone(context), self.replaced.clone()));
        context.backends.check(&self.replaced);
    }

    /// What is listened on.
    #[must_use]
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// What clients that come now are served with.
    #[must_use]
    pub fn context(&self) -> Arc<Context> {
        self.current.load_full()
    }

    /// Ends without losing anything: no new clients, idle sessions get 421, transactions have
    /// `timeouts.drain` to finish. Comes back when all sessions are over.
    pub async fn drain(&self) -> Drained {
        let context = self.context();
        let timeouts = &context.config.timeouts;
        let drain = &context.drain;
        drain.announce();
        tokio::time::sleep(timeouts.drain_delay).await;
        drain.end_idle();
        self.sessions.close();
        let drained = timeout(timeouts.drain, self.sessions.wait()).await;
        drain.end_all();
        if drained.is_err() {
            // Sessions past the final dot live on; the others end at their next wait for the client.
            let patience = timeouts.backend_end_of_data + FAREWELL;
            let _ = timeout(patience, self.sessions.wait()).await;
        }
        self.parted.cancel();
        context.verifier.leave();
        context.backends.leave(FAREWELL).await;
        context.verifier.put_away(FAREWELL).await;
        self.ended.cancel();
        if drained.is_ok() { Drained::Completely } else { Drained::Late }
    }
}

/// What the admin endpoint shows of `context`.
fn panel(
    context: &Context,
    orders: admin::Orders,
    serving: &CancellationToken,
    ended: &CancellationToken,
) -> admin::Panel {
    admin::Panel {
        config: Arc::clone(&context.config),
        verifier: Arc::clone(&context.verifier),
        backends: Arc::clone(&context.backends),
        alarms: context.alarms.clone(),
        metrics: context.metrics.clone(),
        history: Arc::default(),
        events: context.events.clone(),
        live: context.live.clone(),
        connections: Arc::clone(&context.connections),
        keyring: context.acceptor.as_ref().map(|acceptor| Arc::clone(acceptor.keyring())),
        harvest: Arc::clone(&context.harvest),
        drain: context.drain.clone(),
        serving: serving.clone(),
        token: context.config.admin.as_ref().and_then(|admin| admin.token.clone()),
        started: tokio::time::Instant::now(),
        ended: ended.clone(),
        orders,
        generation: 1,
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every session ended by itself.
    Completely,
    /// Some had to be cut off.
    Late,
}

/// How long names of backends may take at the start. One that takes longer is followed as soon as it has an address.
const LOOKED_UP: Duration = Duration::from_secs(5);

/// What would be found out with the first message for a route is said before.
fn say_what_is_not_permitted(config: &Config) {
    let is_transparent = |route: &&Arc<Route>| route.client_address == ClientAddress::Transparent;
    if let Some(route) = config.routes.iter().find(is_transparent)
        && let Err(fault) = transparent::permitted()
    {
        tracing::error!(
            route = %route.name, %fault,
            "the system does not allow client_address = \"transparent\", and mail is deferred (451 4.3.5): give CAP_NET_ADMIN, \
             or write another client_address"
        );
    }
}

/// What the last words to clients, to backends, and to the store may take.
const FAREWELL: Duration = Duration::from_secs(5);
