//! What is remembered of recipients: a test for each rule.

use std::sync::Arc;

use backstop::proto::address::Domain;
use backstop::verify::Urgency;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::house::{ANN, CID, House, MINUTE, NOBODY, PLAIN, Remembered, SECOND, asker};
use super::support::backend::{Action, Phase, Script, at};
use super::support::machine::Directory;

const UNKNOWN: &str = "550 5.1.1 No such user";

/// Good entries age after a minute, and are stale after ten.
fn aging(script: Script) -> House {
    House::with(
        "stage = \"rcpt\"\n[cache]\npositive_refresh = \"1m\"\npositive_ttl = \"10m\"\nserve_stale = \"1h\"\n",
        script,
    )
}

fn probed() -> super::support::backend::Action {
    Action::reply(UNKNOWN)
}

#[tokio::test(start_paused = true)]
async fn a_failed_or_temporary_probe_never_overwrites_a_good_entry() {
    let failures = [
        Action::reply("450 4.2.0 Greylisted"),
        Action::reply("554 5.7.1 Relay access denied"),
        Action::reply("550 5.7.606 Access denied, banned sending IP"),
        Action::reply("421 4.3.0 Down").then(Action::close()),
        Action::close(),
    ];
    for failure in failures {
        let house = aging(Script::knowing([ANN]));
        assert_eq!(house.verdict(ANN).await, "good");
        house.store.rescript(|script| script.on(at(Phase::Rcpt).to(ANN), failure));
        sleep(2 * MINUTE).await;
        assert_eq!(house.verdict(ANN).await, "good");
        sleep(SECOND).await;
        assert!(house.probes_for(ANN) > 1, "it was asked about again");
        assert_eq!(house.remembered(ANN), Remembered::Good);
        assert_eq!(house.verdict(ANN).await, "good");
    }
}

#[tokio::test(start_paused = true)]
async fn good_bad_and_temporary_answers_have_lifetimes_of_their_own() {
    const GREY: &str = "grey@example.org";
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt).to(GREY), Action::reply("450 4.2.0 Greylisted"));
    let house = House::with(PLAIN, script);
    let ask_all = async || {
        for (recipient, verdict) in [(ANN, "good"), (NOBODY, "bad"), (GREY, "deferred")] {
            assert!(house.verdict(recipient).await.starts_with(verdict));
        }
        [ANN, NOBODY, GREY].map(|recipient| house.probes_for(recipient))
    };
    assert_eq!(ask_all().await, [1, 1, 1]);
    sleep(4 * SECOND).await;
    assert_eq!(ask_all().await, [1, 1, 1]);
    sleep(2 * SECOND).await;
    assert_eq!(ask_all().await, [1, 1, 2], "temporary answers damp for five seconds");
    sleep(4 * MINUTE).await;
    assert_eq!(ask_all().await, [1, 1, 3]);
    sleep(2 * MINUTE).await;
    assert_eq!(ask_all().await, [1, 2, 4], "bad ones live for five minutes");
    sleep(8 * MINUTE).await;
    assert_eq!(ask_all().await, [1, 2, 5], "and twice as long once confirmed");
    sleep(10 * 60 * MINUTE).await;
    assert_eq!(ask_all().await, [1, 3, 6], "good ones are not asked about before twelve hours");
}

#[tokio::test(start_paused = true)]
async fn a_good_entry_is_refreshed_behind_the_scenes_while_it_serves() {
    let house = aging(Script::knowing([ANN]));
    assert_eq!(house.verdict(ANN).await, "good");
    let gate = CancellationToken::new();
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::ordinary().held_by(&gate)));
    sleep(2 * MINUTE).await;
    let asked = Instant::now();
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(asked.elapsed(), std::time::Duration::ZERO, "nobody waits for the refresh");
    sleep(SECOND).await;
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(house.probes_for(ANN), 2, "one refresh for all");
    gate.cancel();
    sleep(SECOND).await;
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(house.probes_for(ANN), 2);
}

/// Twenty ask for one recipient at once; those with an even number leave before the answer, the first among them.
async fn twenty_ask(house: &Arc<House>, gate: &CancellationToken) -> Vec<String> {
    let mut stay = JoinSet::new();
    let mut leave = JoinSet::new();
    for number in 0..20 {
        let asking = Arc::clone(house);
        let waits = async move { asking.verdict_for(NOBODY, asker(number, Urgency::Suspect)).await };
        if number % 2 == 0 {
            leave.spawn(waits)
        } else {
            stay.spawn(waits)
        };
    }
    sleep(SECOND).await;
    leave.shutdown().await;
    gate.cancel();
    stay.join_all().await
}

