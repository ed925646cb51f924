//! The whole proxy: assembled from a configuration, listening, draining.

mod assemble;
mod listen;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::config::{self, Config};
use crate::net::dial::Dialer;
use crate::net::inherited::Inherited;
use crate::net::listen::{Reach, Sharing};
use crate::session::Context;
use crate::verify::{ListFault, TIDY_EVERY};

pub use assemble::{assemble, assemble_counting, assemble_with_store};

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
    context: Arc<Context>,
    /// Listening sockets nobody accepts from yet.
    doors: Vec<(config::Listener, TcpListener)>,
    admin: Option<(TcpListener, config::Admin)>,
    sessions: TaskTracker,
    /// The admin endpoint and the housekeeping outlive the sessions.
    ended: CancellationToken,
    /// Backends are neither looked up nor checked any more: nothing new begins with them.
    parted: CancellationToken,
    /// All listeners accept.
    serving: CancellationToken,
    bound: Vec<Bound>,
    started: tokio::time::Instant,
}

impl Server {
    /// Binds all listeners. Clients that connect wait until [`Self::serve`].
    ///
    /// # Errors
    /// [`StartFault`]; nothing is listened on then.
    pub fn bind(config: Config) -> Result<Self, StartFault> {
        Self::bind_over(config, Inherited::default())
    }

    /// Binds as [`Self::bind`] does, but for sockets that were handed to us.
    ///
    /// # Errors
    /// [`StartFault`]; nothing is listened on then.
    pub fn bind_over(config: Config, inherited: Inherited) -> Result<Self, StartFault> {
        let dialer = Dialer::network();
        let context = Arc::new(assemble_with_store(config, &dialer)?);
        let mut sockets = Sockets { inherited, bound: Vec::new() };
        let mut doors = Vec::new();
        for listener in &context.config.listeners {
            for address in &listener.addresses {
                let reach = if listener.transparent { Reach::Others } else { Reach::Own };
                let sharing = if listener.reuse_port { Sharing::Shared } else { Sharing::Alone };
                let socket = sockets.bind(*address, (reach, sharing), &listener.name)?;
                doors.push((listener.clone(), socket));
            }
        }
        sockets.bound.iter().for_each(|bound| dialer.is_ours(bound.address));
        let admin = match &context.config.admin {
            Some(admin) => Some((
                sockets.bind(admin.address, (Reach::Own, Sharing::Alone), &"admin".into())?,
                admin.clone(),
            )),
            None => None,
        };
        for address in sockets.inherited.left() {
            tracing::warn!(%address, "a socket was handed over that no listener has as its address");
        }
        Ok(Self {
            context,
            doors,
            admin,
            sessions: TaskTracker::new(),
            ended: CancellationToken::new(),
            parted: CancellationToken::new(),
            serving: CancellationToken::new(),
            bound: sockets.bound,
            started: tokio::time::Instant::now(),
        })
    }

    /// Begins to serve: the admin endpoint first, clients once the backends have been greeted.
    pub async fn serve(&mut self) {
        if let Some((socket, admin)) = self.admin.take() {
            tokio::spawn(admin::serve(socket, Arc::new(self.panel(admin))));
        }
        self.context.backends.follow(&self.parted, LOOKED_UP).await;
        tokio::join!(greet_backends(&self.context), self.context.verifier.test_relays());
        for (listener, socket) in self.doors.drain(..) {
            let door = listen::Door {
                series: self.context.metrics.listener(&listener.name),
                listener,
                context: Arc::clone(&self.context),
                sessions: self.sessions.clone(),
            };
            tokio::spawn(door.serve(socket));
        }
        tokio::spawn(tidy(Arc::clone(&self.context), self.ended.clone()));
        self.context.backends.check(&self.parted);
        self.serving.cancel();
    }

    /// What is listened on.
    #[must_use]
    pub fn bound(&self) -> &[Bound] {
        &self.bound
    }

