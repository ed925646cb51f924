//! Who is banned, and who must never be. Clients here are asked for as a session asks: leave, then the answers.

use std::net::{IpAddr, Ipv6Addr};

use futures_util::FutureExt as _;
use tokio::time::advance;

use super::super::ledger::HELD;
use super::*;
use crate::config::{Environment, Flags, Source};

fn limits() -> config::Harvest {
    let flags =
        Flags { domain: vec!["example.org".into()], backend: vec!["[::1]:25".into()], ..Flags::default() };
    let environment = Environment { host_name: "mx.example.org".into(), ..Environment::default() };
    let config = config::load_in(&Source::Flags(flags), &environment).unwrap().config;
    config::Harvest { max_clients: 1000, ..config.harvest }
}

fn harvest() -> Arc<Harvest> {
    Harvest::new(limits(), Metrics::new())
}

fn client(text: &str) -> ClientKey {
    ClientKey::of(text.parse::<IpAddr>().unwrap())
}

const GUESSER: &str = "198.51.100.66";

/// A session asks for recipients of which these prove unknown and known. Gives how many were looked up.
async fn ask(harvest: &Arc<Harvest>, who: ClientKey, mut unknown: u32, mut known: u32) -> u32 {
    let mut looked_up = 0;
    while unknown + known > 0 {
        let wanted = usize::try_from(unknown + known).unwrap();
        let Leave::Granted(granted) = harvest.leave(who, Held::Against, wanted).await else {
            return looked_up;
        };
        let now = u32::from(granted.recipients);
        // The unknown ones first: the worst order for an honest client.
        let tally = Tally { unknown: unknown.min(now), known: now.saturating_sub(unknown).min(known) };
        (unknown, known) = (unknown - tally.unknown, known - tally.known);
        looked_up += now;
        granted.answered(tally);
    }
    looked_up
}

fn is_banned(harvest: &Harvest, who: ClientKey) -> bool {
    harvest.ban(who).is_some()
}

#[tokio::test(start_paused = true)]
async fn an_address_that_guesses_is_banned_for_the_time_of_a_ban() {
    let (harvest, guesser) = (harvest(), client(GUESSER));
    assert_eq!(ask(&harvest, guesser, 1000, 0).await, 101);
    let ban = harvest.ban(guesser).unwrap();
    assert_eq!((ban.remaining, ban.reason), (limits().ban, Tally { unknown: 101, known: 0 }));
    assert_eq!(ask(&harvest, guesser, 1, 0).await, 0, "nothing is looked up for a banned client");
    assert!(harvest.metrics.render().contains("backstop_harvest_bans_total 1\n"));
    advance(limits().ban - Duration::from_secs(1)).await;
    assert!(is_banned(&harvest, guesser));
    advance(Duration::from_secs(1)).await;
    assert!(!is_banned(&harvest, guesser));
    advance(Duration::from_secs(180)).await;
    assert_eq!(ask(&harvest, guesser, 1000, 0).await, 101, "and banned again by as many more");
}