#[tokio::test(start_paused = true)]
async fn one_probe_serves_all_who_ask_and_those_who_leave_harm_no_one() {
    let gate = CancellationToken::new();
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt), Action::ordinary().held_by(&gate));
    let house = Arc::new(House::with(PLAIN, script));
    let heard = twenty_ask(&house, &gate).await;
    assert_eq!(heard.len(), 10);
    assert!(heard.iter().all(|verdict| verdict.starts_with("bad 550 5.1.1")), "{heard:?}");
    assert_eq!(house.probes_for(NOBODY), 1);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_fails_for_all_who_asked() {
    for failure in [Action::close(), Action::reply("421 4.3.0 Down").then(Action::close())] {
        let gate = CancellationToken::new();
        let script = Script::knowing([ANN]).on(at(Phase::Rcpt), failure.held_by(&gate));
        let house = Arc::new(House::with(PLAIN, script));
        let heard = twenty_ask(&house, &gate).await;
        assert_eq!(heard, vec!["unreachable"; 10]);
        assert_eq!(house.probes_for(NOBODY), 3, "three tries for all of them together");
        assert_eq!(house.remembered(NOBODY), Remembered::Nothing);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_and_then_answers_answers_all_who_asked() {
    let gate = CancellationToken::new();
    let script = Script::knowing([ANN])
        .on(at(Phase::Rcpt), Action::ordinary().held_by(&gate))
        .on(at(Phase::Rcpt).nth(1), Action::close().held_by(&gate));
    let house = Arc::new(House::with(PLAIN, script));
    let heard = twenty_ask(&house, &gate).await;
    assert!(heard.len() == 10 && heard.iter().all(|verdict| verdict.starts_with("bad")), "{heard:?}");
    assert_eq!(house.probes_for(NOBODY), 2);
}

#[tokio::test(start_paused = true)]
async fn who_asked_alone_and_left_still_taught_the_answer() {
    let gate = CancellationToken::new();
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt), Action::ordinary().held_by(&gate));
    let house = Arc::new(House::with(PLAIN, script));
    let asking = Arc::clone(&house);
    let left = tokio::spawn(async move { asking.verdict(NOBODY).await });
    sleep(SECOND).await;
    left.abort();
    gate.cancel();
    sleep(SECOND).await;
    assert_eq!(house.remembered(NOBODY), Remembered::Bad);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_and_was_not_sent_vanishes() {
    let gate = CancellationToken::new();
    let script = Script::knowing([ANN]).on(at(Phase::Greeting), Action::ordinary().held_by(&gate));
    let house = Arc::new(House::with(PLAIN, script));
    let asking = Arc::clone(&house);
    let left = tokio::spawn(async move { asking.verdict(NOBODY).await });
    sleep(SECOND).await;
    left.abort();
    let _ = left.await;
    gate.cancel();
    sleep(SECOND).await;
    assert_eq!(house.probes_for(NOBODY), 0);
    assert_eq!(house.context.verifier.progress(&house.route).unwrap().waiting, 0);
    assert!(house.verdict(NOBODY).await.starts_with("bad"), "it can be asked about anew");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_reached_is_no_no() {
    let house = House::with(PLAIN, Script::knowing([ANN]).on(at(Phase::Greeting), Action::close()));
    for _ in 0..10 {
        for recipient in [ANN, NOBODY] {
            house.hears(1, recipient).await.is("451 4.4.3");
            assert_eq!(house.remembered(recipient), Remembered::Nothing);
        }
    }
    house.store.rescript(Script::ordinary);
    sleep(2 * MINUTE).await;
    house.hears(1, ANN).await.is("250");
    house.hears(1, NOBODY).await.is("550 5.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_new_mailbox_works_within_a_minute_for_a_client_with_a_clean_record() {
    let house = House::with(PLAIN, Script::knowing([ANN]));
    house.hears(1, NOBODY).await.is("550 5.1.1");
    house.store.rescript(|script| script.on(at(Phase::Rcpt).to(NOBODY), Action::reply("250 2.1.5 Ok")));
    sleep(MINUTE).await;
    house.hears(1, NOBODY).await.is("550 5.1.1");
    assert_eq!(house.probes_for(NOBODY), 1, "who guessed today is given what is remembered");
    house.hears(2, NOBODY).await.is("250");
    house.hears(1, NOBODY).await.is("250");
}

#[tokio::test(start_paused = true)]
async fn asking_again_is_a_small_part_of_the_probing_and_the_old_answer_serves_beyond_it() {
    const NEMO: &str = "nemo@example.org";
    // One session for probes: one question may be asked again at a time.
    let house = Arc::new(House::with_route("max_connections = 2\n", PLAIN, Script::knowing([ANN])));
    for recipient in [NOBODY, NEMO] {
        assert!(house.verdict(recipient).await.starts_with("bad"));
    }
    sleep(MINUTE).await;
    let gate = CancellationToken::new();
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply("250 2.1.5 Ok").held_by(&gate)));
    let asking = Arc::clone(&house);
    let first = tokio::spawn(async move { asking.verdict_for(NOBODY, asker(1, Urgency::Clean)).await });
    sleep(SECOND).await;
    let asked = Instant::now();
    assert!(house.verdict_for(NEMO, asker(2, Urgency::Clean)).await.starts_with("bad"));
    assert_eq!(asked.elapsed(), std::time::Duration::ZERO);
    gate.cancel();
    assert_eq!(first.await.unwrap(), "good");
    assert_eq!(house.verdict_for(NEMO, asker(2, Urgency::Clean)).await, "good");
}

#[tokio::test(start_paused = true)]
async fn asking_again_in_vain_leaves_the_old_answer() {
    let house = House::with(PLAIN, Script::knowing([ANN]));
    assert!(house.verdict(NOBODY).await.starts_with("bad"));
    sleep(MINUTE).await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply("450 4.2.0 Greylisted")));
    assert!(house.verdict_for(NOBODY, asker(1, Urgency::Clean)).await.starts_with("bad"));
}

