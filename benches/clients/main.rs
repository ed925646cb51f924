//! What knowing clients costs: figures, and the bound of their memory.
//!
//! ```text
//! cargo bench --bench clients                        # all of it: minutes, 3 GB
//! cargo bench --bench clients -- memory              # a million and ten million distinct clients, alone and in a tier
//! cargo bench --bench clients -- redis CLIENTS [MAX] # so many distinct clients of three instances in a real Redis, of maxmemory MAX
//! cargo bench --bench clients -- process CLIENTS ROOM # so many through the built binary, alone and in a tier, with room for ROOM
//! cargo bench --bench clients -- sessions            # what the guard adds to a session
//! ```
//!
//! `memory` ends with an error where an instance takes more than the documentation says.

#![allow(missing_docs)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench is a tool for people"
)]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use backstop::config::{self, Environment, Flags, Source};
use backstop::guard::{Event, Harvest, Held, Leave, Tally};
use backstop::net::client_key::ClientKey;
use backstop::observe::metrics::Metrics;
use backstop::store::{HashKey, News, Tier};
use futures_util::FutureExt as _;
use support::backstop::Backstop;
use support::client::Client;
use support::instance::{self, Instance};
use support::redis::Redis;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const MILLION: u32 = 1_000_000;
/// Octets of memory for each client there is room for, at most: what the documentation says.
const EACH: usize = 125;
/// What waits to be counted elsewhere is bounded by itself; octets at most.
const WAITING: usize = 40_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            each_memory();
            process(MILLION / 2, MILLION / 10);
            redis(MILLION, "0");
            sessions();
        }
        ["memory"] => each_memory(),
        ["memory", family, clients, room, tier] => {
            memory(family, clients.parse().unwrap(), room.parse().unwrap(), *tier == "tier");
        }
        ["redis", clients] => redis(clients.parse().unwrap(), "0"),
        ["redis", clients, most] => redis(clients.parse().unwrap(), most),
        ["process", clients, room] => process(clients.parse().unwrap(), room.parse().unwrap()),
        ["sessions"] => sessions(),
        _ => println!(
            "usage: cargo bench --bench clients [-- memory | process CLIENTS ROOM | redis CLIENTS [MAX] | sessions]"
        ),
    }
}

/// Nobody is known; room for so many.
fn harvest(room: usize, tier: Option<Tier>) -> Arc<Harvest> {
    let limits = configuration("").harvest;
    Harvest::within(config::Harvest { max_clients: room, ..limits }, Metrics::new(), tier)
}

/// The default one, with this `cache.shared`.
fn configuration(shared: &str) -> config::Config {
    let flags =
        Flags { domain: vec!["example.org".into()], backend: vec!["[::1]:25".into()], ..Flags::default() };
    let variables = [("BACKSTOP__CACHE__SHARED", shared), ("BACKSTOP__CACHE__SECRET", "of-the-bench")];
    let environment = Environment {
        host_name: "mx.example.org".into(),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Environment::default()
    };
    config::load_in(&Source::Flags(flags), &environment).unwrap().config
}

fn tier(shared: &str) -> Tier {
    let shared = configuration(shared).store.shared.unwrap();
    Tier::new(&shared, HashKey::of("of-the-bench"), Duration::from_secs(3600), Metrics::new())
}

fn v4(number: u32) -> ClientKey {
    ClientKey::of(Ipv4Addr::from_bits(0x0b00_0000 + number).into())
}

fn v6(number: u32) -> ClientKey {
    ClientKey::of(IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(number) << 64))))
}

/// Each in a process of its own: memory that one gave back is not to help another.
fn each_memory() {
    let default = configuration("").harvest.max_clients;
    for (clients, room) in [(MILLION, default), (10 * MILLION, default), (10 * MILLION, 10 * default)] {
        for (family, tier) in [("v4", "alone"), ("v6", "alone"), ("v4", "tier")] {
            let own = std::env::current_exe().unwrap();
            let numbers = [clients.to_string(), room.to_string()];
            let status =
                Command::new(own).args(["memory", family, &numbers[0], &numbers[1], tier]).status().unwrap();
            assert!(status.success(), "more than is promised");
        }
    }
}

