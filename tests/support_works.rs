//! The test support held against itself: what the other tests conclude from it must be true.

mod support;

use std::time::Duration;

use support::aiosmtpd::{Aiosmtpd, Stored};
use support::backend::{Action, Backend, Exchange, Phase, Script, at};
use support::client::Client;
use support::exim::Exim;
use support::message;
use support::postfix::{self, Postfix};
use support::sender;

const MESSAGE: &[u8] =
    b"From: sender@client.test\r\nTo: anna@example.org\r\nSubject: hello\r\n\r\n.dot\r\n..\r\nend\r\n";
const UNKNOWN: &str =
    "550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown in virtual mailbox table";

#[tokio::test(flavor = "multi_thread")]
async fn postfix_stores_for_a_known_mailbox_and_refuses_an_unknown_one() {
    let postfix = Postfix::start(&["anna@example.org"]).await;
    sender::smtplib(postfix.address(), &["anna@example.org"], MESSAGE).await.is_accepted();
    sender::swaks(postfix.address(), "anna@example.org", MESSAGE).await.is_accepted();
    for stored in postfix.wait_for_messages("anna@example.org", 2).await {
        assert_eq!(postfix::body(&stored), b".dot\n..\nend\n");
    }
    sender::smtplib(postfix.address(), &["nobody@example.org"], MESSAGE)
        .await
        .is_refused_with("5.1.1 <nobody@example.org>");
    sender::swaks(postfix.address(), "nobody@example.org", MESSAGE).await.is_refused_with(UNKNOWN);
    sender::swaks(postfix.address(), "someone@elsewhere.test", MESSAGE).await.is_refused_with("554 5.7.1");
    assert_eq!(postfix.messages("nobody@example.org").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_stores_difficult_bodies_as_we_expect_them() {
    let postfix = Postfix::start(&["anna@example.org"]).await;
    for difficult in message::difficult("anna@example.org") {
        sender::swaks(postfix.address(), "anna@example.org", &difficult.octets).await.is_accepted();
        sender::smtplib(postfix.address(), &["anna@example.org"], &difficult.octets).await.is_accepted();
        for stored in postfix.wait_for_messages("anna@example.org", 2).await {
            assert!(postfix::body(&stored) == difficult.stored, "{}", difficult.what);
        }
        postfix.empty("anna@example.org");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_instances_live_side_by_side() {
    let (first, second) =
        tokio::join!(Postfix::start(&["anna@example.org"]), Postfix::start(&["bert@example.org"]));
    sender::smtplib(first.address(), &["anna@example.org"], MESSAGE).await.is_accepted();
    sender::smtplib(second.address(), &["bert@example.org"], MESSAGE).await.is_accepted();
    first.wait_for_messages("anna@example.org", 1).await;
    second.wait_for_messages("bert@example.org", 1).await;
    assert!(first.messages("bert@example.org").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_tells_what_it_was_asked_while_the_session_is_open() {
    let postfix =
        Postfix::start_with(&["anna@example.org"], &[("smtpd_authorized_xclient_hosts", "127.0.0.1")]).await;
    postfix.log_caught_up().await;
    let before = postfix.connections();
    let mut client = Client::connect(postfix.address()).await;
    client.reply().await.is("220");
    let hello = client.command("EHLO client.test").await;
    assert!(hello.lines.iter().any(|line| line.starts_with("XCLIENT ")), "{hello}");
    client.envelope("", "anna@example.org").await.is("250");
    client.command("RCPT TO:<nobody@example.org>").await.is(UNKNOWN);
    postfix.log_caught_up().await;
    assert_eq!(postfix.rcpts_for("nobody@example.org"), 1);
    assert_eq!(postfix.rcpts_for("anna@example.org"), 1);
    assert_eq!(postfix.count("RCPT"), 2);
    // Ours, and the one that marked the log.
    assert_eq!(postfix.connections() - before, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_goes_and_comes_back_at_its_address() {
    let mut postfix = Postfix::start(&["anna@example.org"]).await;
    let mut client = Client::greeted(postfix.address()).await;
    postfix.kill();
    client.is_closed().await;
    assert!(tokio::net::TcpStream::connect(postfix.address()).await.is_err());
    assert_eq!(postfix.resume().await, postfix::Up::Ready);
    Client::greeted(postfix.address()).await.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exim_stores_for_a_known_mailbox_and_refuses_an_unknown_one() {
    let Some(exim) = Exim::start(&["anna@example.org"]).await else { return };
    sender::smtplib(exim.address(), &["anna@example.org"], MESSAGE).await.is_accepted();
    sender::swaks(exim.address(), "anna@example.org", MESSAGE).await.is_accepted();
    sender::smtplib(exim.address(), &["nobody@example.org"], MESSAGE).await.is_refused_with("550");
    sender::swaks(exim.address(), "someone@elsewhere.test", MESSAGE).await.is_refused_with("550");
    let mut client = Client::greeted(exim.address()).await;
    client.envelope("", "anna@example.org").await.is("250");
    client.send("BDAT 12\r\nSubject: a\r\n").await;
    client.reply().await.is("250");
    client.send("BDAT 8 LAST\r\n\r\n.\r\n.\r\n").await;
    client.reply().await.is("250");
    client.quit().await;
    exim.settled().await;
    let stored = exim.messages("anna@example.org");
    let mut bodies: Vec<_> = stored.iter().map(|stored| postfix::body(stored)).collect();
    bodies.sort();
    assert_eq!(bodies, [&b".\n.\n"[..], b".dot\n..\nend\n", b".dot\n..\nend\n"]);
    assert!(exim.messages("nobody@example.org").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn aiosmtpd_stores_what_came_with_its_envelope() {
    let mut server = Aiosmtpd::start(&["anna@example.org", "bert@example.org"]);
    let recipients = ["anna@example.org", "bert@example.org"];
    sender::smtplib(server.address(), &recipients, MESSAGE).await.is_accepted();
    sender::smtplib(server.address(), &["nobody@example.org"], MESSAGE).await.is_refused_with("550");
    server.settled().await;
    let stored = Stored {
        sender: "sender@client.test".to_owned(),
        recipients: recipients.map(str::to_owned).to_vec(),
        content: MESSAGE.to_vec(),
    };
    assert_eq!(server.stored(), [stored]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scripted_backend_is_a_good_server_until_told_otherwise() {
    let (backend, address) = Backend::start(Script::knowing(["anna@example.org"])).await;
    sender::smtplib(address, &["anna@example.org", "nobody@example.org"], MESSAGE)
        .await
        .is_refused_with("550");
    let record = backend.record();
    let message = &record.messages[0];
    assert_eq!(message.sender, "sender@client.test");
    assert_eq!(message.recipients, ["anna@example.org"]);
    assert_eq!(message.body, MESSAGE);
    assert_eq!(message.raw.len(), MESSAGE.len() + 2);
    assert_eq!(message.octets, message.raw.len() as u64);
    assert_eq!((record.rcpts_for("anna@example.org"), record.rcpts_for("NOBODY@example.org")), (1, 1));
    assert!(record.quit(0));
}

#[tokio::test]
async fn the_scripted_backend_finds_the_final_dot_in_any_segments() {
    let (backend, address) = Backend::start(Script::blind()).await;
    let mut client = Client::greeted(address).await;
    let messages: [&[u8]; 4] = [b"", b"..\r\n", b"a\r\n..\r\n..b\r\n", b"a\n.\nb\r.\r\r\n"];
    for raw in messages {
        client.envelope("", "anna@example.org").await.is("250");
        client.command("DATA").await.is("354");
        client.send_segments([raw, b".\r\n"].concat().chunks(1)).await;
        client.reply().await.is("250");
    }
    let record = backend.record();
    assert_eq!(record.messages.iter().map(|message| message.raw.as_slice()).collect::<Vec<_>>(), messages);
    assert_eq!(record.messages[2].body, b"a\r\n.\r\n.b\r\n");
}

#[tokio::test]
async fn the_scripted_backend_takes_chunks_and_only_counts_when_told() {
    let script = Script::blind().offering("CHUNKING");
    let (backend, address) = Backend::start(script).await;
    let mut client = Client::greeted(address).await;
    client.envelope("", "anna@example.org").await.is("250");
    client.send("BDAT 4\r\n.\r\n.").await;
    client.reply().await.is("250");
    client.send("BDAT 3 LAST\r\nend").await;
    client.reply().await.is("250");
    assert_eq!(backend.record().messages[0].body, b".\r\n.end");
    backend.rescript(Script::counting);
    client.envelope("", "anna@example.org").await.is("250");
    client.data(long_line(300_000)).await.is("250");
    let record = backend.record();
    assert_eq!((record.messages[1].octets, record.messages[1].raw.len()), (300_002, 0));
    assert_eq!(record.body_octets, 7 + 300_002 + 3);
}

#[tokio::test(start_paused = true)]
async fn the_scripted_backend_waits_in_the_time_of_the_test() {
    let script = Script::blind()
        .on(at(Phase::Rcpt).to("slow@example.org"), Action::ordinary().after(Duration::from_secs(600)))
        .on(at(Phase::Noop).turn(2), Action::pieces("250-one\r\n250 two", 1, Duration::from_secs(1)))
        .on(at(Phase::Rset), Action::half("250 2.0.0 Ok").then(Action::close()));
    let backend = Backend::new(script);
    let mut client = Client::over(backend.connect(1024));
    client.reply().await.is("220");
    client.command("EHLO client.test").await.is("250");
    let start = tokio::time::Instant::now();
    client.envelope("", "slow@example.org").await.is("250 2.1.5");
    assert_eq!(start.elapsed(), Duration::from_secs(600));
    client.command("NOOP").await.is("250 2.0.0");
    assert_eq!(client.command("NOOP").await.lines, ["one", "two"]);
    client.send_line("RSET").await;
    assert_eq!(client.rest().await, b"250 2.");
}

#[tokio::test]
async fn the_scripted_backend_fails_where_it_is_told() {
    let script = Script::blind()
        .on(at(Phase::Body).beyond(50_000), Action::reply("451 4.3.0 disk full"))
        .on(at(Phase::EndOfData).nth(3), Action::close())
        .on(at(Phase::Greeting).in_session(1), Action::reset());
    let (backend, address) = Backend::start(script).await;
    let mut client = Client::greeted(address).await;
    for (length, reply) in [(40_000, "250"), (60_000, "451 4.3.0 disk full")] {
        client.envelope("", "anna@example.org").await.is("250");
        client.data(long_line(length)).await.is(reply);
    }
    client.envelope("", "anna@example.org").await.is("250");
    client.command("DATA").await.is("354");
    client.send(".\r\n").await;
    client.is_closed().await;
    Client::connect(address).await.is_closed().await;
    assert_eq!(backend.record().messages.len(), 1);
}

#[tokio::test]
async fn the_client_pipelines_half_closes_and_resets() {
    let (backend, address) = Backend::start(Script::knowing(["anna@example.org"])).await;
    let mut client = Client::greeted(address).await;
    let group = ["MAIL FROM:<>", "RCPT TO:<nobody@example.org>", "RCPT TO:<anna@example.org>", "DATA"];
    let codes: Vec<_> = client.pipeline(&group).await.iter().map(|reply| reply.code).collect();
    assert_eq!(codes, [250, 550, 250, 354]);
    client.send("text\r\n.\r\n").await;
    client.half_close().await;
    client.reply().await.is("250");
    client.is_closed().await;
    Client::greeted(address).await.reset();
    backend.until("both to be gone", |record| record.connections == 2 && record.open == 0).await;
    assert!(!backend.record().quit(1));
}

fn long_line(length: usize) -> Vec<u8> {
    let mut line = vec![b'x'; length];
    line.extend_from_slice(b"\r\n");
    line
}

#[tokio::test]
async fn the_scripted_backend_stops_and_listens_again() {
    let (backend, address) = Backend::start(Script::blind()).await;
    let mut client = Client::greeted(address).await;
    backend.stop().await;
    client.is_closed().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    backend.listen(address).await.expect("its address is free again");
    let client = Client::greeted(address).await;
    assert_eq!((backend.record().open, backend.record().most_open), (1, 1));
    client.quit().await;
    backend.until("both sessions to end", |record| record.open == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_scripted_exchange_judges_when_the_real_one_does_and_loses_patience_as_soon() {
    const MINUTE: Duration = Duration::from_secs(60);
    let exchange = |which: Exchange| Backend::new(which.knowing(["anna@example.org"]));
    let filtered = exchange(Exchange::V2010);
    let mut client = Client::over(filtered.connect(4096));
    client.reply().await.is("220 ex.corp.test Microsoft ESMTP MAIL Service");
    client.envelope("", "anna@example.org").await.is("250 2.1.5 Recipient OK");
    for _ in 0..5 {
        let asked = tokio::time::Instant::now();
        client.command("RCPT TO:<nobody@example.org>").await.is("550 5.1.1 User unknown");
        assert_eq!(asked.elapsed(), Duration::from_secs(5));
    }
    client.reply().await.is("421 4.7.0 Too many errors");
    client.is_closed().await;
    for (pause, turns) in [(5 * MINUTE, 0), (3 * MINUTE, 3)] {
        let mut client = Client::over(filtered.connect(4096));
        client.reply().await.is("220");
        for _ in 0..turns {
            tokio::time::sleep(pause).await;
            client.command("NOOP").await.is("250");
        }
        tokio::time::sleep(pause).await;
        client.reply().await.is("421 4.4.1");
    }
    let mut crowd = Vec::new();
    for _ in 0..20 {
        let mut client = Client::over(filtered.connect(4096));
        client.reply().await.is("220");
        crowd.push(client);
    }
    Client::over(filtered.connect(4096)).reply().await.is("421 4.3.2");

    let blind = exchange(Exchange::Frontend);
    let mut client = Client::over(blind.connect(4096));
    client.reply().await.is("220");
    client.envelope("bob@example.net", "anna@example.org").await.is("250");
    client.command("RCPT TO:<nobody@example.org>").await.is("250");
    client.command("RCPT TO:<nobody@elsewhere.test>").await.is("550 5.7.54");
    client.data("x\r\n").await.is("550 5.1.10 RESOLVER.ADR.RecipientNotFound");
    client.envelope("bob@example.net", "anna@example.org").await.is("250");
    client.data("x\r\n").await.is("250 2.6.0");
    assert_eq!(blind.record().messages.len(), 1);
}
