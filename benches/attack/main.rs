//! The same dictionary attack on three fronts before the same real Postfix: Backstop, Postfix with
//! `reject_unverified_recipient`, and Exim with a callout.
//!
//! `benches/attack/run` runs it and keeps what it prints. Every front gets a store of its own, one after the other, so
//! that none finds what another left behind. An attack that is not over in time is stopped, and what it would have
//! taken is extrapolated from what was answered: names that were still waiting count for nothing.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]
#![allow(clippy::expect_used, reason = "a measurement that cannot go on ends")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::attack::{self, Attack, DOMAIN, Heard, Seen, percentile};
use support::backstop::Backstop;
use support::exim::Exim;
use support::postfix::Postfix;

/// One client may guess without end: it is the callout that is compared.
const LIMITS: &str = "[limits]\nmax_connections_per_client = 1000\nmax_errors = 0\n[log]\nlevel = \"warn\"\n";

/// A front, which is there for as long as this is held.
#[expect(dead_code, reason = "dropping it ends its processes")]
enum Front {
    Backstop(Box<Backstop>),
    Postfix(Box<Postfix>),
    Exim(Box<Exim>),
}

#[tokio::main]
async fn main() {
    let names = setting("BACKSTOP_ATTACK_NAMES", 10_000);
    let connections = setting("BACKSTOP_ATTACK_CONNECTIONS", 200);
    let within = Duration::from_secs(setting("BACKSTOP_ATTACK_SECONDS", 180) as u64);
    let attack = Attack { names, connections, pause: Duration::ZERO, within };
    println!("{names} distinct unknown names over {connections} connections, {within:?} at most\n");
    println!(
        "| front | took | names answered | sessions with the store | RCPTs | of names | clients heard | wait, median | wait, p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for front in ["backstop", "postfix", "exim"] {
        let store = attack::store().await;
        let Some((running, address)) = start(front, store.address()).await else {
            println!("| {front} | not installed | | | | | | | |");
            continue;
        };
        let before = Seen::of(&store).await;
        let heard = attack.run(address, attack::words).await;
        let after = Seen::of(&store).await;
        println!("| {front} | {}", row(&attack, &heard, &before, &after));
        drop(running);
    }
}

async fn start(front: &str, store: SocketAddr) -> Option<(Front, SocketAddr)> {
    match front {
        "backstop" => {
            let (backstop, address) = Backstop::before_with(store, LIMITS).await;
            Some((Front::Backstop(Box::new(backstop)), address))
        }
        "postfix" => {
            let postfix = Postfix::start_before(store, DOMAIN).await;
            let address = postfix.address();
            Some((Front::Postfix(Box::new(postfix)), address))
        }
        _ => {
            let exim = Exim::start_before(store, DOMAIN).await?;
            let address = exim.address();
            Some((Front::Exim(Box::new(exim)), address))
        }
    }
}

fn row(attack: &Attack, heard: &Heard, before: &Seen, after: &Seen) -> String {
    let answered = heard.waits.len();
    let seconds = heard.took.as_secs_f64();
    let took = if answered == attack.names {
        format!("{seconds:.1} s")
    } else {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let whole = seconds * attack.names as f64 / answered.max(1) as f64;
        format!("stopped after {seconds:.0} s; all of them would take about {whole:.0} s")
    };
    let codes: Vec<_> = heard.codes.iter().map(|(code, count)| format!("{count} × {code}")).collect();
    let [half, most] = [50, 99].map(|percent| percentile(&heard.waits, percent).as_secs_f64());
    format!(
        "{took} | {answered} | {} | {} | {} | {}; {} connections ended | {half:.2} s | {most:.2} s |",
        after.sessions - before.sessions,
        after.refusals() - before.refusals(),
        after.guesses().len(),
        codes.join(", "),
        heard.ended,
    )
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}
