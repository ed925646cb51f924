//! TLS with backends, end to end: the built binary before real and scripted servers, in every mode.

mod support;

use std::process::Command;
use std::sync::Arc;

use support::admin::Admin;
use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::certificate::{Authority, Pair};
use support::client::Client;
use support::machine::Directory;
use support::postfix::Postfix;
use support::{message, settled};

const KNOWN: &str = "anna@example.org";
const UNKNOWN: &str = "nobody@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

/// Delivers a message, and is refused an unknown recipient.
async fn mail_flows(front: std::net::SocketAddr) {
    let mut client = Client::greeted(front).await;
    client.envelope("sender@client.test", UNKNOWN).await.is("550 5.1.1");
    client.command(&format!("RCPT TO:<{KNOWN}>")).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
}

/// Nothing is taken, and nothing is held against the recipient.
async fn mail_waits(front: std::net::SocketAddr) {
    let mut client = Client::greeted(front).await;
    client.envelope("sender@client.test", KNOWN).await.is("451 4.4.3");
    client.quit().await;
}

async fn counted(admin: &Admin, result: &str) -> f64 {
    let series = format!("backstop_tls_handshakes_total{{result=\"{result}\",side=\"backend\"}}");
    admin.metric(&series).await.expect("present from the start")
}

/// A Postfix that speaks TLS with this certificate, and logs it.
async fn postfix_with(pair: &Pair) -> (Postfix, Directory) {
    let directory = Directory::new("postfix-tls");
    let files = pair.write(&directory, "postfix");
    let (chain, key) = (files.chain.display().to_string(), files.key.display().to_string());
    let parameters = [
        ("smtpd_tls_security_level", "may"),
        ("smtpd_tls_cert_file", chain.as_str()),
        ("smtpd_tls_key_file", key.as_str()),
        ("smtpd_tls_loglevel", "1"),
    ];
    (Postfix::start_with(&[KNOWN], &parameters).await, directory)
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_is_spoken_to_in_tls_in_every_mode() {
    let authority = Authority::new();
    let pair = authority.issue(&["postfix.example"]);
    let (postfix, directory) = postfix_with(&pair).await;
    let ca = directory.write("ca.pem", &authority.root);
    let verified =
        format!("tls = \"verify\"\ntls_ca = \"{}\"\ntls_name = \"postfix.example\"\n", ca.display());
    let pinned = format!("tls = \"pin\"\ntls_pins = [\"{}\"]\n", pair.pin());
    for tls in ["", "tls = \"required\"\n", &verified, &pinned] {
        let (backstop, front) = Backstop::before_with(postfix.address(), tls).await;
        postfix.empty(KNOWN);
        mail_flows(front).await;
        postfix.wait_for_messages(KNOWN, 1).await;
        let admin = backstop.admin().await;
        let all = counted(&admin, "full").await + counted(&admin, "resumed").await;
        assert!(all >= 3.0, "{tls}: the greeting at start, the probe, the delivery: {all}");
        assert_eq!(counted(&admin, "failed").await + counted(&admin, "fallback").await, 0.0, "{tls}");
        let status = admin.get("/api/v1/status").await.is(200).json();
        assert_eq!(status["routes"][0]["backends"][0]["tls"], "TLSv1.3 TLS_AES_256_GCM_SHA384", "{tls}");
    }
    postfix.log_caught_up().await;
    // Postfix' own word on it; its name was asked for.
    assert!(postfix.log().contains("Anonymous TLS connection established from"), "{}", postfix.log());
    let mails_in_plaintext = plaintext_mails(&postfix.log());
    assert_eq!(mails_in_plaintext, 0, "{}", postfix.log());
}

/// MAIL commands of sessions that had not done a handshake before.
fn plaintext_mails(log: &str) -> usize {
    let mut encrypted = std::collections::BTreeSet::new();
    let mut plaintext = 0;
    for line in log.lines() {
        let Some(process) = line.split("smtpd[").nth(1).and_then(|rest| rest.split(']').next()) else {
            continue;
        };
        if line.contains(": connect from") {
            encrypted.remove(process);
        } else if line.contains("TLS connection established") {
            encrypted.insert(process.to_owned());
        } else if line.contains("MAIL FROM:") && line.contains("< ") && !encrypted.contains(process) {
            plaintext += 1;
        }
    }
    plaintext
}

#[tokio::test(flavor = "multi_thread")]
async fn off_speaks_no_tls_with_a_postfix_that_offers_it() {
    let (postfix, _directory) = postfix_with(&Pair::alone(&["postfix.example"])).await;
    let (_backstop, front) = Backstop::before_with(postfix.address(), "tls = \"off\"\n").await;
    mail_flows(front).await;
    postfix.log_caught_up().await;
    assert_eq!(postfix.count("STARTTLS"), 0);
    assert!(plaintext_mails(&postfix.log()) > 0, "what would be found is found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_cannot_be_verified_gets_nothing_and_the_log_says_what_to_write() {
    let authority = Authority::new();
    let directory = Directory::new("tls-verify");
    let ca = directory.write("ca.pem", &authority.root).display().to_string();
    let own = Pair::own_authority(&["postfix.example"]);
    let right = format!("tls_ca = \"{ca}\"\ntls_name = \"postfix.example\"\n");
    for (pair, keys, told) in [
        (&own, right.as_str(), vec!["that of a CA", "tls = \\\"pin\\\"", "OWN"]),
        (&Pair::alone(&["postfix.example"]), &right, vec!["leads to no trusted root", "tls_ca", "OWN"]),
        (&Pair::expired(&["postfix.example"]), &right, vec!["OWN"]),
        (
            &authority.issue(&["other.example"]),
            &right,
            vec!["not for postfix.example", "other.example", "tls_name"],
        ),
    ] {
        let (postfix, _files) = postfix_with(pair).await;
        let (backstop, front) =
            Backstop::before_with(postfix.address(), &format!("tls = \"verify\"\neject = \"0s\"\n{keys}"))
                .await;
        mail_waits(front).await;
        let log = backstop.log().replace('\\', "");
        for text in told {
            let text = if text == "OWN" { pair.pin() } else { text.replace('\\', "") };
            assert!(log.contains(&text), "{text}: {log}");
        }
        postfix.log_caught_up().await;
        assert_eq!(
            postfix.count("MAIL"),
            0,
            "nothing is asked in plaintext, and nothing of who is not verified"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_the_systems_roots_are_trusted_and_no_others() {
    let (trusted, other) = (Authority::new(), Authority::new());
    let directory = Directory::new("tls-system");
    let roots = directory.write("roots.pem", &trusted.root);
    for (authority, known) in [(&trusted, true), (&other, false)] {
        let script = Script::knowing([KNOWN]).with_starttls(authority.issue(&["store.example"]).server());
        let (backend, store) = Backend::start(script).await;
        let keys = "tls = \"verify\"\neject = \"0s\"\ntls_name = \"store.example\"\n";
        // Where the system keeps them is the system's affair; this is how it is told otherwise.
        let mut command = std::process::Command::new("env");
        command.arg(format!("SSL_CERT_FILE={}", roots.display()));
        let backstop = Backstop::start_within(command, &(Backstop::configuration(store) + keys));
        let front = backstop.address("mx").await;
        if known {
            mail_flows(front).await;
        } else {
            mail_waits(front).await;
        }
        assert_eq!(backend.record().messages.len(), usize::from(known));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reads_the_roots_again() {
    let (authority, another) = (Authority::new(), Authority::new());
    let directory = Directory::new("tls-roots");
    let ca = directory.write("ca.pem", &another.root).display().to_string();
    let script = Script::knowing([KNOWN]).with_starttls(authority.issue(&["store.example"]).server());
    let (backend, store) = Backend::start(script).await;
    let keys = format!("tls = \"verify\"\neject = \"0s\"\ntls_ca = \"{ca}\"\ntls_name = \"store.example\"\n");
    let (backstop, front) = Backstop::before_with(store, &keys).await;
    mail_waits(front).await;
    directory.write("ca.pem", &authority.root);
    assert_eq!(backstop.admin().await.post("/api/v1/reload").await.status, 200);
    mail_flows(front).await;
    assert_eq!(backend.record().messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_is_of_the_key_and_of_nothing_else() {
    let pair = Pair::own_authority(&["whatever.example"]);
    let (postfix, directory) = postfix_with(&pair).await;
    let chain = directory.path().join("postfix.crt");
    let script = format!(
        "openssl x509 -noout -pubkey -in {} | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64",
        chain.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().expect("OpenSSL is installed");
    let pin = format!("sha256//{}", String::from_utf8_lossy(&output.stdout).trim());
    assert_eq!(pin, pair.pin(), "as OpenSSL makes it");
    let (_backstop, front) =
        Backstop::before_with(postfix.address(), &format!("tls = \"pin\"\ntls_pins = [\"{pin}\"]\n")).await;
    mail_flows(front).await;

    let other = Pair::alone(&["whatever.example"]).pin();
    let (backstop, front) = Backstop::before_with(
        postfix.address(),
        &format!("tls = \"pin\"\ntls_pins = [\"{other}\"]\neject = \"0s\"\n"),
    )
    .await;
    mail_waits(front).await;
    let log = backstop.log();
    assert!(log.contains(&pin) && log.contains("not in tls_pins"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opportunistic_goes_on_without_what_is_broken_and_required_does_not() {
    for (name, phase, broken) in [
        ("closed at STARTTLS", Phase::StartTls, Action::close()),
        ("refused", Phase::StartTls, Action::reply("454 4.7.0 TLS not available due to local problem")),
        ("going down", Phase::StartTls, Action::reply("421 4.3.2 Going down").then(Action::close())),
        ("reset in the handshake", Phase::Handshake, Action::reset()),
        ("no TLS at all", Phase::Handshake, Action::reply("421 4.3.2 What is that?").then(Action::close())),
    ] {
        let config = Pair::alone(&["store.example"]).server();
        let script = Script::knowing([KNOWN]).with_starttls(config).on(at(phase), broken);
        let (backend, store) = Backend::start(script).await;
        let (backstop, front) = Backstop::before(store).await;
        mail_flows(front).await;
        mail_flows(front).await;
        let record = backend.record();
        assert_eq!((record.messages.len(), record.secured), (2, 0), "{name}");
        assert_eq!(record.count("STARTTLS"), 1, "{name}: not every session pays twice");
        let admin = backstop.admin().await;
        assert_eq!(counted(&admin, "fallback").await, 1.0, "{name}");
        assert!(backstop.log().contains("going on without"), "{name}: {}", backstop.log());

        let (backstop, front) = Backstop::before_with(store, "tls = \"required\"\neject = \"0s\"\n").await;
        let before = backend.record().count("MAIL");
        mail_waits(front).await;
        assert_eq!(backend.record().count("MAIL"), before, "{name}: nothing in plaintext");
        assert_eq!(counted(&backstop.admin().await, "fallback").await, 0.0, "{name}");
    }
}

/// In TLS 1.3 the server judges a handshake after the client is done with it (RFC 8446 §4.6).
#[tokio::test(flavor = "multi_thread")]
async fn opportunistic_goes_on_without_what_fails_behind_the_handshake() {
    let script =
        Script::knowing([KNOWN]).with_starttls(Pair::own_authority(&["store.example"]).demanding_server());
    let (backend, store) = Backend::start(script).await;
    let (backstop, front) = Backstop::before(store).await;
    mail_flows(front).await;
    mail_flows(front).await;
    let record = backend.record();
    assert_eq!(record.messages.len(), 2);
    assert_eq!(record.count("STARTTLS"), 1, "not every session pays twice");
    let admin = backstop.admin().await;
    assert_eq!((counted(&admin, "fallback").await, counted(&admin, "failed").await), (1.0, 1.0));

    let (backstop, front) = Backstop::before_with(store, "tls = \"required\"\neject = \"0s\"\n").await;
    mail_waits(front).await;
    assert_eq!(backend.record().messages.len(), 2);
    assert!(
        backstop.log().contains("the session in TLS was over before its first reply"),
        "{}",
        backstop.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_counts_whatever_the_backend_says_inside() {
    let script = Script::knowing([KNOWN])
        .with_starttls(Pair::alone(&["store.example"]).server())
        .on(at(Phase::Ehlo).turn(2), Action::reply("421 4.3.2 Not now").then(Action::close()));
    let (backend, store) = Backend::start(script).await;
    let (backstop, front) = Backstop::before_with(store, "tls = \"required\"\neject = \"0s\"\n").await;
    mail_waits(front).await;
    let admin = backstop.admin().await;
    // The backend notes a handshake before we can hear of what it says behind it.
    let secured = backend.record().secured as f64;
    let done = counted(&admin, "full").await + counted(&admin, "resumed").await;
    assert!(done >= 1.0 && done <= secured, "{done} of {secured}");
    assert_eq!(counted(&admin, "failed").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn required_says_so_where_starttls_is_not_offered() {
    let postfix = Postfix::start(&[KNOWN]).await;
    let (backstop, front) =
        Backstop::before_with(postfix.address(), "tls = \"required\"\neject = \"0s\"\n").await;
    mail_waits(front).await;
    postfix.log_caught_up().await;
    assert_eq!(postfix.count("MAIL"), 0);
    assert!(backstop.log().contains("does not offer STARTTLS"), "{}", backstop.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_comes_first_where_the_backend_is_an_smtps_one() {
    let pair = Pair::alone(&["store.example"]);
    let script = Script::knowing([KNOWN]).with_implicit_tls(pair.server());
    let (backend, store) = Backend::start(script).await;
    for tls in ["".to_owned(), format!("tls = \"pin\"\ntls_pins = [\"{}\"]\n", pair.pin())] {
        let configuration = Backstop::configuration(store).replace(
            &format!("backends = [\"{store}\"]"),
            &format!("backends = [\"smtps://{store}\"]\n{tls}"),
        );
        let (_backstop, front) = Backstop::ready(&configuration).await;
        mail_flows(front).await;
    }
    let record = backend.record();
    assert_eq!(record.messages.len(), 2);
    assert_eq!(record.count("STARTTLS"), 0);
    assert_eq!(record.secured, record.connections);

    // A port that wants STARTTLS answers in plaintext, and is not spoken to.
    let (plain, store) = Backend::start(Script::knowing([KNOWN])).await;
    let configuration = Backstop::configuration(store)
        .replace(&format!("backends = [\"{store}\"]"), &format!("backends = [\"smtps://{store}\"]"));
    let (backstop, front) = Backstop::ready(&configuration).await;
    mail_waits(front).await;
    assert!(backstop.log().contains("smtps://host:port"), "{}", backstop.log());
    assert_eq!(plain.record().count("MAIL"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_put_behind_the_220_are_never_believed() {
    let config = Pair::alone(&["store.example"]).server();
    // A whole session's worth of acceptance, said before TLS: in one segment with the 220, or behind it.
    let injected = "250 2.0.0 Ok\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n";
    for action in [
        Action::bytes(format!("220 2.0.0 Go ahead\r\n{injected}")),
        Action::bytes(format!("220 2.0.0 Go ahead\r\n{}", &injected[..3])),
    ] {
        let script =
            Script::knowing([KNOWN]).with_starttls(Arc::clone(&config)).on(at(Phase::StartTls), action);
        let (backend, store) = Backend::start(script).await;
        for tls in ["", "tls = \"required\"\n"] {
            let (_backstop, front) = Backstop::before_with(store, &format!("eject = \"0s\"\n{tls}")).await;
            mail_waits(front).await;
        }
        assert!(backend.acted() >= 2);
        assert_eq!(backend.record().count("MAIL"), 0, "the connection was dropped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_before_the_dot_is_no_answer_to_it_inside_tls_either() {
    let config = Pair::alone(&["store.example"]).server();
    let early = Action::ordinary().then(Action::reply("250 2.0.0 Ok: queued"));
    let script = Script::knowing([KNOWN])
        .with_starttls(config)
        .on(at(Phase::Data), early)
        .on(at(Phase::EndOfData), Action::reply("554 5.6.0 Refused"));
    let (backend, store) = Backend::start(script).await;
    let (_backstop, front) = Backstop::before_with(store, "tls = \"required\"\n").await;
    let mut client = Client::greeted(front).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.command("DATA").await.is("354");
    client.send("Subject: early\r\n\r\n").await;
    client.command(".").await.is("451");
    assert_eq!(backend.record().messages.len(), 0);
    assert_eq!(backend.record().secured, backend.record().connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_passes_tls_on_both_sides_unchanged() {
    let config = Pair::alone(&["store.example"]).server();
    let (backend, store) = Backend::start(Script::knowing([KNOWN]).with_starttls(config)).await;
    let (_backstop, front) = Backstop::before_with(store, "tls = \"required\"\n").await;
    let line = [b"x".repeat(998).as_slice(), b"\r\n"].concat();
    let message = [b"Subject: large\r\n\r\n".as_slice(), &line.repeat(5000)].concat();
    let mut client = Client::greeted(front).await;
    for _ in 0..3 {
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.data(&message).await.is("250");
    }
    client.quit().await;
    let record = backend.record();
    assert!(
        record.messages.len() == 3
            && record.messages.iter().all(|stored| message::behind_our_line(&stored.body) == message)
    );
    // Kept between the transactions, tickets and all: greeted at start, asked by a probe, given mail.
    assert_eq!(record.connections, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_comes_back_with_tls_gets_it() {
    let config = Pair::alone(&["store.example"]).server();
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, front) = Backstop::before_with(store, "tls = \"required\"\neject = \"0s\"\n").await;
    mail_waits(front).await;
    backend.rescript(|script| script.with_starttls(config));
    let reply = settled(async || {
        let mut client = Client::greeted(front).await;
        client.envelope("sender@client.test", KNOWN).await
    });
    reply.await.is("250");
}