    /// What all sessions share.
    #[must_use]
    pub const fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Reads the certificates again, in the background.
    pub fn reread_certificates(&self) -> Certificates {
        match &self.context.acceptor {
            Some(acceptor) => {
                acceptor.keyring().reread();
                Certificates::AreReread
            }
            None => Certificates::AreAbsent,
        }
    }

    /// Ends without losing anything: no new clients, idle sessions get 421, transactions have
    /// `timeouts.drain` to finish. Comes back when all sessions are over.
    pub async fn drain(&self) -> Drained {
        let timeouts = &self.context.config.timeouts;
        let drain = &self.context.drain;
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
        self.context.verifier.leave();
        self.context.backends.leave(FAREWELL).await;
        self.context.verifier.put_away(FAREWELL).await;
        self.ended.cancel();
        if drained.is_ok() { Drained::Completely } else { Drained::Late }
    }

    fn panel(&self, admin: config::Admin) -> admin::Panel {
        admin::Panel {
            config: Arc::clone(&self.context.config),
            verifier: Arc::clone(&self.context.verifier),
            backends: Arc::clone(&self.context.backends),
            alarms: self.context.alarms.clone(),
            metrics: self.context.metrics.clone(),
            history: admin::History::default(),
            events: self.context.events.clone(),
            live: self.context.live.clone(),
            connections: Arc::clone(&self.context.connections),
            keyring: self.context.acceptor.as_ref().map(|acceptor| Arc::clone(acceptor.keyring())),
            harvest: Arc::clone(&self.context.harvest),
            drain: self.context.drain.clone(),
            serving: self.serving.clone(),
            token: admin.token,
            started: self.started,
            ended: self.ended.clone(),
        }
    }
}

/// What became of the wish to read certificates again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates {
    /// They are read now; the log tells what came of it.
    AreReread,
    /// There are none.
    AreAbsent,
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

/// What the last words to clients, to backends, and to the store may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// The sockets we listen on: those handed to us, else our own.
struct Sockets {
    inherited: Inherited,
    bound: Vec<Bound>,
}

impl Sockets {
    fn bind(
        &mut self,
        address: SocketAddr,
        (reach, sharing): (Reach, Sharing),
        name: &Arc<str>,
    ) -> Result<TcpListener, StartFault> {
        let socket = match self.inherited.take(address, reach) {
            Ok(Some(socket)) => Ok(socket),
            Ok(None) => crate::net::listen::bind(address, reach, sharing),
            Err(fault) => Err(fault),
        };
        let socket = socket.map_err(|fault| StartFault::Bind(address, fault))?;
        let address = socket.local_addr().map_err(|fault| StartFault::Bind(address, fault))?;
        self.bound.push(Bound { address, name: Arc::clone(name) });
        Ok(socket)
    }
}

/// Greets every backend once, so that the first client is offered what they all can do. Bounded by
/// `backend_connect` and `backend_command`; serving does not depend on its success.
pub async fn greet_backends(context: &Context) {
    let timeouts = &context.config.timeouts;
    let deadline = tokio::time::Instant::now() + timeouts.backend_connect + timeouts.backend_command;
    let greetings = context.backends.iter().map(|backend| async move { backend.greet(deadline).await });
    futures_util::future::join_all(greetings).await;
}

/// How often clients are looked for that need not be remembered any more.
const FORGET_EVERY: Duration = Duration::from_secs(300);

/// Takes leave of idle sessions, forgets clients, looks after lists and certificates.
async fn tidy(context: Arc<Context>, ending: CancellationToken) {
    let sweep = async {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            context.backends.iter().for_each(|backend| backend.sweep());
        }
    };
    let forget = async {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            context.harvest.sweep().await;
        }
    };
    tokio::select! {
        () = sweep => {}
        () = forget => {}
        () = context.verifier.watch_lists() => {}
        () = watch_certificates(&context) => {}
        () = ending.cancelled() => {}
    }
}

async fn watch_certificates(context: &Context) {
    match &context.acceptor {
        Some(acceptor) => acceptor.keyring().watch().await,
        None => std::future::pending().await,
    }
}
