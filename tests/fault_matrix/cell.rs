//! One cell: a domain with two mailboxes and a backend of its own, behind a Backstop that all cells share.
//!
//! Every message carries the number of its delivery in its sender, so that what is stored can be told apart.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::admin::Admin;
use crate::support::backend::{Backend, Script};
use crate::support::backstop::Backstop;
use crate::support::client::{Client, Reply};
use crate::support::machine::free_address;

/// Octets of a tenth of the message that is delivered in a cell.
pub(crate) const TENTH: u64 = 8 * 1024;

/// Who sends the message that meets the fault, and the messages before and after it.
pub(crate) const SENDER: &str = "observed@client.test";
pub(crate) const OTHER: &str = "other@client.test";

/// Cells that run at the same time: as many sockets as any machine allows a process.
const AT_ONCE: usize = 48;

/// A domain and its backend.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) domain: String,
    pub(crate) anna: String,
    pub(crate) bert: String,
    pub(crate) backend: Arc<Backend>,
    /// Where the backend listens.
    pub(crate) address: SocketAddr,
}

/// A store, and the Backstop before it.
#[derive(Clone)]
pub(crate) struct Cell {
    pub(crate) store: Store,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    pub(crate) admin: Admin,
}

/// What is remembered of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Nothing,
    Good,
    /// Something that would be held against it: no cell expects this.
    Blame,
}

/// What a cell came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Code and, where the reply is no 2yz or 3yz, its enhanced code.
    pub replies: Vec<String>,
    /// The recipients of each stored copy of the message.
    pub stored: Vec<String>,
    /// Of anna and bert.
    pub cache: [Holds; 2],
}

impl Cell {
    /// Asks the store about both recipients, so that no probe is needed later.
    pub(crate) async fn verify(&self) {
        for recipient in [&self.store.anna, &self.store.bert] {
            self.admin.post(&format!("/api/v1/recipients/{recipient}/probe")).await.is(200);
            assert_eq!(self.holds(recipient).await, Holds::Good);
        }
    }

    /// Delivers a message to both: they are known then, and the session that carried it is kept.
    pub(crate) async fn deliver(&self) {
        let mut client = Client::greeted(self.address).await;
        client.envelope(OTHER, &self.store.anna).await.is("250");
        client.command(&format!("RCPT TO:<{}>", self.store.bert)).await.is("250");
        client.data("Subject: before\r\n\r\n").await.is("250");
        client.quit().await;
    }

    /// The same in a session that is open already, for anna: this must succeed.
    pub(crate) async fn deliver_in(&self, client: &mut Client) {
        let before = self.store.backend.record().messages.len();
        client.command("RSET").await.is("250");
        client.envelope(OTHER, &self.store.anna).await.is("250");
        client.data("Subject: after\r\n\r\n").await.is("250");
        assert_eq!(self.store.backend.record().messages.len(), before + 1, "what was acknowledged is stored");
    }

    /// What is stored of the observed message, and remembered of its recipients.
    pub(crate) async fn seen(&self, replies: Vec<String>) -> Seen {
        let messages = self.store.backend.record().messages;
        let observed = messages.iter().filter(|message| message.sender == SENDER);
        let end = format!("@{}", self.store.domain);
        let names = |to: &String| to.trim_end_matches(end.as_str()).to_owned();
        let stored = observed
            .map(|message| message.recipients.iter().map(names).collect::<Vec<_>>().join("+"))
            .collect();
        Seen {
            replies,
            stored,
            cache: [self.holds(&self.store.anna).await, self.holds(&self.store.bert).await],
        }
    }

    async fn holds(&self, recipient: &str) -> Holds {
        let explained = self.admin.get(&format!("/api/v1/recipients/{recipient}")).await.is(200).json();
        let entry = explained.get("cache").expect("an entry or null");
        match entry.get("verdict").and_then(|verdict| verdict.as_str()) {
            Some("deliverable") => Holds::Good,
            None if entry.is_null() => Holds::Nothing,
            _ => Holds::Blame,
        }
    }
}

