//! What a probe's reply means: for each row the verdict, what is remembered, what the client hears, and whether the
//! operator is told.
//!
//! The reply is given to probes alone (they come from the null sender or our postmaster); a client's own RCPT is taken.

use std::sync::Arc;

use super::house::{ANN, CID, House, MINUTE, NOBODY, PLAIN, Remembered};
use super::support::backend::{Action, Phase, Script, at};

/// What a row comes to.
struct Row {
    name: &'static str,
    phase: Phase,
    reply: &'static str,
    verdict: &'static str,
    remembered: Remembered,
    /// What a client hears whose own RCPT the delivery port would take.
    hears: &'static str,
    alarm: Option<&'static str>,
}

const PROBES_FROM: [&str; 2] = ["", "postmaster@mx.example.org"];

impl Row {
    /// Without names nobody has, and beside them.
    async fn holds(&self) {
        match self.phase {
            Phase::Data => self.holds_at("data").await,
            _ => {
                self.holds_at("rcpt").await;
                self.holds_at("auto").await;
            }
        }
        self.is_bounded().await;
    }

    async fn holds_at(&self, stage: &str) {
        let about = &format!("stage = \"{stage}\"\n[cache]\ntempfail_ttl = \"1h\"\n");
        let script = PROBES_FROM.into_iter().fold(Script::knowing([ANN]), |script, sender| {
            let when = at(self.phase).from(sender);
            let when = if self.phase == Phase::Rcpt { when.to(ANN) } else { when };
            script.on(when, Action::reply(self.reply))
        });
        let house = House::with(about, script);
        let verdict = house.verdict(ANN).await;
        assert!(verdict.starts_with(self.verdict), "{}: {verdict}", self.name);
        assert_eq!(house.remembered(ANN), self.remembered, "{}", self.name);
        assert_eq!(house.alarms(), Vec::from_iter(self.alarm), "{}", self.name);
        assert!(house.store.acted() > 0, "{}: the store never said it", self.name);
        let probes = house.probes_for(ANN);
        let heard = house.hears(1, ANN).await.to_string();
        assert!(heard.starts_with(self.hears), "{}: {heard}", self.name);
        let again = house.probes_for(ANN) - probes;
        assert_eq!(again == 0, self.remembered != Remembered::Nothing, "{}: asked {again} times", self.name);
    }
}

impl Row {
    /// Names nobody has are answered so too: questions are asked nevertheless, and nothing without end.
    async fn is_bounded(&self) {
        let stage = if self.phase == Phase::Data { "data" } else { "auto" };
        let script = PROBES_FROM.into_iter().fold(Script::knowing([ANN]), |script, sender| {
            script.on(at(self.phase).from(sender), Action::reply(self.reply))
        });
        let house = House::with(&format!("stage = \"{stage}\"\n"), script);
        for name in [ANN, CID, NOBODY] {
            let verdict = house.verdict(name).await;
            assert_ne!(verdict, "timeout", "{}: {name}", self.name);
        }
        tokio::time::sleep(MINUTE).await;
        let record = house.store.record();
        let (questions, sessions) = (record.count("MAIL"), record.connections);
        assert!(
            questions <= 20 && sessions <= 20,
            "{}: {questions} questions, {sessions} sessions",
            self.name
        );
    }
}

/// A test for each row.
macro_rules! rows {
    ($($name:ident: $phase:ident $reply:literal => $verdict:literal, $remembered:ident, $hears:literal $(, alarm $alarm:literal)?;)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                #[allow(unused_mut, unused_assignments, reason = "only some rows have an alarm")]
                let mut alarm = None;
                $(alarm = Some($alarm);)?
                let row = Row {
                    name: stringify!($name),
                    phase: Phase::$phase,
                    reply: $reply,
                    verdict: $verdict,
                    remembered: Remembered::$remembered,
                    hears: $hears,
                    alarm,
                };
                row.holds().await;
            }
        )+
    };
}

