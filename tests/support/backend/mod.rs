//! A scripted SMTP server: a well-behaved sink until its [`Script`] says otherwise.
//!
//! It speaks over TCP ([`Backend::listen`]) and over any stream ([`Backend::serve`], [`Backend::connect`]), so that a
//! test with in-memory streams and a paused clock uses the same backend as one with real sockets. It keeps a
//! [`Record`] of all that it saw. Its script may be changed at any time and counts from the next command on.
//!
//! It is no example of a server: it trusts its clients, and holds messages in memory unless told to only count.

mod content;
mod exchange;
mod manners;
mod record;
mod script;
mod session;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PATIENCE;

pub use exchange::Exchange;
pub use manners::{Judges, Limits, Words};
pub use record::Record;
pub use script::{Action, Phase, Script, at};
use session::{Ended, Session};

/// The server. Dropping it cuts every connection and frees the port.
pub struct Backend {
    shared: Arc<Shared>,
    running: Mutex<CancellationToken>,
    tasks: TaskTracker,
}

/// What the sessions share with the test.
struct Shared {
    script: Mutex<Script>,
    record: Mutex<Record>,
    changed: Notify,
}

impl Backend {
    /// A backend that listens nowhere yet.
    pub fn new(script: Script) -> Self {
        let shared = Shared { script: Mutex::new(script), record: Mutex::default(), changed: Notify::new() };
        Self { shared: Arc::new(shared), running: Mutex::default(), tasks: TaskTracker::new() }
    }

    /// A backend on a free loopback port.
    pub async fn start(script: Script) -> (Self, SocketAddr) {
        let backend = Self::new(script);
        let address =
            backend.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("loopback has a port");
        (backend, address)
    }

    /// Accepts TCP connections at the address from now on.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = TcpSocket::new_v4()?;
        // A backend that comes back must not wait for the connections of its former life.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(1024)?;
        let address = listener.local_addr()?;
        let running = self.running();
        let accepting = accept(listener, Arc::clone(&self.shared), running.clone(), self.tasks.clone());
        self.tasks.spawn(async move {
            running.run_until_cancelled(accepting).await;
        });
        Ok(address)
    }

    /// Serves one connection over any stream, in a task of its own.
    pub fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let (shared, running) = (Arc::clone(&self.shared), self.running());
        self.tasks.spawn(async move {
            let mut session = Session::new(stream, &shared);
            running.run_until_cancelled(session.run()).await;
        });
    }

    /// The client's end of a new in-memory connection. Each direction holds `capacity` bytes.
    pub fn connect(&self, capacity: usize) -> DuplexStream {
        let (ours, theirs) = duplex(capacity);
        self.serve(ours);
        theirs
    }

    /// Stops listening and cuts all connections; returns when that is done. It may listen again afterwards.
    pub async fn stop(&self) {
        let running = std::mem::take(&mut *self.running.lock().expect("no test panicked holding it"));
        running.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    /// Changes the script while the backend works.
    pub fn rescript(&self, change: impl FnOnce(Script) -> Script) {
        let mut script = self.shared.script();
        *script = change(std::mem::take(&mut *script));
    }

    /// What it saw until now: a copy, as a guard would let two looks in one expression wait for each other.
    pub fn record(&self) -> Record {
        self.shared.record().clone()
    }

    /// How often a rule decided what it did: none means that the test tested nothing.
    pub fn acted(&self) -> usize {
        self.shared.script().acted()
    }

    /// Waits until the record satisfies the condition.
    ///
    /// # Panics
    /// When it does not after [`PATIENCE`] (of the paused clock, if the clock is paused).
    pub async fn until(&self, what: &str, condition: impl Fn(&Record) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that a change between look and wait is not missed.
            changed.as_mut().enable();
            if condition(&self.shared.record()) {
                return;
            }
            let in_time = timeout_at(deadline, changed).await.is_ok();
            assert!(in_time, "{what}: not within {PATIENCE:?}; seen: {:#?}", self.record());
        }
    }

    fn running(&self) -> CancellationToken {
        self.running.lock().expect("no test panicked holding it").clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.running().cancel();
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().expect("no test panicked holding it")
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no test panicked holding it")
    }

    /// Changes the record and wakes who waits for that.
    fn note<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let result = change(&mut self.record());
        self.changed.notify_waiters();
        result
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, running: CancellationToken, tasks: TaskTracker) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (shared, running) = (Arc::clone(&shared), running.clone());
        tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut session = Session::new(&mut stream, &shared);
            let ended = running.run_until_cancelled(session.run()).await;
            drop(session);
            end(stream, ended).await;
        });
    }
}

/// Ends the connection as the script said. Input the session did not read makes the kernel send a reset for a close
/// too, as it does for a real server that dies.
async fn end(mut stream: TcpStream, ended: Option<Ended>) {
    match ended {
        Some(Ended::Reset) => {
            let _ = stream.set_zero_linger();
        }
        Some(Ended::Closed | Ended::ClientGone) | None => {
            let _ = stream.shutdown().await;
        }
    }
}
