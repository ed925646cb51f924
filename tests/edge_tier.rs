//! An edge tier at its worst: three Backstops that share a Redis, before three Postfixes, while any of them is killed and started
//! again, alone or together with others, and all Backstops are replaced one after another.
//!
//! Held, whatever dies: what was acknowledged is stored; a recipient that exists is never refused for good, one that does not is never
//! accepted; a client finds a port closed only while the Backstop behind it is down.
//!
//! BACKSTOP_TIER_SECONDS and BACKSTOP_TIER_SEED set the extent; `tests/slow` runs the long version.

mod support;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use support::backstop::Backstop;
use support::client::{Client, Reply};
use support::machine::free_address;
use support::postfix::{Postfix, Up, body};
use support::redis::Redis;
use support::{LOOK_AGAIN, PATIENCE};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const SECONDS: u64 = 15;
const CLIENTS: u8 = 8;
const KNOWN: [&str; 3] = ["anna@example.org", "bert@example.org", "cora@example.org"];

/// One Backstop, which may be down, and since when.
struct Instance {
    address: SocketAddr,
    configuration: String,
    running: Option<Backstop>,
    /// When it went down, and when it served again.
    down: Vec<(Instant, Option<Instant>)>,
}

impl Instance {
    async fn start(backends: &[SocketAddr], redis: &str) -> Self {
        let address = free_address();
        let backends: Vec<String> = backends.iter().map(|backend| format!("\"{backend}\"")).collect();
        let configuration = format!(
            "hostname = \"mx.example.org\"\n\
             [[listener]]\nname = \"mx\"\naddress = [\"{address}\"]\n\
             [admin]\naddress = \"127.0.0.1:0\"\n\
             [[route]]\ndomains = [\"example.org\"]\nbackends = [{}]\ncheck = \"1s\"\neject = \"1s\"\n\
             [cache]\nshared = \"{redis}\"\nsecret = \"the-same-on-all\"\nnegative_ttl = \"1s\"\ntempfail_ttl = \"100ms\"\n\
             [limits]\nmax_connections_per_client = 1000\n\
             [timeouts]\nbackend_connect = \"1s\"\n[log]\nlevel = \"error\"\n",
            backends.join(", ")
        );
        let mut instance = Self { address, configuration, running: None, down: Vec::new() };
        instance.revive().await;
        instance.down.clear();
        instance
    }

    async fn revive(&mut self) {
        let (backstop, _) = Backstop::ready(&self.configuration).await;
        self.running = Some(backstop);
        if let Some((_, up @ None)) = self.down.last_mut() {
            *up = Some(Instant::now());
        }
    }

    async fn end(&mut self, how: fn(&mut Backstop)) {
        let Some(mut running) = self.running.take() else { return };
        self.down.push((Instant::now(), None));
        how(&mut running);
        running.exit().await;
    }

    /// Whether a port that was found closed then is no wonder.
    fn was_down(&self, when: Instant) -> bool {
        self.down.iter().any(|(since, until)| *since <= when && until.is_none_or(|until| when <= until))
    }
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: Vec<String>,
    /// By code: what recipients that exist, and those that do not, were answered.
    known: HashMap<u16, usize>,
    unknown: HashMap<u16, usize>,
    /// Which instance, and when.
    closed: Vec<(usize, Instant)>,
    wrong: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        other.known.into_iter().for_each(|(code, times)| *self.known.entry(code).or_default() += times);
        other.unknown.into_iter().for_each(|(code, times)| *self.unknown.entry(code).or_default() += times);
        self.closed.extend(other.closed);
        self.wrong.extend(other.wrong);
    }
}

/// A client that delivers to somebody, after it named nobody, again and again and each time to another instance.
struct Sender {
    number: u8,
    instances: [SocketAddr; 3],
    names: Arc<AtomicUsize>,
    random: Random,
    seen: Seen,
}

impl Sender {
    async fn run(mut self, over: CancellationToken) -> Seen {
        let mut sent = 0;
        while !over.is_cancelled() {
            let at = self.random.place();
            let from = Ipv4Addr::from(0x7f02_0001 + u32::from(self.number) * 256 + sent % 250);
            match Client::try_connect_from(from, self.instances[at]).await {
                Ok(client) => {
                    let _ = self.session(client, format!("<c{}.n{sent}@client.test>", self.number)).await;
                }
                Err(_) => self.seen.closed.push((at, Instant::now())),
            }
            sent += 1;
            sleep(Duration::from_millis(self.random.below(20))).await;
        }
        self.seen
    }

