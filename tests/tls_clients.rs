//! TLS with clients, end to end: the built binary, real clients, real files.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::certificate::{Files, Pair};
use support::client::Client;
use support::machine::Directory;
use support::openssl::s_client;
use support::tls::{Hands, Secure};
use support::{eventually, message, sender};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{HandshakeKind, ProtocolVersion};

const KNOWN: &str = "anna@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";
const NAME: &str = "mx.example.org";

/// A proxy with the listeners "mx" (STARTTLS) and "smtps" (TLS from the beginning), before a scripted store.
struct Front {
    backend: Backend,
    backstop: Backstop,
    mx: SocketAddr,
    smtps: SocketAddr,
    directory: Directory,
}

impl Front {
    async fn with(pairs: &[&Pair], more: &str) -> Self {
        let directory = Directory::new("tls");
        let files = pairs.iter().enumerate().map(|(at, pair)| pair.write(&directory, &format!("pair{at}")));
        let files: Vec<Files> = files.collect();
        Self::showing(directory, &files, more).await
    }

    async fn showing(directory: Directory, files: &[Files], more: &str) -> Self {
        let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
        let entries: Vec<_> = files.iter().map(Files::entry).collect();
        let configuration = Backstop::configuration(store)
            + "[[listener]]\nname = \"smtps\"\naddress = [\"127.0.0.1:0\"]\ntls = \"implicit\"\n"
            + "[limits]\nmax_connections_per_client = 5000\n"
            + more
            + &format!("\n[tls]\ncertificates = [{}]\n", entries.join(", "));
        let (backstop, mx) = Backstop::ready(&configuration).await;
        let smtps = backstop.address("smtps").await;
        Self { backend, backstop, mx, smtps, directory }
    }