/// A tenth of the observed message. All but the first are alike.
pub(crate) fn tenth(number: u64) -> Vec<u8> {
    let head: &[u8] = if number == 0 { b"Subject: observed\r\n\r\n" } else { b"" };
    let line = b"The quick brown fox jumps over the lazy dog, again and again.\r\n";
    let mut octets = [head, &line.repeat(200)].concat();
    octets.truncate(usize::try_from(TENTH).expect("small") - 2);
    octets.extend_from_slice(b"\r\n");
    octets
}

/// The code, and the enhanced code of what is no success.
pub(crate) fn class(reply: &Reply) -> String {
    match reply.code {
        200..400 => reply.code.to_string(),
        code => format!("{code} {}", reply.text().split(' ').next().unwrap_or_default()),
    }
}

impl Store {
    async fn open(number: usize) -> Self {
        let domain = format!("cell{number}.test");
        let (anna, bert) = (format!("anna@{domain}"), format!("bert@{domain}"));
        let backend =
            Arc::new(Backend::new(Script::knowing([anna.as_str(), bert.as_str()]).offering("CHUNKING")));
        // Below the ports that outgoing connections take: a backend that goes finds its own free when it comes back.
        let address = loop {
            if let Ok(address) = backend.listen(free_address()).await {
                break address;
            }
        };
        Self { domain, anna, bert, backend, address }
    }
}

/// What a Backstop is told beside its routes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings<'s> {
    /// Keys of each route.
    pub(crate) route: &'s str,
    /// Tables.
    pub(crate) tables: &'s str,
}

/// Plays a cell for each row before one Backstop with these settings; each store is `prepare`d before it starts.
///
/// # Panics
/// When a cell came to something else than was expected of it; all that did are named.
pub(crate) async fn play_all<R, P, F>(
    rows: Vec<R>,
    settings: &Settings<'_>,
    prepare: impl Fn(&Store, &R),
    play: P,
) where
    R: Debug + Clone,
    P: Fn(Cell, R) -> F,
    F: Future<Output = (Seen, Seen)> + Send + 'static,
{
    let mut stores = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let store = Store::open(number).await;
        prepare(&store, row);
        stores.push(store);
    }
    let (backstop, address) = Backstop::ready(&configuration(&stores, settings)).await;
    let admin = backstop.admin().await;
    let played = stores.into_iter().zip(rows).map(|(store, row)| {
        let name = format!("{}: {row:?}", store.domain);
        (name, play(Cell { store, address, admin }, row))
    });
    let cells = played.len();
    let wrong = judge(played).await;
    assert!(wrong.is_empty(), "{} of {cells} cells:\n{}", wrong.len(), wrong.join("\n"));
    for verdict in ["undeliverable", "unknown"] {
        let series = format!("backstop_cache_entries{{verdict=\"{verdict}\"}}");
        assert_eq!(admin.metric(&series).await, Some(0.0), "{series}");
    }
    for state in ["idle", "transaction", "data"] {
        admin.until_metric(&format!("backstop_sessions{{listener=\"mx\",state=\"{state}\"}}"), 0.0).await;
    }
}

/// Runs the cells, and names those that came to something unexpected.
async fn judge<F>(cells: impl Iterator<Item = (String, F)>) -> Vec<String>
where
    F: Future<Output = (Seen, Seen)> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    let mut names = HashMap::new();
    for (name, played) in cells {
        let room = Arc::clone(&room);
        let task = playing.spawn(async move {
            let _place = room.acquire_owned().await;
            played.await
        });
        names.insert(task.id(), name);
    }
    let mut wrong = Vec::new();
    while let Some(played) = playing.join_next_with_id().await {
        match played {
            Ok((_, (expected, seen))) if expected == seen => {}
            Ok((id, (expected, seen))) => {
                wrong.push(format!("{}\n  expected {expected:?}\n  seen     {seen:?}", names[&id]));
            }
            Err(fault) => wrong.push(format!("{}\n  {fault}", names[&fault.id()])),
        }
    }
    wrong
}

fn configuration(stores: &[Store], settings: &Settings<'_>) -> String {
    let routes: Vec<_> = stores.iter().map(|store| (store.domain.clone(), store.address)).collect();
    // A backend that rested would hide what its next session meets.
    let route = format!("eject = \"0s\"\n{}", settings.route);
    let configuration = Backstop::configuration_of(&routes, &route);
    configuration
        + "[limits]\nmax_connections_per_client = 10000\n[log]\nlevel = \"warn\"\n"
        + settings.tables
}
