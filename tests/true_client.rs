//! The true client, past real fronts and to real servers: HAProxy before us; Postfix and Exim behind us, told with XCLIENT
//! and with PROXY headers.

mod support;

use std::net::SocketAddr;

use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::certificate::Pair;
use support::client::Client;
use support::dns::{Data, NameServer, PTR, Said};
use support::eventually;
use support::exim::Exim;
use support::haproxy::HaProxy;
use support::machine::Directory;
use support::postfix::Postfix;
use support::tls::Hands;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const KNOWN: &str = "anna@example.org";
const UNKNOWN: &str = "nobody@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

/// A listener that believes whoever is on this machine, and a route with these keys.
fn configuration(backend: SocketAddr, listener: &str, route: &str) -> String {
    format!(
        "hostname = \"mx.example.org\"\n\
         [[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n{listener}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\ndomains = [\"example.org\"]\nbackends = [\"{backend}\"]\n{route}\n"
    )
}

const BELIEVES: &str = "proxy_protocol = \"required\"\ntrusted = [\"127.0.0.0/8\"]";

/// A client that a front says is at this address.
async fn client_at(front: &str, address: SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    client.send(format!("PROXY TCP4 {front} 203.0.113.25 40000 25\r\n")).await;
    client.reply().await.is("220");
    client
}

/// Delivers a message for each of two clients, and asks for one recipient that is not there.
async fn deliver_for_two(address: SocketAddr) {
    for (front, helo) in [("198.51.100.7", "seven.example.net"), ("198.51.100.8", "eight.example.net")] {
        let mut client = client_at(front, address).await;
        client.command(&format!("EHLO {helo}")).await.is("250");
        for _ in 0..2 {
            client.envelope("sender@client.test", UNKNOWN).await.is("550 ");
            client.command(&format!("RCPT TO:<{KNOWN}>")).await.is("250");
            client.data(MESSAGE).await.is("250");
        }
        client.quit().await;
    }
}

fn text(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
}