/// So many clients, each of which asks once; first harmless ones, then as many that name an unknown recipient, at last as many more that other
/// instances banned, where there are some.
fn memory(family: &str, clients: u32, room: usize, in_tier: bool) {
    let client = if family == "v6" { v6 } else { v4 };
    let before = resident();
    // Nobody listens there: what is to be shared waits.
    let harvest = harvest(room, in_tier.then(|| tier("redis://127.0.0.1:1")));
    let room = harvest.clients().1;
    let most = if in_tier { 2 * room * EACH + WAITING } else { room * EACH };
    let report = |what: &str, began: Instant| {
        let (held, grown) = (harvest.clients().0, resident() - before);
        let nanoseconds = began.elapsed().as_nanos() / u128::from(clients);
        let place = if in_tier { "in a tier" } else { "alone" };
        println!(
            "memory, room for {room}, {place}: {clients} {family} clients, {what}: {held} held here, {} MB, {nanoseconds} ns each",
            grown / 1_000_000
        );
        assert!(held <= room && grown < most, "more than is promised");
    };
    for (what, tally) in
        [("harmless", Tally { unknown: 0, known: 1 }), ("guessing", Tally { unknown: 1, known: 0 })]
    {
        let began = Instant::now();
        (0..clients).for_each(|n| harvest.learn(client(n), Event::Answered(tally, Held::Against)));
        report(what, began);
    }
    if in_tier {
        let began = Instant::now();
        for number in 0..clients {
            let client = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let remaining = Duration::from_secs(3600);
            harvest.heard(News::Banned { client, remaining, unknown: 101, known: 0 });
        }
        report("banned elsewhere", began);
    }
}

/// Sessions of so many distinct clients with the built binary, each of which names an unknown recipient: what the whole process holds.
fn process(clients: u32, room: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ((_store, backend), redis) = (
            instance::backend().await,
            Redis::start(&["--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"]).await,
        );
        const PARTS: u32 = 10;
        let more = format!("max_clients = {room}\n[log]\nlevel = \"warn\"\n");
        for shared in ["", redis.url().as_str()] {
            let configuration = Instance::configuration(backend, shared, &more);
            let (backstop, address) = Backstop::ready(&configuration).await;
            let place = if shared.is_empty() { "alone" } else { "in a tier" };
            println!(
                "process, {place}, room for {room} clients: {} MB before any came",
                backstop.memory().resident / MILLION as u64
            );
            let next = Arc::new(AtomicU32::new(0));
            for part in 1..=PARTS {
                let upto = clients / PARTS * part;
                let began = Instant::now();
                let mut visiting = JoinSet::new();
                for visitor in 0..32_u8 {
                    let next = Arc::clone(&next);
                    visiting.spawn(async move {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= upto {
                                return;
                            }
                            // More addresses than one: the ports of one are used up.
                            visit(
                                Ipv4Addr::new(127, 0, 1 + u8::try_from(number % 8).unwrap(), 1 + visitor),
                                address,
                                number,
                            )
                            .await;
                        }
                    });
                }
                visiting.join_all().await;
                next.store(upto, Ordering::Relaxed);
                println!(
                    "process, {place}: {upto} distinct clients: {} MB; {:.0} a second",
                    backstop.memory().resident / MILLION as u64,
                    f64::from(clients / PARTS) / began.elapsed().as_secs_f64()
                );
            }
        }
    });
}

async fn visit(from: Ipv4Addr, address: SocketAddr, number: u32) {
    let client = Ipv4Addr::from_bits(0x0b00_0000 + number);
    let mut open = Client::connect_from(from, address).await;
    open.send(format!("PROXY TCP4 {client} 203.0.113.255 40000 25\r\n")).await;
    open.reply().await.is("220");
    open.command("EHLO client.test").await.is("250");
    let rcpt = format!("RCPT TO:<{}>", instance::UNKNOWN);
    let replies = open.pipeline(&["MAIL FROM:<sender@client.test>", &rcpt, "QUIT"]).await;
    replies[1].is("550");
}

