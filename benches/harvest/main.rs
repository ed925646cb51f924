//! What honest clients feel of a directory harvest beside them: figures, nothing asserted.
//!
//! ```text
//! cargo bench --bench harvest
//! ```
//!
//! Three Backstops that share a Redis, before one mail store. Mail is delivered to them in turn, to a mailbox they know and to ones nobody asked for yet,
//! half of it from a neighbour of the guessers and half from clients never seen before: first with nobody else there, then while an address, an
//! IPv6 /64 and all other addresses of a /24 guess, each over several connections, until they are turned away, and come again.
//! Quiet and attacked times take turns, each attack from networks of its own, so that what else the machine does is in both.
//!
//! BACKSTOP_HARVEST_ROUNDS sets how often, BACKSTOP_HARVEST_SECONDS how long each time is, BACKSTOP_HARVEST_CONNECTIONS how many connections each
//! guesser has, BACKSTOP_HARVEST_PAUSE_MS the way through the network between an answer and a guess: attackers share the machine.
//! So does the store, and a scripted one costs it least; BACKSTOP_HARVEST_POSTFIX=1 takes a Postfix.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]
#![allow(clippy::expect_used, reason = "a measurement that cannot go on ends")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use support::attack::{self, Beside, beside};
use support::backend::{Backend, Script};
use support::guesser::{Guesser, Harvest};
use support::instance::{Instance, connect_as};
use support::postfix::Postfix;
use support::redis::Redis;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// New mailboxes that are delivered to in one go, at most.
const MOST_NEW: usize = 10_000;

/// Behind what clients are held to by default, and without what slows guessers down.
const CONFIGURATIONS: [(&str, &str); 2] = [
    ("as by default", ""),
    (
        "no tarpit, no limit of a session: as fast as they can until they are banned",
        "[harvest]\ntarpit = \"0s\"\nmax_unknown_per_session = 0\n[limits]\nmax_errors = 0\n",
    ),
];

#[tokio::main]
async fn main() {
    let rounds = u8::try_from(setting("BACKSTOP_HARVEST_ROUNDS", 5)).expect("a few");
    let seconds = Duration::from_secs(setting("BACKSTOP_HARVEST_SECONDS", 20));
    let connections = usize::try_from(setting("BACKSTOP_HARVEST_CONNECTIONS", 2)).expect("a few");
    let pause = Duration::from_millis(setting("BACKSTOP_HARVEST_PAUSE_MS", 1000));
    println!(
        "{rounds} rounds, {seconds:?} quiet and {seconds:?} under attack each; 255 guessers, {connections} connections each, {pause:?} between an answer and a guess"
    );
    for (name, more) in CONFIGURATIONS {
        let redis = Redis::start(&[]).await;
        let postfix =
            if setting("BACKSTOP_HARVEST_POSTFIX", 0) > 0 { Some(attack::store().await) } else { None };
        let store = postfix.as_ref().map_or_else(|| store(rounds), Postfix::address);
        let configuration = Instance::plain(store, &redis.url()) + more + "[log]\nlevel = \"warn\"\n";
        let all = join_all((0..3).map(|_| Instance::joined_as(&configuration))).await;
        let all: Arc<[Instance; 3]> =
            Arc::new(all.try_into().unwrap_or_else(|_| unreachable!("as many as were started")));
        let addresses = [0, 1, 2].map(|at| all[at].address);
        let open = async move |n: usize| connect_as(&somebody(n, rounds.into()), addresses[n % 3]).await;
        // The first delivery to a mailbox is no delivery to a known one.
        drop(beside(open, "first", sleep(Duration::from_secs(1))).await);
        let (mut quiet, mut busy) = (Beside::default(), Beside::default());
        let (mut answers, mut guessers) = (0, 0);
        for round in 0..rounds {
            quiet.add(beside(open, &format!("quiet{round}"), sleep(seconds)).await);
            let these = guessers_of(round);
            let over = CancellationToken::new();
            let harvest = Harvest { connections, pause, over: over.clone() };
            let attack = async {
                let guessing = async {
                    while !over.is_cancelled() {
                        answers += harvest.clone().run(&all, &these).await.values().sum::<usize>();
                    }
                };
                let ending = async {
                    sleep(seconds).await;
                    over.cancel();
                };
                tokio::join!(guessing, ending);
            };
            busy.add(beside(open, &format!("busy{round}"), attack).await);
            guessers += these.len();
        }
        println!("\n{name}: {guessers} guessers got {answers} answers");
        for (what, quiet, busy) in [("known", quiet.known, busy.known), ("new", quiet.new, busy.new)] {
            println!("to {what} mailboxes, quiet:        {}", quiet.figures());
            println!("to {what} mailboxes, under attack: {}", busy.figures());
            println!("of these not acknowledged: {:?} {:?}", quiet.refused, busy.refused);
        }
    }
}

/// A mail store on a thread of its own that costs the machine as little as can be, for as long as this process lives.
fn store(rounds: u8) -> SocketAddr {
    let labels = (0..rounds).flat_map(|round| [format!("quiet{round}"), format!("busy{round}")]);
    let labels = labels.chain(["first".to_owned()]);
    let new = labels.flat_map(|label| (0..MOST_NEW).map(move |n| format!("new.{label}.{n}@example.org")));
    let mailboxes: Vec<String> = new.chain([attack::KNOWN.to_owned()]).collect();
    let (sender, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let script = Script::knowing(mailboxes.iter().map(String::as_str)).counting();
            let (_store, address) = Backend::start(script).await;
            sender.send(address).expect("it is awaited");
            std::future::pending::<()>().await;
        });
    });
    address.recv().expect("a port on loopback")
}

/// All addresses of a /24 but a few, one of another, and an IPv6 network.
fn guessers_of(round: u8) -> Vec<Guesser> {
    let addresses = (0..=252).map(|host| Guesser::Address([203, 0, round, host]));
    addresses.chain([Guesser::Address([192, 0, 2, round]), Guesser::Network(round.into())]).collect()
}

/// Who delivers: a neighbour of guessers, or somebody never seen before.
fn somebody(number: usize, rounds: usize) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if number.is_multiple_of(2) {
        return format!("203.0.{}.254", number / 2 % rounds);
    }
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + NEXT.fetch_add(1, Ordering::Relaxed)).to_string()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
