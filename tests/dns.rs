//! Backends by name: whatever DNS says, changes, or fails to say, mail goes to those it names, and to no other.

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use backstop::config::{Destination, Endpoint, EndpointTls};
use backstop::net::resolve::{Answer, Follower, Resolver};
use backstop::proto::client::{ClientName, ClientNames};
use futures_util::future::join_all;
use serde_json::Value;
use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::certificate::Authority;
use support::client::{Client, Reply};
use support::dns::{A, AAAA, Data, MX, NameServer, PTR, SRV, Said};
use support::machine::Directory;
use support::{PATIENCE, settled};
use tokio::time::{Instant, sleep};

const KNOWN: &str = "anna@example.org";
const SENDER: &str = "sender@client.test";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";

/// Backends on one port of different addresses, as pods are.
struct Pods(Vec<(Backend, SocketAddr)>);

impl Pods {
    async fn start(number: usize) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let ours = NEXT.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        'port: for _ in 0..10 {
            let (mut pods, mut port) = (Vec::new(), 0);
            for pod in 0..number {
                // Addresses that no other test of this or another process has.
                let last = u8::try_from(pod + 1).expect("few pods");
                let ip = IpAddr::from([127, 64 | ours, high, low.wrapping_mul(8).wrapping_add(last)]);
                let backend = Backend::new(Script::knowing([KNOWN]));
                let Ok(address) = backend.listen(SocketAddr::new(ip, port)).await else { continue 'port };
                port = address.port();
                pods.push((backend, address));
            }
            return Self(pods);
        }
        panic!("no port is free on all of {number} addresses");
    }

    fn port(&self) -> u16 {
        self.0[0].1.port()
    }

    fn address(&self, pod: usize) -> SocketAddr {
        self.0[pod].1
    }

    fn addresses(&self, pods: &[usize]) -> Vec<SocketAddr> {
        pods.iter().map(|pod| self.address(*pod)).collect()
    }

    fn messages(&self, pod: usize) -> usize {
        self.0[pod].0.record().messages.len()
    }

    fn connections(&self, pod: usize) -> usize {
        self.0[pod].0.record().connections
    }

    async fn deserted(&self, pod: usize) {
        self.0[pod].0.until("the end of all its sessions", |record| record.open == 0).await;
    }
}

fn configuration(backends: &str, server: SocketAddr, more: &str) -> String {
    format!(
        "hostname = \"mx.example.org\"\n[[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[dns]\nservers = [\"{server}\"]\n\
         [[route]]\ndomains = [\"example.org\"]\nbackends = [{backends}]\n{more}"
    )
}

async fn mail(address: SocketAddr) -> Reply {
    let mut client = Client::greeted(address).await;
    let reply = client.envelope(SENDER, KNOWN).await;
    if reply.code != 250 {
        return reply;
    }
    let reply = client.data(MESSAGE).await;
    client.quit().await;
    reply
}