rows! {
    at_rcpt_250_is_good: Rcpt "250 2.1.5 Ok" => "good", Good, "250";
    at_rcpt_251_is_good: Rcpt "251 User not local; will forward" => "good", Good, "250";
    at_rcpt_252_takes_and_teaches_nothing: Rcpt "252 2.5.2 Cannot verify" => "unverified", Nothing, "250";
    at_rcpt_5_1_1_is_bad: Rcpt "550 5.1.1 User unknown" => "bad 550", Bad, "550 5.1.1 User unknown";
    at_rcpt_5_1_1_is_bad_with_any_basic_code: Rcpt "554 5.1.1 no" => "bad 554", Bad, "554 5.1.1 no";
    at_rcpt_5_1_2_is_bad: Rcpt "550 5.1.2 Bad system" => "bad 550", Bad, "550 5.1.2";
    at_rcpt_5_1_3_is_bad: Rcpt "553 5.1.3 Bad syntax" => "bad 553", Bad, "553 5.1.3";
    at_rcpt_5_1_6_is_bad: Rcpt "551 5.1.6 Moved" => "bad 551", Bad, "551 5.1.6";
    at_rcpt_5_1_10_is_bad: Rcpt "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found" => "bad 550", Bad, "550 5.1.10";
    at_rcpt_5_2_1_is_bad: Rcpt "550 5.2.1 Mailbox disabled" => "bad 550", Bad, "550 5.2.1";
    at_rcpt_5_0_0_is_bad: Rcpt "550 5.0.0 No" => "bad 550", Bad, "550 5.0.0";
    at_rcpt_5_1_0_is_bad: Rcpt "550 5.1.0 Address rejected" => "bad 550", Bad, "550 5.1.0";
    at_rcpt_550_alone_is_bad: Rcpt "550 No such user here" => "bad 550", Bad, "550 No such user here";
    at_rcpt_551_alone_is_bad: Rcpt "551 User not local" => "bad 551", Bad, "551";
    at_rcpt_553_alone_is_bad: Rcpt "553 No mailbox" => "bad 553", Bad, "553";
    at_rcpt_5_4_1_of_exchange_online_is_bad: Rcpt "550 5.4.1 Recipient address rejected: Access denied" => "bad 550", Bad, "550 5.4.1";
    at_rcpt_5_4_1_about_relaying_is_a_fault_of_the_route: Rcpt "550 5.4.1 Unable to relay" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_unable_to_relay_is_a_fault_of_the_route: Rcpt "550 5.7.1 Unable to relay" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_5_7_54_is_a_fault_of_the_route: Rcpt "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_relay_access_denied_is_a_fault_of_the_route: Rcpt "554 5.7.1 <ann@example.org>: Relay access denied" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_another_5_7_is_about_our_probe_and_the_client_may_try: Rcpt "550 5.7.606 Access denied, banned sending IP" => "policy", Deferred, "250";
    at_rcpt_relaying_in_other_words_is_a_fault_of_the_route: Rcpt "550 Relaying not allowed" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_rcpthosts_is_a_fault_of_the_route: Rcpt "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_552_with_5_1_1_is_bad: Rcpt "552 5.1.1 No such user" => "bad 552", Bad, "552 5.1.1";
    at_rcpt_530_is_a_fault_of_the_route: Rcpt "530 5.7.0 Authentication required" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_mail_530_is_a_fault_of_the_route: Mail "530 5.7.0 Must issue a STARTTLS command first" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_rcpt_552_is_a_full_mailbox_which_exists: Rcpt "552 Too much mail" => "good", Good, "250";
    at_rcpt_5_2_2_is_a_full_mailbox_which_exists: Rcpt "550 5.2.2 Mailbox full" => "good", Good, "250";
    at_rcpt_4_2_2_is_a_full_mailbox_which_exists: Rcpt "452 4.2.2 Mailbox full" => "good", Good, "250";
    at_rcpt_452_is_no_answer_about_the_address: Rcpt "452 Too many recipients" => "unreachable", Nothing, "451 4.4.3";
    at_rcpt_4_5_3_is_no_answer_about_the_address: Rcpt "452 4.5.3 Too many recipients" => "unreachable", Nothing, "451 4.4.3";
    at_rcpt_5_5_3_is_no_answer_about_the_address: Rcpt "550 5.5.3 Too many recipients" => "unreachable", Nothing, "451 4.4.3";
    at_rcpt_any_other_5yz_refuses_this_once: Rcpt "554 5.3.0 Something" => "bad 554", Nothing, "554 5.3.0 Something";
    at_rcpt_450_damps_for_a_moment_and_the_client_may_try: Rcpt "450 4.2.0 Greylisted" => "deferred", Deferred, "250";
    at_rcpt_451_damps_for_a_moment_and_the_client_may_try: Rcpt "451 4.3.0 Later" => "deferred", Deferred, "250";
    at_rcpt_a_reply_of_another_class_is_no_answer: Rcpt "354 Go ahead" => "unreachable", Nothing, "451 4.4.3";
    at_mail_5yz_twice_is_a_fault_of_the_route: Mail "550 5.1.7 No bounces" => "route-fault", Nothing, "451 4.4.3", alarm "route-fault";
    at_mail_4yz_damps_for_a_moment: Mail "451 4.7.1 Later" => "deferred", Deferred, "250";
    at_rcpt_421_loses_the_session_and_says_nothing_about_the_address: Rcpt "421 4.4.2 Bye" => "unreachable", Nothing, "451 4.4.3";
    at_rcpt_452_4_3_1_is_pressure: Rcpt "452 4.3.1 Insufficient system resources" => "deferred", Deferred, "250";
    at_rcpt_451_4_7_500_is_pressure: Rcpt "451 4.7.500 Server busy" => "deferred", Deferred, "250";
    at_rcpt_451_4_7_0_prx_is_pressure: Rcpt "451 4.7.0 Temporary server error. Please try again later. PRX5" => "deferred", Deferred, "250";
    at_data_5_1_1_is_bad: Data "550 5.1.1 User unknown" => "bad 550", Bad, "550 5.1.1";
    at_data_another_5yz_refuses_this_once: Data "554 5.3.0 Not today" => "bad 554", Nothing, "554 5.3.0";
    at_data_4yz_damps_for_a_moment: Data "451 4.3.0 Later" => "deferred", Deferred, "250";
}

