//! Another configuration while clients are served: all of it or nothing, and no session notices.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::PATIENCE;
use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::client::Client;
use support::machine::{Directory, free_address};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const KNOWN: &str = "anna@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";
/// Configurations of the test under load, good and bad in turn.
const TIMES: usize = 100;

/// Delivers to [`KNOWN`] until told to end; gives how often.
async fn deliver_until(over: CancellationToken, address: SocketAddr) -> usize {
    let mut delivered = 0;
    while !over.is_cancelled() {
        let mut client = Client::greeted(address).await;
        for _ in 0..3 {
            client.envelope("sender@client.test", KNOWN).await.is("250");
            client.data(MESSAGE).await.is("250");
            delivered += 1;
        }
        client.quit().await;
    }
    delivered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_configurations_good_and_bad_fail_no_session() {
    let (first, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (second, other) = Backend::start(Script::knowing([KNOWN])).await;
    let (backstop, address) = Backstop::ready(&Backstop::configuration(store)).await;
    let admin = backstop.admin().await;
    let over = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(deliver_until(over.clone(), address));
    }
    let (mut good, mut bad) = (0_u64, 0_u64);
    for time in 0..TIMES {
        let base = Backstop::configuration(if time % 4 < 2 { other } else { store });
        let configuration = match time % 6 {
            0 => base + "[limits]\nmax_recipients = 900\n",
            1 => base.replace("[[route]]", "[[route]]\nmax_connection = 9"),
            2 => base + "balance = \"round-robin\"\n",
            3 => "this is no TOML".to_owned(),
            4 => base + "[[listener]]\nname = \"taken\"\naddress = [\"" + &store.to_string() + "\"]\n",
            _ => base + "[[route]]\ndomains = [\"more.example\"]\nbackends = [\"127.0.0.1:1\"]\n",
        };
        let before = admin.get("/api/v1/status").await.json()["generation"].as_u64().expect("a number");
        backstop.rewrite(&configuration);
        let answer = admin.post("/api/v1/reload").await;
        let after = admin.get("/api/v1/status").await.json()["generation"].as_u64().expect("a number");
        match time % 6 {
            0 | 2 | 5 => {
                good += 1;
                assert_eq!((answer.status, after), (200, before + 1), "{}", answer.json());
            }
            _ => {
                bad += 1;
                assert_eq!((answer.status, after), (422, before), "{}", answer.json());
                assert!(
                    answer.json()["error"].as_str().is_some_and(|error| error.len() > 40),
                    "{}",
                    answer.json()
                );
            }
        }
    }
    over.cancel();
    let mut delivered = 0;
    while let Some(one) = clients.join_next().await {
        delivered += one.expect("no session failed");
    }
    let stored = first.record().messages.len() + second.record().messages.len();
    assert_eq!(stored, delivered);
    assert!(!second.record().messages.is_empty(), "what is configured is used");
    let counted = |result| {
        let series = format!("backstop_config_reloads_total{{result=\"{result}\"}}");
        async move { admin.metric(&series).await.expect("present from the start") }
    };
    assert_eq!((counted("done").await, counted("failed").await), (good as f64, bad as f64));
    println!("{TIMES} configurations, {delivered} messages delivered meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_what_it_began_with_and_the_next_one_has_the_new() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let configuration = Backstop::configuration(store);
    let (backstop, address) = Backstop::ready(&configuration).await;
    let mut old = Client::greeted(address).await;
    let routed = configuration.replace("example.org\"", "example.com\"");
    assert_ne!(routed, configuration);
    backstop.rewrite(&(routed + "[limits]\nmax_recipients = 1\n"));
    backstop.sighup();
    backstop.logged("a new configuration is in force").await;
    let mut new = Client::greeted(address).await;
    new.envelope("sender@client.test", KNOWN).await.is("550 5.7.1");
    old.envelope("sender@client.test", KNOWN).await.is("250");
    old.data(MESSAGE).await.is("250");
    old.quit().await;
    new.quit().await;
    assert_eq!(backend.record().messages.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_come_and_go_and_those_that_stay_never_close() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (fixed, more) = (free_address(), free_address());
    let listener =
        |name: &str, address| format!("[[listener]]\nname = \"{name}\"\naddress = [\"{address}\"]\n");
    let base = Backstop::configuration(store);
    let (backstop, _) = Backstop::ready(&(base.clone() + &listener("fixed", fixed))).await;
    let admin = backstop.admin().await;
    let staying = Client::greeted(fixed).await;
    backstop.rewrite(&(base.clone() + &listener("renamed", fixed) + &listener("more", more)));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    let mut leaving = Client::greeted(more).await;
    Client::greeted(fixed).await.quit().await;
    backstop.rewrite(&(base + &listener("fixed", fixed)));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    backstop.logged(&format!("no longer listening on {more}")).await;
    let gone = async {
        while tokio::net::TcpStream::connect(more).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the socket is closed");
    // Its session goes on.
    leaving.envelope("sender@client.test", KNOWN).await.is("250");
    leaving.quit().await;
    Client::greeted(fixed).await.quit().await;
    staying.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_outlives_a_new_configuration() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let configuration = Backstop::configuration(store);
    let (backstop, address) = Backstop::ready(&configuration).await;
    let admin = backstop.admin().await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", "nobody@example.org").await.is("550 5.1.1");
    let asked = backend.record().rcpts_for("nobody@example.org");
    // One that leaves the route as it is, and one that does not.
    for more in ["[limits]\nmax_recipients = 10\n", "eject = \"7s\"\n"] {
        backstop.rewrite(&(configuration.clone() + more));
        assert_eq!(admin.post("/api/v1/reload").await.status, 200);
        let mut client = Client::greeted(address).await;
        client.envelope("sender@client.test", "nobody@example.org").await.is("550 5.1.1");
        client.quit().await;
        assert_eq!(backend.record().rcpts_for("nobody@example.org"), asked, "{more}");
    }
    // What cannot change says so.
    backstop.rewrite(&(configuration + "[cache]\nmax_entries = 1000\n"));
    let answer = admin.post("/api/v1/reload").await;
    assert_eq!(answer.json()["restart_needed"][0], "cache.max_entries");
    client.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_out_of_a_store_outlives_a_changed_route() {
    let (_backend, store) = Backend::start(Script::blind()).await;
    let configuration = Backstop::configuration(store);
    let (backstop, address) = Backstop::ready(&configuration).await;
    let admin = backstop.admin().await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.quit().await;
    let truth =
        async || admin.get("/api/v1/status").await.json()["routes"][0]["domains_known"][0]["rcpt"].clone();
    assert_eq!(truth().await, "blind");
    backstop.rewrite(&(configuration + "eject = \"7s\"\n"));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(truth().await, "blind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_route_never_has_more_connections_than_it_may() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let limited = |most: u8| Backstop::configuration(store) + &format!("max_connections = {most}\n");
    let (backstop, address) = Backstop::ready(&limited(4)).await;
    let admin = backstop.admin().await;
    // Three of four, for one is for probes.
    let mut old = Vec::new();
    for _ in 0..3 {
        let mut client = Client::greeted(address).await;
        client.envelope("sender@client.test", KNOWN).await.is("250");
        old.push(client);
    }
    backstop.rewrite(&limited(3));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    let mut new = JoinSet::new();
    for _ in 0..3 {
        new.spawn(async move {
            let mut client = Client::greeted(address).await;
            client.envelope("sender@client.test", KNOWN).await.is("250");
            client.data(MESSAGE).await.is("250");
            client.quit().await;
        });
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = admin.get("/api/v1/status").await.json();
        let connections = &status["routes"][0]["backends"][0]["connections"];
        let (in_use, waiting) = (&connections["in_use"]["delivery"], &connections["waiting"]["delivery"]);
        if (in_use, waiting) == (&3.into(), &3.into()) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "who comes now waits: {status:#}");
    }
    for mut client in old {
        client.data(MESSAGE).await.is("250");
        client.quit().await;
    }
    new.join_all().await;
    let record = backend.record();
    assert_eq!(record.messages.len(), 6);
    assert!(record.most_open <= 4, "{} at once", record.most_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_configuration_keeps_makes_room_for_clients_of_the_old_one() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let resting = |seconds: u8| {
        Backstop::configuration(store) + &format!("max_connections = 4\neject = \"{seconds}s\"\n")
    };
    let (backstop, address) = Backstop::ready(&resting(5)).await;
    let mut old = Vec::new();
    for _ in 0..3 {
        old.push(Client::greeted(address).await);
    }
    backstop.rewrite(&resting(6));
    assert_eq!(backstop.admin().await.post("/api/v1/reload").await.status, 200);
    // Three at once, whose sessions with the backend are kept.
    let mut new = Vec::new();
    for _ in 0..3 {
        let mut client = Client::greeted(address).await;
        client.envelope("sender@client.test", KNOWN).await.is("250");
        new.push(client);
    }
    for mut client in new {
        client.data(MESSAGE).await.is("250");
        client.quit().await;
    }
    for client in &mut old {
        client.envelope("sender@client.test", KNOWN).await.is("250");
    }
    for mut client in old {
        client.data(MESSAGE).await.is("250");
        client.quit().await;
    }
    let record = backend.record();
    assert_eq!(record.messages.len(), 6);
    assert!(record.most_open <= 4, "{} at once", record.most_open);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_configuration_that_is_refused_never_holds() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let directory = Directory::new("reload-list");
    let list = directory.write("list", "");
    let limited = |most: u8| Backstop::configuration(store) + &format!("max_connections = {most}\n");
    let (backstop, _) = Backstop::ready(&limited(9)).await;
    let admin = backstop.admin().await;
    let configured = async || {
        let status = admin.get("/api/v1/status").await.json();
        status["routes"][0]["backends"][0]["connections"]["configured"].clone()
    };
    // What is wrong with it is found when its backends are there already.
    let file = format!(
        "[[route]]\ndomains = [\"example.com\"]\nbackends = [\"{store}\"]\nmax_connections = 3\n\
         [route.verify]\nsource = \"file\"\nfile = {list:?}\n"
    );
    backstop.rewrite(&(limited(3) + &file));
    assert_ne!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(configured().await, 9);
    backstop.rewrite(&limited(3));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(configured().await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_alarmed_about_what_is_not_there_any_more() {
    let (_backend, store) = Backend::start(Script::blind()).await;
    let configuration = Backstop::configuration(store);
    let gone = free_address();
    let two = configuration.clone()
        + &format!("[[route]]\nname = \"other\"\ndomains = [\"example.com\"]\nbackends = [\"{gone}\"]\n");
    let (backstop, address) = Backstop::ready(&two).await;
    let admin = backstop.admin().await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    client.quit().await;
    let alarms =
        async || admin.metric("backstop_route_alarms{kind=\"unverifiable\",route=\"example.org\"}").await;
    let up = async |route: &str, purpose: &str| {
        admin.metric(&format!("backstop_route_up{{route=\"{route}\",use=\"{purpose}\"}}")).await
    };
    let last = async || admin.metric("backstop_config_last_reload_successful").await;
    assert_eq!((alarms().await, last().await), (Some(1.0), Some(1.0)));
    assert_eq!(
        (up("example.org", "delivery").await, up("example.org", "probe").await),
        (Some(1.0), Some(1.0))
    );
    assert_eq!((up("other", "delivery").await, up("other", "probe").await), (Some(0.0), Some(0.0)));
    // A reload that changes nothing of it leaves it as it is; one that is refused says so until another is taken.
    backstop.rewrite("broken =");
    assert_eq!(admin.post("/api/v1/reload").await.status, 422);
    assert_eq!((alarms().await, last().await), (Some(1.0), Some(0.0)));
    backstop.rewrite(&(two + "[limits]\nmax_recipients = 9\n"));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!((alarms().await, last().await), (Some(1.0), Some(1.0)));
    // Another store is asked, of which nothing is known.
    let (_other, elsewhere) = Backend::start(Script::knowing([KNOWN])).await;
    backstop.rewrite(&(configuration.clone() + &format!("verify.backends = [\"{elsewhere}\"]\n")));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(alarms().await, Some(0.0));
    // A file tells of the recipients in the store's place; it is asked again when that is over.
    let directory = Directory::new("reload-file");
    let list = directory.write("list", KNOWN);
    backstop
        .rewrite(&(configuration.clone() + &format!("[route.verify]\nsource = \"file\"\nfile = {list:?}\n")));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!((up("example.org", "delivery").await, up("example.org", "probe").await), (Some(1.0), None));
    backstop.rewrite(&configuration);
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(up("example.org", "probe").await, Some(1.0));
    // Nobody is asked any more, and the other route is gone.
    backstop.rewrite(&(configuration + "verify.mode = \"off\"\n"));
    assert_eq!(admin.post("/api/v1/reload").await.status, 200);
    assert_eq!(alarms().await, Some(0.0));
    assert_eq!((up("example.org", "delivery").await, up("example.org", "probe").await), (Some(1.0), None));
    assert_eq!(up("other", "delivery").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_file_is_read_again_when_it_changes() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let configuration = Backstop::configuration(store);
    let backstop = Backstop::start_watching(&configuration);
    let address = backstop.address("mx").await;
    backstop.admin().await.until_ready().await;
    backstop.rewrite(&configuration.replace("example.org\"", "example.com\""));
    backstop.logged("a new configuration is in force").await;
    let mut client = Client::greeted(address).await;
    client.envelope("sender@client.test", KNOWN).await.is("550 5.7.1");
    client.quit().await;
    backstop.rewrite("broken =");
    backstop.logged("the configuration in force stays").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_ends_the_process_as_a_signal_does() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let (mut backstop, _) = Backstop::ready(&Backstop::configuration(store)).await;
    assert_eq!(backstop.admin().await.post("/api/v1/drain").await.status, 202);
    assert!(backstop.exit().await.success());
}
