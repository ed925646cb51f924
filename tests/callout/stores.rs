//! Mail stores that behave as stores do: no wrong 550, no duplicate, no relaying, and no queue before a tarpit.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use backstop::verify::{Asker, Urgency};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::house::{ANN, House, NOBODY, PLAIN, Remembered, SECOND, asker};
use super::support::backend::{Action, Phase, Script, at};

const MESSAGE: &str = "Subject: hello\r\n\r\ntext\r\n";

/// Every refusal takes so long.
const TARPIT: Duration = Duration::from_secs(5);

/// A store that pauses before each refusal, as Exchange does.
fn tarpit(max_connections: usize) -> Arc<House> {
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt), Action::ordinary().after(TARPIT));
    let route = format!("max_connections = {max_connections}\n");
    Arc::new(House::with_route(&route, PLAIN, script))
}

/// So many ask at once, each for another name, each a client of its own; when each was answered, and what it heard.
async fn all_ask(house: &Arc<House>, names: Range<u8>) -> Vec<(Duration, String)> {
    all_ask_as(house, names, Urgency::Clean).await
}

async fn all_ask_as(house: &Arc<House>, names: Range<u8>, urgency: Urgency) -> Vec<(Duration, String)> {
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for number in names {
        let house = Arc::clone(house);
        asking.spawn(async move {
            let name = format!("guess{number}@example.org");
            let verdict = house.verdict_for(&name, asker(number, urgency)).await;
            (began.elapsed(), verdict)
        });
    }
    asking.join_all().await
}

fn refused_within(heard: &[(Duration, String)], within: Duration) -> usize {
    heard.iter().filter(|(after, verdict)| *after <= within && verdict.starts_with("bad")).count()
}