/// What a house comes to whose store fails before MAIL, for everybody.
async fn says_nothing(script: Script, why: &str) -> House {
    let house = House::with(PLAIN, script);
    assert_eq!(house.verdict(ANN).await, why);
    assert_eq!(house.remembered(ANN), Remembered::Nothing);
    house.hears(1, ANN).await.is("451 4.4.3");
    house
}

#[tokio::test(start_paused = true)]
async fn a_refusing_greeting_is_a_fault_of_the_backend() {
    for greeting in ["554 5.7.1 Go away", "450 Later", "550 5.1.1 User unknown"] {
        says_nothing(Script::knowing([ANN]).on(at(Phase::Greeting), Action::reply(greeting)), "unreachable")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn several_faults_in_a_row_make_the_backend_rest() {
    let script = Script::knowing([ANN]).on(at(Phase::Greeting), Action::reply("554 5.7.1 Go away"));
    let house = says_nothing(script, "unreachable").await;
    while house.backend().rests_for().is_none() {
        house.hears(1, ANN).await.is("451 4.4.3");
    }
    let connections = house.store.record().connections;
    house.hears(1, ANN).await.is("451 4.4.3");
    assert_eq!(house.store.record().connections, connections, "it is left alone");
    house.store.rescript(Script::ordinary);
    tokio::time::sleep(MINUTE).await;
    house.hears(1, ANN).await.is("250");
}

#[tokio::test(start_paused = true)]
async fn a_refused_ehlo_is_followed_by_helo() {
    let script = Script::knowing([ANN]).on(at(Phase::Ehlo), Action::reply("502 5.5.1 What?"));
    let house = House::with(PLAIN, script);
    assert_eq!(house.verdict(ANN).await, "good");
    assert!(house.store.record().count("HELO") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_refused_helo_is_a_fault_of_the_backend() {
    let script = Script::knowing([ANN])
        .on(at(Phase::Ehlo), Action::reply("550 5.1.1 User unknown"))
        .on(at(Phase::Helo), Action::reply("550 5.1.1 User unknown"));
    says_nothing(script, "unreachable").await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_null_sender_gives_way_to_the_fallback_sender() {
    let script = Script::knowing([ANN]).on(at(Phase::Mail).to(""), Action::reply("550 5.1.7 No bounces"));
    let house = House::with(PLAIN, script);
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(house.remembered(ANN), Remembered::Good);
    assert!(house.store.record().count("MAIL FROM:<postmaster@mx.example.org>") > 0);
    assert_eq!(house.alarms(), ["sender-refused"], "it works, and is to be mended");
}

#[tokio::test(start_paused = true)]
async fn a_first_sender_that_was_refused_is_tried_again_after_an_hour() {
    let refuses = |script: Script| script.on(at(Phase::Mail).to(""), Action::reply("550 5.1.7 No bounces"));
    let house = House::with(PLAIN, refuses(Script::knowing([ANN, CID])));
    assert_eq!(house.verdict(ANN).await, "good");
    house.store.rescript(|_| Script::knowing([ANN, CID]));
    tokio::time::sleep(59 * MINUTE).await;
    assert!(house.verdict(NOBODY).await.starts_with("bad"));
    assert_eq!(house.alarms(), ["sender-refused"]);
    let asked_as_nobody = house.store.record().count("MAIL FROM:<>");
    tokio::time::sleep(MINUTE).await;
    assert_eq!(house.verdict(CID).await, "good");
    assert!(house.store.record().count("MAIL FROM:<>") > asked_as_nobody);
    assert_eq!(house.alarms(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_is_replaced_three_times_at_most() {
    for lost in [Action::close(), Action::reset(), Action::reply("421 4.3.0 Down").then(Action::close())] {
        let house = House::with(PLAIN, Script::knowing([ANN]).on(at(Phase::Rcpt), lost.clone()));
        assert_eq!(house.verdict(ANN).await, "unreachable");
        assert_eq!((house.probes_for(ANN), house.remembered(ANN)), (3, Remembered::Nothing));
        let house = House::with(PLAIN, Script::knowing([ANN]).on(at(Phase::Rcpt).nth(1), lost));
        assert_eq!(house.verdict(ANN).await, "good");
        assert_eq!(house.probes_for(ANN), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_closes_over_every_name_is_not_hammered() {
    let house = Arc::new(House::with(
        "stage = \"auto\"\n",
        Script::knowing([ANN]).on(at(Phase::Rcpt), Action::close()),
    ));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..200_u8 {
        let house = Arc::clone(&house);
        asking.spawn(async move { house.verdict(&format!("guess{number}@example.org")).await });
    }
    for verdict in asking.join_all().await {
        assert!(verdict == "unreachable" || verdict == "timeout", "{verdict}");
    }
    tokio::time::sleep(MINUTE).await;
    // Three tries each would be 600. In 25 s it is about one in two seconds for each of 22 sessions.
    let connections = house.store.record().connections;
    assert!(connections <= 400, "{connections} connections");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_no_answer() {
    let house = House::with(PLAIN, Script::knowing([ANN]).on(at(Phase::Rcpt), Action::ignore()));
    assert_eq!(house.verdict(ANN).await, "timeout");
    assert_eq!(house.remembered(ANN), Remembered::Nothing);
}

#[tokio::test(start_paused = true)]
async fn too_many_connections_halves_the_budget() {
    let words = "421 4.3.2 The maximum number of concurrent connections has exceeded a limit, closing transmission channel";
    let script = Script::knowing([ANN]).on(at(Phase::Greeting).nth(1), Action::reply(words));
    let house = House::with(PLAIN, script);
    let before = house.backend().budget().account().limit;
    house.verdict(ANN).await;
    assert_eq!(house.backend().budget().account().limit, before / 2);
    assert_ne!(house.remembered(ANN), Remembered::Bad);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(house.backend().budget().account().limit, before / 2 + 1);
}

#[tokio::test(start_paused = true)]
async fn pressure_slows_down_and_passes() {
    let script = Script::knowing([ANN]).on(at(Phase::Rcpt).nth(1), Action::reply("451 4.7.500 Server busy"));
    let house = House::with(PLAIN, script);
    house.verdict(ANN).await;
    assert!(house.backend().budget().account().pressed);
    tokio::time::sleep(MINUTE).await;
    assert!(!house.backend().budget().account().pressed);
}

#[tokio::test(start_paused = true)]
async fn at_data_354_is_good_and_the_connection_is_dropped_with_nothing_sent() {
    let house = House::with("stage = \"data\"\n", Script::knowing([ANN]));
    assert_eq!(house.verdict(ANN).await, "good");
    assert_eq!(house.remembered(ANN), Remembered::Good);
    assert_eq!(house.store.record().count("DATA"), 1);
    assert_eq!((house.store.record().body_octets, house.store.record().messages.len()), (0, 0));
}