#[tokio::test(start_paused = true)]
async fn a_live_5_1_1_removes_a_good_entry_at_once() {
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt).from("bob@example.net"), Action::reply(UNKNOWN));
    let house = House::with(PLAIN, script);
    assert_eq!(house.verdict(ANN).await, "good");
    house.hears(1, ANN).await.is(UNKNOWN);
    assert_eq!(house.remembered(ANN), Remembered::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_live_refusal_of_another_kind_teaches_nothing() {
    for refusal in ["554 5.7.1 Not from you", "450 4.2.0 Greylisted", "552 5.2.2 Mailbox full"] {
        let script =
            Script::knowing([ANN]).on(at(Phase::Rcpt).from("bob@example.net"), Action::reply(refusal));
        let house = House::with(PLAIN, script);
        house.hears(1, ANN).await.is(refusal);
        assert_eq!(house.remembered(ANN), Remembered::Good);
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_entry_that_turns_bad_is_asked_twice_the_second_time_by_another_sender() {
    let house = aging(Script::knowing([ANN]));
    assert_eq!(house.verdict(ANN).await, "good");
    sleep(2 * MINUTE).await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt).to(ANN), probed()));
    house.verdict(ANN).await;
    sleep(SECOND).await;
    assert_eq!((house.probes_for(ANN), house.remembered(ANN)), (3, Remembered::Bad));
    assert_eq!(house.store.record().count("MAIL FROM:<postmaster@mx.example.org>"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_good_entry_that_only_our_probe_is_refused_stays() {
    let house = aging(Script::knowing([ANN]));
    assert_eq!(house.verdict(ANN).await, "good");
    sleep(2 * MINUTE).await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt).to(ANN).from(""), probed()));
    house.verdict(ANN).await;
    sleep(SECOND).await;
    assert_eq!((house.probes_for(ANN), house.remembered(ANN)), (3, Remembered::Good));
}

#[tokio::test(start_paused = true)]
async fn good_entries_that_turn_bad_in_numbers_are_an_ill_store() {
    let names: Vec<_> = (0..20).map(|number| format!("user{number}@example.org")).collect();
    let house = aging(Script::knowing(names.iter().map(String::as_str)));
    for name in &names {
        assert_eq!(house.verdict(name).await, "good");
    }
    // Its table is lost for a minute.
    let gone = |script: Script| script.on(at(Phase::Rcpt), Action::reply(UNKNOWN));
    house.store.rescript(gone);
    sleep(2 * MINUTE).await;
    for name in &names {
        house.verdict(name).await;
        sleep(SECOND).await;
    }
    let bad = names.iter().filter(|name| house.remembered(name) == Remembered::Bad).count();
    assert_eq!(bad, 0, "no mailbox is taken for gone");
    assert_eq!(house.alarms(), ["store-ill"]);
    house.hears(1, NOBODY).await.is("451 4.4.3");
    assert_eq!(house.remembered(NOBODY), Remembered::Nothing);
    house.store.rescript(Script::ordinary);
    sleep(MINUTE).await;
    house.hears(1, NOBODY).await;
    house.hears(1, NOBODY).await.is("550 5.1.1");
    assert_eq!(house.alarms(), [""; 0]);
    for name in &names {
        house.hears(2, name).await.is("250");
    }
}