#[tokio::test(start_paused = true)]
async fn a_tarpit_met_for_the_first_time_is_met_with_all_the_sessions_there_may_be() {
    let house = tarpit(45);
    let heard = all_ask(&house, 0..100).await;
    // 22 sessions of probes, four refusals each: 88 in 20 s. More than arithmetic allows nobody can have.
    assert!(refused_within(&heard, 20 * SECOND) >= 88, "{heard:?}");
    let wrong = heard.iter().filter(|(_, verdict)| verdict != "timeout" && !verdict.starts_with("bad"));
    assert_eq!(wrong.count(), 0, "{heard:?}");
    assert_eq!(house.store.record().most_open, 22, "half of the budget is for deliveries");
    for number in 0..100 {
        assert!(house.probes_for(&format!("guess{number}@example.org")) <= 1, "asked once each");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tarpit_that_is_known_is_met_with_a_session_for_each_question() {
    let house = tarpit(45);
    all_ask(&house, 100..101).await;
    let heard = all_ask(&house, 0..22).await;
    assert_eq!(refused_within(&heard, TARPIT + 2 * SECOND), 22, "{heard:?}");
    let heard = all_ask(&house, 22..66).await;
    assert_eq!(refused_within(&heard, 2 * TARPIT + 2 * SECOND), 44, "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tarpit_delays_no_known_recipient_and_no_delivery() {
    let house = tarpit(45);
    assert_eq!(house.verdict(ANN).await, "good");
    let guessing = Arc::clone(&house);
    let guesses = tokio::spawn(async move { all_ask(&guessing, 0..100).await });
    sleep(SECOND).await;
    let began = Instant::now();
    house.hears(200, ANN).await.is("250");
    assert_eq!(began.elapsed(), TARPIT, "its own RCPT, in a session of its own");
    guesses.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_guesses_before_a_prompt_store_is_asked_for_on_few_sessions() {
    let house = Arc::new(House::with_route("max_connections = 45\n", PLAIN, Script::knowing([ANN])));
    let heard = all_ask_as(&house, 0..200, Urgency::Suspect).await;
    assert_eq!(refused_within(&heard, SECOND), 200, "{heard:?}");
    let most = house.store.record().most_open;
    assert!(most <= 2 * 4, "four, and those that say QUIT: {most}");
}

#[tokio::test(start_paused = true)]
async fn who_guesses_before_a_tarpit_is_asked_for_on_all_sessions_but_one() {
    let house = tarpit(45);
    let heard = all_ask_as(&house, 0..21, Urgency::Suspect).await;
    // Four a session until the pace is known, and the last in sessions of their own.
    assert_eq!(refused_within(&heard, 4 * TARPIT + 2 * SECOND), 21, "{heard:?}");
    let heard = all_ask_as(&house, 21..63, Urgency::Suspect).await;
    assert_eq!(refused_within(&heard, 2 * TARPIT + 2 * SECOND), 42, "{heard:?}");
    assert_eq!(house.store.record().most_open, 21, "one is kept for clients with a clean record");
}

/// A store that is prompt, except that it sleeps on some names.
fn sleepy(max_connections: usize, names: &[&str]) -> Arc<House> {
    let sleeps =
        |script: Script, name: &&str| script.on(at(Phase::Rcpt).to(name), Action::ordinary().after(TARPIT));
    let script = names.iter().fold(Script::knowing([ANN]), sleeps);
    Arc::new(House::with_route(&format!("max_connections = {max_connections}\n"), PLAIN, script))
}

/// One asks, and others do meanwhile.
fn begins_to_ask(house: &Arc<House>, name: &'static str, asker: Asker) -> JoinHandle<String> {
    let house = Arc::clone(house);
    tokio::spawn(async move { house.verdict_for(name, asker).await })
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_behind_a_session_the_store_sleeps_on() {
    for urgency in [Urgency::Clean, Urgency::Suspect] {
        let house = sleepy(45, &[NOBODY]);
        let slept_on = begins_to_ask(&house, NOBODY, asker(1, urgency));
        sleep(SECOND).await;
        let began = Instant::now();
        assert_eq!(house.verdict_for(ANN, asker(2, urgency)).await, "good");
        assert!(began.elapsed() < Duration::from_millis(25), "{:?}", began.elapsed());
        assert!(!slept_on.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn who_guesses_does_not_get_the_last_session_while_the_store_sleeps_on_the_others() {
    const SLEPT_ON: [&str; 2] = ["guess200@example.org", "guess201@example.org"];
    // Half of them, three, are for probes.
    let house = sleepy(6, &SLEPT_ON);
    all_ask(&house, 0..32).await;
    assert_eq!(house.store.record().most_open, 3);
    for (name, number) in SLEPT_ON.into_iter().zip(200..) {
        begins_to_ask(&house, name, asker(number, Urgency::Clean));
        sleep(SECOND).await;
    }
    let guess = begins_to_ask(&house, NOBODY, asker(1, Urgency::Suspect));
    sleep(SECOND / 2).await;
    let began = Instant::now();
    assert_eq!(house.verdict_for(ANN, asker(2, Urgency::Clean)).await, "good");
    assert!(!guess.is_finished());
    // Whoever has a clean record and wants to know the same takes it along.
    assert!(house.verdict_for(NOBODY, asker(3, Urgency::Clean)).await.starts_with("bad"));
    assert!(began.elapsed() < Duration::from_millis(25), "{:?}", began.elapsed());
    assert!(guess.await.unwrap().starts_with("bad"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_greylists_is_no_unknown_recipient_and_takes_the_message_once() {
    let script = Script::knowing([ANN])
        .on(at(Phase::Rcpt).to(ANN).nth(1), Action::reply("450 4.2.0 Greylisted"))
        .on(at(Phase::Rcpt).to(ANN).nth(2), Action::reply("450 4.2.0 Greylisted"));
    let house = House::with(PLAIN, script);
    house.hears(1, ANN).await.is("450 4.2.0 Greylisted");
    assert_eq!(house.remembered(ANN), Remembered::Deferred);
    sleep(300 * SECOND).await;
    let mut client = house.client(1).await;
    client.envelope("bob@example.net", ANN).await.is("250");
    client.data(MESSAGE).await.is("250");
    client.quit().await;
    assert_eq!(house.store.record().messages.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_600_octets_is_an_answer() {
    let long = format!("250 2.1.5 {}", "x".repeat(590));
    let script = Script::knowing([ANN])
        .on(at(Phase::Rcpt).to(ANN), Action::reply(&long))
        .on(at(Phase::EndOfData), Action::reply(&long))
        .on(at(Phase::Rcpt).to(NOBODY), Action::reply(&long.replace("250 2.1.5", "550 5.1.1")));
    let house = House::with(PLAIN, script);
    let mut client = house.client(1).await;
    let taken = client.envelope("bob@example.net", ANN).await;
    assert!(taken.code == 250 && taken.to_string().len() + 2 <= 512, "{taken}");
    let refused = client.command(&format!("RCPT TO:<{NOBODY}>")).await;
    assert!(refused.code == 550 && refused.to_string().len() + 2 <= 512, "{refused}");
    let stored = client.data(MESSAGE).await;
    assert!(stored.code == 250 && stored.to_string().len() + 2 <= 512, "{stored}");
    client.quit().await;
    assert_eq!(house.store.record().messages.len(), 1, "no duplicate");
    assert_eq!(house.probes_for(ANN), 1);
    assert_eq!((house.remembered(ANN), house.remembered(NOBODY)), (Remembered::Good, Remembered::Bad));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ends_a_session_after_three_refusals_refuses_each_name_once() {
    let script = Script::knowing([ANN])
        .on(at(Phase::Rcpt).turn(3), Action::reply("550 5.1.1 No such user").then(Action::close()));
    let house = Arc::new(House::with(PLAIN, script));
    let heard = all_ask(&house, 0..100).await;
    assert_eq!(refused_within(&heard, 25 * SECOND), 100, "{heard:?}");
    let learnt = house.context.verifier.progress(&house.route).unwrap().learnt[0].1.refusals;
    assert!(learnt <= 4, "it endures about three: {learnt}");
}

/// The delivery port is another than the one that is asked.
const APART: &str = "stage = \"rcpt\"\nbackends = [\"store.example.org:2525\"]\n";

/// Questions about names nobody has.
fn random_names(house: &House) -> usize {
    let record = house.store.record();
    let names = |line: &&(usize, String)| line.1.starts_with("RCPT TO:") && !line.1.contains(ANN);
    record.commands.iter().filter(names).count()
}

#[tokio::test(start_paused = true)]
async fn a_delivery_port_that_never_tells_is_asked_with_pauses_and_is_no_guard() {
    let script = Script::knowing([ANN])
        .on(at(Phase::Rcpt), Action::reply("450 4.1.1 Unverified address"))
        .on(at(Phase::Rcpt).to(ANN), Action::ordinary());
    let house = House::with(APART, script);
    for _ in 0..60 {
        assert_eq!(house.verdict(ANN).await, "good");
        sleep(SECOND).await;
    }
    assert_eq!(random_names(&house), 3, "at once, and after 10 and 30 seconds");
    house.store.rescript(|script| script.on(at(Phase::Greeting), Action::close()));
    sleep(15 * 60 * SECOND).await;
    assert_eq!(house.verdict(ANN).await, "unreachable", "short, and never served stale");
}

#[tokio::test(start_paused = true)]
async fn a_delivery_port_that_refuses_the_null_sender_is_asked_as_another() {
    let script =
        Script::knowing([ANN]).on(at(Phase::Mail).to("").turn(1), Action::reply("550 5.1.7 No bounces"));
    let house = House::with(APART, script);
    for _ in 0..60 {
        assert_eq!(house.verdict(ANN).await, "good");
        sleep(SECOND).await;
    }
    assert_eq!(random_names(&house), 2, "as nobody, and as the fallback sender");
    house.store.rescript(|script| script.on(at(Phase::Greeting), Action::close()));
    sleep(15 * 60 * SECOND).await;
    assert_eq!(house.verdict(ANN).await, "good", "it guards too");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_relays_for_the_world_is_not_made_a_relay_by_us() {
    let house = House::with(PLAIN, Script::blind());
    house.hears(1, "anna@elsewhere.test").await.is("550 5.7.1");
    assert_eq!(house.store.record().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_in_vain_is_as_urgent_as_who_waits_for_it_by_then() {
    // One session for probes.
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt).to(NOBODY).nth(1), Action::close().after(SECOND));
    let house = Arc::new(House::with_route("max_connections = 2\n", PLAIN, script));
    let guess = begins_to_ask(&house, NOBODY, asker(1, Urgency::Suspect));
    sleep(SECOND / 2).await;
    let others = Arc::clone(&house);
    let others = tokio::spawn(async move { all_ask(&others, 10..40).await });
    sleep(SECOND / 4).await;
    let joined = begins_to_ask(&house, NOBODY, asker(2, Urgency::Clean));
    for asking in [guess, joined] {
        assert!(asking.await.unwrap().starts_with("bad"));
    }
    others.await.unwrap();
    let asked: Vec<_> = house.store.record().commands;
    let asked: Vec<_> = asked.iter().filter(|(_, line)| line.starts_with("RCPT")).collect();
    let place = asked.iter().rposition(|(_, line)| line.contains(NOBODY));
    assert_eq!((place, asked.len()), (Some(1), 32), "before those who came later");
}