    /// One session, as far as it goes.
    async fn session(&mut self, mut client: Client, id: String) -> Option<()> {
        client.try_reply().await.filter(|reply| reply.code == 220)?;
        say(&mut client, "EHLO client.test").await.filter(|reply| reply.code == 250)?;
        say(&mut client, "MAIL FROM:<sender@client.test>").await.filter(|reply| reply.code == 250)?;
        let nobody = format!("nobody.{}@example.org", self.names.fetch_add(1, Ordering::Relaxed) / 3);
        let reply = say(&mut client, &format!("RCPT TO:<{nobody}>")).await?;
        *self.seen.unknown.entry(reply.code).or_default() += 1;
        if reply.code < 400 {
            self.seen.wrong.push(format!("{nobody}: {reply}"));
        }
        let known = KNOWN[self.random.place()];
        let reply = say(&mut client, &format!("RCPT TO:<{known}>")).await?;
        *self.seen.known.entry(reply.code).or_default() += 1;
        if reply.code >= 500 {
            self.seen.wrong.push(format!("{known}: {reply}"));
        }
        if reply.code != 250 {
            return None;
        }
        say(&mut client, "DATA").await.filter(|reply| reply.code == 354)?;
        let reply = say(&mut client, &format!("Message-ID: {id}\r\n\r\ntext\r\n.")).await?;
        if reply.code == 250 {
            self.seen.acknowledged.push(id);
        } else if reply.code >= 500 {
            self.seen.wrong.push(format!("the message: {reply}"));
        }
        say(&mut client, "QUIT").await.map(drop)
    }
}

async fn say(client: &mut Client, command: &str) -> Option<Reply> {
    client.try_send(format!("{command}\r\n")).await.ok()?;
    client.try_reply().await
}

/// All that may die.
struct Tier {
    redis: Mutex<Redis>,
    stores: [Mutex<Postfix>; 3],
    instances: [Mutex<Instance>; 3],
}

impl Tier {
    async fn lose_instance(&self, at: usize, pause: Duration) {
        let mut instance = self.instances[at].lock().await;
        instance.end(Backstop::kill).await;
        sleep(pause).await;
        instance.revive().await;
    }

    async fn lose_store(&self, at: usize, pause: Duration) {
        let mut store = self.stores[at].lock().await;
        store.kill();
        sleep(pause).await;
        while matches!(store.resume().await, Up::PortTaken) {}
    }

    async fn lose_redis(&self, pause: Duration) {
        let mut redis = self.redis.lock().await;
        redis.kill();
        sleep(pause).await;
        redis.revive().await;
    }

    /// Each instance is replaced, one after another, as an orchestrator does.
    async fn roll(&self) {
        for instance in &self.instances {
            let mut instance = instance.lock().await;
            instance.end(|backstop| backstop.sigterm()).await;
            instance.revive().await;
        }
    }

    /// What the mailboxes hold, and how often.
    async fn stored(&self) -> HashMap<String, usize> {
        let mut stored = HashMap::new();
        for store in &self.stores {
            let store = store.lock().await;
            for mailbox in KNOWN {
                for message in store.messages(mailbox) {
                    *stored.entry(id_of(&message)).or_default() += 1;
                }
            }
        }
        stored
    }

