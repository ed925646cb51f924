//! What knowing clients costs: figures, and the bound of their memory.
//!
//! ```text
//! cargo bench --bench clients               # both parts
//! cargo bench --bench clients -- memory     # ten million distinct clients: 125 MB
//! cargo bench --bench clients -- sessions   # what the guard adds to a session
//! ```

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is a tool for people")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::thread;

use backstop::config::{self, Environment, Flags, Source};
use backstop::guard::{Event, Harvest, Held, Leave, Tally};
use backstop::net::client_key::ClientKey;
use backstop::observe::metrics::Metrics;
use futures_util::FutureExt as _;
use tokio::time::Instant;

const CLIENTS: u32 = 10_000_000;
/// Octets of memory for each client there is room for, at most: what the documentation says.
const EACH: usize = 125;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            memory();
            sessions();
        }
        ["memory"] => memory(),
        ["sessions"] => sessions(),
        _ => println!("usage: cargo bench --bench clients [-- memory|sessions]"),
    }
}

fn harvest() -> Arc<Harvest> {
    let flags =
        Flags { domain: vec!["example.org".into()], backend: vec!["[::1]:25".into()], ..Flags::default() };
    let environment = Environment { host_name: "mx.example.org".into(), ..Environment::default() };
    let config = config::load_in(&Source::Flags(flags), &environment).unwrap().config;
    Harvest::new(config.harvest, Metrics::new())
}

/// Every second one an IPv6 network.
fn client(number: u32) -> ClientKey {
    let v4 = Ipv4Addr::from_bits(0x0b00_0000 + number);
    let v6 = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | (u128::from(number) << 64));
    ClientKey::of(if number.is_multiple_of(2) { IpAddr::V4(v4) } else { IpAddr::V6(v6) })
}

/// Ten million clients, each of which asks once; first harmless ones, then as many that name an unknown recipient.
fn memory() {
    let before = resident();
    let harvest = harvest();
    println!(
        "memory, room for {} clients: {} kB before any came",
        harvest.clients().1,
        (resident() - before) / 1024
    );
    for (told, tally) in
        [("harmless", Tally { unknown: 0, known: 1 }), ("guessing", Tally { unknown: 1, known: 0 })]
    {
        let began = Instant::now();
        for number in 0..CLIENTS {
            harvest.learn(client(number), Event::Answered(tally, Held::Against));
        }
        let (held, grown) = (harvest.clients().0, resident() - before);
        let nanoseconds = began.elapsed().as_nanos() / u128::from(CLIENTS);
        println!(
            "memory, {CLIENTS} distinct {told} clients: {held} held, {} MB, {nanoseconds} ns each",
            grown / 1_000_000
        );
        assert!(held <= harvest.clients().1 && grown < harvest.clients().1 * EACH, "more than is promised");
    }
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
    let harvest = harvest();
    (0..1_000_000).for_each(|number| session(&harvest, client(number)));
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
                        session(harvest, client(random % 1_000_000));
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