/// Each of the two clients sent two of the stored messages, as the server has it, and none has a line of ours.
fn are_from_the_two(messages: &[Vec<u8>], form: impl Fn(&str, &str) -> String) {
    let messages = text(messages);
    for (address, helo) in [("198.51.100.7", "seven.example.net"), ("198.51.100.8", "eight.example.net")] {
        let wanted = form(address, helo);
        let sent = messages.iter().filter(|message| message.contains(&wanted)).count();
        assert_eq!(sent, 2, "{wanted:?} in {messages:#?}");
    }
    assert!(messages.iter().all(|message| !message.contains("by mx.example.org")), "{messages:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_hears_the_true_client_with_xclient() {
    let postfix = Postfix::start_with(&[KNOWN], &[("smtpd_authorized_xclient_hosts", "127.0.0.0/8")]).await;
    let (dns, server) = NameServer::start().await;
    dns.says("7.100.51.198.in-addr.arpa", PTR, Said::Records(60, vec![Data::Ptr("client.example.net")]));
    dns.leads("client.example.net", 60, &["198.51.100.7:0".parse().expect("an address")]);
    let route = format!("client_address = \"xclient\"\n[dns]\nservers = [\"{server}\"]");
    let (_backstop, address) = Backstop::ready(&configuration(postfix.address(), BELIEVES, &route)).await;
    deliver_for_two(address).await;
    let messages = postfix.wait_for_messages(KNOWN, 4).await;
    let name = |address: &str| if address == "198.51.100.7" { "client.example.net" } else { "unknown" };
    are_from_the_two(&messages, |address, helo| format!("from {helo} ({} [{address}])", name(address)));
    let log = postfix.log();
    for (client, helo) in [("198.51.100.7", "seven.example.net"), ("198.51.100.8", "eight.example.net")] {
        let client = format!("{}[{client}]", name(client));
        for line in [format!("client={client}"), format!("< {client}: EHLO {helo}")] {
            assert!(log.contains(&line), "{line} in {log}");
        }
    }
    // Once for each session, and only for what is delivered.
    assert_eq!(dns.asked("7.100.51.198.in-addr.arpa", PTR), 1);
}

/// Where Backstop itself, which is localhost, has names of both kinds.
#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_insists_on_names_takes_who_has_one() {
    let (dns, server) = NameServer::start().await;
    for last in [7, 9] {
        let pointer = format!("{last}.100.51.198.in-addr.arpa");
        dns.says(&pointer, PTR, Said::Records(60, vec![Data::Ptr("client.example.net")]));
    }
    dns.leads("client.example.net", 60, &["198.51.100.7:0".parse().expect("an address")]);
    dns.says("10.100.51.198.in-addr.arpa", PTR, Said::ServFail);
    let route = format!("client_address = \"xclient\"\n[dns]\nservers = [\"{server}\"]");
    // One with a name, one without, one that borrows a name, one whose name server fails.
    for (insists, replies) in [
        ("reject_unknown_client_hostname", ["250", "450 4.7.25", "450 4.7.25", "450 4.7.25"]),
        ("reject_unknown_reverse_client_hostname", ["250", "450 4.7.1", "250", "450 4.7.1"]),
    ] {
        let restrictions = format!("{insists}, reject_unauth_destination");
        let postfix = Postfix::start_with(
            &[KNOWN],
            &[
                ("smtpd_authorized_xclient_hosts", "127.0.0.0/8"),
                ("smtpd_recipient_restrictions", &restrictions),
            ],
        )
        .await;
        let (_backstop, address) = Backstop::ready(&configuration(postfix.address(), BELIEVES, &route)).await;
        for (last, reply) in [7, 8, 9, 10].into_iter().zip(replies) {
            let mut client = client_at(&format!("198.51.100.{last}"), address).await;
            client.command("EHLO client.test").await.is("250");
            client.envelope("sender@client.test", KNOWN).await.is(reply);
            client.quit().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_system_does_not_allow_is_said_at_the_start() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]);
    let configuration = configuration(store, "", "client_address = \"transparent\"");
    let backstop = Backstop::start_within(command, &configuration);
    let log = backstop.logged("give CAP_NET_ADMIN").await;
    assert!(log.contains("ERROR") && log.contains("example.org"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_not_to_be_looked_up_are_not() {
    let postfix = Postfix::start_with(&[KNOWN], &[("smtpd_authorized_xclient_hosts", "127.0.0.0/8")]).await;
    let (dns, server) = NameServer::start().await;
    let pointer = |last: u8| format!("{last}.100.51.198.in-addr.arpa");
    let route = |more: &str| format!("client_address = \"xclient\"\n[dns]\nservers = [\"{server}\"]\n{more}");
    let one = async |address, words: &[&str]| {
        let mut client = Client::greeted(address).await;
        for word in words {
            client.command(word).await.is("2");
        }
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.quit().await;
    };
    let believes = "xclient = true\ntrusted = [\"127.0.0.0/8\"]";
    // A front has said that it has none.
    let (_backstop, address) = Backstop::ready(&configuration(postfix.address(), believes, &route(""))).await;
    one(address, &["XCLIENT NAME=[UNAVAILABLE] ADDR=198.51.100.1", "EHLO client.test"]).await;
    assert_eq!(dns.asked(&pointer(1), PTR), 0);
    // A front has not said it, and its own name is nobody's.
    one(address, &["EHLO front.test", "XCLIENT ADDR=198.51.100.2", "EHLO client.test"]).await;
    assert_eq!(dns.asked(&pointer(2), PTR), 1);
    let off = route("client_names = false");
    let (_backstop, address) = Backstop::ready(&configuration(postfix.address(), believes, &off)).await;
    one(address, &["XCLIENT ADDR=198.51.100.3", "EHLO client.test"]).await;
    assert_eq!(dns.asked(&pointer(3), PTR), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_is_silent_is_not_held_against_the_backend() {
    let postfix = Postfix::start_with(&[KNOWN], &[("smtpd_authorized_xclient_hosts", "127.0.0.0/8")]).await;
    let (dns, server) = NameServer::start().await;
    dns.says("7.100.51.198.in-addr.arpa", PTR, Said::Silence);
    let route = format!(
        "client_address = \"xclient\"\nverify.timeout = \"3s\"\neject = \"60s\"\n[dns]\nservers = [\"{server}\"]"
    );
    let (backstop, address) = Backstop::ready(&configuration(postfix.address(), BELIEVES, &route)).await;
    let deliveries = (0..4).map(|_| async {
        let mut client = client_at("198.51.100.7", address).await;
        client.command("EHLO client.test").await.is("250");
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.quit().await;
    });
    futures_util::future::join_all(deliveries).await;
    assert!(backstop.log().contains("name cannot be found out"), "{}", backstop.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postfix_that_does_not_trust_us_defers_mail_and_raises_an_alarm() {
    let postfix = Postfix::start(&[KNOWN]).await;
    let configuration = configuration(postfix.address(), "", "client_address = \"xclient\"");
    let (backstop, address) = Backstop::ready(&configuration).await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("451 4.3.5");
    client.command(&format!("RCPT TO:<{UNKNOWN}>")).await.is("550 5.1.1");
    let log = backstop.logged("cannot be told who the client is").await;
    assert!(log.contains("XCLIENT"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_hears_the_true_client_with_a_header_of_either_version() {
    for version in ["proxy-v1", "proxy-v2"] {
        let postfix = Postfix::start_with(&[KNOWN], &[("smtpd_upstream_proxy_protocol", "haproxy")]).await;
        let route = format!("client_address = \"{version}\"");
        let (_backstop, address) = Backstop::ready(&configuration(postfix.address(), BELIEVES, &route)).await;
        deliver_for_two(address).await;
        let messages = postfix.wait_for_messages(KNOWN, 4).await;
        are_from_the_two(&messages, |address, helo| format!("from {helo} (unknown [{address}])"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exim_hears_the_true_client_with_a_header_of_either_version() {
    for version in ["proxy-v1", "proxy-v2"] {
        let Some(exim) = Exim::start_with(&[KNOWN], "hosts_proxy = 127.0.0.0/8\n").await else { return };
        let route = format!("client_address = \"{version}\"");
        let (_backstop, address) = Backstop::ready(&configuration(exim.address(), BELIEVES, &route)).await;
        deliver_for_two(address).await;
        let four = || Some(exim.messages(KNOWN)).filter(|messages| messages.len() == 4);
        let messages = eventually("Exim to deliver", four).await;
        are_from_the_two(&messages, |address, helo| format!("from [{address}] (helo={helo})"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_tells_us_the_true_client_with_a_header_of_either_version() {
    for option in ["send-proxy", "send-proxy-v2"] {
        let postfix =
            Postfix::start_with(&[KNOWN], &[("smtpd_authorized_xclient_hosts", "127.0.0.0/8")]).await;
        let configuration = configuration(postfix.address(), BELIEVES, "client_address = \"xclient\"");
        let (backstop, address) = Backstop::ready(&configuration).await;
        let haproxy = HaProxy::before(address, option).await;
        let from: SocketAddr = "127.0.0.77:0".parse().expect("an address");
        let mut client = Client::over(haproxy.connect_from(from).await);
        client.reply().await.is("220");
        client.command("EHLO client.test").await.is("250");
        client.envelope("sender@client.test", KNOWN).await.is("250");
        client.data(MESSAGE).await.is("250");
        client.command("QUIT").await.is("221");
        let messages = text(&postfix.wait_for_messages(KNOWN, 1).await);
        assert!(messages[0].contains("from client.test (unknown [127.0.0.77])"), "{option}: {messages:#?}");
        let log = backstop.logged("127.0.0.77:").await;
        assert!(log.contains("via=127.0.0.1:"), "{option}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_one_line_before_it_and_is_otherwise_unchanged() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (_backstop, address) = Backstop::ready(&configuration(store, BELIEVES, "")).await;
    let mut client = client_at("198.51.100.7", address).await;
    client.command("EHLO seven.example.net").await.is("250");
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    let record = backend.record();
    let [message] = record.messages.as_slice() else { panic!("{:?}", record.messages) };
    let body = String::from_utf8_lossy(&message.body).into_owned();
    let line = body.strip_suffix("Subject: hello\r\n\r\ntext\r\n").expect("the message as it was");
    assert!(line.starts_with(
        "Received: from seven.example.net ([198.51.100.7])\r\n\tby mx.example.org with ESMTP id "
    ));
    assert!(line.contains(&format!("\r\n\tfor <{KNOWN}>;\r\n\t")), "{line}");
    assert_eq!(line.matches("\r\n").count(), line.matches("\r\n\t").count() + 1, "one line: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_says_of_a_spoofed_header_is_where_it_came_from() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let listener = "proxy_protocol = \"required\"\ntrusted = [\"192.0.2.0/24\"]";
    let (backstop, address) = Backstop::ready(&configuration(store, listener, "")).await;
    let mut client = Client::connect(address).await;
    let _ = client.try_send("PROXY TCP4 198.51.100.7 203.0.113.25 40000 25\r\n").await;
    client.is_closed().await;
    let log = backstop.logged("end=\"proxy_header\"").await;
    assert!(log.contains("client=127.0.0.1:") && !log.contains("198.51.100.7"), "{log}");
}

/// A listener with TLS from the first octet behind the header, before a scripted store.
async fn secured() -> (Backend, Backstop, SocketAddr, Directory) {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let directory = Directory::new("headers-and-tls");
    let files = Pair::alone(&["mx.example.org"]).write(&directory, "pair");
    let listener = format!("{BELIEVES}\ntls = \"implicit\"");
    let tls = format!("[tls]\ncertificates = [{}]\n", files.entry());
    let (backstop, address) = Backstop::ready(&(configuration(store, &listener, "") + &tls)).await;
    (backend, backstop, address, directory)
}

const HEADER: &str = "PROXY TCP4 198.51.100.7 203.0.113.25 40000 25\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_header_before_tls_names_the_client_inside_it() {
    let (backend, backstop, address, _directory) = secured().await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(HEADER.as_bytes()).await.expect("an open connection");
    let mut client = Client::over(Hands::new().shake(stream, "mx.example.org").await.expect("TLS"));
    client.reply().await.is("220");
    client.command("EHLO seven.example.net").await.is("250");
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.command("QUIT").await.is("221");
    let body = String::from_utf8_lossy(&backend.record().messages[0].body).into_owned();
    assert!(body.starts_with("Received: from seven.example.net ([198.51.100.7])"), "{body}");
    assert!(body.contains(" with ESMTPS id ") && body.contains("\r\n\t(TLSv1.3 TLS_"), "{body}");
    backstop.logged("client=198.51.100.7:40000").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_inside_tls_ends_the_session() {
    let (_backend, backstop, address, _directory) = secured().await;
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(HEADER.as_bytes()).await.expect("an open connection");
    let mut client = Client::over(Hands::new().shake(stream, "mx.example.org").await.expect("TLS"));
    client.reply().await.is("220");
    client.command("PROXY TCP4 192.0.2.99 203.0.113.25 40000 25").await.is("421 4.7.0");
    client.is_closed().await;
    let log = backstop.logged("end=\"proxy_header\"").await;
    assert!(log.contains("client=198.51.100.7:40000") && !log.contains("192.0.2.99"), "{log}");

    // Nor one of version 2, whose first octets are two line ends.
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(HEADER.as_bytes()).await.expect("an open connection");
    let mut client = Client::over(Hands::new().shake(stream, "mx.example.org").await.expect("TLS"));
    client.reply().await.is("220");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    client.send([local.as_slice(), b"NOOP\r\n"].concat()).await;
    let said = client.rest().await;
    assert!(!String::from_utf8_lossy(&said).contains("250 "), "nothing behind it is obeyed: {said:?}");

    // Nor does it count when none stood before.
    let stream = TcpStream::connect(address).await.expect("it listens");
    assert!(Hands::new().shake(stream, "mx.example.org").await.is_err(), "no TLS without the header");
}