    /// Something dies, or several things together.
    async fn suffer(&self, random: &mut Random) -> &'static str {
        let (one, other) = (random.place(), random.place());
        let mut pause = || Duration::from_millis(random.below(1000));
        let pauses = [pause(), pause(), pause()];
        match random.below(7) {
            0 => {
                self.lose_instance(one, pauses[0]).await;
                "an instance"
            }
            1 => {
                self.lose_store(one, pauses[0]).await;
                "a backend"
            }
            2 => {
                self.lose_redis(pauses[0]).await;
                "Redis"
            }
            3 => {
                tokio::join!(self.lose_instance(one, pauses[0]), self.lose_store(other, pauses[1]));
                "an instance and a backend"
            }
            4 => {
                tokio::join!(self.lose_redis(pauses[0]), self.lose_store(other, pauses[1]));
                "Redis and a backend"
            }
            5 => {
                tokio::join!(
                    self.lose_instance(one, pauses[0]),
                    self.lose_store(other, pauses[1]),
                    self.lose_redis(pauses[2])
                );
                "an instance, a backend and Redis"
            }
            _ => {
                self.roll().await;
                "all instances, one after another"
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_no_mail_is_lost_and_nobody_is_refused_who_exists() {
    let seconds = setting("BACKSTOP_TIER_SECONDS").unwrap_or(SECONDS);
    let seed = setting("BACKSTOP_TIER_SEED").unwrap_or_else(seed_of_the_day);
    println!("BACKSTOP_TIER_SECONDS={seconds} BACKSTOP_TIER_SEED={seed}");
    let redis = Redis::start(&[]).await;
    let quiet = [("debug_peer_list", "")];
    let stores = [(); 3].map(|()| Postfix::start_with(&KNOWN, &quiet));
    let [a, b, c] = stores;
    let stores = [a.await, b.await, c.await];
    let backends = [&stores[0], &stores[1], &stores[2]].map(Postfix::address);
    let url = redis.url();
    let instances = [(); 3].map(|()| Instance::start(&backends, &url));
    let [a, b, c] = instances;
    let instances = [a.await, b.await, c.await];
    let addresses = [&instances[0], &instances[1], &instances[2]].map(|instance| instance.address);
    let tier = Tier {
        redis: Mutex::new(redis),
        stores: stores.map(Mutex::new),
        instances: instances.map(Mutex::new),
    };

    let over = CancellationToken::new();
    let names = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for number in 0..CLIENTS {
        let random = Random(seed ^ (u64::from(number) + 1) << 32);
        let names = Arc::clone(&names);
        let sender = Sender { number, instances: addresses, names, random, seen: Seen::default() };
        senders.spawn(sender.run(over.clone()));
    }
    let mut random = Random(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut suffered: HashMap<&str, usize> = HashMap::new();
    // The worst and the most orderly come in any case.
    tier.roll().await;
    while Instant::now() < until {
        *suffered.entry(tier.suffer(&mut random).await).or_default() += 1;
        sleep(Duration::from_millis(random.below(500))).await;
    }
    over.cancel();
    let mut seen = Seen::default();
    while let Some(one) = senders.join_next().await {
        seen.add(one.expect("a client does not panic"));
    }
    for instance in &tier.instances {
        let mut instance = instance.lock().await;
        instance.end(|backstop| backstop.sigterm()).await;
    }
    // A Postfix that was killed delivers what it had taken in its own time.
    let patience = Instant::now() + PATIENCE;
    let stored = loop {
        let stored = tier.stored().await;
        if seen.acknowledged.iter().all(|id| stored.contains_key(id)) || Instant::now() > patience {
            break stored;
        }
        sleep(LOOK_AGAIN).await;
    };
    let mut down: Vec<Duration> = Vec::new();
    for (at, instance) in tier.instances.iter().enumerate() {
        let instance = instance.lock().await;
        let closed = seen.closed.iter().filter(|(closed, _)| *closed == at);
        let wonders: Vec<_> = closed.filter(|(_, when)| !instance.was_down(*when)).collect();
        assert!(wonders.is_empty(), "seed {seed}: closed while it was up: {wonders:?}");
        down.extend(
            instance.down.iter().filter_map(|(since, until)| Some(until.as_ref()?.duration_since(*since))),
        );
    }
    println!("died: {suffered:?}, and all instances once");
    println!(
        "{} acknowledged, {} stored, {} of them more than once",
        seen.acknowledged.len(),
        stored.len(),
        stored.values().filter(|times| **times > 1).count()
    );
    println!("recipients that exist: {:?}; that do not: {:?}", seen.known, seen.unknown);
    let longest = down.iter().max().copied().unwrap_or_default();
    println!(
        "{} times an instance was down, {longest:.1?} at most; {} connections refused meanwhile",
        down.len(),
        seen.closed.len()
    );

    assert!(seen.wrong.is_empty(), "seed {seed}: {:?}", seen.wrong);
    let missing: Vec<_> = seen.acknowledged.iter().filter(|id| !stored.contains_key(*id)).collect();
    assert!(missing.is_empty(), "seed {seed}: acknowledged and not stored: {missing:?}");
    assert!(seen.acknowledged.len() as u64 > seconds, "mail flows");
}

/// What a stored message calls itself.
fn id_of(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(body(message)).into_owned();
    let whole = String::from_utf8_lossy(message).into_owned();
    let id = |text: &str| text.lines().find_map(|line| Some(line.strip_prefix("Message-ID: ")?.to_owned()));
    id(&text).or_else(|| id(&whole)).unwrap_or(whole)
}

/// Splitmix64.
struct Random(u64);

impl Random {
    /// One of three.
    fn place(&mut self) -> usize {
        usize::try_from(self.below(3)).expect("a small number")
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn seed_of_the_day() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs())
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
