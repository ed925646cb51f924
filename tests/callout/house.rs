//! Backstop between clients and a scripted mail store, in memory.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use backstop::backend::Backend as Store;
use backstop::config::{self, Environment, Route, Source};
use backstop::net::client_key::ClientKey;
use backstop::net::dial::Dialer;
use backstop::net::stream::Stream;
use backstop::proto::address::Mailbox;
use backstop::proto::verdict::Verdict;
use backstop::server;
use backstop::session::{self, Context};
use backstop::verify::{Asker, Known, Urgency};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::support::backend::{Backend, Script};
use crate::support::client::{Client, Reply};
use crate::support::machine::Directory;

/// The store is truthful: no names nobody has are asked, so that all that is counted is the test's own.
pub(crate) const PLAIN: &str = "stage = \"rcpt\"\n";
/// Mailboxes of the store.
pub(crate) const ANN: &str = "ann@example.org";
pub(crate) const CID: &str = "cid@example.org";
/// Nobody's.
pub(crate) const NOBODY: &str = "nobody@example.org";

/// Octets that may be on their way in one direction.
const PIPE: usize = 64 * 1024;

/// Everything in one place.
pub(crate) struct House {
    pub(crate) context: Arc<Context>,
    pub(crate) store: Arc<Backend>,
    pub(crate) route: Arc<Route>,
}

/// What is remembered of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remembered {
    Good,
    Bad,
    Deferred,
    Nothing,
}

impl House {
    /// With more keys of `[route.verify]`, and tables behind it.
    pub(crate) fn with(verify: &str, script: Script) -> Self {
        Self::with_route("", verify, script)
    }

    /// The same with more keys of `[[route]]` too.
    pub(crate) fn with_route(route: &str, verify: &str, script: Script) -> Self {
        let toml = format!(
            "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"mail.example.org:25\"]\n{route}\
             [route.verify]\n{verify}"
        );
        let directory = Directory::new("callout");
        let file = directory.write("backstop.toml", toml);
        let environment = Environment { host_name: "mx.example.org".to_owned(), ..Environment::default() };
        let loaded = config::load_in(&Source::File(file), &environment).unwrap_or_else(|f| panic!("{f}"));
        let (switchboard, mut arriving) = mpsc::unbounded_channel();
        let context =
            Arc::new(server::assemble_with_store(loaded.config, &Dialer::Memory(switchboard)).unwrap());
        let store = Arc::new(Backend::new(script));
        let serving = Arc::clone(&store);
        tokio::spawn(async move {
            while let Some((_, stream)) = arriving.recv().await {
                serving.serve::<DuplexStream>(stream);
            }
        });
        let route = Arc::clone(context.config.routes.iter().next().unwrap());
        Self { context, store, route }
    }

    /// A connection of the client with this number, greeted.
    pub(crate) async fn client(&self, number: u8) -> Client<DuplexStream> {
        let (near, far) = tokio::io::duplex(PIPE);
        let (context, address) = (Arc::clone(&self.context), SocketAddr::new(ip(number), 40_000));
        tokio::spawn(async move {
            let listener = context.config.listeners.first().unwrap().clone();
            let series = context.metrics.listener(&listener.name);
            session::run(Stream::Memory(near), address, &listener, &series, context).await;
        });
        let mut client = Client::over(far);
        client.reply().await.is("220");
        client.command("EHLO client.test").await.is("250");
        client
    }

    /// What the client with this number hears of a recipient, in a session of its own.
    pub(crate) async fn hears(&self, number: u8, recipient: &str) -> Reply {
        let mut client = self.client(number).await;
        let reply = client.envelope("bob@example.net", recipient).await;
        client.quit().await;
        reply
    }

    /// What the callout says of a recipient: the class of the verdict, with its cause.
    pub(crate) async fn verdict(&self, recipient: &str) -> String {
        self.verdict_for(recipient, asker(9, Urgency::Suspect)).await
    }

    pub(crate) async fn verdict_for(&self, recipient: &str, asker: Asker) -> String {
        let mailbox = Mailbox::parse(recipient).unwrap();
        said(&self.context.verifier.verify(&self.route, &mailbox, asker).await.verdict)
    }

    pub(crate) fn remembered(&self, recipient: &str) -> Remembered {
        let explained = self.context.verifier.explain(&self.route, &Mailbox::parse(recipient).unwrap());
        match explained.entry.map(|entry| entry.known) {
            Some(Known::Good(_)) => Remembered::Good,
            Some(Known::Bad(_)) => Remembered::Bad,
            Some(Known::Deferred(_)) => Remembered::Deferred,
            Some(Known::Nothing) | None => Remembered::Nothing,
        }
    }

    /// How often probes named the recipient: a delivery's RCPT goes where a client's MAIL went.
    pub(crate) fn probes_for(&self, recipient: &str) -> usize {
        let mut senders = std::collections::HashMap::new();
        let mut probes = 0;
        for (session, line) in self.store.record().commands {
            if line.starts_with("MAIL FROM:") {
                senders.insert(session, !line.contains("bob@example.net"));
            } else if line.starts_with(&format!("RCPT TO:<{recipient}>")) {
                probes += usize::from(senders.get(&session).copied().unwrap_or_default());
            }
        }
        probes
    }

    /// Alarms that are raised, by kind.
    pub(crate) fn alarms(&self) -> Vec<&'static str> {
        self.context.alarms.raised().into_iter().map(|alarm| alarm.kind.as_str()).collect()
    }

    /// The only backend there is.
    pub(crate) fn backend(&self) -> Arc<Store> {
        self.context.backends.iter().next().unwrap()
    }
}

/// "good", "bad", or why nobody could say.
pub(crate) fn said(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Deliverable => "good".to_owned(),
        Verdict::Undeliverable(reply) => format!("bad {reply}"),
        Verdict::Unknown(cause) => cause.as_str().to_owned(),
    }
}

/// The client with this number, in this standing.
pub(crate) fn asker(number: u8, urgency: Urgency) -> Asker {
    Asker { client: Some(ClientKey::of(ip(number))), urgency }
}

fn ip(number: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, number])
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