/// Waits until the status shows these backends of the route, in any order.
async fn leads_to(backstop: &Backstop, addresses: &[SocketAddr]) -> Value {
    let mut wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    wanted.sort_unstable();
    let (admin, deadline) = (backstop.admin().await, Instant::now() + PATIENCE);
    loop {
        let status = admin.get("/api/v1/status").await.json()["routes"][0]["backends"][0].clone();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        let mut shown: Vec<String> =
            members.iter().filter_map(|member| plain(member["address"].as_str()?)).collect();
        shown.sort_unstable();
        if shown == wanted {
            return status;
        }
        assert!(Instant::now() < deadline, "{wanted:?} are not shown: {status:#}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// `host[ip]:port` without the host.
fn plain(site: &str) -> Option<String> {
    let (_, rest) = site.split_once('[')?;
    Some(rest.replacen(']', "", 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_followed_as_it_scales() {
    let pods = Pods::start(3).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    let name = format!("\"mail.test:{}\"", pods.port());
    let (backstop, address) =
        Backstop::ready(&configuration(&name, server, "balance = \"round-robin\"\n")).await;
    mail(address).await.is("250");
    assert_eq!(pods.messages(0), 1);

    dns.leads("mail.test", 1, &pods.addresses(&[0, 1, 2]));
    let changed = Instant::now();
    leads_to(&backstop, &pods.addresses(&[0, 1, 2])).await;
    // Within the TTL and a second, and what a busy machine takes.
    assert!(changed.elapsed() < Duration::from_secs(1 + 1 + 6), "{:?}", changed.elapsed());
    for pod in [1, 2] {
        // What it offers counts from the beginning.
        pods.0[pod].0.until("its greeting", |record| record.count("EHLO") > 0).await;
    }
    for _ in 0..6 {
        mail(address).await.is("250");
    }
    assert_eq!([0, 1, 2].map(|pod| pods.messages(pod)), [3, 2, 2], "each in its turn");

    dns.leads("mail.test", 1, &pods.addresses(&[1, 2]));
    leads_to(&backstop, &pods.addresses(&[1, 2])).await;
    let before = pods.connections(0);
    pods.deserted(0).await;
    for _ in 0..6 {
        mail(address).await.is("250");
    }
    assert_eq!((pods.messages(0), pods.connections(0)), (3, before), "nothing goes to a withdrawn one");
    let metrics = backstop.admin().await.get("/metrics").await.body;
    let up = format!("backstop_backend_up{{backend=\"mail.test:{}\",route=\"example.org\"}} 1", pods.port());
    assert!(metrics.contains(&up), "{metrics}");
    let addresses = format!(
        "backstop_backend_addresses{{backend=\"mail.test:{}\",route=\"example.org\",state=\"up\"}} 2",
        pods.port()
    );
    assert!(metrics.contains(&addresses), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_under_way_with_a_withdrawn_backend_ends_in_peace() {
    let pods = Pods::start(2).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    let name = format!("\"mail.test:{}\"", pods.port());
    let (backstop, address) = Backstop::ready(&configuration(&name, server, "")).await;
    let mut client = Client::greeted(address).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.command("DATA").await.is("354");
    dns.leads("mail.test", 1, &pods.addresses(&[1]));
    leads_to(&backstop, &pods.addresses(&[1])).await;
    client.send(b"Subject: late\r\n\r\ntext\r\n.\r\n").await;
    client.reply().await.is("250");
    assert_eq!(pods.messages(0), 1);
    pods.deserted(0).await;
    client.envelope(SENDER, KNOWN).await.is("250");
    client.data(MESSAGE).await.is("250");
    assert_eq!([0, 1].map(|pod| pods.messages(pod)), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_name_ports_and_who_comes_first() {
    let pods = [Pods::start(1).await, Pods::start(1).await];
    let (dns, server) = NameServer::start().await;
    let record =
        |priority, pod: usize, target| Data::Srv { priority, weight: 10, port: pods[pod].port(), target };
    dns.leads("first.test", 1, &[pods[0].address(0)]);
    dns.leads("second.test", 1, &[pods[1].address(0)]);
    let both = vec![record(20, 1, "second.test"), record(10, 0, "first.test")];
    dns.says("_smtp._tcp.mail.test", SRV, Said::Records(1, both));
    let (backstop, address) =
        Backstop::ready(&configuration("\"srv:_smtp._tcp.mail.test\"", server, "")).await;
    for _ in 0..4 {
        mail(address).await.is("250");
    }
    assert_eq!([0, 1].map(|pod| pods[pod].messages(0)), [4, 0], "the lower priority first");
    dns.says("_smtp._tcp.mail.test", SRV, Said::Records(1, vec![record(20, 1, "second.test")]));
    leads_to(&backstop, &[pods[1].address(0)]).await;
    let before = pods[0].connections(0);
    mail(address).await.is("250");
    assert_eq!((pods[1].messages(0), pods[0].connections(0)), (1, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_to_name_the_target_and_neither_address_nor_record_set() {
    let (authority, directory) = (Authority::new(), Directory::new("dns-tls"));
    let roots = directory.write("ca.pem", &authority.root);
    let (dns, server) = NameServer::start().await;
    let keys = format!("tls = \"verify\"\ntls_ca = \"{}\"\n", roots.display());
    for (named, code) in [("one.test", "250"), ("mail.test", "451")] {
        let script = Script::knowing([KNOWN]).with_starttls(authority.issue(&[named]).server());
        let (_backend, store) = Backend::start(script).await;
        dns.leads("one.test", 60, &[store]);
        let record = Data::Srv { priority: 1, weight: 1, port: store.port(), target: "one.test" };
        dns.says("_smtp._tcp.mail.test", SRV, Said::Records(60, vec![record]));
        let text = configuration("\"srv:_smtp._tcp.mail.test\"", server, &keys);
        let (_backstop, address) = Backstop::ready(&text).await;
        mail(address).await.is(code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_examines_each_address() {
    let pods = Pods::start(2).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 60, &pods.addresses(&[0, 1]));
    let directory = Directory::new("dns-doctor");
    let names = format!("\"mail.test:{}\", \"gone.test:25\"", pods.port());
    let file = directory.write("backstop.toml", configuration(&names, server, ""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(["doctor", "--json", "--no-connections", "--config"]).arg(file);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("it was built")).await.expect("it ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let examined: Vec<_> = report["backends"].as_array().expect("a list").iter().collect();
    let addresses: Vec<_> = examined.iter().filter_map(|one| one["address"].as_str()).collect();
    let site = |pod: usize| format!("mail.test[{}]:{}", pods.address(pod).ip(), pods.port());
    assert_eq!(addresses, [site(0), site(1), "gone.test:25".to_owned()], "{report:#}");
    assert!(report.to_string().contains("unresolvable"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_server_that_fails_takes_no_backend_away() {
    let pods = Pods::start(1).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    let name = format!("\"mail.test:{}\"", pods.port());
    let (backstop, address) = Backstop::ready(&configuration(&name, server, "")).await;
    for said in [Said::ServFail, Said::Silence] {
        dns.says_of_all(&said);
        backstop.logged("DNS does not say where it is now").await;
        let asked = dns.asked("mail.test", A);
        while dns.asked("mail.test", A) < asked + 4 {
            sleep(Duration::from_millis(50)).await;
        }
        mail(address).await.is("250");
    }
    let ready = backstop.admin().await.get("/readyz?verbose").await.is(200).body;
    assert!(ready.contains(&format!("[-]dns mail.test:{} failed, not counted: ", pods.port())), "{ready}");
    let series =
        format!("backstop_backend_dns_up{{backend=\"mail.test:{}\",route=\"example.org\"}}", pods.port());
    assert_eq!(backstop.admin().await.metric(&series).await, Some(0.0));
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    backstop.logged("DNS says again where it is").await;
    backstop.admin().await.until_metric(&series, 1.0).await;
}

/// Waits until the addresses of `mail.test` were asked for so often again.
async fn asked_again(dns: &NameServer, times: usize) {
    let (asked, deadline) = (dns.asked("mail.test", A), Instant::now() + 3 * PATIENCE);
    while dns.asked("mail.test", A) < asked + times {
        assert!(Instant::now() < deadline, "it is no longer followed");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_taken_over_while_dns_fails_takes_no_backend_away() {
    let pods = Pods::start(1).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    let name = format!("\"mail.test:{}\"", pods.port());
    let configuration = configuration(&name, server, "");
    let (backstop, address) = Backstop::ready(&configuration).await;
    let admin = backstop.admin().await;
    for said in [Said::ServFail, Said::Silence] {
        dns.says_of_all(&said);
        backstop.logged("DNS does not say where it is now").await;
        // One that leaves the route as it is, one that does not, and one that asks the same server as if it were another.
        let other = configuration.replace("servers = [", &format!("servers = [\"{server}\", "));
        for text in [
            configuration.clone() + "[limits]\nmax_recipients = 9\n",
            configuration.clone() + "eject = \"7s\"\n",
            other,
        ] {
            backstop.rewrite(&text);
            assert_eq!(admin.post("/api/v1/reload").await.status, 200);
            mail(address).await.is("250");
            asked_again(&dns, 3).await;
            mail(address).await.is("250");
        }
    }
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    backstop.logged("DNS says again where it is").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_older_configuration_is_led_where_the_name_leads_too() {
    let pods = Pods::start(2).await;
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    let name = format!("\"mail.test:{}\"", pods.port());
    let configuration = configuration(&name, server, "");
    let (backstop, address) = Backstop::ready(&configuration).await;
    let mut old = Client::greeted(address).await;
    backstop.rewrite(&(configuration + "eject = \"7s\"\n"));
    assert_eq!(backstop.admin().await.post("/api/v1/reload").await.status, 200);
    dns.leads("mail.test", 1, &pods.addresses(&[1]));
    leads_to(&backstop, &pods.addresses(&[1])).await;
    asked_again(&dns, 6).await;
    let before = pods.connections(0);
    old.envelope(SENDER, KNOWN).await.is("250");
    old.data(MESSAGE).await.is("250");
    old.quit().await;
    assert_eq!((pods.messages(1), pods.connections(0)), (1, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_gone_for_good_gets_no_mail_until_it_is_back() {
    let pods = Pods::start(1).await;
    let (dns, server) = NameServer::start().await;
    let name = format!("\"mail.test:{}\"", pods.port());
    // It does not exist yet: no reason not to start.
    let (backstop, address) = Backstop::ready(&configuration(&name, server, "")).await;
    mail(address).await.is("451");
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    leads_to(&backstop, &pods.addresses(&[0])).await;
    settled(async || mail(address).await).await.is("250");
    dns.says_of_all(&Said::NxDomain);
    leads_to(&backstop, &[]).await;
    let before = pods.connections(0);
    mail(address).await.is("451");
    pods.deserted(0).await;
    assert_eq!(pods.connections(0), before);
    dns.leads("mail.test", 1, &pods.addresses(&[0]));
    leads_to(&backstop, &pods.addresses(&[0])).await;
    settled(async || mail(address).await).await.is("250");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_to_ourselves_is_not_dialled() {
    let (dns, server) = NameServer::start().await;
    let ours = support::machine::free_address();
    dns.leads("mail.test", 1, &[ours]);
    let text = configuration(&format!("\"mail.test:{}\"", ours.port()), server, "");
    let (backstop, address) = Backstop::ready(&text.replace("127.0.0.1:0\"]", &format!("{ours}\"]"))).await;
    mail(address).await.is("451");
    backstop.logged("is this very proxy").await;
}

/// Asks once what a destination leads to.
async fn ask(follower: &mut Follower) -> (Vec<String>, Answer) {
    let answer = follower.ask().await;
    let found = answer.found.iter().map(|f| format!("{} {} {}", f.tier, f.host, f.address)).collect();
    (found, answer)
}

fn follower(server: SocketAddr, destination: &Destination) -> Follower {
    Follower::new(&Resolver::new(&[server]), destination)
}

fn host(name: &str) -> Destination {
    Destination::Host(Endpoint { host: name.to_owned(), port: 25, tls: EndpointTls::Negotiated })
}

fn address(text: &str) -> Data {
    Data::Address(text.parse().expect("an address"))
}

#[tokio::test]
async fn an_mx_domain_leads_to_its_exchangers_or_itself_or_nowhere() {
    let (dns, server) = NameServer::start().await;
    let mut mx = follower(server, &Destination::Mx("example.test".into()));
    // It is its own exchanger where it names none (RFC 5321 §5.1).
    dns.leads("example.test", 60, &["192.0.2.1:25".parse().unwrap()]);
    dns.says("example.test", MX, Said::Records(60, Vec::new()));
    let (found, answer) = ask(&mut mx).await;
    assert_eq!((found, answer.fault), (vec!["0 example.test 192.0.2.1:25".to_owned()], None));
    // A fault says nothing new.
    dns.says("example.test", MX, Said::ServFail);
    assert_eq!(ask(&mut mx).await.0, ["0 example.test 192.0.2.1:25"]);

    dns.leads("a.test", 300, &["192.0.2.2:25".parse().unwrap()]);
    dns.says("a.test", AAAA, Said::Records(30, vec![address("2001:db8::2")]));
    dns.leads("b.test", 300, &["192.0.2.3:25".parse().unwrap()]);
    let exchangers = [(20, "b.test"), (10, "a.test"), (30, "gone.test")];
    let exchangers = exchangers.map(|(preference, exchange)| Data::Mx { preference, exchange });
    dns.says("example.test", MX, Said::Records(600, exchangers.to_vec()));
    let (found, answer) = ask(&mut mx).await;
    assert_eq!(found, ["10 a.test 192.0.2.2:25", "10 a.test [2001:db8::2]:25", "20 b.test 192.0.2.3:25"]);
    assert_eq!((answer.again, answer.fault), (Duration::from_secs(30), None), "the shortest of all");

    // A null MX takes no mail (RFC 7505), and says so: nothing to doubt.
    dns.says("example.test", MX, Said::Records(60, vec![Data::Mx { preference: 0, exchange: "" }]));
    let (found, answer) = ask(&mut mx).await;
    assert!(found.is_empty() && answer.fault.is_some(), "{answer:?}");
}

#[tokio::test]
async fn an_answer_holds_for_its_time_within_reason_and_a_fault_for_longer_each_time() {
    let (dns, server) = NameServer::start().await;
    let mut name = follower(server, &host("mail.test"));
    for (ttl, again) in [(0, 1), (30, 30), (86_400, 3600)] {
        dns.leads("mail.test", ttl, &["192.0.2.1:25".parse().unwrap()]);
        let (found, answer) = ask(&mut name).await;
        assert_eq!(found, ["0 mail.test 192.0.2.1:25"]);
        assert_eq!((answer.again, answer.fault), (Duration::from_secs(again), None));
    }
    dns.says_of_all(&Said::ServFail);
    for again in [1, 2, 4, 8, 16, 30, 30] {
        let (found, answer) = ask(&mut name).await;
        assert_eq!((found.len(), answer.again), (1, Duration::from_secs(again)), "what was said last stands");
        assert!(answer.fault.is_some_and(|fault| fault.starts_with("mail.test: ")));
    }
}

#[tokio::test]
async fn that_a_name_is_gone_is_believed_when_it_is_said_twice() {
    let (dns, server) = NameServer::start().await;
    let mut name = follower(server, &host("mail.test"));
    for gone in [Said::NxDomain, Said::Records(60, Vec::new())] {
        dns.leads("mail.test", 60, &["192.0.2.1:25".parse().unwrap()]);
        assert_eq!(ask(&mut name).await.0.len(), 1);
        dns.says_of_all(&gone);
        let (found, answer) = ask(&mut name).await;
        assert_eq!((found.len(), answer.again), (1, Duration::from_secs(1)), "{gone:?}: a slip, perhaps");
        dns.leads("mail.test", 60, &["192.0.2.1:25".parse().unwrap()]);
        assert_eq!(ask(&mut name).await.1.again, Duration::from_secs(60), "{gone:?}: it was one");
        dns.says_of_all(&gone);
        ask(&mut name).await;
        // Who goes on for another has heard it once.
        let memory = name.memory().clone();
        name = Follower::going_on(&Resolver::new(&[server]), &host("mail.test"), memory);
        assert!(ask(&mut name).await.0.is_empty(), "{gone:?}: it is gone");
    }
}

#[tokio::test]
async fn targets_that_nobody_can_be_asked_about_yet_take_nothing_from_those_known() {
    let (dns, server) = NameServer::start().await;
    let mut srv = follower(server, &Destination::Srv("_smtp._tcp.test".into()));
    let to = |target| Said::Records(60, vec![Data::Srv { priority: 1, weight: 1, port: 25, target }]);
    dns.leads("old.test", 60, &["192.0.2.1:25".parse().unwrap()]);
    dns.says("_smtp._tcp.test", SRV, to("old.test"));
    assert_eq!(ask(&mut srv).await.0, ["1 old.test 192.0.2.1:25"]);
    dns.says("_smtp._tcp.test", SRV, to("new.test"));
    dns.says("new.test", A, Said::ServFail);
    dns.says("new.test", AAAA, Said::ServFail);
    for _ in 0..2 {
        let (found, answer) = ask(&mut srv).await;
        assert_eq!(found, ["1 old.test 192.0.2.1:25"]);
        assert!(answer.fault.is_some_and(|fault| fault.starts_with("new.test: ")));
    }
    dns.leads("new.test", 60, &["192.0.2.2:25".parse().unwrap()]);
    assert_eq!(ask(&mut srv).await.0, ["1 new.test 192.0.2.2:25"]);
}

#[tokio::test]
async fn a_family_that_cannot_be_asked_for_takes_nothing_from_the_other() {
    let (dns, server) = NameServer::start().await;
    let mut name = follower(server, &host("mail.test"));
    dns.leads("mail.test", 60, &["192.0.2.1:25".parse().unwrap()]);
    dns.says("mail.test", AAAA, Said::Records(60, vec![address("2001:db8::1")]));
    assert_eq!(ask(&mut name).await.0.len(), 2);
    dns.leads("mail.test", 60, &["192.0.2.2:25".parse().unwrap()]);
    dns.says("mail.test", AAAA, Said::ServFail);
    assert_eq!(ask(&mut name).await.0, ["0 mail.test 192.0.2.2:25", "0 mail.test [2001:db8::1]:25"]);
}

#[tokio::test]
async fn a_target_that_is_no_host_name_is_left_out() {
    let (dns, server) = NameServer::start().await;
    dns.leads("mail.test", 60, &["192.0.2.1:25".parse().unwrap()]);
    let targets = ["mail.test", "two words.test", "bell\u{7}.test", ""];
    let targets = targets.map(|target| Data::Srv { priority: 1, weight: 1, port: 25, target });
    dns.says("_smtp._tcp.test", SRV, Said::Records(60, targets.to_vec()));
    let (found, answer) = ask(&mut follower(server, &Destination::Srv("_smtp._tcp.test".into()))).await;
    assert_eq!((found, answer.fault), (vec!["1 mail.test 192.0.2.1:25".to_owned()], None));
}

#[tokio::test]
async fn a_destination_has_a_bounded_number_of_backends() {
    let (dns, server) = NameServer::start().await;
    let many: Vec<_> = (0..70).map(|last| SocketAddr::from(([192, 0, 2, last], 25))).collect();
    dns.leads("mail.test", 60, &many);
    let (found, answer) = ask(&mut follower(server, &host("mail.test"))).await;
    assert_eq!((found.len(), answer.excess), (64, 6));
    assert_eq!(found[0], "0 mail.test 192.0.2.0:25", "the same ones each time");
}

/// What a client is called by a name server that says so: its name that leads back, and the one its address leads to.
async fn client_names(client: IpAddr, says: impl FnOnce(&NameServer)) -> (String, String) {
    let (server, address) = NameServer::start().await;
    says(&server);
    let ClientNames { verified, reverse } = Resolver::new(&[address]).client_names(client).await;
    let text = |name| match name {
        ClientName::Known(name) => String::from(name),
        ClientName::Unavailable => "none".to_owned(),
        ClientName::TemporarilyUnavailable => "open".to_owned(),
    };
    (text(verified), text(reverse))
}

fn called(verified: &str, reverse: &str) -> (String, String) {
    (verified.to_owned(), reverse.to_owned())
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const FOUR: &str = "7.2.0.192.in-addr.arpa";
const SIX: &str = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";

fn pointers(names: &[&'static str]) -> Said {
    Said::Records(60, names.iter().map(|name| Data::Ptr(name)).collect())
}

fn addresses(addresses: &[&str]) -> Said {
    Said::Records(60, addresses.iter().map(|a| Data::Address(a.parse().expect("an address"))).collect())
}

#[tokio::test]
async fn a_client_is_called_what_leads_back_to_it() {
    let names = client_names(CLIENT, |server| {
        server.says(FOUR, PTR, pointers(&["Client.Example.NET"]));
        server.says("client.example.net", A, addresses(&["192.0.2.6", "192.0.2.7"]));
    });
    assert_eq!(names.await, called("client.example.net", "client.example.net"));
    let names = client_names("2001:db8::7".parse().expect("an address"), |server| {
        server.says(SIX, PTR, pointers(&["client.example.net"]));
        server.says("client.example.net", AAAA, addresses(&["2001:db8::7"]));
    });
    assert_eq!(names.await, called("client.example.net", "client.example.net"));
    // Of several the first in the alphabet that does, whatever the others do; as an IPv4 address in IPv6, too.
    let names = client_names("::ffff:192.0.2.7".parse().expect("an address"), |server| {
        server.says(
            FOUR,
            PTR,
            pointers(&["d.example.net", "c.example.net", "b.example.net", "a.example.net", ""]),
        );
        server.says("a.example.net", A, Said::ServFail);
        for name in ["c.example.net", "d.example.net"] {
            server.says(name, A, addresses(&["192.0.2.7"]));
        }
    });
    assert_eq!(names.await, called("c.example.net", "c.example.net"));
}

#[tokio::test]
async fn a_name_that_does_not_lead_back_is_not_the_clients() {
    assert_eq!(client_names(CLIENT, |_| {}).await, called("none", "none"));
    let elsewhere = client_names(CLIENT, |server| {
        server.says(FOUR, PTR, pointers(&["bank.example.com"]));
        server.says("bank.example.com", A, addresses(&["198.51.100.1"]));
    });
    assert_eq!(elsewhere.await, called("none", "bank.example.com"));
    let nowhere = client_names(CLIENT, |server| server.says(FOUR, PTR, pointers(&["nowhere.example.com"])));
    assert_eq!(nowhere.await, called("none", "nowhere.example.com"));
    let no_host = client_names(CLIENT, |server| {
        server.says(FOUR, PTR, pointers(&["a client.example.net", "", "under_score\"<b>.example.net"]));
    });
    assert_eq!(no_host.await, called("none", "none"));
    // A thousand names cost no more than a few questions.
    let (server, address) = NameServer::start().await;
    server.says(FOUR, PTR, pointers(&["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"]));
    assert_eq!(Resolver::new(&[address]).client_names(CLIENT).await.verified, ClientName::Unavailable);
    assert_eq!((server.asked("d.test", A), server.asked("e.test", A)), (1, 0));
}

#[tokio::test]
async fn a_name_server_that_fails_leaves_the_name_open() {
    let at_once = client_names(CLIENT, |server| server.says(FOUR, PTR, Said::ServFail));
    assert_eq!(at_once.await, called("open", "open"));
    let then = client_names(CLIENT, |server| {
        server.says(FOUR, PTR, pointers(&["client.example.net"]));
        server.says("client.example.net", A, Said::ServFail);
    });
    assert_eq!(then.await, called("open", "client.example.net"));
    let began = Instant::now();
    let silent = client_names(CLIENT, |server| {
        server.says(FOUR, PTR, pointers(&["a.test", "b.test", "c.test"]));
        for name in ["a.test", "b.test", "c.test"] {
            server.says(name, A, Said::Silence);
        }
    });
    assert_eq!(silent.await.0, "open");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_so_many_clients_are_looked_up_at_a_time() {
    let (server, address) = NameServer::start().await;
    server.says(FOUR, PTR, Said::Silence);
    let resolver = Resolver::new(&[address]);
    let began = Instant::now();
    let looked_up = join_all((0..300).map(|_| async {
        let names = resolver.client_names(CLIENT).await;
        (names, began.elapsed() < Duration::from_secs(1))
    }));
    let looked_up = looked_up.await;
    let at_once = looked_up.iter().filter(|(_, at_once)| *at_once).count();
    assert_eq!(at_once, 300 - 256, "the others wait for an answer");
    assert!(looked_up.iter().all(|(names, _)| names.verified == ClientName::TemporarilyUnavailable));
}

#[tokio::test]
async fn a_system_knows_the_names_of_its_own_hosts() {
    // Whatever else stands in the hosts file, an address of loopback leads to no name server.
    let resolver = Resolver::new(&["127.0.0.1:1".parse().expect("an address")]);
    let names = resolver.client_names([127, 0, 0, 1].into()).await;
    assert!(matches!(names.verified, ClientName::Known(_)), "localhost is in /etc/hosts");
}