/// So many clients of three instances, each of which asks once. Then one that guesses all through the hour.
fn redis(clients: u32, most: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let redis = Redis::start(&["--maxmemory", most, "--maxmemory-policy", "allkeys-lru"]).await;
        let used = |name: &str| -> u64 {
            let text = redis.command(&["INFO", "all"]);
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap().trim().parse().unwrap()
        };
        let tiers = [0; 3].map(|_| tier(&redis.url()));
        let harvests = tiers.clone().map(|tier| harvest(1000, Some(tier)));
        for tier in tiers.clone() {
            tokio::spawn(async move { tier.run(|_| ()).await });
        }
        while !tiers.iter().all(Tier::is_up) {
            sleep(Duration::from_millis(10)).await;
        }
        let (before, began) = (used("used_memory"), Instant::now());
        for number in 0..clients {
            let at = number as usize % 3;
            harvests[at].learn(v4(number), Event::Answered(Tally { unknown: 1, known: 0 }, Held::Against));
            while number % 1000 == 0 && tiers.iter().any(|tier| tier.account().waiting > 10_000) {
                sleep(Duration::from_millis(1)).await;
            }
        }
        while tiers.iter().any(|tier| tier.account().waiting > 0) {
            sleep(Duration::from_millis(10)).await;
        }
        // What is under way is counted a moment later.
        sleep(Duration::from_secs(2)).await;
        let keys: u64 = redis.command(&["DBSIZE"]).trim().parse().unwrap();
        let (memory, dropped) = (used("used_memory") - before, tiers.iter().map(|tier| tier.account().dropped).sum::<u64>());
        println!(
            "redis, {clients} distinct clients: {keys} keys in {} MB, {} octets each; {} let go by maxmemory {most}, {dropped} dropped; {:.0} s",
            memory / 1_000_000,
            memory / keys.max(1),
            used("evicted_keys"),
            began.elapsed().as_secs_f64()
        );
        // As the script that counts writes it: two counters in each of 21 spans, and what is pending on each instance.
        let counters = (0..21).flat_map(|span| ["u", "k"].map(|kind| [format!("{kind}{}", 9_800_000 + span), "100".into()]));
        let pending = (0..3).map(|n| [format!("p{n:016x}"), "16 1764518400 1234567".into()]);
        let fields: Vec<String> = counters.chain(pending).flatten().collect();
        let key = format!("backstop:c:{:032x}", 0);
        let command = ["HSET", &key].into_iter().chain(fields.iter().map(String::as_str));
        redis.command(&command.collect::<Vec<_>>());
        redis.command(&["EXPIRE", &key, "3780"]);
        let usage = redis.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]);
        println!("redis, a client that asks all through the hour on three instances: {} octets", usage.trim());
    });
}

/// Connect, leave for one recipient, its answer.
fn session(harvest: &Arc<Harvest>, client: ClientKey) {
    assert!(harvest.ban(client).is_none());
    if let Some(Leave::Granted(granted)) = harvest.leave(client, Held::Against, 1).now_or_never() {
        granted.answered(Tally { unknown: 0, known: 1 });
    }
}

/// Sessions of a million clients in random order, on one thread and on two.
fn sessions() {
    const SESSIONS: u32 = 2_000_000;
    let harvest = harvest(MILLION as usize, None);
    (0..MILLION).for_each(|number| session(&harvest, v4(number)));
    for threads in [1, 2] {
        let began = Instant::now();
        thread::scope(|scope| {
            for seed in 0..threads {
                let harvest = &harvest;
                scope.spawn(move || {
                    let mut random = 0x9e37_79b9_u32.wrapping_add(seed);
                    for _ in 0..SESSIONS {
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        session(harvest, v4(random % MILLION));
                    }
                });
            }
        });
        let each = began.elapsed().as_nanos() / u128::from(SESSIONS);
        println!("sessions, {threads} threads: {each} ns for each session of a thread");
    }
}

/// Octets of memory of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
