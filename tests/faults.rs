//! Faults of backends and clients, each at the worst moment: what is acknowledged, who waits, what is reused.

mod support;

use std::time::Duration;

use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::client::Client;
use tokio::time::{sleep, timeout};

const KNOWN: &str = "anna@example.org";
const OTHER: &str = "bert@example.org";
const SENDER: &str = "sender@client.test";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

/// So long a promise may take that is to be kept at once, on a loaded machine.
const SOON: Duration = Duration::from_secs(8);
/// So long what a backend said needs to arrive; nothing shows that it did.
const HEARD: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn octets_of_a_chunk_are_never_commands_also_when_the_backend_is_lost() {
    let script = Script::knowing([KNOWN, OTHER]).offering("CHUNKING");
    let (backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    // Both are remembered from here on.
    client.envelope(SENDER, KNOWN).await.is("250");
    client.command(&format!("RCPT TO:<{OTHER}>")).await.is("250");
    client.command("RSET").await.is("250");
    client.envelope(SENDER, KNOWN).await.is("250");
    backend.stop().await;
    client.command(&format!("RCPT TO:<{OTHER}>")).await.is("451");
    client.send("BDAT 6 LAST\r\nNOOP\r\n").await;
    client.reply().await.is("451");
    client.command("QUIT").await.is("221");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_session_whose_client_left_before_its_data_is_not_used_again() {
    let slow = Action::ordinary().after(Duration::from_millis(300));
    let script = Script::knowing([KNOWN]).on(at(Phase::Data).nth(1), slow);
    let (backend, store) = Backend::start(script).await;
    let (backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.send("DATA\r\n").await;
    backend.until("DATA", |record| record.count("DATA") == 1).await;
    client.reset();
    backstop.logged("client_lost").await;
    let mut next = Client::greeted(address).await;
    let reply = timeout(SOON, next.envelope(SENDER, KNOWN)).await.expect("no wait for a session in data");
    reply.is("250");
    next.data(MESSAGE).await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_begins_to_speak_early_and_stops_holds_nobody_for_ever() {
    let script = Script::knowing([KNOWN]).on(at(Phase::Body), Action::bytes("55").then(Action::freeze()));
    let (_backend, store) = Backend::start(script).await;
    let (_backstop, address) =
        Backstop::before_with(store, "[timeouts]\nbackend_end_of_data = \"1s\"\n").await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.command("DATA").await.is("354");
    client.send(MESSAGE).await;
    sleep(HEARD).await;
    let reply = timeout(SOON, client.command(".")).await.expect("an answer within backend_end_of_data");
    reply.is("451");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_begun_before_the_dot_is_not_the_answer_to_the_message() {
    let early = Action::bytes("250-2.0.0 Almost\r\n");
    let script = Script::knowing([KNOWN])
        .on(at(Phase::Body), early)
        .on(at(Phase::EndOfData), Action::reply("250 2.0.0 Done"));
    let (_backend, store) = Backend::start(script).await;
    let (_backstop, address) =
        Backstop::before_with(store, "[timeouts]\nbackend_end_of_data = \"1s\"\n").await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.command("DATA").await.is("354");
    client.send(MESSAGE).await;
    sleep(HEARD).await;
    let reply = timeout(SOON, client.command(".")).await.expect("an answer");
    reply.is("451");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_session_that_refuses_the_sender_is_never_a_final_refusal() {
    let script = Script::knowing([KNOWN, OTHER])
        .on(at(Phase::Rcpt).to(OTHER).nth(2), Action::close())
        .on(at(Phase::Mail).to(SENDER).nth(2), Action::reply("550 5.7.1 Not any more"));
    let (_backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.command(&format!("RCPT TO:<{OTHER}>")).await.is("4");
    client.command("DATA").await.is("451");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_last_chunk_is_acknowledged_every_time() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN]).offering("CHUNKING").counting()).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(async move {
            let mut client = Client::greeted(address).await;
            for _ in 0..150 {
                client.envelope(SENDER, KNOWN).await.is("250");
                client.send("BDAT 3\r\nx\r\n").await;
                client.reply().await.is("250");
                client.command("BDAT 0 LAST").await.is("250");
            }
        });
    }
    tasks.join_all().await;
}
