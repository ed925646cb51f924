//! Instances that share what they know, through the built binary and a real Redis: what one knows all know, one of them asks, and
//! when Redis is away each goes on alone.

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::certificate::Authority;
use support::instance::{Instance, KNOWN, UNKNOWN, backend, instances, until};
use support::machine::{Directory, free_address};
use support::redis::{PASSWORD, Redis};
use support::{LOOK_AGAIN, eventually};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_instance_has_learnt_all_know() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let [one, other] = instances(backend, &redis, "").await;
    one.ask(KNOWN).await.is("250");
    let refusal = one.ask(UNKNOWN).await;
    refusal.is("550 5.1.1 <nobody@example.org>");
    redis.until_keys("backstop:v:*", 2).await;
    assert_eq!(other.ask(UNKNOWN).await.text(), refusal.text(), "in the same words");
    other.ask(KNOWN).await.is("250");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 1);
    assert_eq!((other.known_elsewhere("unknown").await, other.known_elsewhere("accepted").await), (1.0, 1.0));
    // From now on it is its own.
    other.ask(UNKNOWN).await.is("550 5.1.1");
    assert_eq!(other.known_elsewhere("unknown").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_was_created_meanwhile_works_on_every_instance_at_its_first_mail() {
    const GONE: &str = "gone@example.org";
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let recheck = "[route.verify]\nrecheck = \"50ms\"";
    let [one, other, third] = instances(backend, &redis, recheck).await;
    one.ask(UNKNOWN).await.is("550");
    one.ask(GONE).await.is("550");
    redis.until_keys("backstop:v:*", 2).await;
    store.rescript(|_| Script::knowing([KNOWN, UNKNOWN]));
    sleep(Duration::from_millis(100)).await;
    other.ask(UNKNOWN).await.is("250");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 3, "a probe of each and the client's own");
    // What is old serves where nobody can be asked.
    store.stop().await;
    third.ask(GONE).await.is("550 5.1.1 <gone@example.org>");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_who_was_good_is_confirmed_by_the_store_and_not_by_our_own_old_word() {
    let (asked, verified_by) = backend().await;
    let (delivery, backend) = backend().await;
    let redis = Redis::start(&[]).await;
    let one =
        Instance::joined(backend, &redis.url(), &format!("[route.verify]\nbackends = [\"{verified_by}\"]"))
            .await;
    one.ask(KNOWN).await.is("250");
    redis.until_keys("backstop:v:*", 1).await;
    for store in [&asked, &delivery] {
        store.rescript(|_| Script::knowing(["bert@example.org"]));
    }
    one.ask(KNOWN).await.is("550");
    until("the store was asked once more", async || asked.record().rcpts_for(KNOWN) > 1).await;
}

/// A backend that takes its time with whoever it does not know.
fn slow(names: &[String], pause: Duration) -> Script {
    names.iter().fold(Script::knowing([KNOWN]), |script, name| {
        script.on(at(Phase::Rcpt).to(name), Action::ordinary().after(pause))
    })
}

/// So many clients ask all instances for one name at once; how often the store was asked.
async fn ask_at_once(clients: usize, all: &[Instance], name: &str, store: &Backend) -> usize {
    let connecting = (0..clients).map(|n| {
        let from = format!("203.0.113.{}", n % 250);
        let instance = &all[n % all.len()];
        async move { instance.client(&from).await }
    });
    let mut clients = join_all(connecting).await;
    let rcpt = format!("RCPT TO:<{name}>");
    let replies = join_all(clients.iter_mut().map(|client| client.command(&rcpt))).await;
    for reply in &replies {
        reply.is("550 5.1.1");
    }
    store.record().rcpts_for(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_all_instances_asks() {
    let names: Vec<String> = (0..30).map(|n| format!("new{n}@example.org")).collect();
    let (store, backend) = Backend::start(slow(&names, Duration::from_millis(300))).await;
    let redis = Redis::start(&[]).await;
    let all: [Instance; 3] = instances(backend, &redis, "[limits]\nmax_connections_per_client = 2000").await;
    let (many, few) = names.split_at(2);
    for name in many {
        let asked = ask_at_once(1000, &all, name, &store).await;
        assert!((1..=3).contains(&asked), "{asked} times");
    }
    // An instance of a machine too busy to keep the deadline asks for itself; it is not always so.
    let mut asked = Vec::new();
    while asked.last() != Some(&1) {
        assert!(asked.len() < few.len(), "{asked:?}");
        asked.push(ask_at_once(30, &all, &few[asked.len()], &store).await);
        assert!(asked.iter().all(|asked| *asked <= 3), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_came_too_late_is_given_back() {
    let gate = CancellationToken::new();
    let held = Action::ordinary().held_by(&gate);
    let (store, backend) =
        Backend::start(Script::knowing([KNOWN]).on(at(Phase::Rcpt).to(UNKNOWN), held)).await;
    let redis = Redis::start(&[]).await;
    let one = Instance::joined(backend, &redis.url(), "").await;
    let mut waiting = one.client("203.0.113.1").await;
    redis.command(&["CONFIG", "RESETSTAT"]);
    redis.freeze();
    waiting.send_line(&format!("RCPT TO:<{UNKNOWN}>")).await;
    store
        .until("the question of an instance that had no answer", |record| record.rcpts_for(UNKNOWN) == 1)
        .await;
    redis.thaw();
    // What was asked too late is done now: the lease is given to who does not know of it. Nobody else takes it while the store keeps
    // its answer, so it either ends by our word or by itself.
    let count = |name: &str| -> u64 {
        let all = redis.command(&["INFO", "all"]);
        let found = all.lines().find_map(|line| line.strip_prefix(name)?.split(',').next()?.parse().ok());
        found.unwrap_or(0)
    };
    let ended = || (count("cmdstat_del:calls="), count("expired_keys:"));
    until("the lease ended", async || ended() != (0, 0)).await;
    assert_eq!(ended(), (1, 0), "by our word");
    gate.cancel();
    waiting.reply().await.is("550");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_while_it_asks_leaves_the_question_to_the_others() {
    let gate = CancellationToken::new();
    let held = Action::ordinary().held_by(&gate);
    let script = Script::knowing([KNOWN]).on(at(Phase::Rcpt).to(UNKNOWN).nth(1), held);
    let (store, backend) = Backend::start(script).await;
    let redis = Redis::start(&[]).await;
    let [mut one, other] = instances(backend, &redis, "").await;
    let mut waiting = one.client("203.0.113.1").await;
    waiting.send_line(&format!("RCPT TO:<{UNKNOWN}>")).await;
    store.until("the question of the first instance", |record| record.rcpts_for(UNKNOWN) == 1).await;
    let asking = other.ask(UNKNOWN);
    let killing = async {
        redis.until_keys("backstop:l:*", 1).await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(store.record().rcpts_for(UNKNOWN), 1, "the other one waits");
        one.backstop.kill();
    };
    let (reply, ()) = tokio::join!(asking, killing);
    reply.is("550 5.1.1");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 2);
}

/// Asks for names nobody has until it is turned away; how many were refused as unknown.
async fn guess(instance: &Instance, from: &str, name: &str) -> usize {
    let mut refused = 0;
    loop {
        let (mut client, greeting) = instance.connect(from).await;
        if greeting.code == 421 {
            return refused;
        }
        client.command("EHLO client.test").await.is("250");
        client.command("MAIL FROM:<sender@client.test>").await.is("250");
        loop {
            let reply = client.command(&format!("RCPT TO:<{name}.{refused}@example.org>")).await;
            match reply.code {
                550 => refused += 1,
                421 => break,
                // Too many wait for an answer, or too many errors.
                _ => sleep(LOOK_AGAIN).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_holds_everywhere_and_is_lifted_everywhere() {
    const GUESSER: &str = "203.0.113.66";
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let [one, other, third] =
        instances(backend, &redis, "max_unknown_per_hour = 5\n[limits]\nmax_errors = 0").await;
    assert_eq!(guess(&one, GUESSER, "name").await, 6);
    for instance in [&other, &third] {
        until("it is banned there", async || instance.connect(GUESSER).await.1.code == 421).await;
        instance.client("203.0.113.67").await.quit().await;
    }
    // Whoever joins later knows it, too.
    let fourth = Instance::joined(backend, &redis.url(), "").await;
    assert_eq!(fourth.connect(GUESSER).await.1.code, 421);
    third.backstop.admin().await.delete(&format!("/api/v1/clients/{GUESSER}")).await.is(200);
    for instance in [&third, &one, &other, &fourth] {
        until("its ban is lifted there", async || instance.connect(GUESSER).await.1.code == 220).await;
    }
    // And what it did is forgiven: one more name is no reason to ban it again.
    one.ask(KNOWN).await.is("250");
    let mut client = other.client(GUESSER).await;
    client.command(&format!("RCPT TO:<{UNKNOWN}>")).await.is("550");
    client.quit().await;
    other.client(GUESSER).await.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_redis_dies_each_goes_on_alone_and_shares_afterwards_what_it_learnt() {
    let ((store, backend), mut redis) = (backend().await, Redis::start(&[]).await);
    let [one, other] = instances(backend, &redis, "").await;
    one.ask(UNKNOWN).await.is("550");
    redis.kill();
    for instance in [&one, &other] {
        instance.is_up(false).await;
        let ready = instance.is_ready().await;
        assert!(ready.contains("[-]shared failed, not counted"), "{ready}");
    }
    one.ask(UNKNOWN).await.is("550");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 1, "its own memory serves");
    one.ask("alone@example.org").await.is("550");
    other.ask(KNOWN).await.is("250");
    let status = one.backstop.admin().await.get("/api/v1/status").await.json()["cache"]["shared"].clone();
    assert_eq!(status["up"], false);
    assert!(status["fault"].is_string() && !status.to_string().contains(PASSWORD), "{status}");
    // Back, and it has lost everything.
    redis.revive().await;
    for instance in [&one, &other] {
        instance.is_up(true).await;
        let ready = instance.is_ready().await;
        assert!(ready.contains("[+]shared ok"), "{ready}");
    }
    until("what was learnt alone is shared", async || !redis.command(&["KEYS", "backstop:v:*"]).is_empty())
        .await;
    until("the other instance knows", async || {
        other.ask("alone@example.org").await.is("550");
        other.known_elsewhere("unknown").await >= 1.0
    })
    .await;
    assert_eq!(store.record().rcpts_for("alone@example.org"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_survive_a_redis_that_loses_everything() {
    const GUESSER: &str = "203.0.113.66";
    const ANOTHER: &str = "203.0.113.77";
    let ((_store, backend), mut redis) = (backend().await, Redis::start(&[]).await);
    let limits = "max_unknown_per_hour = 5\n[limits]\nmax_errors = 0";
    let [one, other] = instances(backend, &redis, limits).await;
    assert_eq!(guess(&one, GUESSER, "name").await, 6);
    assert_eq!(guess(&other, ANOTHER, "another").await, 6);
    redis.kill();
    for instance in [&one, &other] {
        instance.is_up(false).await;
    }
    redis.revive().await;
    for instance in [&one, &other] {
        instance.is_up(true).await;
    }
    // Each tells whom it has banned, not only the one that comes first.
    until("both bans are told", async || redis.command(&["ZCARD", "backstop:bans"]).trim() == "2").await;
    let later = Instance::joined(backend, &redis.url(), limits).await;
    for guesser in [GUESSER, ANOTHER] {
        assert_eq!(later.connect(guesser).await.1.code, 421);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_is_left_alone() {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let one = Instance::joined(backend, &redis.url(), "").await;
    redis.freeze();
    for number in 0..10 {
        one.ask(&format!("name{number}@example.org")).await.is("550");
    }
    one.is_up(false).await;
    one.ask(UNKNOWN).await.is("550");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 1);
    redis.thaw();
    one.is_up(true).await;
    redis.until_keys("backstop:v:*", 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_full_is_left_alone() {
    let ((store, backend), redis) =
        (backend().await, Redis::start(&["--maxmemory-policy", "noeviction"]).await);
    let one = Instance::joined(backend, &redis.url(), "").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    one.ask(UNKNOWN).await.is("550");
    one.is_up(false).await;
    until("it says why", async || one.is_ready().await.contains("OOM")).await;
    one.ask(KNOWN).await.is("250");
    assert_eq!(store.record().rcpts_for(UNKNOWN), 1);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    one.is_up(true).await;
    redis.until_keys("backstop:v:*", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_may_only_be_read_is_left_alone() {
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let one = Instance::joined(backend, &redis.url(), "").await;
    // As a primary becomes when another one takes over.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    one.is_up(false).await;
    one.ask(UNKNOWN).await.is("550");
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    one.is_up(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_so_and_not_shown() {
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let shared = redis.url().replace(PASSWORD, "another-s3cret");
    let one = Instance::start(backend, &shared, "").await;
    one.backstop.logged("user and password in cache.shared are not taken").await;
    let ready = one.is_ready().await;
    assert!(ready.contains("user and password in cache.shared"), "{ready}");
    one.ask(UNKNOWN).await.is("550");
    assert!(!one.backstop.log().contains("another-s3cret") && !ready.contains("another-s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_holds_no_address_in_clear() {
    const GUESSER: &str = "203.0.113.66";
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let one =
        Instance::joined(backend, &redis.url(), "max_unknown_per_hour = 5\n[limits]\nmax_errors = 0").await;
    one.ask(KNOWN).await.is("250");
    one.ask(UNKNOWN).await.is("550");
    one.ask("other@example.org").await.is("550");
    guess(&one, GUESSER, "guess").await;
    one.forget(&format!("/{UNKNOWN}")).await;
    one.forget("?domain=example.org").await;
    for (pattern, number) in [
        ("backstop:v:*", 8),
        ("backstop:c:*", 1),
        ("backstop:m:*", 1),
        ("backstop:bans", 1),
        ("backstop:reasons", 1),
        ("backstop:log", 1),
        ("backstop:forgotten", 1),
    ] {
        redis.until_keys(pattern, number).await;
    }
    let dump = redis.dump();
    assert!(dump.contains("550 5.1.1 <\0>"), "refusals have a place for the address: {dump:?}");
    for clear in ["anna", "nobody", "other", "guess", "example.org", "203.0.113", "198.51.100", "client.test"]
    {
        assert!(!dump.contains(clear), "{clear} in {dump}");
    }
    assert!(dump.lines().filter(|line| line.starts_with("backstop:")).count() >= 14);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_port_that_takes_anyone_is_known_as_such_everywhere() {
    let (_asked, asked) = backend().await;
    let (_delivery, delivery) = Backend::start(Script::blind()).await;
    let redis = Redis::start(&[]).await;
    let [one, other] =
        instances(delivery, &redis, &format!("[route.verify]\nbackends = [\"{asked}\"]")).await;
    let known = async |instance: &Instance| {
        let status = instance.backstop.admin().await.get("/api/v1/status").await.json();
        let domain = &status["routes"][0]["domains_known"][0];
        domain["delivery"] == "blind" && domain["rcpt"] == "truthful"
    };
    one.ask(KNOWN).await.is("250");
    until("the one that asked knows", async || known(&one).await).await;
    until("the other one knows without having asked", async || known(&other).await).await;
    // Whoever joins later hears of it with the first recipient.
    let later =
        Instance::joined(delivery, &redis.url(), &format!("[route.verify]\nbackends = [\"{asked}\"]")).await;
    redis.until_keys("backstop:v:*", 1).await;
    later.ask(KNOWN).await.is("250");
    assert!(known(&later).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_spoken_to_in_tls_and_verified() {
    let ((store, backend), directory) = (backend().await, Directory::new("redis-tls"));
    let authority = Authority::new();
    let pair = authority.issue(&["localhost"]);
    let file = |name: &str, text: &str| directory.write(name, text).display().to_string();
    let (root, chain, key) =
        (file("root.pem", &authority.root), file("chain.pem", &pair.chain), file("key.pem", &pair.key));
    let port = free_address().port();
    let redis = Redis::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &chain,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let shared = format!("rediss://backstop:{PASSWORD}@localhost:{port}");
    let configuration = Instance::configuration(backend, &shared, "");
    let trusting = |root: &str| {
        let mut command = Command::new("env");
        command.arg(format!("SSL_CERT_FILE={root}"));
        Backstop::start_within(command, &configuration)
    };
    let backstop = trusting(&root);
    let address = backstop.address("mx").await;
    let one = Instance { backstop, address };
    one.is_up(true).await;
    one.ask(UNKNOWN).await.is("550");
    redis.until_keys("backstop:v:*", 1).await;
    assert_eq!(store.record().rcpts_for(UNKNOWN), 1);
    // Who has another root goes on alone.
    let stranger = file("stranger.pem", &Authority::new().root);
    let backstop = trusting(&stranger);
    backstop.logged("goes on with what it knows itself").await;
    assert!(backstop.log().contains("certificate"), "{}", backstop.log());
}

/// A sentinel that watches a Redis. Dropping it ends it.
struct Sentinel {
    child: Child,
    address: SocketAddr,
    _directory: Directory,
}

impl Sentinel {
    async fn of(redis: &Redis) -> Self {
        loop {
            let (directory, address) = (Directory::new("sentinel"), free_address());
            let file = directory.write(
                "sentinel.conf",
                format!(
                    "port {}\nbind 127.0.0.1\nsentinel monitor mymaster 127.0.0.1 {} 1\n\
                     sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n",
                    address.port(),
                    redis.address().port()
                ),
            );
            let child = Command::new("redis-server")
                .arg(file)
                .arg("--sentinel")
                .current_dir(directory.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            let mut sentinel = Self { child, address, _directory: directory };
            let child = &mut sentinel.child;
            let up = eventually("the sentinel to listen or to end", || match child.try_wait() {
                Ok(Some(_)) => Some(false),
                _ => std::net::TcpStream::connect(address).is_ok().then_some(true),
            });
            if up.await {
                return sentinel;
            }
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed() {
    let ((store, backend), mut first) = (backend().await, Redis::start(&[]).await);
    let second = Redis::start(&["--replicaof", "127.0.0.1", &first.address().port().to_string()]).await;
    eventually("the replica", || {
        second.command(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    })
    .await;
    let sentinel = Sentinel::of(&first).await;
    let shared = format!("redis+sentinel://backstop:{PASSWORD}@{}/mymaster", sentinel.address);
    let one = Instance::joined(backend, &shared, "").await;
    let other = Instance::joined(backend, &shared, "").await;
    let names: Vec<String> = (0..10).map(|n| format!("new{n}@example.org")).collect();
    for name in &names {
        one.ask(name).await.is("550");
    }
    second.until_keys("backstop:v:*", names.len()).await;
    // The sentinel hears of the replica from the one it watches.
    let port = sentinel.address.port().to_string();
    eventually("the sentinel to know the replica", || {
        let output =
            Command::new("redis-cli").args(["-p", &port, "SENTINEL", "REPLICAS", "mymaster"]).output();
        let output = output.expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).contains(&second.address().port().to_string()).then_some(())
    })
    .await;
    first.kill();
    other.is_up(false).await;
    other.is_up(true).await;
    // A machine too busy to keep the deadline makes it ask now and then.
    for name in &names {
        other.ask(name).await.is("550");
    }
    let known = names.iter().filter(|name| store.record().rcpts_for(name) == 1).count();
    assert!(known > 0, "the one that took over knows them: {}", other.backstop.log());
}