    async fn handshakes(&self, result: &str) -> f64 {
        let series = format!("backstop_tls_handshakes_total{{result=\"{result}\",side=\"client\"}}");
        self.backstop.admin().await.metric(&series).await.expect("present from the start")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn swaks_delivers_with_starttls_and_with_tls_from_the_beginning() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    sender::swaks_with(front.mx, KNOWN, MESSAGE, &["--tls"]).await.is_accepted();
    sender::swaks_with(front.smtps, KNOWN, MESSAGE, &["--tlsc"]).await.is_accepted();
    sender::swaks(front.mx, KNOWN, MESSAGE).await.is_accepted();
    assert_eq!(front.backend.record().messages.len(), 3);
    let log = front.backstop.logged("listener=smtps").await;
    let encrypted = log.lines().filter(|line| line.contains("tls=\"TLSv1.3 TLS_AES_")).count();
    assert_eq!(encrypted, 2, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_sees_the_certificate_for_the_name_it_asks_for() {
    let pairs = [Pair::alone(&["first.example"]), Pair::alone(&["second.example", "*.below.example"])];
    let front = Front::with(&[&pairs[0], &pairs[1]], "").await;
    let starttls = ["-starttls", "smtp", "-tls1_3"];
    for (name, at) in [
        (Some("second.example"), 1),
        (Some("x.below.example"), 1),
        (Some("y.x.below.example"), 0),
        (Some("first.example"), 0),
        (Some("elsewhere.example"), 0),
        (None, 0),
    ] {
        let asked = name.map_or_else(|| vec!["-noservername"], |name| vec!["-servername", name]);
        for (server, how) in [(front.mx, starttls.as_slice()), (front.smtps, &["-tls1_2"])] {
            let said = s_client(server, &[&asked, how].concat(), &["EHLO client.test", "QUIT"]).await;
            let shown = said.lines().filter(|line| !line.starts_with("--")).collect::<String>();
            let body =
                |pair: &Pair| pair.chain.lines().filter(|line| !line.starts_with("--")).collect::<String>();
            assert!(shown.contains(&body(&pairs[at])), "{name:?} {how:?}:\n{said}");
            assert!(said.contains("221 2.0.0 Bye"), "{name:?} {how:?}:\n{said}");
            assert!(!said.contains("STARTTLS\r"), "not offered within TLS:\n{said}");
        }
    }
    front.backstop.logged("sni=\"second.example\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_a_certificate_it_can_verify() {
    let directory = Directory::new("tls-rsa");
    let files = Files { chain: directory.path().join("rsa.crt"), key: directory.path().join("rsa.key") };
    let (chain, key) = (files.chain.display().to_string(), files.key.display().to_string());
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=rsa"];
    let said = openssl(
        &[
            &made,
            ["-addext", "subjectAltName=DNS:mx.example.org", "-keyout", &key, "-out", &chain].as_slice(),
        ]
        .concat(),
    );
    assert!(files.chain.exists(), "{said}");
    let ecdsa = Pair::alone(&[NAME]).write(&directory, "ecdsa");
    let front = Front::showing(directory, &[ecdsa, files], "").await;
    for (algorithms, version, expected) in [
        ("ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256", "-tls1_3", "ecdsa_secp256r1_sha256|ECDSA"),
        ("RSA-PSS+SHA256:RSA+SHA256", "-tls1_3", "RSA-PSS"),
        ("RSA-PSS+SHA256:RSA+SHA256", "-tls1_2", "RSA-PSS"),
    ] {
        let said = s_client(front.smtps, &[version, "-sigalgs", algorithms], &["QUIT"]).await;
        let line = said.lines().find(|line| line.starts_with("Peer signature type:"));
        let line = line.unwrap_or_else(|| panic!("{algorithms} {version}:\n{said}"));
        assert!(expected.split('|').any(|name| line.contains(name)), "{algorithms} {version}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_before_starttls_survives_it() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    let mut client = Client::greeted(front.mx).await;
    client.envelope("before@client.test", KNOWN).await.is("250");
    client.command("STARTTLS now").await.is("501 5.5.4");
    client.command("STARTTLS").await.is("220 2.0.0");
    let stream = Hands::new().shake(client.into_stream(), NAME).await.expect("a handshake");
    let mut client = Client::patient(stream);
    client.command("MAIL FROM:<early@client.test>").await.is("503 5.5.1");
    client.command("DATA").await.is("503 5.5.1");
    let offered = client.command("EHLO client.test").await;
    offered.is("250");
    assert!(!offered.lines.iter().any(|line| line == "STARTTLS"), "{offered}");
    client.command("DATA").await.is("503 5.5.1");
    client.command("STARTTLS").await.is("503 5.5.1");
    client.envelope("after@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
    let messages = front.backend.record().messages;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].sender, "after@client.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_xclient_named_before_starttls_is_forgotten() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let directory = Directory::new("tls-xclient");
    let files = Pair::alone(&[NAME]).write(&directory, "pair");
    let trusting = "xclient = true\ntrusted = [\"127.0.0.1\"]\n";
    let configuration = Backstop::configuration(store)
        + "[[listener]]\nname = \"open\"\naddress = [\"127.0.0.1:0\"]\n"
        + trusting
        + "[[listener]]\nname = \"strict\"\naddress = [\"127.0.0.1:0\"]\ntls = \"required\"\n"
        + trusting
        + &format!("[tls]\ncertificates = [{}]\n", files.entry());
    let (backstop, _) = Backstop::ready(&configuration).await;
    // Nobody is named outside of TLS where that is required, nor is it offered.
    let mut client = Client::greeted(backstop.address("strict").await).await;
    assert!(!client.command("EHLO front.test").await.to_string().contains("XCLIENT"));
    client.command("XCLIENT ADDR=192.0.2.99").await.is("530 5.7.0");
    let mut client = Client::greeted(backstop.address("open").await).await;
    client.command("XCLIENT ADDR=192.0.2.99 HELO=forged NAME=forged.example").await.is("220");
    client.command("STARTTLS").await.is("220 2.0.0");
    let stream = Hands::new().shake(client.into_stream(), NAME).await.expect("a handshake");
    let mut client = Client::patient(stream);
    client.command("EHLO honest.test").await.is("250");
    client.envelope("after@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
    let line = backstop.logged("helo=\"honest.test\"").await;
    let line = line.lines().find(|line| line.contains("honest.test")).expect("its line");
    assert!(line.contains("client=127.0.0.1:") && !line.contains("192.0.2.99"), "{line}");
    // Inside TLS nobody can have put it there, and it holds.
    let mut client = Client::greeted(backstop.address("strict").await).await;
    client.command("STARTTLS").await.is("220 2.0.0");
    let stream = Hands::new().shake(client.into_stream(), NAME).await.expect("a handshake");
    let mut client = Client::patient(stream);
    assert!(client.command("EHLO front.test").await.to_string().contains("XCLIENT"));
    client.command("XCLIENT ADDR=192.0.2.99 HELO=true.test").await.is("220");
    client.command("EHLO front.test").await.is("250");
    client.quit().await;
    let line = backstop.logged("helo=\"true.test\"").await;
    assert!(line.lines().any(|line| line.contains("client=192.0.2.99:")), "{line}");
    assert_eq!(backend.record().messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_put_in_front_of_a_handshake_is_never_obeyed() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    // In the segment of STARTTLS: heard, and the end.
    let mut client = Client::greeted(front.mx).await;
    client.send("STARTTLS\r\nMAIL FROM:<injected@client.test>\r\n").await;
    client.reply().await.is("554 5.5.1");
    client.is_closed().await;
    // Behind the 220, in the place of a handshake: it is none.
    let mut client = Client::greeted(front.mx).await;
    client.command("STARTTLS").await.is("220");
    client.send("MAIL FROM:<injected@client.test>\r\n").await;
    let said = client.rest().await;
    assert!(!said.contains(&b'\n'), "an alert, but no reply: {said:?}");
    front.backstop.logged("end=\"tls\"").await;
    let log = front.backstop.logged("end=\"protocol\"").await;
    assert!(!log.contains("injected"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_waits_for_tls_where_it_is_required() {
    let pair = Pair::alone(&[NAME]);
    let front = Front::with(
        &[&pair],
        "[[listener]]\nname = \"strict\"\naddress = [\"127.0.0.1:0\"]\ntls = \"required\"\n",
    )
    .await;
    let strict = front.backstop.address("strict").await;
    let mut client = Client::greeted(strict).await;
    client.command("MAIL FROM:<sender@client.test>").await.is("530 5.7.0");
    client.command(&format!("RCPT TO:<{KNOWN}>")).await.is("530 5.7.0");
    client.quit().await;
    let mut client = Hands::new().start_tls(strict, NAME).await;
    client.command("EHLO client.test").await.is("250");
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_silent_in_the_handshake_is_left() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "[timeouts]\ntls_handshake = \"500ms\"\n").await;
    let mut silent = Client::greeted(front.mx).await;
    silent.command("STARTTLS").await.is("220");
    let mut mute = Client::connect(front.smtps).await;
    // A handshake that was begun and goes on too slowly is no better.
    let mut dripping = TcpStream::connect(front.smtps).await.expect("it listens");
    dripping.write_all(&[22, 3, 1]).await.expect("it is open");
    silent.is_closed().await;
    mute.is_closed().await;
    Client::over(dripping).is_closed().await;
    let timeouts = "backstop_tls_handshakes_total{result=\"timeout\",side=\"client\"}";
    front.backstop.admin().await.until_metric(timeouts, 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_taken_up_again_in_both_versions() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    for versions in [&[&TLS12], &[&TLS13]] {
        let hands = Hands::resuming(versions);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut client = hands.start_tls(front.mx, NAME).await;
            client.command("EHLO client.test").await.is("250");
            kinds.push(client.handshake());
            client.quit().await;
        }
        assert_eq!(kinds[1], Some(HandshakeKind::Resumed), "{kinds:?}");
    }
    assert_eq!((front.handshakes("full").await, front.handshakes("resumed").await), (2.0, 2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_version_is_what_was_configured() {
    let pair = Pair::alone(&[NAME]);
    let both = Front::with(&[&pair], "").await;
    let client = Hands::old().connect(both.smtps, NAME).await;
    assert_eq!(client.version(), Some(ProtocolVersion::TLSv1_2));

    let directory = Directory::new("tls");
    let (_backend, store) = Backend::start(Script::blind()).await;
    let configuration = Backstop::configuration(store)
        + &format!(
            "[tls]\nmin_version = \"1.3\"\ncertificates = [{}]\n",
            pair.write(&directory, "x").entry()
        );
    let (_backstop, address) = Backstop::ready(&configuration).await;
    let mut client = Client::greeted(address).await;
    client.command("STARTTLS").await.is("220");
    let fault = Hands::old().shake(client.into_stream(), NAME).await.expect_err("too old");
    assert!(fault.to_string().contains("ProtocolVersion"), "{fault}");
    Hands::new().start_tls(address, NAME).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_inside_tls_is_unchanged_and_any_size() {
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    let line = [b"x".repeat(998).as_slice(), b"\r\n"].concat();
    let message = [b"Subject: large\r\n\r\n".as_slice(), &line.repeat(3000)].concat();
    let mut client = Hands::new().start_tls(front.mx, NAME).await;
    client.command("EHLO client.test").await.is("250");
    for _ in 0..2 {
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.data(&message).await.is("250");
    }
    let replies = client.pipeline(&["NOOP", "RSET", "MAIL FROM:<>", "RSET", "NOOP"]).await;
    assert!(replies.iter().all(|reply| reply.code == 250), "{replies:?}");
    client.quit().await;
    let messages = front.backend.record().messages;
    assert!(
        messages.len() == 2
            && messages.iter().all(|stored| message::behind_our_line(&stored.body) == message)
    );
}

/// How certificates are replaced.
#[derive(Clone, Copy, Debug)]
enum Swap {
    /// Each file is renamed over the old one, as certbot's deploy hooks and editors do.
    Rename,
    /// A symlink to the directory of both is, as the kubelet does with `..data`.
    Symlink,
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_swapped_by_rename_under_load() {
    swap_under_load(Swap::Rename).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_swapped_by_symlink_under_load() {
    swap_under_load(Swap::Symlink).await;
}

/// A thousand handshakes, four at a time, while the pair is replaced ten times: none fails, none shows what was never
/// there, and the last ones show the last pair.
async fn swap_under_load(swap: Swap) {
    const HANDSHAKES: usize = 1000;
    const SWAPS: usize = 10;
    let pairs: Arc<Vec<Pair>> = Arc::new((0..=SWAPS).map(|_| Pair::alone(&[NAME])).collect());
    let directory = Directory::new("tls-swap");
    put(directory.path(), 0, &pairs[0], swap);
    let place = |name: &str| match swap {
        Swap::Rename => directory.path().join(name),
        Swap::Symlink => directory.path().join("..data").join(name),
    };
    let files = Files { chain: place("tls.crt"), key: place("tls.key") };
    let front = Front::showing(directory, &[files], "").await;
    let begun = Arc::new(AtomicUsize::new(0));
    let swapped = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let (begun, swapped, mx, smtps) = (Arc::clone(&begun), Arc::clone(&swapped), front.mx, front.smtps);
        clients.spawn(async move {
            let hands = Hands::new();
            let mut seen = Vec::new();
            // So many at least, and on until the last pair is there.
            while begun.fetch_add(1, Ordering::Relaxed) < HANDSHAKES || !swapped.load(Ordering::Relaxed) {
                let mut session = if client % 2 == 0 {
                    hands.start_tls(mx, NAME).await
                } else {
                    let mut session = hands.connect(smtps, NAME).await;
                    session.reply().await.is("220");
                    session
                };
                session.command("EHLO client.test").await.is("250");
                seen.push(session.certificate());
                session.quit().await;
            }
            seen
        });
    }
    let hands = Hands::new();
    for (number, pair) in pairs.iter().enumerate().skip(1) {
        put(front.directory.path(), number, pair, swap);
        shows(&front, &hands, &pair.certificate).await;
    }
    swapped.store(true, Ordering::Relaxed);
    let mut seen = Vec::new();
    while let Some(client) = clients.join_next().await {
        seen.extend(client.expect("no session failed"));
    }
    assert!(seen.len() >= HANDSHAKES, "{}", seen.len());
    assert!(seen.iter().all(|shown| pairs.iter().any(|pair| pair.certificate == *shown)));
    for _ in 0..4 {
        assert_eq!(hands.start_tls(front.mx, NAME).await.certificate(), pairs[SWAPS].certificate);
    }
    assert_eq!(front.handshakes("failed").await, 0.0);
    let log = front.backstop.log();
    assert_eq!(log.matches("new handshakes use the new certificate").count(), SWAPS, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// Puts a pair in the place of the one before.
fn put(directory: &Path, number: usize, pair: &Pair, swap: Swap) {
    match swap {
        Swap::Rename => {
            for (name, content) in [("tls.key", &pair.key), ("tls.crt", &pair.chain)] {
                let new = directory.join(format!("{name}.new"));
                fs::write(&new, content).expect("our directory");
                fs::rename(&new, directory.join(name)).expect("our directory");
            }
        }
        Swap::Symlink => {
            let version = directory.join(format!("..version{number}"));
            fs::create_dir(&version).expect("our directory");
            fs::write(version.join("tls.crt"), &pair.chain).expect("our directory");
            fs::write(version.join("tls.key"), &pair.key).expect("our directory");
            let new = directory.join("..data_tmp");
            symlink(&version, &new).expect("our directory");
            fs::rename(&new, directory.join("..data")).expect("our directory");
        }
    }
}

/// Waits until this certificate is shown.
async fn shows(front: &Front, hands: &Hands, expected: &CertificateDer<'static>) {
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while hands.start_tls(front.mx, NAME).await.certificate() != *expected {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not used in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pair_is_refused_with_its_reason_and_the_old_one_stays() {
    let old = Pair::alone(&[NAME]);
    let front = Front::with(&[&old], "").await;
    let chain = front.directory.path().join("pair0.crt");
    let key = front.directory.path().join("pair0.key");
    let hands = Hands::new();
    let new = Pair::alone(&[NAME]);
    for (content, reason) in [
        (new.chain.as_str(), "is the key of another certificate"),
        ("no PEM at all", "holds no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "its certificate is none"),
    ] {
        fs::write(&chain, content).expect("our directory");
        // Told by itself once the files stand still.
        let log = front.backstop.logged(reason).await;
        assert!(log.contains("the old certificate stays in use"), "{log}");
        assert_eq!(hands.start_tls(front.mx, NAME).await.certificate(), old.certificate);
    }
    fs::remove_file(&chain).expect("our directory");
    front.backstop.logged("cannot be read: No such file").await;
    assert_eq!(hands.start_tls(front.mx, NAME).await.certificate(), old.certificate);

    // SIGHUP does not wait for the next look, and a good pair is used whatever was before.
    fs::write(&key, &new.key).expect("our directory");
    fs::write(&chain, &new.chain).expect("our directory");
    front.backstop.sighup();
    front.backstop.logged("a new configuration is in force").await;
    shows(&front, &hands, &new.certificate).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_certificate_is_a_metric_and_a_past_one_is_warned_about() {
    let front = Front::with(&[&Pair::expired(&[NAME])], "").await;
    let admin = front.backstop.admin().await;
    let name = front.directory.path().join("pair0.crt");
    let series = format!("backstop_certificate_expiry_timestamp_seconds{{name=\"{}\"}}", name.display());
    assert_eq!(admin.metric(&series).await, Some(946_684_800.0));
    let log = front.backstop.log();
    assert!(log.contains("renew the certificate") && log.contains("has expired"), "{log}");
    // As OpenSSL reads it.
    let renewed = Pair::alone(&[NAME]);
    renewed.write(&front.directory, "pair0");
    eventually("the new end", || front.backstop.log().contains("new handshakes use").then_some(())).await;
    let told = admin.metric(&series).await.expect("still there");
    let said =
        openssl(&["x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", &name.display().to_string()]);
    assert!(said.contains("4096-01-01 00:00:00Z"), "{said}");
    assert_eq!(told, 67_090_118_400.0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_every_fault_of_certificates() {
    let directory = Directory::new("tls-check");
    let good = Pair::alone(&[NAME]).write(&directory, "good");
    let other = Pair::alone(&[NAME]).write(&directory, "other");
    let expired = Pair::expired(&[NAME]).write(&directory, "expired");
    let encrypted = directory.path().join("encrypted.key");
    let made = openssl(&[
        "pkey",
        "-aes256",
        "-passout",
        "pass:x",
        "-in",
        &good.key.display().to_string(),
        "-out",
        &encrypted.display().to_string(),
    ]);
    assert!(encrypted.exists(), "{made}");
    let pair = |chain: &Path, key: &Path| Files { chain: chain.to_owned(), key: key.to_owned() }.entry();
    let entries = [
        pair(&good.chain, &good.key),
        pair(&good.chain, &other.key),
        pair(&good.key, &good.key),
        pair(&good.chain, &good.chain),
        pair(Path::new("/nowhere/tls.crt"), &good.key),
        pair(&good.chain, &encrypted),
        pair(&expired.chain, &expired.key),
        format!("{{ chain = \"{}\" }}", good.chain.display()),
    ];
    let configuration = format!(
        "hostname = \"mx.example.org\"\n[[route]]\ndomains = [\"example.org\"]\nbackends = [\"10.0.0.5:25\"]\n\
         [tls]\ncertificates = [{}]\n",
        entries.join(", ")
    );
    let file = directory.write("backstop.toml", configuration);
    let output = Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(["check", "--config"])
        .arg(file)
        .output()
        .expect("the binary was built for this test");
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for (at, reason, remedy) in [
        ("[1].key", "is the key of another certificate", "must stand first in the chain"),
        ("[2].chain", "holds no certificate in PEM", "the server's certificate"),
        ("[3].key", "holds no private key in PEM", "`chain`"),
        ("[4].chain", "cannot be read: No such file", "that Backstop may read"),
        ("[5].key", "is encrypted", "openssl pkey"),
        ("[6].chain", "has expired", "renew it"),
        ("[7].key", "not given", "key = "),
    ] {
        let line = said.lines().find(|line| line.contains(&format!("tls.certificates{at}")));
        let line = line.unwrap_or_else(|| panic!("{at} is missing:\n{said}"));
        assert!(line.contains(reason) && line.contains(remedy), "{at}: {line}");
        assert!(line.starts_with(if at == "[6].chain" { "warning: " } else { "fault: " }), "{line}");
    }
    assert_eq!(said.lines().filter(|line| line.starts_with("fault: ")).count(), 6, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_inside_tls_costs_little() {
    const HELD: usize = 1000;
    let front = Front::with(&[&Pair::alone(&[NAME])], "").await;
    let hands = Hands::new();
    // What the first ones cost is the process' own.
    let mut held = hold(&hands, front.mx, 20).await;
    let before = front.backstop.memory().resident;
    held.extend(hold(&hands, front.mx, HELD).await);
    let grown = front.backstop.memory().resident.saturating_sub(before);
    let each = grown / HELD as u64;
    println!("{} octets resident per idle session inside TLS, of {HELD}", each);
    assert!(each < 40 * 1024, "{each} octets each");
    for session in &mut held {
        session.command("NOOP").await.is("250");
    }
}

async fn hold(hands: &Hands, address: SocketAddr, sessions: usize) -> Vec<Secure> {
    let mut held = Vec::new();
    for _ in 0..sessions {
        let mut session = hands.start_tls(address, NAME).await;
        session.command("EHLO client.test").await.is("250");
        held.push(session);
    }
    held
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().expect("OpenSSL is installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
