//! Directory harvest attacks on a tier: three Backstops that share a Redis, before one mail store. The guesses come from one address, from all
//! addresses of a network, and from ever changing addresses of an IPv6 /64, over all instances in turn, one by one and in pipelines.
//!
//! Held: no client, an address or an IPv6 /64, gets more than `max_unknown_per_hour` answers out of all instances together, and none
//! is turned away before, within 5 %; who is no attacker hears what it would hear without them, be it their neighbour.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use support::LOOK_AGAIN;
use support::backend::Backend;
use support::client::Reply;
use support::guesser::{Guesser, Harvest};
use support::instance::{Instance, KNOWN, backend, instances};
use support::redis::Redis;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const LIMIT: usize = 100;
const ADDRESS: Guesser = Guesser::Address([203, 0, 113, 77]);
/// Of the same /24, and no guesser.
const NEIGHBOUR: &str = "203.0.113.254";
/// Addresses of it that guess. BACKSTOP_HARVEST_HOSTS sets another number; `tests/slow` takes them all.
const HOSTS: u8 = 24;

/// Somebody who mistypes now and then, until `over`; what was no good answer.
async fn live_beside(all: Arc<[Instance; 3]>, from: &str, over: CancellationToken) -> Vec<Reply> {
    let mut wrong = Vec::new();
    for n in 0.. {
        let (mut client, greeting) = all[n % 3].connect(from).await;
        if greeting.code != 220 {
            wrong.push(greeting);
        } else {
            client.command("EHLO client.test").await.is("250");
            client.command("MAIL FROM:<sender@client.test>").await.is("250");
            let mistyped = (n % 4 == 3).then(|| format!("mistyped.{n}@example.org"));
            for (name, code) in mistyped.iter().map(|name| (name.as_str(), 550)).chain([(KNOWN, 250)]) {
                let reply = client.command(&format!("RCPT TO:<{name}>")).await;
                if reply.code != code {
                    wrong.push(reply);
                }
            }
            client.quit().await;
        }
        if over.run_until_cancelled(sleep(LOOK_AGAIN)).await.is_none() {
            break;
        }
    }
    wrong
}

/// How many names of each guesser the store was asked about.
fn asked(store: &Backend, guessers: &[Guesser]) -> HashMap<String, usize> {
    let record = store.record();
    let count = |guesser: &Guesser| (guesser.mark(), record.count(&format!("RCPT TO:<{}", guesser.mark())));
    guessers.iter().map(count).collect()
}

/// What happens to Redis meanwhile, until `over`.
async fn nothing(_: &Redis, _: CancellationToken) {}

/// It hangs again and again, for moments.
async fn stutters(redis: &Redis, over: CancellationToken) {
    let moment = Duration::from_millis(150);
    while !over.is_cancelled() {
        redis.freeze();
        sleep(moment).await;
        redis.thaw();
        sleep(moment).await;
    }
}

async fn the_limit_holds(
    guessers: &[Guesser],
    connections: usize,
    neighbour: &str,
    redis_suffers: impl AsyncFn(&Redis, CancellationToken),
) -> String {
    let ((store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let limits = format!("max_unknown_per_hour = {LIMIT}\n[limits]\nmax_errors = 0");
    let all: Arc<[Instance; 3]> = Arc::new(instances(backend, &redis, &limits).await);
    let over = CancellationToken::new();
    let beside =
        join_all([neighbour, "192.0.2.7"].map(|from| live_beside(Arc::clone(&all), from, over.clone())));
    let attack = async {
        let harvest = Harvest { connections, pause: Duration::ZERO, over: CancellationToken::new() };
        let got = harvest.run(&all, guessers).await;
        over.cancel();
        got
    };
    let (got, wrong, ()) = tokio::join!(attack, beside, redis_suffers(&redis, over.clone()));
    let asked = asked(&store, guessers);
    let span =
        |counted: &HashMap<String, usize>| (counted.values().min().copied(), counted.values().max().copied());
    let figures = format!(
        "{} clients; answers each (fewest, most): {:?}; questions to the store: {:?}",
        got.len(),
        span(&got),
        span(&asked)
    );
    for counted in [got, asked] {
        for (client, number) in counted {
            assert!(
                (LIMIT * 95 / 100..=LIMIT * 105 / 100).contains(&number),
                "{client}: {number}; {figures}"
            );
        }
    }
    assert!(wrong.iter().all(Vec::is_empty), "{wrong:?}");
    figures
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_for_one_address() {
    println!("{}", the_limit_holds(&[ADDRESS], 12, NEIGHBOUR, nothing).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_for_an_ipv6_network() {
    println!("{}", the_limit_holds(&[Guesser::Network(1)], 12, "2001:db8:0:2::1", nothing).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_for_each_address_of_a_network() {
    let hosts = setting("BACKSTOP_HARVEST_HOSTS").unwrap_or(HOSTS);
    let guessers: Vec<_> = (1..=hosts).map(|host| Guesser::Address([203, 0, 113, host])).collect();
    println!("{}", the_limit_holds(&guessers, 3, NEIGHBOUR, nothing).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_while_redis_stutters() {
    println!("{}", the_limit_holds(&[ADDRESS, Guesser::Network(1)], 12, NEIGHBOUR, stutters).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_waits_for_redis_and_nobody_else_does() {
    let ((_store, backend), redis) = (backend().await, Redis::start(&[]).await);
    let one = Instance::joined(backend, &redis.url(), "").await;
    let rcpt = |name: &str| format!("RCPT TO:<{name}@example.org>");
    let (mut guesser, mut honest) = (one.client("203.0.113.77").await, one.client(NEIGHBOUR).await);
    for n in 0..5 {
        guesser.command(&rcpt(&format!("guess.{n}"))).await.is("550");
    }
    honest.command(&rcpt("anna")).await.is("250");
    honest.command(&rcpt("mistyped")).await.is("550");
    redis.freeze();
    guesser.send_line(&rcpt("guess.5")).await;
    for n in 0..3 {
        honest.command(&rcpt(&format!("mistyped.{n}"))).await.is("550");
    }
    assert!(guesser.reply().now_or_never().is_none(), "without the leave of all");
    redis.thaw();
    guesser.reply().await.is("550");
}

fn setting(name: &str) -> Option<u8> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number below 256")))
}