/// A house that knows so many mailboxes as good, each asked about in its own session.
async fn knowing(number: usize, verify: &str) -> (House, Vec<String>) {
    let names: Vec<_> = (0..number).map(|number| format!("user{number}@example.org")).collect();
    let house = House::with(verify, Script::knowing(names.iter().map(String::as_str)));
    for name in &names {
        assert_eq!(house.verdict(name).await, "good");
    }
    (house, names)
}

#[tokio::test(start_paused = true)]
async fn a_user_table_lost_at_the_delivery_port_is_believed_of_nobody() {
    let (house, names) = knowing(30, PLAIN).await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply(UNKNOWN)));
    sleep(MINUTE).await;
    let mut client = house.client(1).await;
    for name in &names {
        client.envelope("bob@example.net", name).await.is("451 4.4.3");
        client.command("RSET").await.is("250");
        assert_eq!(house.remembered(name), Remembered::Good);
    }
    assert_eq!(house.alarms(), ["store-ill"]);
    // All at once, and by a client of its own each.
    house.store.rescript(Script::ordinary);
    sleep(MINUTE).await;
    house.hears(2, &names[0]).await.is("250");
    sleep(SECOND).await;
    assert_eq!(house.alarms(), [""; 0]);
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply(UNKNOWN)));
    let house = Arc::new(house);
    let mut asking = JoinSet::new();
    for (number, name) in (3..).zip(names) {
        let house = Arc::clone(&house);
        asking.spawn(async move { house.hears(number, &name).await });
    }
    for heard in asking.join_all().await {
        heard.is("451 4.4.3");
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_table_lost_before_a_restart_is_believed_of_nobody_behind_it() {
    let stored = Directory::new("callout-store");
    let kept = format!("{PLAIN}[cache]\npath = {:?}\nsecret = \"salt\"\n", stored.path().join("store"));
    let (house, names) = knowing(30, &kept).await;
    // It is written by a thread, in its own time.
    tokio::time::resume();
    house.context.verifier.put_away(MINUTE).await;
    tokio::time::pause();
    drop(house);
    let house = House::with(&kept, Script::knowing([]));
    assert!(names.iter().all(|name| house.remembered(name) == Remembered::Good), "what was learnt is back");
    for name in &names {
        house.hears(1, name).await.is("451 4.4.3");
        assert_eq!(house.remembered(name), Remembered::Good);
    }
    assert_eq!(house.alarms(), ["store-ill"]);
    assert!(names.iter().any(|name| house.probes_for(name) > 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_no_reason_to_doubt_the_store() {
    let domain = Domain::parse("example.org").unwrap();
    for forget in [
        |house: &House, domain: &Domain| house.context.verifier.forget_domain(domain),
        |house: &House, _: &Domain| {
            house.context.verifier.forget_all();
        },
    ] {
        let (house, names) = knowing(30, PLAIN).await;
        house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply(UNKNOWN)));
        sleep(MINUTE).await;
        house.hears(1, &names[0]).await.is("451 4.4.3");
        assert_eq!(house.alarms(), ["store-ill"]);
        forget(&house, &domain);
        assert_eq!(house.alarms(), [""; 0]);
        for name in &names {
            house.hears(2, name).await.is(UNKNOWN);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_removed_alone_is_refused_in_the_delivery_ports_words() {
    let (house, names) = knowing(30, PLAIN).await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt).to(&names[3]), Action::reply(UNKNOWN)));
    house.hears(1, &names[3]).await.is(UNKNOWN);
    assert_eq!((house.remembered(&names[3]), house.alarms()), (Remembered::Bad, vec![]));
    house.hears(1, &names[4]).await.is("250");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_client_in_words_about_a_mailbox_is_not_held_against_the_mailbox() {
    let (house, names) = knowing(30, PLAIN).await;
    let listed = at(Phase::Rcpt).from("bob@example.net");
    house.store.rescript(|script| script.on(listed, Action::reply("550 Rejected: listed")));
    for name in &names {
        house.hears(1, name).await.is("550 Rejected");
        assert_eq!(house.remembered(name), Remembered::Good);
    }
    assert_eq!(house.alarms(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn where_the_second_sender_is_not_heard_another_recipient_decides() {
    let deaf = [
        Action::reply("550 5.7.1 Not from you"),
        Action::reply("421 4.3.0 Down").then(Action::close()),
        Action::close(),
    ];
    for deaf in deaf {
        let (house, names) = knowing(3, PLAIN).await;
        let second = at(Phase::Mail).from("postmaster@mx.example.org");
        house.store.rescript(|script| {
            script.on(at(Phase::Rcpt).to(&names[0]), Action::reply(UNKNOWN)).on(second, deaf)
        });
        house.hears(1, &names[0]).await.is(UNKNOWN);
        assert_eq!((house.remembered(&names[0]), house.alarms()), (Remembered::Bad, vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_other_recipient_can_be_heard_a_refusal_is_believed_after_a_while() {
    let (house, names) = knowing(3, PLAIN).await;
    sleep(SECOND).await;
    house.store.rescript(|script| {
        script
            .on(at(Phase::Rcpt), Action::reply("450 4.2.0 Greylisted"))
            .on(at(Phase::Rcpt).to(&names[0]), Action::reply(UNKNOWN))
    });
    house.hears(1, &names[0]).await.is("451 4.4.3");
    assert_eq!(house.remembered(&names[0]), Remembered::Good);
    sleep(9 * MINUTE).await;
    house.hears(1, &names[0]).await.is("451 4.4.3");
    sleep(MINUTE).await;
    house.hears(1, &names[0]).await.is(UNKNOWN);
    assert_eq!(house.remembered(&names[0]), Remembered::Bad);
}

#[tokio::test(start_paused = true)]
async fn what_is_past_all_use_is_no_reason_to_doubt_a_refusal() {
    let (house, names) = knowing(
        3,
        "stage = \"rcpt\"\n[cache]\npositive_refresh = \"1m\"\npositive_ttl = \"2m\"\nserve_stale = \"1m\"\n",
    )
    .await;
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::reply(UNKNOWN)));
    sleep(5 * MINUTE).await;
    house.hears(1, &names[0]).await.is(UNKNOWN);
    assert_eq!(house.probes_for(&names[0]), 2);
}

#[tokio::test(start_paused = true)]
async fn a_good_entry_serves_past_its_lifetime_while_the_store_is_unreachable() {
    let house = aging(Script::knowing([ANN, CID]));
    assert_eq!(house.verdict(ANN).await, "good");
    house.store.rescript(|script| script.on(at(Phase::Greeting), Action::close()));
    sleep(15 * MINUTE).await;
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(house.verdict(CID).await, "unreachable", "who was never known is no help");
    sleep(60 * MINUTE).await;
    assert_eq!(house.verdict(ANN).await, "unreachable", "for `serve_stale` at most");
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_while_it_was_asked_is_not_remembered() {
    let gate = CancellationToken::new();
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt), Action::ordinary().held_by(&gate));
    let house = Arc::new(House::with(PLAIN, script));
    let asking = Arc::clone(&house);
    let asked = tokio::spawn(async move { asking.verdict(ANN).await });
    sleep(SECOND).await;
    house.context.verifier.forget_all();
    gate.cancel();
    assert_eq!(asked.await.unwrap(), "good");
    assert_eq!(house.remembered(ANN), Remembered::Nothing);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_again_follows_what_the_store_endures() {
    // 22 of them are for probes, of 16 questions each; a twentieth of that is asked again at a time.
    let house = Arc::new(House::with_route("max_connections = 45\n", PLAIN, Script::knowing([ANN])));
    let all_ask = async |urgency| {
        let began = Instant::now();
        let mut asking = JoinSet::new();
        for number in 0..60 {
            let house = Arc::clone(&house);
            asking.spawn(async move {
                let name = format!("guess{number}@example.org");
                assert!(house.verdict_for(&name, asker(number, urgency)).await.starts_with("bad"));
                began.elapsed()
            });
        }
        asking.join_all().await.into_iter().filter(|took| *took >= SECOND).count()
    };
    assert_eq!(all_ask(Urgency::Suspect).await, 0);
    house.store.rescript(|script| script.on(at(Phase::Rcpt), Action::ordinary().after(SECOND)));
    sleep(2 * MINUTE).await;
    assert_eq!(all_ask(Urgency::Clean).await, 17);
    let backend = house.backend();
    while backend.budget().most_probes() > 2 {
        backend.budget().refused(backend.budget().round());
    }
    sleep(SECOND).await;
    assert_eq!(all_ask(Urgency::Clean).await, 1);
}
