//! Postfix' smtp-sink as the backend: slow, failing, vanishing. Not our words and not our timing.
//!
//! It knows every recipient, so what is asserted is what becomes of the fault: a temporary one stays temporary, a
//! refusal keeps its class, nothing is remembered against the address, and the client's session goes on.

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use support::backstop::Backstop;
use support::client::Client;
use support::eventually;
use support::machine::{Target, free_address, signal};

const RECIPIENT: &str = "anna@example.org";

/// A running smtp-sink; ended when dropped.
struct Sink {
    child: Child,
    address: SocketAddr,
}

impl Sink {
    async fn start(options: &[&str]) -> Self {
        let address = free_address();
        // As root it gives up its privileges only when told to.
        let child = Command::new("smtp-sink")
            .args(["-c", "-u", "nobody"])
            .args(options)
            .args([&address.to_string(), "100"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
            .spawn()
            .expect("Postfix is installed");
        let sink = Self { child, address };
        eventually("smtp-sink listens", || std::net::TcpStream::connect(address).ok()).await;
        sink
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        signal(Target::Process(self.child.id()), "KILL");
        let _ = self.child.wait();
    }
}

/// What the client hears to MAIL, RCPT, DATA and the message, as far as it comes; by first digit.
async fn delivery(front: SocketAddr) -> String {
    let mut client = Client::greeted(front).await;
    let mut heard = String::new();
    for line in ["MAIL FROM:<sender@client.test>", &format!("RCPT TO:<{RECIPIENT}>"), "DATA"] {
        let reply = client.command(line).await;
        heard.extend(reply.to_string().chars().next());
        if !heard.ends_with(['2', '3']) {
            break;
        }
    }
    if heard.ends_with('3') {
        client.send("Subject: hello\r\n\r\ntext\r\n.\r\n").await;
        heard.extend(client.reply().await.to_string().chars().next());
    }
    // Whatever came of it, the session goes on.
    client.command("RSET").await.is("250");
    client.quit().await;
    heard
}

#[tokio::test]
async fn each_way_of_smtp_sink_to_fail_ends_in_a_reply_of_its_class() {
    for (options, heard) in [
        (&[][..], "2232"),
        (&["-w", "1"][..], "2232"),
        (&["-e"][..], "2232"),
        (&["-p"][..], "2232"),
        (&["-P"][..], "2232"),
        (&["-q", "mail"][..], "24"),
        (&["-q", "rcpt"][..], "24"),
        (&["-q", "data"][..], "224"),
        (&["-q", "."][..], "2234"),
        (&["-Q", "rcpt"][..], "24"),
        (&["-Q", "data"][..], "224"),
        (&["-Q", "."][..], "2234"),
        (&["-r", "rcpt"][..], "24"),
        (&["-r", "data"][..], "224"),
        (&["-r", "."][..], "2234"),
        (&["-f", "data"][..], "225"),
        (&["-f", "."][..], "2235"),
        (&["-q", "connect"][..], "24"),
    ] {
        let sink = Sink::start(options).await;
        // Its DATA is the client's alone to meet.
        let (proxy, front) = Backstop::before_with(sink.address, "[route.verify]\nstage = \"rcpt\"\n").await;
        assert_eq!(delivery(front).await, heard, "smtp-sink {options:?}\n{}", proxy.log());
        let bad = proxy.admin().await.metric("backstop_cache_entries{verdict=\"undeliverable\"}").await;
        assert!(
            bad.is_some_and(|bad| bad.abs() < f64::EPSILON),
            "smtp-sink {options:?} left something against the address"
        );
    }
}

#[tokio::test]
async fn a_server_that_takes_anyone_is_passed_and_shown() {
    let sink = Sink::start(&[]).await;
    let (proxy, front) = Backstop::before(sink.address).await;
    assert_eq!(delivery(front).await, "2232", "{}", proxy.log());
    let ready = proxy.admin().await.get("/readyz?verbose").await.body;
    assert!(ready.contains("unverifiable example.org"), "{ready}");
    let good = proxy.admin().await.metric("backstop_cache_entries{verdict=\"deliverable\"}").await;
    assert!(
        good.is_some_and(|good| good.abs() < f64::EPSILON),
        "what anyone would have got is not remembered"
    );
}

#[tokio::test]
async fn a_sink_that_vanishes_in_the_middle_is_a_451() {
    let sink = Sink::start(&[]).await;
    let (_proxy, front) = Backstop::before_with(sink.address, "eject = \"0s\"\n").await;
    let mut client = Client::greeted(front).await;
    client.envelope("sender@client.test", RECIPIENT).await.is("250");
    client.command("DATA").await.is("354");
    client.send("Subject: hello\r\n\r\n").await;
    drop(sink);
    client.send("text\r\n.\r\n").await;
    client.reply().await.is("451 4.4.2");
    client.quit().await;
}
