//! What is told of a session and of a refusal.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::escape::Escaped;
use super::labels::{Label as _, RecipientResult, RecipientSource};
use crate::proto::reply::Reply;

/// Names one session in logs and replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// One that no other session of this process has, and hardly any of another.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        static PROCESS: LazyLock<u32> =
            LazyLock::new(|| getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{:08x}{number:06x}", *PROCESS).into())
    }
}

impl Default for SessionId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said QUIT.
    Quit,
    /// The client was silent or slow for too long.
    Idle,
    /// We are shutting down.
    Drained,
    /// The client went away.
    ClientLost,
    /// Too many wrong commands.
    Errors,
    /// Too many connections.
    Connections,
    /// What the client sent cannot be told apart any more.
    Protocol,
    /// It was an HTTP request.
    Http,
}

impl End {
    /// As it is logged.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::ClientLost => "client_lost",
            Self::Errors => "errors",
            Self::Connections => "connections",
            Self::Protocol => "protocol",
            Self::Http => "http",
        }
    }
}

/// A session, for its one line in the log.
#[derive(Debug)]
pub struct SessionRecord {
    /// Which one.
    pub session: SessionId,
    /// Where the client connected.
    pub listener: Arc<str>,
    /// The client.
    pub client: SocketAddr,
    /// Recipients by what became of them.
    recipients: [AtomicU32; RecipientResult::ALL.len()],
    /// Messages the client was told are accepted.
    pub messages: u32,
    /// Octets of message data given to backends.
    pub bytes: u64,
    told: Mutex<Told>,
}

/// What the client said last.
#[derive(Debug, Default)]
struct Told {
    helo: String,
    from: Option<String>,
    backend: String,
}

impl SessionRecord {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(listener: Arc<str>, client: SocketAddr) -> Self {
        Self {
            session: SessionId::new(),
            listener,
            client,
            recipients: Default::default(),
            messages: 0,
            bytes: 0,
            told: Mutex::default(),
        }
    }

    /// A recipient was decided about.
    pub fn recipient(&self, result: RecipientResult) {
        if let Some(count) = self.recipients.get(result.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The name the client gave.
    pub fn helo(&self, name: &str) {
        self.tell(|told| name.clone_into(&mut told.helo));
    }

    /// The sender of the last transaction.
    pub fn from(&self, sender: &str) {
        self.tell(|told| told.from = Some(sender.to_owned()));
    }

    /// The backend attached last.
    pub fn backend(&self, backend: &impl fmt::Display) {
        self.tell(|told| told.backend = backend.to_string());
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// The session's line.
    pub fn log(&self, end: End, duration: Duration) {
        let told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = |result: RecipientResult| {
            self.recipients.get(result.index()).map_or(0, |n| n.load(Ordering::Relaxed))
        };
        tracing::info!(
            session = %self.session,
            listener = %self.listener,
            client = %self.client,
            helo = %Escaped(&told.helo),
            tls = "none",
            from = told.from.as_deref().map(|from| tracing::field::display(Escaped(from))),
            accepted = count(RecipientResult::Accepted),
            unknown = count(RecipientResult::Unknown),
            undetermined = count(RecipientResult::Undetermined),
            relay_denied = count(RecipientResult::RelayDenied),
            limited = count(RecipientResult::Limited),
            messages = self.messages,
            bytes = self.bytes,
            backend = told.backend,
            duration = duration.as_secs_f64(),
            end = end.as_str(),
            "session"
        );
    }
}

/// A recipient that was refused, for its one line in the log.
#[derive(Debug)]
pub struct Refusal<'r> {
    /// In which session.
    pub session: &'r SessionId,
    /// The route of its domain; empty for none.
    pub route: &'r str,
    /// As the client wrote it.
    pub recipient: &'r str,
    /// What the client was told.
    pub reply: &'r Reply,
    /// Who decided.
    pub source: RecipientSource,
}

impl Refusal<'_> {
    /// The refusal's line.
    pub fn log(&self) {
        tracing::info!(
            session = %self.session,
            route = self.route,
            recipient = %Escaped(self.recipient),
            reply = %Escaped(&self.reply.to_string()),
            source = self.source.as_str(),
            "refused"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sessions_have_one_name() {
        assert_ne!(SessionId::new(), SessionId::new());
    }
}
