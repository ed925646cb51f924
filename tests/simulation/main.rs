//! A simulation on a paused clock: clients of every kind, backends that fail in every way, one proxy between them, all
//! in memory and all from one seed. Against all of it the promises are held, as far as they can be seen from
//! outside: what is acknowledged is stored, once and unchanged; whoever exists is not refused and whoever does not
//! is not taken; each command has one reply, in order; one question about a recipient at a time; no backend has
//! more connections than it allows; everything ends, and nothing is left.
//!
//! The environment chooses: `BACKSTOP_SIMULATION_SEED` the first seed, `BACKSTOP_SIMULATION_SESSIONS` how many
//! sessions. A world has [`CLIENTS`] of them, and the next one the next seed. What fails says with which
//! seed, and the command that plays it again.
//!
//! - `chance`: where everything comes from. `world`: what is true, and the promises.
//! - `client`, `letter`: the clients and what they send. `store`: the backends.
//! - `play`: one world from beginning to end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test says what it did")]

mod chance;
mod client;
mod letter;
mod play;
mod store;
mod world;

use std::fmt::Write as _;
use std::sync::mpsc;
use std::time::Duration;

use play::{Outcome, play};

/// Sessions of one world.
const CLIENTS: u64 = 200;
/// Sessions where the environment does not say.
const SESSIONS: u64 = 10_000;
/// A world takes a second; this long by any clock on the wall it is stuck.
const STUCK: Duration = Duration::from_secs(900);
/// Faults shown of a world.
const SHOWN: usize = 5;

#[test]
fn promises_hold_in_every_world() {
    let first = from_environment("BACKSTOP_SIMULATION_SEED", 1);
    let sessions = from_environment("BACKSTOP_SIMULATION_SESSIONS", SESSIONS);
    let mut told = String::new();
    let mut left = sessions;
    for seed in first.. {
        if left == 0 {
            break;
        }
        let clients = left.min(CLIENTS);
        left -= clients;
        let outcome = watched(seed, clients);
        assert!(outcome.faults.is_empty(), "{}", report(seed, clients, &outcome));
        let _ = writeln!(told, "seed {seed}: {:?}", outcome.tally);
    }
    println!("{told}");
}

#[test]
fn a_seed_is_played_again_as_it_was() {
    for seed in 100..106 {
        let (once, again) = (play(seed, 100), play(seed, 100));
        assert_eq!((once.trace, once.tally), (again.trace, again.tally), "seed {seed}");
    }
}

/// A world whose time no longer passes would never say so itself.
fn watched(seed: u64, clients: u64) -> Outcome {
    let (over, watch) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if watch.recv_timeout(STUCK) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("seed {seed}: time does not pass any more; {}", again(seed, clients));
            std::process::exit(1);
        }
    });
    let outcome = play(seed, clients);
    drop(over);
    outcome
}

fn again(seed: u64, clients: u64) -> String {
    format!(
        "again: BACKSTOP_SIMULATION_SEED={seed} BACKSTOP_SIMULATION_SESSIONS={clients} cargo test --test simulation \
         promises -- --nocapture"
    )
}

fn report(seed: u64, clients: u64, outcome: &Outcome) -> String {
    let shown = &outcome.faults[..outcome.faults.len().min(SHOWN)];
    format!(
        "seed {seed}: {} promises broken, of which\n{}\n\n{}\n",
        outcome.faults.len(),
        shown.join("\n"),
        again(seed, clients)
    )
}

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("{name}={number} is no number")),
        Err(_) => default,
    }
}
