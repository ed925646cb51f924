//! One Backstop of a tier: what it knows it shares with others in a Redis, and clients come to it through a front that says whose
//! they are.

use std::net::SocketAddr;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::backend::{Backend, Script};
use super::backstop::Backstop;
use super::client::{Client, Reply};
use super::redis::Redis;
use super::{LOOK_AGAIN, PATIENCE};

/// A mailbox.
pub const KNOWN: &str = "anna@example.org";
/// Nobody's.
pub const UNKNOWN: &str = "nobody@example.org";
const SECRET: &str = "the-same-on-all-instances";

/// A proxy that shares, before the backend all have.
pub struct Instance {
    pub backstop: Backstop,
    pub address: SocketAddr,
}

impl Instance {
    /// With what a client asks for counted, refusals not held back, and the network exempt that [`Self::ask`] comes from.
    pub fn configuration(backend: SocketAddr, shared: &str, more: &str) -> String {
        const HARVEST: &str =
            "[harvest]\ntarpit = \"0s\"\nmax_unknown_per_session = 0\nexempt = [\"198.51.100.0/24\"]\n";
        Self::plain(backend, shared) + HARVEST + more + "\n"
    }

    /// With clients held to what they are by default.
    pub fn plain(backend: SocketAddr, shared: &str) -> String {
        format!(
            "hostname = \"mx.example.org\"\n\
             [[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n\
             proxy_protocol = \"required\"\ntrusted = [\"127.0.0.0/8\"]\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\ndomains = [\"example.org\"]\nbackends = [\"{backend}\"]\n\
             [cache]\nshared = \"{shared}\"\nsecret = \"{SECRET}\"\n"
        )
    }

    /// One that has not joined yet, or cannot.
    pub async fn start(backend: SocketAddr, shared: &str, more: &str) -> Self {
        let (backstop, address) = Backstop::ready(&Self::configuration(backend, shared, more)).await;
        Self { backstop, address }
    }

    pub async fn joined(backend: SocketAddr, shared: &str, more: &str) -> Self {
        Self::joined_as(&Self::configuration(backend, shared, more)).await
    }

    pub async fn joined_as(configuration: &str) -> Self {
        let (backstop, address) = Backstop::ready(configuration).await;
        let instance = Self { backstop, address };
        instance.is_up(true).await;
        instance
    }

    /// Waits until it shares, or does not.
    pub async fn is_up(&self, up: bool) {
        self.backstop.admin().await.until_metric("backstop_shared_up", f64::from(u8::from(up))).await;
    }

    /// A client at this address, greeted or turned away.
    pub async fn connect(&self, from: &str) -> (Client, Reply) {
        let mut client = connect_as(from, self.address).await;
        let greeting = client.reply().await;
        (client, greeting)
    }

    /// A client that is about to name recipients.
    pub async fn client(&self, from: &str) -> Client {
        let (mut client, greeting) = self.connect(from).await;
        greeting.is("220");
        client.command("EHLO client.test").await.is("250");
        client.command("MAIL FROM:<sender@client.test>").await.is("250");
        client
    }

    /// What a client is told of a recipient.
    pub async fn ask(&self, recipient: &str) -> Reply {
        let mut client = self.client("198.51.100.9").await;
        let reply = client.command(&format!("RCPT TO:<{recipient}>")).await;
        client.quit().await;
        reply
    }

    /// Recipients answered from what others knew.
    pub async fn known_elsewhere(&self, result: &str) -> f64 {
        let series = format!(
            "backstop_recipients_total{{result=\"{result}\",route=\"example.org\",source=\"shared\"}}"
        );
        self.backstop.admin().await.metric(&series).await.unwrap_or(0.0)
    }

    pub async fn forget(&self, what: &str) {
        self.backstop.admin().await.delete(&format!("/api/v1/recipients{what}")).await.is(200);
    }

    pub async fn is_ready(&self) -> String {
        let response = self.backstop.admin().await.get("/readyz?verbose").await.is(200);
        response.body
    }
}

/// A client of which a front says that it has this address; the greeting is not read yet.
pub async fn connect_as(from: &str, address: SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    let header = if from.contains(':') { "TCP6 {} 2001:db8:ffff::25" } else { "TCP4 {} 203.0.113.255" };
    client.send(format!("PROXY {} 40000 25\r\n", header.replace("{}", from))).await;
    client
}

pub async fn backend() -> (Backend, SocketAddr) {
    Backend::start(Script::knowing([KNOWN])).await
}

pub async fn instances<const N: usize>(backend: SocketAddr, redis: &Redis, more: &str) -> [Instance; N] {
    let url = redis.url();
    let all = join_all((0..N).map(|_| Instance::joined(backend, &url, more))).await;
    all.try_into().unwrap_or_else(|_| unreachable!("as many as were started"))
}

/// Waits for what must become true by itself.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(LOOK_AGAIN).await;
    }
}
