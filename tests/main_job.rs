//! The main job, end to end: the built binary before a real Postfix, or before a backend that fails on request.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::client::Client;
use support::machine::free_address;
use support::postfix::{self, Postfix};
use support::{message, sender, settled};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const KNOWN: &str = "anna@example.org";
const UNKNOWN: &str = "nobody@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn swaks_and_smtplib_deliver_every_body_unchanged() {
    let postfix = Postfix::start(&[KNOWN]).await;
    let (_backstop, address) = Backstop::before(postfix.address()).await;
    for difficult in message::difficult(KNOWN) {
        sender::swaks(address, KNOWN, &difficult.octets).await.is_accepted();
        sender::smtplib(address, &[KNOWN], &difficult.octets).await.is_accepted();
        for stored in postfix.wait_for_messages(KNOWN, 2).await {
            assert!(postfix::body(&stored) == difficult.stored, "{}", difficult.what);
            // One line before it, right behind those of Postfix, and nothing else of ours.
            let text = String::from_utf8_lossy(&stored);
            assert_eq!(text.matches("\tby mx.example.org with ESMTP id ").count(), 1, "{text}");
            let behind = text.split_once("Received: from client.test ([127.0.0.1])\n\tby mx.example.org");
            let behind = behind.and_then(|(_, rest)| rest.split_once(" +0000\n")).map(|(_, rest)| rest);
            assert!(behind.is_some_and(|rest| rest.starts_with("From: sender@client.test\n")), "{text}");
        }
        postfix.empty(KNOWN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_delivers_one_message_after_another() {
    let postfix = Postfix::start(&[KNOWN, "bert@example.org"]).await;
    let (_backstop, address) = Backstop::before(postfix.address()).await;
    let mut client = Client::greeted(address).await;
    for recipient in [KNOWN, "bert@example.org", KNOWN] {
        client.envelope("sender@client.test", recipient).await.is("250");
        client.data(MESSAGE).await.is("250 2.0.0");
    }
    client.quit().await;
    postfix.wait_for_messages(KNOWN, 2).await;
    postfix.wait_for_messages("bert@example.org", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_recipient_gets_the_words_of_postfix_at_rcpt() {
    let words =
        format!("550 5.1.1 <{UNKNOWN}>: Recipient address rejected: User unknown in virtual mailbox table");
    let postfix = Postfix::start(&[KNOWN]).await;
    let (_backstop, address) = Backstop::before(postfix.address()).await;
    // From the probe, then from the cache.
    for _ in 0..2 {
        let mut client = Client::greeted(address).await;
        assert_eq!(client.envelope("sender@client.test", UNKNOWN).await.to_string(), words);
        client.command(&format!("RCPT TO:<{KNOWN}>")).await.is("250");
        client.data(MESSAGE).await.is("250");
        client.quit().await;
    }
    sender::swaks(address, UNKNOWN, MESSAGE).await.is_refused_with(&words);
    sender::smtplib(address, &[UNKNOWN], MESSAGE)
        .await
        .is_refused_with("User unknown in virtual mailbox table");
    postfix.log_caught_up().await;
    assert_eq!(postfix.rcpts_for(UNKNOWN), 1);
    postfix.wait_for_messages(KNOWN, 2).await;
    assert!(postfix.messages(UNKNOWN).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_trusts_us_is_given_no_route_within_a_local_part() {
    // As most are: the domain is its own, and whoever is in its networks may relay. No message is sent here.
    let trusting = [
        ("virtual_mailbox_domains", ""),
        ("mydestination", "example.org"),
        ("local_recipient_maps", "inline:{anna=anna}"),
        ("smtpd_relay_restrictions", "permit_mynetworks, reject_unauth_destination"),
        ("default_transport", "relay:[127.0.0.1]:9"),
    ];
    let postfix = Postfix::start_with(&[KNOWN], &trusting).await;
    let (_backstop, address) = Backstop::before(postfix.address()).await;
    let mut itself = Client::greeted(postfix.address()).await;
    let mut through_us = Client::greeted(address).await;
    for routed in [
        "eve%elsewhere.example",
        "elsewhere.example!eve",
        "\"eve%elsewhere.example\"",
        "\"elsewhere.example!eve\"",
        "\"eve@elsewhere.example\"",
        "\"eve\\@elsewhere.example\"",
    ] {
        let recipient = format!("{routed}@example.org");
        // It knows nobody of that name in its domain, and takes it: it would follow the route.
        itself.envelope("sender@client.test", &recipient).await.is("250");
        itself.command("RSET").await.is("250");
        through_us.envelope("sender@client.test", &recipient).await.is("553 5.1.3");
        through_us.command("RSET").await.is("250");
    }
    itself.envelope("sender@client.test", UNKNOWN).await.is("550 5.1.1");
    through_us.envelope("sender@client.test", KNOWN).await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_takes_few_connections_still_takes_every_message() {
    const CLIENTS: usize = 30;
    // Its own networks are excepted otherwise.
    let few =
        [("smtpd_client_connection_count_limit", "3"), ("smtpd_client_event_limit_exceptions", "192.0.2.1")];
    let postfix = Postfix::start_with(&[KNOWN], &few).await;
    let limits = format!("[limits]\nmax_connections_per_client = {}\n", 2 * CLIENTS);
    let (backstop, address) = Backstop::before_with(postfix.address(), &limits).await;
    let ready = Arc::new(Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let ready = Arc::clone(&ready);
        clients.spawn(async move {
            let mut client = Client::greeted(address).await;
            ready.wait().await;
            client.envelope("sender@client.test", KNOWN).await.is("250");
            client.data(MESSAGE).await.is("250 2.0.0");
            client.quit().await;
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("every client is served");
    }
    postfix.wait_for_messages(KNOWN, CLIENTS).await;
    let status = backstop.admin().await.get("/api/v1/status").await.json();
    let connections = &status["routes"][0]["backends"][0]["connections"];
    assert!(connections["limit"].as_u64() < Some(10), "{connections}");
    assert!(connections["refusals"].as_u64() > Some(0), "{connections}");
    // Fewer for a while is for operators to know.
    backstop.logged("too many connections of ours").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_without_a_route_is_refused() {
    let (backend, store) = Backend::start(Script::blind()).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", "anna@elsewhere.test").await.is("550 5.7.1");
    assert_eq!(backend.record().rcpts_for("anna@elsewhere.test"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_that_ask_for_one_new_address_cost_one_rcpt() {
    const CLIENTS: usize = 100;
    let slow = Action::ordinary().after(Duration::from_millis(500));
    let (backend, store) =
        Backend::start(Script::knowing([KNOWN]).on(at(Phase::Rcpt).to(UNKNOWN), slow)).await;
    let limits = format!("[limits]\nmax_connections_per_client = {}\n", 2 * CLIENTS);
    let (_backstop, address) = Backstop::before_with(store, &limits).await;
    let ready = Arc::new(Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let ready = Arc::clone(&ready);
        clients.spawn(async move {
            let mut client = Client::greeted(address).await;
            client.command("MAIL FROM:<sender@client.test>").await.is("250");
            ready.wait().await;
            client.command(&format!("RCPT TO:<{UNKNOWN}>")).await
        });
    }
    for reply in clients.join_all().await {
        reply.is("550 5.1.1");
    }
    assert_eq!(backend.record().rcpts_for(UNKNOWN), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_from_the_cache_costs_the_backend_nothing() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, address) = Backstop::before(store).await;
    Client::greeted(address).await.envelope("sender@client.test", UNKNOWN).await.is("550 5.1.1");
    let connections = backend.record().connections;
    for _ in 0..5 {
        Client::greeted(address).await.envelope("sender@client.test", UNKNOWN).await.is("550 5.1.1");
    }
    assert_eq!(backend.record().rcpts_for(UNKNOWN), 1);
    assert_eq!(backend.record().connections, connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_down_is_a_451_and_nothing_is_remembered() {
    let store = free_address();
    let (_backstop, address) = Backstop::before(store).await;
    let ask =
        async |recipient| Client::greeted(address).await.envelope("sender@client.test", recipient).await;
    ask(KNOWN).await.is("451 4.4.3");
    ask(UNKNOWN).await.is("451 4.4.3");
    let backend = Backend::new(Script::knowing([KNOWN]));
    backend.listen(store).await.expect("the port is still free");
    // It may rest the backend for a moment; until it looks again the answer stays temporary.
    settled(async || ask(KNOWN).await).await.is("250");
    settled(async || ask(UNKNOWN).await).await.is("550 5.1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_dies_in_the_middle_of_a_session_is_a_451_and_is_used_again_when_back() {
    let mut postfix = Postfix::start(&[KNOWN]).await;
    let (_backstop, address) = Backstop::before(postfix.address()).await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    postfix.kill();
    client.command("DATA").await.is("451 4.4.2");
    client.command("RSET").await.is("250");
    assert_eq!(postfix.resume().await, postfix::Up::Ready);
    settled(async || Client::greeted(address).await.envelope("sender@client.test", KNOWN).await)
        .await
        .is("250");
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
    postfix.wait_for_messages(KNOWN, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_lost_in_the_message_or_behind_its_dot_is_a_451_and_the_session_goes_on() {
    let faults = [
        (at(Phase::Body).beyond(100_000), Action::reset()),
        (at(Phase::Body).beyond(100_000), Action::close()),
        (at(Phase::EndOfData), Action::close()),
        (at(Phase::EndOfData), Action::reset()),
        // It stored the message; the acknowledgement was torn.
        (at(Phase::EndOfData), Action::half("250 2.0.0 Ok: queued").then(Action::close())),
    ];
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    for (when, action) in faults {
        backend.rescript(|script| script.ordinary().on(when, action));
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.data(lines(400_000)).await.is("451 4.4.2");
    }
    backend.rescript(Script::ordinary);
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_message_is_passed_on_as_it_is() {
    let refusal = Action::reply("554-5.7.0 Looks like\r\n554 5.7.0 something bad");
    let script = Script::knowing([KNOWN]).on(at(Phase::EndOfData), refusal);
    let (backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    let reply = client.data(MESSAGE).await;
    assert_eq!(
        (reply.code, reply.lines),
        (554, vec!["5.7.0 Looks like".into(), "5.7.0 something bad".into()])
    );
    assert!(backend.record().messages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_100_mb_costs_less_than_2_mb_of_memory() {
    const MEGABYTE: usize = 1_000_000;
    let (backend, store) = Backend::start(Script::knowing([KNOWN]).counting()).await;
    let (backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    // The first message brings in the code and the buffers that every message uses.
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(lines(MEGABYTE)).await.is("250");
    backstop.forget_memory_peak();
    let before = backstop.memory().resident;

    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.command("DATA").await.is("354");
    let part = lines(MEGABYTE);
    for _ in 0..100 {
        client.send(&part).await;
    }
    client.command(".").await.is("250");

    let grown = backstop.memory().peak.saturating_sub(before);
    assert!(grown < 2 * MEGABYTE as u64, "grown by {grown} octets");
    // Backstop's own Received line comes on top.
    assert!(backend.record().messages[1].octets >= 100 * part.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_idle_sessions_and_lets_an_open_message_complete() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (mut backstop, address) = Backstop::before(store).await;
    let mut idle = Client::greeted(address).await;
    let mut busy = Client::greeted(address).await;
    busy.envelope("sender@client.test", KNOWN).await.is("250");
    busy.command("DATA").await.is("354");
    busy.send("Subject: half\r\n\r\nfirst\r\n").await;

    backstop.sigterm();
    idle.reply().await.is("421 4.3.2");
    idle.is_closed().await;
    busy.send("second\r\n").await;
    busy.command(".").await.is("250");
    busy.reply().await.is("421 4.3.2");
    busy.is_closed().await;

    assert_eq!(backstop.exit().await.code(), Some(0));
    let record = backend.record();
    assert!(record.messages[0].body.ends_with(b"\r\n\r\nfirst\r\nsecond\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_at_once() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (mut backstop, address) = Backstop::before_with(store, "[timeouts]\ndrain = \"1h\"\n").await;
    let mut idle = Client::greeted(address).await;
    let mut busy = Client::greeted(address).await;
    busy.envelope("sender@client.test", KNOWN).await.is("250");
    busy.command("DATA").await.is("354");
    backstop.sigterm();
    // Only a first signal that was seen makes the next one the second.
    idle.reply().await.is("421");
    backstop.sigterm();
    backstop.exit().await;
    assert!(backend.record().messages.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_endpoint_tells_health_and_metrics() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (backstop, address) = Backstop::before(store).await;
    let admin = backstop.admin().await;
    admin.get("/livez").await.is(200);
    admin.get("/readyz").await.is(200);
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", UNKNOWN).await.is("550");
    client.quit().await;
    let metrics = admin.get("/metrics").await.is(200).body;
    for name in
        ["backstop_build_info{", "backstop_connections_total{", "backstop_recipients_total{", "process_"]
    {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} in {metrics}");
    }
    assert!(!metrics.contains(UNKNOWN), "no address in a metric");
    admin.get("/no-such-page").await.is(404).json();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_recipient_is_asked_for_again() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (backstop, address) = Backstop::before(store).await;
    let admin = backstop.admin().await;
    let resource = format!("/api/v1/recipients/{UNKNOWN}");
    Client::greeted(address).await.envelope("sender@client.test", UNKNOWN).await.is("550");
    let explained = admin.get(&resource).await.is(200).json();
    assert!(explained.is_object(), "{explained}");
    backend.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
    let forgotten = admin.delete(&resource).await;
    assert!((200..300).contains(&forgotten.status), "{forgotten:?}");
    Client::greeted(address).await.envelope("sender@client.test", UNKNOWN).await.is("250");
}

/// About so many octets of message in lines of ordinary length.
fn lines(octets: usize) -> Vec<u8> {
    let line = b"The quick brown fox jumps over the lazy dog, again and again and again.\r\n";
    line.repeat(octets / line.len() + 1)
}
