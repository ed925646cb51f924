//! Streams through Backstop into a store, held against the model.

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

/// Runs the streams through a Backstop before a store of this kind, and checks every reply and every message stored.
///
/// `describe` tells, for a failure, how to have the stream of this number again.
pub async fn check(kind: Kind, bare: Bare, streams: Vec<Stream>, describe: impl Fn(usize) -> String) {
    let Some(mut store) = Store::start(kind, &[CARRIER, STOWAWAY]).await else { return };
    let limits = format!("[limits]\nmax_errors = 0\nbare_newline = \"{}\"\n", bare.name());
    let (mut backstop, address) = Backstop::before_with(store.address(), &limits).await;
    let chunking = store.chunking();
    let all: Vec<Expected> = streams.iter().map(|stream| expected(&stream.octets, bare, chunking)).collect();
    let stored: [Vec<Vec<u8>>; 2] = [CARRIER, STOWAWAY].map(|mailbox| {
        let messages = all.iter().flat_map(|expected| &expected.messages);
        let for_mailbox = messages.filter(|message| message.recipients.iter().any(|to| to == mailbox));
        let mut stored: Vec<_> = for_mailbox.map(|message| store.as_stored(message)).collect();
        stored.sort();
        stored
    });
    let failures = converse_all(address, streams, all).await;
    let failures: Vec<String> =
        failures.into_iter().map(|(number, failure)| format!("{}\n{failure}", describe(number))).collect();
    assert!(failures.is_empty(), "{kind:?}, {bare:?}: {} failed\n{}", failures.len(), failures.join("\n\n"));

    // Without Backstop nobody talks to the store, so that what it holds in the end is all it ever will.
    backstop.sigterm();
    assert_eq!(backstop.exit().await.code(), Some(0));
    store.settled().await;
    for (mailbox, expected) in [CARRIER, STOWAWAY].into_iter().zip(stored) {
        let messages = store.messages(mailbox);
        if let Some(difference) = difference(&messages, &expected) {
            panic!("{kind:?}, {bare:?}, {mailbox}: {difference}");
        }
    }
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

/// What is wrong with what is stored, if anything. Both are sorted.
fn difference(stored: &[Vec<u8>], expected: &[Vec<u8>]) -> Option<String> {
    if stored == expected {
        return None;
    }
    let only = |these: &[Vec<u8>], others: &[Vec<u8>]| -> Vec<String> {
        let missing = these.iter().filter(|message| others.binary_search(message).is_err());
        missing.take(3).map(|message| message.escape_ascii().to_string()).collect()
    };
    Some(format!(
        "{} messages are stored, {} were acknowledged\nstored but not acknowledged so: {:#?}\nacknowledged but not stored so: {:#?}",
        stored.len(),
        expected.len(),
        only(stored, expected),
        only(expected, stored)
    ))
}
