//! Several backends of a route: who gets a transaction, who is spared, and who is found to be well again.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use support::PATIENCE;
use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::client::{Client, Reply};
use tokio::time::{Instant, sleep};

const KNOWN: &str = "anna@example.org";
const CANARY: &str = "canary@example.org";
const SENDER: &str = "sender@client.test";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

/// A route to these backends, with more keys.
async fn before(backends: &[SocketAddr], more: &str) -> (Backstop, SocketAddr) {
    let names: Vec<_> = backends.iter().map(|address| format!("\"{address}\"")).collect();
    let text = format!(
        "hostname = \"mx.example.org\"\n[[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[[route]]\ndomains = [\"example.org\"]\nbackends = [{}]\n{more}",
        names.join(", ")
    );
    Backstop::ready(&text).await
}

async fn mail(address: SocketAddr) -> Reply {
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    let reply = client.data(MESSAGE).await;
    client.quit().await;
    reply
}

/// Waits until the status says so of the only address of this backend.
async fn until(backstop: &Backstop, backend: usize, what: &str, is: impl Fn(&Value) -> bool) {
    let (admin, deadline) = (backstop.admin().await, Instant::now() + PATIENCE);
    loop {
        let status = admin.get("/api/v1/status").await.json();
        let member = status["routes"][0]["backends"][backend]["members"][0].clone();
        if is(&member) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {member:#}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn rests(member: &Value) -> bool {
    member["state"] == "down" && !member["resting_seconds"].is_null()
}

fn is_well(member: &Value) -> bool {
    member["state"] == "up" && member["resting_seconds"].is_null()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_comes_back_is_found_by_a_check_and_not_by_mail() {
    let (first, one) = Backend::start(Script::knowing([KNOWN])).await;
    let (second, other) = Backend::start(Script::knowing([KNOWN])).await;
    let keys = "balance = \"failover\"\neject = \"1s\"\ncheck = \"1s\"\n";
    let (backstop, address) = before(&[one, other], keys).await;
    first.stop().await;
    until(&backstop, 0, "its rest", rests).await;
    mail(address).await.is("250");
    assert_eq!(second.record().messages.len(), 1, "nobody waits for one that rests");
    let before = first.record();
    first.listen(one).await.unwrap();
    until(&backstop, 0, "its return", is_well).await;
    let after = first.record();
    let said: Vec<_> =
        after.commands[before.commands.len()..].iter().map(|(_, line)| line.as_str()).collect();
    assert!(said.iter().all(|line| line.starts_with("EHLO") || *line == "QUIT"), "{said:?}");
    mail(address).await.is("250");
    assert_eq!(first.record().messages.len(), 1, "it is the first again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_refuses_the_canary_gets_no_mail_until_it_takes_it() {
    let (first, one) = Backend::start(Script::knowing([KNOWN])).await;
    let (second, other) = Backend::start(Script::knowing([KNOWN, CANARY])).await;
    let keys = format!("balance = \"failover\"\neject = \"1s\"\ncheck = \"1s\"\ncanary = \"{CANARY}\"\n");
    let (backstop, address) = before(&[one, other], &keys).await;
    until(&backstop, 0, "its rest", rests).await;
    backstop.logged("does not take the canary: 550").await;
    mail(address).await.is("250");
    assert_eq!([&first, &second].map(|backend| backend.record().messages.len()), [0, 1]);
    assert_eq!(first.record().count("DATA") + second.record().count("DATA"), 1, "no check sends a message");
    first.rescript(|_| Script::knowing([KNOWN, CANARY]));
    until(&backstop, 0, "its return", is_well).await;
    mail(address).await.is("250");
    assert_eq!(first.record().messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_every_backend_refuses_stops_no_mail() {
    for number in [1, 2] {
        let (first, one) = Backend::start(Script::knowing([KNOWN])).await;
        let (second, other) = Backend::start(Script::knowing([KNOWN])).await;
        let keys = format!("balance = \"failover\"\neject = \"1s\"\ncheck = \"1s\"\ncanary = \"{CANARY}\"\n");
        let (backstop, address) = before(&[one, other][..number], &keys).await;
        backstop.logged("the canary is refused, and no other backend takes it").await;
        mail(address).await.is("250");
        for (at, backend) in [&first, &second].into_iter().enumerate().take(number) {
            backend.until("checks", |record| record.rcpts_for(CANARY) >= 2).await;
            until(&backstop, at, "its return", is_well).await;
        }
        mail(address).await.is("250");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_greylisted_is_held_against_nobody() {
    let greylisted =
        Script::knowing([KNOWN]).on(at(Phase::Rcpt).to(CANARY), Action::reply("451 4.7.1 Later"));
    let (first, one) = Backend::start(greylisted).await;
    let (_second, other) = Backend::start(Script::knowing([KNOWN, CANARY])).await;
    let keys = format!("balance = \"failover\"\neject = \"60s\"\ncheck = \"1s\"\ncanary = \"{CANARY}\"\n");
    let (backstop, address) = before(&[one, other], &keys).await;
    first.until("checks", |record| record.rcpts_for(CANARY) >= 2).await;
    until(&backstop, 0, "its health", is_well).await;
    mail(address).await.is("250");
    assert_eq!(first.record().messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_asked_about_as_the_fallback_sender_where_the_null_sender_is_refused() {
    let refusing = Script::knowing([KNOWN, CANARY]).on(at(Phase::Mail).to(""), Action::reply("550 5.7.1 No"));
    let (first, one) = Backend::start(refusing).await;
    let (_second, other) = Backend::start(Script::knowing([KNOWN, CANARY])).await;
    let keys = format!("eject = \"60s\"\ncheck = \"1s\"\ncanary = \"{CANARY}\"\n");
    let (backstop, _) = before(&[one, other], &keys).await;
    first.until("checks", |record| record.rcpts_for(CANARY) >= 2).await;
    until(&backstop, 0, "its health", is_well).await;
    assert!(first.record().count("MAIL FROM:<postmaster@mx.example.org>") >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_first_greeting_is_not_held_against_a_backend_for_ever() {
    let slow = Action::ordinary().after(Duration::from_millis(600));
    let (backend, one) = Backend::start(Script::knowing([KNOWN]).on(at(Phase::Greeting), slow)).await;
    let (backstop, _) = before(&[one], "check = \"1s\"\n").await;
    let latency = |member: &Value| member["latency_seconds"].as_f64().expect("a number");
    until(&backstop, 0, "its slowness", |member| latency(member) >= 0.6).await;
    backend.rescript(|_| Script::knowing([KNOWN]));
    until(&backstop, 0, "its speed", |member| latency(member) < 0.6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_no_session_of_a_client_behind_proxy_headers() {
    let (backend, one) = Backend::start(Script::knowing([KNOWN])).await;
    let (backstop, _) = before(&[one], "check = \"1s\"\nclient_address = \"proxy-v1\"\n").await;
    let greeted = backend.record().connections;
    backend.until("a check", |record| record.connections > greeted && record.open == 0).await;
    let record = backend.record();
    let own = |line: &str| line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ");
    let headers = (0..record.connections)
        .filter(|session| record.session(*session).first().is_some_and(|line| own(line)));
    // Each begins with the header of a connection of our own.
    assert_eq!(headers.count(), record.connections);
    drop(backstop);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_data_was_not_sent_moves_to_another_backend() {
    for phase in [Phase::Greeting, Phase::Ehlo, Phase::Mail, Phase::Rcpt] {
        let (first, one) = Backend::start(Script::knowing([KNOWN])).await;
        let (second, other) = Backend::start(Script::knowing([KNOWN])).await;
        let keys = format!("balance = \"failover\"\ncheck = \"0s\"\nverify.backends = [\"{other}\"]\n");
        let (_backstop, address) = before(&[one, other], &keys).await;
        first.rescript(|script| script.on(at(phase), Action::close()));
        mail(address).await.is("250");
        assert!(first.acted() > 0, "{phase:?}");
        assert_eq!([&first, &second].map(|backend| backend.record().messages.len()), [0, 1], "{phase:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_data_was_sent_moves_to_no_other_backend() {
    let script = || Script::knowing([KNOWN]);
    let (first, one) = Backend::start(script().on(at(Phase::EndOfData), Action::close())).await;
    let (second, other) = Backend::start(script()).await;
    let keys = format!("balance = \"failover\"\nverify.backends = [\"{other}\"]\n");
    let (_backstop, address) = before(&[one, other], &keys).await;
    mail(address).await.is("451");
    assert_eq!(first.record().count("DATA"), 1);
    assert_eq!(second.record().count("DATA") + second.record().messages.len(), 0, "once is enough");
}
