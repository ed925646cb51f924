//! What the integration tests stand on: real and scripted peers, and the product as a process.
//!
//! - `postfix`: a real Postfix with virtual mailboxes, as the mail store.
//! - `exim`: a real Exim with local mailboxes, where it could be fetched.
//! - `aiosmtpd`: a server on Python's aiosmtpd that keeps messages as they came.
//! - `haproxy`: a real HAProxy in front.
//! - `redis`: a real Redis, and a way to it that can be cut.
//! - `namespaces`: hosts of our own, where the machine lets us have them.
//! - `backend`: a scripted SMTP server that does exactly the wrong thing on request, over TCP or in memory.
//! - `client`: a raw SMTP client that sends what it is told, in the segments it is told.
//! - `attack`: names nobody has, from many connections, and what they heard.
//! - `guesser`: clients that guess recipients at all instances of a tier.
//! - `sender`: swaks and Python's smtplib, the clients we did not write.
//! - `backstop`: the built binary with a configuration, its log, its memory and its end.
//! - `dns`: a name server that says what it is told.
//! - `instance`: one of several that share a Redis.
//! - `admin`: HTTP to its admin endpoint.
//! - `browser`: a real Chromium, for the live page.
//! - `hostile`: what is said to whoever reads logs and pages.
//! - `certificate`, `tls`, `openssl`: certificates made for a test, and clients that look at them.
//! - `message`: messages that careless software damages.
//! - `machine`: directories, ports and signals.
//!
//! Everything is on loopback, on ports and in directories of its own, so that two runs may share a machine, and only
//! processes started here are ended. Nothing waits blindly: what must become true is awaited up to `PATIENCE`.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the support")]
#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what tests may use")]

use std::net::SocketAddr;
use std::time::Duration;

use client::Reply;
use machine::TcpEnd;
use tokio::time::{Instant, sleep};

pub mod admin;
pub mod aiosmtpd;
pub mod attack;
pub mod backend;
pub mod backstop;
pub mod browser;
pub mod certificate;
pub mod client;
pub mod dns;
pub mod exim;
pub mod guesser;
pub mod haproxy;
pub mod hostile;
pub mod instance;
pub mod machine;
pub mod message;
pub mod namespaces;
pub mod openssl;
pub mod postfix;
pub mod redis;
pub mod sender;
pub mod tls;

/// How long a test waits for what must happen. Far above any real duration, so that a loaded machine fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at what gives no notice of its changes: files and other processes.
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits for what `look` finds, for things that cannot notify us.
///
/// # Panics
/// When it has not come after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the connections of the machine are so.
///
/// # Panics
/// When they are not after [`PATIENCE`].
pub async fn until_connections(what: &str, are: impl Fn(&[TcpEnd]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !are(&TcpEnd::all().await) {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}

/// Waits until a server at the address has closed every connection it took.
pub async fn deserted(address: SocketAddr) {
    until_connections("the end of all sessions", |ends| ends.iter().all(|end| end.local != address)).await;
}

/// Asks again and again until the answer is no longer 451, and returns it.
///
/// # Panics
/// When it still is after [`PATIENCE`].
pub async fn settled(ask: impl AsyncFn() -> Reply) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = ask().await;
        if reply.code != 451 {
            return reply;
        }
        assert!(Instant::now() < deadline, "still {reply} after {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}
