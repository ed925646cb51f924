//! Streams through Backstop into a store, held against the model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::model::{Bare, Expected, expected};
use crate::store::{Kind, Store};
use crate::stream::{CARRIER, STOWAWAY, Stream, Then};
use crate::support::backstop::Backstop;
use crate::support::client::{Client, Reply};

/// Conversations at once.
const TOGETHER: usize = 12;
/// How long one may take: no reply is this late unless it never comes.
const PATIENCE: Duration = Duration::from_secs(45);

/// Runs the streams through a Backstop before a store of this kind; gives every reply and every stored message that is
/// not as the model says. None where there is no such store.
///
/// `describe` tells how to have the stream of this number again.
pub async fn findings(
    kind: Kind,
    bare: Bare,
    streams: Vec<Stream>,
    describe: impl Fn(usize) -> String,
) -> Option<Vec<String>> {
    let mut store = Store::start(kind, &[CARRIER, STOWAWAY]).await?;
    let limits = format!("[limits]\nmax_errors = 0\nbare_newline = \"{}\"\n", bare.name());
    let (mut backstop, address) = Backstop::before_with(store.address(), &limits).await;
    let chunking = store.chunking();
    let all: Vec<Expected> = streams.iter().map(|stream| expected(&stream.octets, bare, chunking)).collect();
    let acknowledged = [CARRIER, STOWAWAY].map(|mailbox| acknowledged(&all, mailbox, &store));
    let failures = converse_all(address, streams, all).await;
    let mut findings: Vec<String> =
        failures.into_iter().map(|(number, failure)| format!("{}\n{failure}", describe(number))).collect();

    // Without Backstop nobody talks to the store, so that what it holds in the end is all it ever will.
    backstop.sigterm();
    assert_eq!(backstop.exit().await.code(), Some(0));
    store.settled().await;
    for (mailbox, acknowledged) in [CARRIER, STOWAWAY].into_iter().zip(acknowledged) {
        differences(mailbox, store.messages(mailbox), acknowledged, &mut findings);
    }
    Some(findings.into_iter().map(|finding| format!("{kind:?}, {bare:?}: {finding}")).collect())
}

/// The messages for a mailbox as they should be stored.
fn acknowledged(all: &[Expected], mailbox: &str, store: &Store) -> Vec<Vec<u8>> {
    let messages = all.iter().flat_map(|expected| &expected.messages);
    let for_mailbox = messages.filter(|message| message.recipients.iter().any(|to| to == mailbox));
    for_mailbox.map(|message| store.as_stored(message)).collect()
}

/// Has all conversations; gives what was wrong, with the numbers of the streams.
async fn converse_all(address: SocketAddr, streams: Vec<Stream>, all: Vec<Expected>) -> Vec<(usize, String)> {
    let permits = Arc::new(Semaphore::new(TOGETHER));
    let mut conversations = JoinSet::new();
    for (number, (stream, expected)) in streams.into_iter().zip(all).enumerate() {
        let permits = Arc::clone(&permits);
        conversations.spawn(async move {
            let _permit = permits.acquire().await.expect("it is never closed");
            converse(address, &stream, &expected).await.err().map(|failure| (number, failure))
        });
    }
    conversations.join_all().await.into_iter().flatten().collect()
}

/// One conversation: exactly the replies that are due, then the end of the connection.
async fn converse(address: SocketAddr, stream: &Stream, expected: &Expected) -> Result<(), String> {
    let mut heard = Vec::new();
    let ended = timeout(PATIENCE, talk(address, stream, expected, &mut heard)).await;
    let as_expected = heard.len() == expected.replies.len()
        && heard.iter().zip(&expected.replies).all(|(reply, due)| reply.to_string().starts_with(due.start));
    if ended.is_ok() && as_expected {
        return Ok(());
    }
    let mut failure = format!("stream: {}\n", stream.octets.escape_ascii());
    let expected: Vec<_> = expected.replies.iter().map(|due| due.start).collect();
    let heard: Vec<_> = heard.iter().map(Reply::to_string).collect();
    let _ = write!(failure, "expected: {expected:?}\nheard: {heard:?}");
    if ended.is_err() {
        failure.push_str("\nand no end of the connection");
    }
    Err(failure)
}

async fn talk(address: SocketAddr, stream: &Stream, expected: &Expected, heard: &mut Vec<Reply>) {
    let mut client = Client::connect(address).await;
    client.reply().await.is("220");
    let mut from = 0;
    for cut in &stream.cuts {
        // A server that closes in the middle has said why before.
        if client.try_send(&stream.octets[from..cut.at]).await.is_err() {
            break;
        }
        from = cut.at;
        match cut.then {
            Then::GoOn => yield_now().await,
            Then::UntilRead => client.until_read().await,
            Then::UntilAnswered => {
                let due = expected.replies.iter().filter(|due| due.after <= cut.at).count();
                while heard.len() < due {
                    match client.try_reply().await {
                        Some(reply) => heard.push(reply),
                        None => return,
                    }
                }
            }
        }
    }
    let _ = client.try_send(&stream.octets[from..]).await;
    while let Some(reply) = client.try_reply().await {
        heard.push(reply);
    }
}

/// Adds what is stored and was not acknowledged, and the other way round, each as often as it is.
fn differences(mailbox: &str, stored: Vec<Vec<u8>>, acknowledged: Vec<Vec<u8>>, findings: &mut Vec<String>) {
    let mut surplus: BTreeMap<Vec<u8>, isize> = BTreeMap::new();
    stored.into_iter().for_each(|message| *surplus.entry(message).or_default() += 1);
    acknowledged.into_iter().for_each(|message| *surplus.entry(message).or_default() -= 1);
    for (message, count) in surplus {
        let what = match count {
            0 => continue,
            1.. => "stored, not acknowledged",
            _ => "acknowledged, not stored",
        };
        findings.push(format!("{mailbox}: {what}, {} times: {}", count.abs(), message.escape_ascii()));
    }
}
