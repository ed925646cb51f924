//! One connection that all requests share, each with a deadline, and the circuit that opens when Redis does not keep it.
//!
//! While there is no connection a request fails at once and costs nothing. What Redis itself refuses (read only, out of memory, not
//! allowed) ends the connection like a connection that is lost: nothing is half shared.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, TlsMode, Value,
};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::script::Script;
use crate::config::{SharedAddress, SharedTls};
use crate::observe::metrics::{Metrics, SharedOperation, SharedResult};

/// Requests under way at most; more are not made.
const MOST_UNDER_WAY: usize = 1024;
/// Requests in a row that may come too late before Redis is left alone,
const ENDURED: u32 = 5;
/// and how long there must have been no answer at all: many that are under way at once all come too late when this process has to
/// wait for a processor.
const SILENT: Duration = Duration::from_millis(500);
/// How long a connection may take to be there, name, TLS and login included.
const CONNECTING: Duration = Duration::from_secs(2);

/// Why a request came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Fault {
    /// There is no connection.
    #[error("not connected")]
    Apart,
    /// Too many others are under way.
    #[error("too many requests under way")]
    Busy,
    /// No answer in time: nobody knows whether it was done.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// Redis, or the way to it, says no.
    #[error("{0}")]
    Refused(String),
}

/// A connection with the scripts on the other side.
#[derive(Clone)]
pub(super) struct Joined {
    connection: MultiplexedConnection,
    hashes: Arc<[String]>,
    number: u64,
}

/// See the module.
pub(super) struct Link {
    joined: RwLock<Option<Joined>>,
    joins: AtomicU64,
    /// Requests in a row that came too late.
    late: AtomicU32,
    /// When there was an answer last.
    answered: RwLock<Instant>,
    room: Semaphore,
    /// Why the last connection ended, told to who keeps it.
    ended: RwLock<Option<String>>,
    end: Notify,
    metrics: Metrics,
}

/// A request.
pub(super) struct Request<'r> {
    pub(super) operation: SharedOperation,
    pub(super) script: Script,
    pub(super) keys: &'r [String],
    pub(super) arguments: &'r [&'r [u8]],
    pub(super) patience: Duration,
}

