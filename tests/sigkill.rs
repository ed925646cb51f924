//! SIGKILL at random moments under concurrent deliveries: what was acknowledged is stored.
//!
//! One scripted backend outlives all rounds. In each round a new Backstop serves many clients that deliver one message
//! after another, until it is killed at a moment that the seed chooses: when the backend has seen so many events. A
//! message is told apart by its sender, which names round, client and number, and the octets it has.
//!
//! BACKSTOP_KILL_ROUNDS, BACKSTOP_KILL_CLIENTS and BACKSTOP_KILL_SEED set the extent; `tests/slow` runs the long
//! version.

mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use support::PATIENCE;
use support::backend::{Backend, Record, Script};
use support::backstop::Backstop;
use support::client::Client;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const ROUNDS: u64 = 5;
const CLIENTS: u64 = 40;
/// Messages a client delivers when nobody kills anything: enough that some are always on their way.
const MESSAGES: u64 = 20;
/// What Backstop puts before each message, with octets that always have the same length.
const LINE: &str = "Received: from client.test ([127.0.0.1])\r\n\tby mx.example.org with ESMTP id 0123456789ab\r\n\
                    \tfor <anna@example.org>;\r\n\tTue, 24 Nov 2026 15:00:00 +0000\r\n";
const RECIPIENT: &str = "anna@example.org";

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_message_is_missing_after_a_kill() {
    let rounds = setting("BACKSTOP_KILL_ROUNDS").unwrap_or(ROUNDS);
    let clients = setting("BACKSTOP_KILL_CLIENTS").unwrap_or(CLIENTS);
    let seed = setting("BACKSTOP_KILL_SEED").unwrap_or_else(seed_of_the_day);
    println!("BACKSTOP_KILL_ROUNDS={rounds} BACKSTOP_KILL_CLIENTS={clients} BACKSTOP_KILL_SEED={seed}");

    let (backend, store) = Backend::start(Script::knowing([RECIPIENT]).counting()).await;
    let mut random = Random(seed);
    let mut total = 0;
    for round in 0..rounds {
        let acknowledged = play(round, clients, &backend, store, &mut random).await;
        let stored = stored(&backend.record());
        for sender in &acknowledged {
            assert!(stored.contains_key(sender), "seed {seed}, round {round}: {sender} was acknowledged");
        }
        total += acknowledged.len();
        let prefix = format!("r{round}-");
        let here = stored.keys().filter(|sender| sender.starts_with(&prefix)).count();
        println!("round {round}: {} acknowledged, {here} stored", acknowledged.len());
    }
    for (sender, octets) in stored(&backend.record()) {
        assert_eq!(
            octets.as_slice(),
            [octets_of(&sender) + LINE.len() as u64],
            "seed {seed}: {sender} is stored once, and whole"
        );
    }
    assert!(total > 0, "no message was acknowledged at all");
}

/// One round. The senders of the messages that were acknowledged.
async fn play(
    round: u64,
    clients: u64,
    backend: &Backend,
    store: SocketAddr,
    random: &mut Random,
) -> Vec<String> {
    let limits = format!("max_connections = {}\n[limits]\nmax_connections_per_client = 1000\n", 2 * clients);
    let configuration = Backstop::configuration(store) + &limits + "[log]\nlevel = \"warn\"\n";
    let (mut backstop, address) = Backstop::ready(&configuration).await;
    let before = events(&backend.record());
    let mut delivering = JoinSet::new();
    for client in 0..clients {
        let messages: Vec<_> = (0..MESSAGES)
            .map(|number| format!("r{round}-c{client}-n{number}-o{}@client.test", 2 + random.below(100_000)))
            .collect();
        delivering.spawn(deliver_all(address, messages));
    }
    // EHLO, MAIL, RCPT, DATA, parts of the message, RSET: about this much happens before all is delivered.
    let moment = before + random.below(clients * MESSAGES * 5);
    backend.until("the moment of the kill", |record| events(record) >= moment).await;
    // Not always just behind something that the backend did.
    for _ in 0..random.below(100) {
        tokio::task::yield_now().await;
    }
    backstop.kill();
    let acknowledged = delivering.join_all().await.into_iter().flatten().collect();
    backstop.exit().await;
    // What had reached the backend before the kill is worked off.
    backend.until("the end of all sessions", |record| record.open == 0).await;
    acknowledged
}

/// Delivers until the server is gone. The senders whose messages were acknowledged.
async fn deliver_all(address: SocketAddr, senders: Vec<String>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let delivering = async {
        let mut client = Client::over(TcpStream::connect(address).await.ok()?);
        client.try_reply().await?.is("220");
        ask(&mut client, "EHLO client.test").await?;
        for sender in senders {
            ask(&mut client, &format!("MAIL FROM:<{sender}>")).await?;
            ask(&mut client, &format!("RCPT TO:<{RECIPIENT}>")).await?;
            ask(&mut client, "DATA").await?;
            client.try_send(message(octets_of(&sender))).await.ok()?;
            ask(&mut client, ".").await?;
            acknowledged.push(sender);
        }
        Some(())
    };
    timeout(PATIENCE, delivering).await.expect("a reply, or the end, in time");
    acknowledged
}

/// Says a command and hears its success; nothing when the server is gone.
async fn ask(client: &mut Client, command: &str) -> Option<()> {
    client.try_send(format!("{command}\r\n")).await.ok()?;
    let reply = client.try_reply().await?;
    assert!(matches!(reply.code, 250 | 354), "to {command}: {reply}");
    Some(())
}

/// Octets of each copy of each message, by sender.
fn stored(record: &Record) -> HashMap<String, Vec<u64>> {
    let mut stored: HashMap<String, Vec<u64>> = HashMap::new();
    for message in &record.messages {
        stored.entry(message.sender.clone()).or_default().push(message.octets);
    }
    stored
}

/// What the backend has been through, as a number that only grows.
fn events(record: &Record) -> u64 {
    record.commands.len() as u64 + record.messages.len() as u64 + record.body_octets / 50_000
}

/// A message of so many octets, of one line.
fn message(octets: u64) -> Vec<u8> {
    let mut message = vec![b'x'; usize::try_from(octets).expect("a small message")];
    let line_end = message.len() - 2;
    message[line_end..].copy_from_slice(b"\r\n");
    message
}

/// The size that the sender names.
fn octets_of(sender: &str) -> u64 {
    let (_, behind) = sender.split_once("-o").expect("our own sender");
    let (octets, _) = behind.split_once('@').expect("our own sender");
    octets.parse().expect("our own sender")
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

fn seed_of_the_day() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::from(since.subsec_nanos()) ^ since.as_secs()
}

/// SplitMix64: numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
