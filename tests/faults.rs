//! Faults of backends and clients, each at the worst moment: what is acknowledged, who waits, what is reused.

mod support;

use std::net::TcpStream;
use std::time::Duration;

use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::client::Client;
use support::eventually;
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
async fn a_session_that_answered_data_with_nonsense_is_not_used_again() {
    for nonsense in ["334 VXNlcm5hbWU6", "250 2.0.0 Ok", "221 2.0.0 Bye"] {
        let script = Script::knowing([KNOWN]).on(at(Phase::Data).nth(1), Action::reply(nonsense));
        let (backend, store) = Backend::start(script).await;
        let (_backstop, address) = Backstop::before(store).await;
        let mut client = Client::greeted(address).await;
        client.envelope(SENDER, KNOWN).await.is("250");
        client.command("DATA").await.is("451 4.3.0");
        backend.until("no session but the probe's", |record| record.open == 1).await;
        client.envelope(SENDER, KNOWN).await.is("250");
        client.data(MESSAGE).await.is("250");
        assert_eq!(backend.record().messages.len(), 1);
        client.quit().await;
    }
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
async fn a_refused_sender_teaches_nothing_about_the_recipient() {
    let script =
        Script::knowing([KNOWN]).on(at(Phase::Mail).to("bad@client.test"), Action::reply("550 We know you"));
    let (backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    Client::greeted(address).await.envelope(SENDER, KNOWN).await.is("250");
    let probes = backend.record().count("MAIL FROM:<>");
    Client::greeted(address).await.envelope("bad@client.test", KNOWN).await.is("550 We know you");
    Client::greeted(address).await.envelope(SENDER, KNOWN).await.is("250");
    assert_eq!(backend.record().count("MAIL FROM:<>"), probes, "it was asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_backend_session_gets_the_one_that_is_given_back() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, address) =
        Backstop::before_with(store, "max_connections = 2\n[route.verify]\ntimeout = \"5s\"\n").await;
    let mut first = Client::greeted(address).await;
    first.envelope(SENDER, KNOWN).await.is("250");
    let mut second = Client::greeted(address).await;
    second.command(&format!("MAIL FROM:<{SENDER}>")).await.is("250");
    second.send_line(&format!("RCPT TO:<{KNOWN}>")).await;
    first.data(MESSAGE).await.is("250");
    second.reply().await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_backend_that_hangs_leaves_time_for_the_second() {
    let (_hung, first) = Backend::start(Script::blind().on(at(Phase::Greeting), Action::freeze())).await;
    let (_backend, second) = Backend::start(Script::knowing([KNOWN])).await;
    let toml = format!(
        "hostname = \"mx.example.org\"\n[[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[timeouts]\nbackend_command = \"6s\"\n\
         [[route]]\ndomains = [\"example.org\"]\nbackends = [\"{first}\", \"{second}\"]\n\
         [route.verify]\ntimeout = \"4s\"\n"
    );
    let backstop = Backstop::start(&toml);
    let address = backstop.address("mx").await;
    backstop.admin().await.until_ready().await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_few_connections_answers_all_questions_on_those() {
    let slow = Action::ordinary().after(Duration::from_millis(50));
    // The first session is the greeting at the start, the second the first probe's.
    let mut script = Script::knowing([KNOWN]).on(at(Phase::Rcpt), slow);
    for session in 2..200 {
        let full = Action::reply("421 4.3.2 Too many connections").then(Action::close());
        script = script.on(at(Phase::Greeting).in_session(session), full);
    }
    let (backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut clients = Vec::new();
    for number in 0..9 {
        let mut client = Client::greeted(address).await;
        client.command(&format!("MAIL FROM:<{SENDER}>")).await.is("250");
        clients.push((number, client));
    }
    // A probe that keeps the one session busy, then more than one batch.
    clients[0].1.send_line("RCPT TO:<first@example.org>").await;
    backend.until("the first is asked", |record| record.rcpts_for("first@example.org") == 1).await;
    for (number, client) in &mut clients[1..] {
        let lines: String = (0..4).map(|n| format!("RCPT TO:<u{number}x{n}@example.org>\r\n")).collect();
        client.send(lines).await;
    }
    clients[0].1.reply().await.is("550");
    let mut codes = Vec::new();
    for (_, client) in &mut clients[1..] {
        for _ in 0..4 {
            codes.push(client.reply().await.code);
        }
    }
    // One session endures nine refusals, that of the first and of a name nobody has among them; what is behind them finds no
    // other. None before is lost.
    assert!(codes.iter().filter(|code| **code == 550).count() >= 7, "{codes:?}");
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
async fn while_draining_new_clients_are_refused_and_not_left_waiting() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (backstop, address) = Backstop::before(store).await;
    let mut idle = Client::greeted(address).await;
    let mut busy = Client::greeted(address).await;
    busy.envelope(SENDER, KNOWN).await.is("250");
    backstop.sigterm();
    idle.reply().await.is("421");
    eventually("new clients are refused", || TcpStream::connect(address).is_err().then_some(())).await;
    busy.data(MESSAGE).await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_speaks_unasked_is_not_dialled_in_a_circle() {
    let twice = Action::bytes("250 store.test\r\n250 store.test\r\n");
    let (backend, store) = Backend::start(Script::knowing([KNOWN]).on(at(Phase::Ehlo), twice)).await;
    let (_backstop, address) = Backstop::before_with(store, "[route.verify]\ntimeout = \"2s\"\n").await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("451");
    let connections = backend.record().connections;
    assert!(connections < 10, "{connections} connections for one question");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_recipient_does_not_hold_up_the_others() {
    let slow = Action::ordinary().after(Duration::from_secs(20));
    let script = Script::knowing([KNOWN]).on(at(Phase::Rcpt).to("slow@example.org"), slow);
    let (backend, store) = Backend::start(script).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut waiting = Client::greeted(address).await;
    waiting.command(&format!("MAIL FROM:<{SENDER}>")).await.is("250");
    waiting.send_line("RCPT TO:<slow@example.org>").await;
    backend.until("the slow one is asked", |record| record.rcpts_for("slow@example.org") == 1).await;
    let mut client = Client::greeted(address).await;
    let reply = timeout(SOON, client.envelope(SENDER, KNOWN)).await.expect("not behind the slow one");
    reply.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_have_any_number_of_chunks() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN]).offering("CHUNKING")).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    for _ in 0..1100 {
        client.send("BDAT 3\r\nx\r\n").await;
        client.reply().await.is("250");
    }
    client.command("BDAT 0 LAST").await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_recipients_are_counted_however_they_arrive() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, address) = Backstop::before(store).await;
    let mut client = Client::greeted(address).await;
    client.command(&format!("MAIL FROM:<{SENDER}>")).await.is("250");
    for _ in 0..100 {
        client.send("RCPT TO:x\r\nRCPT TO:y\r\n").await;
        if client.reply().await.code == 421 {
            return;
        }
        let _ = client.reply().await;
    }
    panic!("two hundred errors are no reason to end the session");
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