#[tokio::test(start_paused = true)]
async fn a_network_that_guesses_from_changing_addresses_is_banned() {
    let harvest = harvest();
    let address = |host: u128| Ipv6Addr::from_bits(0x2001_0db8_0001_0002_u128 << 64 | host);
    let mut looked_up = 0;
    for host in 0..1000 {
        looked_up += ask(&harvest, ClientKey::of(address(host * 7919).into()), 1, 0).await;
    }
    assert_eq!(looked_up, 101);
    assert!(!is_banned(&harvest, client("2001:db8:1:3::1")), "the network beside it is another");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reconnects_for_each_guess_is_banned() {
    let (harvest, guesser) = (harvest(), client(GUESSER));
    let mut looked_up = 0;
    for _session in 0..1000 {
        if !is_banned(&harvest, guesser) {
            looked_up += ask(&harvest, guesser, 1, 0).await;
        }
        advance(Duration::from_millis(200)).await;
    }
    assert_eq!(looked_up, 101);
}

#[tokio::test(start_paused = true)]
async fn slow_guessing_is_banned_within_5_percent_of_the_limit() {
    // 101 an hour are too many; the hour is exact within 5 %, so it happens by the 106th.
    let (harvest, guesser) = (harvest(), client(GUESSER));
    let mut looked_up = 0;
    while !is_banned(&harvest, guesser) {
        looked_up += ask(&harvest, guesser, 1, 0).await;
        assert!(looked_up <= 106, "not banned after {looked_up}");
        advance(Duration::from_millis(3_600_000 / 101)).await;
    }
    assert!(looked_up >= 96, "banned after {looked_up}");
}

#[tokio::test(start_paused = true)]
async fn guessing_just_below_the_limit_is_never_banned() {
    let (harvest, guesser) = (harvest(), client(GUESSER));
    for _ in 0..1000 {
        assert_eq!(ask(&harvest, guesser, 1, 0).await, 1);
        advance(Duration::from_millis(3_600_000 / 95)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn neither_pipelining_nor_many_sessions_get_past_the_limit() {
    let (harvest, guesser) = (harvest(), client(GUESSER));
    // Sixty sessions ask for batches at once, and none of them has an answer yet.
    let mut under_way = Vec::new();
    for _ in 0..60 {
        match harvest.leave(guesser, Held::Against, 16).now_or_never() {
            Some(Leave::Granted(granted)) => under_way.push(granted),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    assert_eq!(under_way.iter().map(Granted::recipients).sum::<usize>(), 101);
    for granted in under_way {
        let unknown = granted.recipients.into();
        granted.answered(Tally { unknown, known: 0 });
    }
    assert!(matches!(harvest.leave(guesser, Held::Against, 16).await, Leave::Banned));
}

#[tokio::test(start_paused = true)]
async fn who_must_wait_for_answers_goes_on_when_they_are_there() {
    let (harvest, provider) = (harvest(), client("203.0.113.1"));
    let Leave::Granted(first) = harvest.leave(provider, Held::Against, 1000).await else {
        panic!("no leave")
    };
    let mut second = Box::pin(harvest.leave(provider, Held::Against, 16));
    assert!(second.as_mut().now_or_never().is_none());
    first.answered(Tally { unknown: 0, known: 101 });
    let Some(Leave::Granted(second)) = second.now_or_never() else { panic!("it still waits") };
    drop(second);
    let Leave::Granted(third) = harvest.leave(provider, Held::Against, 1000).await else {
        panic!("no leave")
    };
    assert_eq!(
        third.recipients(),
        405,
        "who asks for good ones has more leave, and what was dropped came back"
    );
    let began = Instant::now();
    assert!(matches!(harvest.leave(provider, Held::Against, 1).await, Leave::Busy));
    assert_eq!(began.elapsed(), WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_mailing_list_with_a_few_dead_members_is_never_banned() {
    let (harvest, list) = (harvest(), client("203.0.113.2"));
    for _message in 0..200 {
        assert_eq!(ask(&harvest, list, 5, 60).await, 65);
        advance(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_provider_is_never_banned() {
    let (harvest, provider) = (harvest(), client("203.0.113.3"));
    for _second in 0..2 * 3600 {
        assert_eq!(ask(&harvest, provider, 8, 20).await, 28);
        advance(Duration::from_secs(1)).await;
    }
    assert!(harvest.ledger.look(provider, |record| record.tally(7200).unknown).unwrap() > 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_nat_full_of_honest_users_is_never_banned() {
    // Everybody mistypes now and then, in the worst minutes all of them.
    let (harvest, nat) = (harvest(), client("203.0.113.4"));
    for minute in 0..180 {
        let mistyped = u32::from(minute % 60 == 0);
        for _user in 0..30 {
            assert_eq!(ask(&harvest, nat, mistyped, 1).await, 1 + mistyped);
        }
        advance(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_of_whose_many_recipients_30_percent_are_good_is_never_banned() {
    let (harvest, mixed) = (harvest(), client("203.0.113.5"));
    for _ in 0..2000 {
        assert_eq!(ask(&harvest, mixed, 7, 3).await, 10);
        advance(Duration::from_secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_connects_and_quits_is_not_even_remembered() {
    let (harvest, probe) = (harvest(), client("203.0.113.6"));
    for _ in 0..10_000 {
        assert!(!is_banned(&harvest, probe));
        assert_eq!(harvest.standing(probe), Standing::Clean);
    }
    assert_eq!(harvest.clients().0, 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_exempt_client_asks_for_is_not_counted() {
    let (harvest, relay) = (harvest(), client("10.0.0.1"));
    for _ in 0..1000 {
        let Leave::Granted(granted) = harvest.leave(relay, Held::Never, 16).await else { panic!("no leave") };
        assert_eq!(granted.recipients(), 16);
        granted.answered(Tally { unknown: 16, known: 0 });
    }
    assert!(!is_banned(&harvest, relay));
    assert!(harvest.suspicions(10).await.clients.is_empty());
    assert_eq!(
        harvest.standing(relay),
        Standing::Suspect,
        "old refusals are not asked again for it all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_is_clean_again_after_a_day() {
    let (harvest, client) = (harvest(), client("192.0.2.1"));
    assert_eq!(harvest.standing(client), Standing::Clean);
    ask(&harvest, client, 1, 9).await;
    assert_eq!(harvest.standing(client), Standing::Suspect);
    advance(HELD - Duration::from_secs(1)).await;
    harvest.sweep().await;
    assert_eq!(harvest.standing(client), Standing::Suspect);
    advance(Duration::from_secs(1)).await;
    assert_eq!(harvest.standing(client), Standing::Clean);
    harvest.sweep().await;
    assert_eq!(harvest.clients().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_ban_that_is_lifted_is_forgiven() {
    let (harvest, guesser) = (harvest(), client(GUESSER));
    ask(&harvest, guesser, 1000, 0).await;
    harvest.learn(guesser, Event::Pardoned);
    assert!(!is_banned(&harvest, guesser));
    assert_eq!(ask(&harvest, guesser, 1000, 0).await, 101, "one more would not be enough");
}

#[tokio::test(start_paused = true)]
async fn what_other_instances_saw_counts_here() {
    let (harvest, guesser, other) = (harvest(), client(GUESSER), client("198.51.100.67"));
    harvest.learn(guesser, Event::Answered(Tally { unknown: 90, known: 0 }, Held::Against));
    assert_eq!(ask(&harvest, guesser, 1000, 0).await, 11);
    let ban = Ban { remaining: Duration::from_secs(60), reason: Tally { unknown: 200, known: 1 } };
    harvest.learn(other, Event::Banned(ban));
    assert_eq!(harvest.ban(other), Some(ban));
}

#[tokio::test(start_paused = true)]
async fn operators_see_who_guesses_most_and_who_is_banned() {
    let harvest = harvest();
    for (number, unknown) in [(1, 3), (2, 300), (3, 50), (4, 0), (5, 7)] {
        ask(&harvest, client(&format!("198.51.100.{number}")), unknown, 1).await;
    }
    let Suspicions { clients, banned, bans } = harvest.suspicions(3).await;
    let named: Vec<_> = clients.iter().map(|one| (one.client.to_string(), one.tally.unknown)).collect();
    let expected = [("198.51.100.2", 101), ("198.51.100.3", 50), ("198.51.100.5", 7)];
    assert_eq!(named, expected.map(|(who, unknown)| (who.to_owned(), unknown)));
    assert_eq!((banned.len(), bans), (1, 1));
    assert_eq!(banned[0].ban.unwrap().remaining, limits().ban);
}