impl Link {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            joined: RwLock::default(),
            joins: AtomicU64::new(0),
            late: AtomicU32::new(0),
            answered: RwLock::new(Instant::now()),
            room: Semaphore::new(MOST_UNDER_WAY),
            ended: RwLock::default(),
            end: Notify::new(),
            metrics,
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_up(&self) -> bool {
        self.joined.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// From now on requests take this connection.
    pub(super) fn join(&self, joined: Joined) {
        self.is_heard();
        *self.ended.write().unwrap_or_else(PoisonError::into_inner) = None;
        *self.joined.write().unwrap_or_else(PoisonError::into_inner) = Some(joined);
    }

    /// No request is made any more.
    pub(super) fn part(&self) {
        *self.joined.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Comes back, with the reason, when the connection is to be given up.
    pub(super) async fn ended(&self) -> String {
        loop {
            let end = self.end.notified();
            if let Some(why) = self.ended.read().unwrap_or_else(PoisonError::into_inner).clone() {
                return why;
            }
            end.await;
        }
    }

    /// Makes a request.
    pub(super) async fn request(&self, request: Request<'_>) -> Result<Value, Fault> {
        let joined = self.joined.read().unwrap_or_else(PoisonError::into_inner).clone();
        let operation = request.operation;
        let Some(joined) = joined else {
            self.metrics.shared(operation, SharedResult::Apart, None);
            return Err(Fault::Apart);
        };
        let Ok(_room) = self.room.try_acquire() else {
            self.metrics.shared(operation, SharedResult::Busy, None);
            return Err(Fault::Busy);
        };
        let outcome = self.request_on(&joined, request).await;
        match &outcome {
            Ok(_) => {}
            Err(Fault::Slow(_)) if self.is_endured() => {}
            Err(fault) => self.end(&joined, &fault.to_string()),
        }
        outcome
    }

    /// There was an answer.
    fn is_heard(&self) {
        self.late.store(0, Ordering::Relaxed);
        *self.answered.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// One more answer came too late; whether that may be.
    fn is_endured(&self) -> bool {
        let late = self.late.fetch_add(1, Ordering::Relaxed) + 1;
        late < ENDURED || !self.is_silent()
    }

    /// Whether there has been no answer for so long that Redis is to be left alone.
    pub(super) fn is_silent(&self) -> bool {
        self.answered.read().unwrap_or_else(PoisonError::into_inner).elapsed() >= SILENT
    }

    /// Makes a request on a connection that need not be the one others take.
    pub(super) async fn request_on(&self, joined: &Joined, request: Request<'_>) -> Result<Value, Fault> {
        let Request { operation, script, keys, arguments, patience } = request;
        let began = Instant::now();
        let mut command = redis::cmd("EVALSHA");
        command.arg(joined.hashes.get(script as usize).map_or("", String::as_str)).arg(keys.len());
        command.arg(keys).arg(arguments);
        let outcome = run(joined.connection.clone(), &command, patience).await;
        let result = match &outcome {
            Ok(_) => {
                self.is_heard();
                SharedResult::Ok
            }
            Err(Fault::Slow(_)) => SharedResult::Slow,
            Err(_) => SharedResult::Failed,
        };
        self.metrics.shared(operation, result, Some(began.elapsed()));
        outcome
    }

    /// The connection is to be given up.
    fn end(&self, joined: &Joined, why: &str) {
        let mut current = self.joined.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.number == joined.number) {
            *current = None;
            *self.ended.write().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
            self.end.notify_waiters();
        }
    }

    /// A new connection, with the scripts on the other side.
    pub(super) async fn connect(&self, client: &Client) -> Result<Joined, Fault> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(Some(CONNECTING));
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = within(CONNECTING, connecting).await?;
        let mut hashes = Vec::new();
        for (_, text) in Script::ALL {
            let mut command = redis::cmd("SCRIPT");
            command.arg("LOAD").arg(text);
            match run(connection.clone(), &command, CONNECTING).await? {
                Value::BulkString(hash) => hashes.push(String::from_utf8_lossy(&hash).into_owned()),
                Value::SimpleString(hash) => hashes.push(hash),
                _ => return Err(Fault::Refused("SCRIPT LOAD gave no hash".to_owned())),
            }
        }
        let number = self.joins.fetch_add(1, Ordering::Relaxed);
        Ok(Joined { connection, hashes: hashes.into(), number })
    }
}

async fn run(
    mut connection: MultiplexedConnection,
    command: &Cmd,
    patience: Duration,
) -> Result<Value, Fault> {
    within(patience, command.query_async(&mut connection)).await
}

/// What comes within that time.
pub(super) async fn within<T>(
    patience: Duration,
    what: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, Fault> {
    match timeout(patience, what).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(fault_of(&error)),
        Err(_) => Err(Fault::Slow(patience)),
    }
}

fn fault_of(error: &RedisError) -> Fault {
    let login = error.kind() == ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"));
    if login {
        return Fault::Refused(format!("the user and password in cache.shared are not taken: {error}"));
    }
    match error.code() {
        Some("NOPERM") => Fault::Refused(format!("its access list does not let us: {error}")),
        Some("MOVED" | "CROSSSLOT" | "CLUSTERDOWN") => {
            Fault::Refused(format!("it is a cluster, which is not supported: {error}"))
        }
        _ => Fault::Refused(error.to_string()),
    }
}

/// A client for the server, which sentinels are asked for where there are some.
pub(super) async fn client(address: &SharedAddress) -> Result<Client, Fault> {
    let tls = address.tls == SharedTls::Verified;
    let to = |(host, port): &(String, u16)| {
        if tls {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    };
    let hosts = address.hosts.iter().map(to);
    let Some(service) = &address.service else {
        let mut login =
            RedisConnectionInfo::default().set_db(address.database.into()).set_skip_set_lib_name();
        if let Some(user) = &address.user {
            login = login.set_username(user);
        }
        if let Some(password) = &address.password {
            login = login.set_password(password.reveal());
        }
        let open = || {
            let first = hosts.clone().next().ok_or((ErrorKind::InvalidClientConfig, "no host"))?;
            Client::open(first.into_connection_info()?.set_redis_settings(login))
        };
        return open().map_err(|error| fault_of(&error));
    };
    let build = || {
        let mut builder = SentinelClientBuilder::new(hosts.clone(), service, SentinelServerType::Master)?
            .set_client_to_redis_db(address.database.into());
        if tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = &address.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &address.password {
            builder = builder.set_client_to_redis_password(password.reveal());
        }
        builder.build()
    };
    let mut sentinels = build().map_err(|error| fault_of(&error))?;
    within(CONNECTING, sentinels.async_get_client()).await
}

/// A connection of its own for what is published.
pub(super) async fn subscribe(client: &Client, channel: &str) -> Result<redis::aio::PubSub, Fault> {
    let mut subscription = within(CONNECTING, client.get_async_pubsub()).await?;
    within(CONNECTING, subscription.subscribe(channel)).await?;
    Ok(subscription)
}
