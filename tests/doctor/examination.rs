//! Each finding, against a backend that gives reason for it, and for no other.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use backstop::config::{self, Environment, Flags, Profile, Source};
use backstop::net::dial::Dialer;
use backstop::proto::address::{Domain, Mailbox};
use backstop::server::assemble;
use backstop::verify::examine::facts::{EnduranceEnd, Facts};
use backstop::verify::examine::judge::{
    Delivers, Finding, IsAsked, Judgement, Local, Role, Severity, TlsWanted, judge,
};
use backstop::verify::examine::{Plan, examine};
use tokio::sync::mpsc;
use tokio_rustls::rustls::ServerConfig;

use crate::support::backend::{Action, Backend, Exchange, Judges, Limits, Phase, Script, at};
use crate::support::certificate::Pair;

const MAILBOXES: [&str; 2] = ["ann@example.org", "postmaster@example.org"];
/// The fallback where none is configured.
const FALLBACK: &str = "postmaster@mx.example.org";

/// What it shakes hands with.
static SERVER: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| Pair::alone(&["mail.example.org"]).server());

/// A server in which nothing is wrong.
fn sound() -> Script {
    in_the_clear().with_starttls(Arc::clone(&SERVER))
}

/// The same without TLS.
fn in_the_clear() -> Script {
    let keywords =
        ["PIPELINING", "SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN", "CHUNKING"];
    Script::knowing(MAILBOXES).serving_only_their_domains().offering_only(&keywords)
}

fn role() -> Role {
    Role {
        delivers: Delivers::Named,
        asked: IsAsked::Decides,
        profile: Profile::Standard,
        tls: TlsWanted::Offered,
        local: Local::Away,
        address: "mail.example.org:25".to_owned(),
        host: "mail.example.org".to_owned(),
        hostname: "mx.example.org".to_owned(),
        max_connections: 18,
    }
}

fn plan() -> Plan {
    Plan {
        domains: vec![Domain::parse("example.org").unwrap()],
        known: Vec::new(),
        sender: None,
        fallback: Mailbox::parse(FALLBACK).ok(),
        connections: Some(18),
    }
}

struct Examined {
    facts: Facts,
    judgement: Judgement,
    record: crate::support::backend::Record,
}

async fn examined(script: Script, plan: Plan, role: Role) -> Examined {
    let flags = Flags {
        listen: Vec::new(),
        domain: vec!["example.org".to_owned()],
        backend: vec!["mail.example.org:25".to_owned()],
    };
    let environment = Environment { host_name: role.hostname.clone(), ..Environment::default() };
    let config = config::load_in(&Source::Flags(flags), &environment).unwrap().config;
    let (switchboard, mut arriving) = mpsc::unbounded_channel();
    let context = assemble(config, &Dialer::Memory(switchboard)).unwrap();
    let store = Arc::new(Backend::new(script));
    let serving = Arc::clone(&store);
    let taking = tokio::spawn(async move {
        while let Some((_, stream)) = arriving.recv().await {
            serving.serve(stream);
        }
    });
    let backend = context.backends.iter().next().unwrap();
    let facts = examine(&backend, &plan, |_| {}).await;
    taking.abort();
    let judgement = judge(&facts, &role);
    let record = store.record();
    assert_eq!(record.body_octets, 0, "message data was sent");
    Examined { facts, judgement, record }
}

/// The ids of what is wrong, notes left out.
fn wrong(judgement: &Judgement) -> Vec<(Severity, &str)> {
    let wrong = judgement.findings.iter().filter(|finding| finding.severity > Severity::Note);
    wrong.map(|finding| (finding.severity, finding.id)).collect()
}

fn found<'j>(judgement: &'j Judgement, id: &str) -> &'j Finding {
    let finding = judgement.findings.iter().find(|finding| finding.id == id);
    finding.unwrap_or_else(|| panic!("{id} was not found: {judgement:#?}"))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_wrong_with_a_sound_server() {
    let known = vec![Mailbox::parse("ann@example.org").unwrap()];
    let Examined { judgement, record, .. } = examined(sound(), Plan { known, ..plan() }, role()).await;
    assert_eq!(judgement.findings, []);
    for well in [
        "is spoken to in TLSv1.3 TLS_",
        "takes the sender <>",
        "refuses names nobody has in example.org at RCPT: 550 5.1.1 ",
        "takes ann@example.org: 250 2.1.5 Ok",
        "refuses to relay for us: 554 5.7.1 ",
        "refuses without delay",
        "takes 5 recipients in a transaction",
        "endures 12 refusals in a session",
        "takes 18 connections at once",
    ] {
        assert!(judgement.well.iter().any(|line| line.starts_with(well)), "{well}: {:#?}", judgement.well);
    }
    assert_eq!(record.count("DATA"), 0);
    assert!(record.most_open <= 18, "{}", record.most_open);
    let sessions = record.connections;
    assert!((0..sessions).all(|session| record.quit(session)), "a session was left without QUIT");
    assert!(record.count("RCPT") < 40, "{} RCPTs", record.count("RCPT"));
}

/// What a case is about, the server, and what is wrong with it.
type Case = (&'static str, Script, Vec<(Severity, &'static str)>);

/// Each finding is told in full, is in the documentation, and no other is made.
async fn are_found(cases: Vec<Case>) {
    let documentation = include_str!("../../docs/doctor.md");
    for (what, script, expected) in cases {
        let judgement = examined(script, plan(), role()).await.judgement;
        assert_eq!(wrong(&judgement), expected, "{what}: {judgement:#?}");
        for finding in &judgement.findings {
            assert!(!finding.what.is_empty() && !finding.means.is_empty(), "{finding:?}");
            assert!(finding.severity == Severity::Note || !finding.remedy.is_empty(), "{finding:?}");
            assert!(
                documentation.contains(&format!("| `{}` |", finding.id)),
                "{} is not explained",
                finding.id
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_serve_us_is_told_why() {
    use Severity::Fault;
    let greeting = |text: &str| sound().on(at(Phase::Greeting), Action::reply(text));
    let no_name = Action::reply("550 5.7.1 Not that name");
    are_found(vec![
        ("its greeting", greeting("554 5.7.1 Not you"), vec![(Fault, "greeting-refused")]),
        ("not now", greeting("451 4.3.2 Disk full"), vec![(Fault, "greeting-deferred")]),
        ("too many", greeting("421 4.3.2 Too many connections from you"), vec![(Fault, "busy")]),
        ("no SMTP", greeting("HTTP/1.1 400 Bad Request"), vec![(Fault, "no-greeting")]),
        ("it closes", sound().on(at(Phase::Greeting), Action::close()), vec![(Fault, "no-greeting")]),
        ("silence", sound().on(at(Phase::Greeting), Action::ignore()), vec![(Fault, "no-greeting")]),
        ("ourselves", sound().named("mx.example.org"), vec![(Fault, "loop")]),
        (
            "our name",
            sound().on(at(Phase::Ehlo), no_name.clone()).on(at(Phase::Helo), no_name),
            vec![(Fault, "name-refused")],
        ),
        (
            "our name, told late",
            sound().on(
                at(Phase::Rcpt),
                Action::reply(
                    "504 5.5.2 <mx.example.org>: Helo command rejected: need fully-qualified hostname",
                ),
            ),
            vec![(Fault, "name-refused")],
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_server_cannot_take_is_told() {
    use Severity::Warning;
    let limited = |limits: Limits| sound().limited(limits);
    are_found(vec![
        ("in the clear", in_the_clear(), vec![(Warning, "no-tls")]),
        ("no handshake", in_the_clear().offering("STARTTLS"), vec![(Warning, "tls-failed")]),
        (
            "a handshake cut off",
            sound().on(at(Phase::Handshake), Action::close()),
            vec![(Warning, "tls-failed")],
        ),
        ("no pipelining", sound().offering_only(&["8BITMIME"]), vec![(Warning, "no-pipelining")]),
        ("small", sound().offering_only(&["PIPELINING", "SIZE 1000000"]), vec![(Warning, "small-messages")]),
        (
            "tarpit",
            limited(Limits { tarpit: Duration::from_secs(5), ..Limits::default() }),
            vec![(Warning, "tarpit")],
        ),
        (
            "few refusals",
            limited(Limits { errors: Some(2), ..Limits::default() }),
            vec![(Warning, "ends-after-refusals")],
        ),
        (
            "few connections",
            limited(Limits { connections: Some(8), ..Limits::default() }),
            vec![(Warning, "few-connections")],
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn whom_a_server_takes_and_refuses_is_told() {
    use Severity::{Fault, Warning};
    let no_null = || sound().on(at(Phase::Mail).from("").to(""), Action::reply("550 5.7.1 No null senders"));
    let always = |text: &str| sound().on(at(Phase::Rcpt).in_domain("example.org"), Action::reply(text));
    are_found(vec![
        ("no null sender", no_null(), vec![(Warning, "null-sender-refused")]),
        (
            "no sender of ours",
            no_null().on(at(Phase::Mail).to(FALLBACK), Action::reply("550 5.7.1 Nor you")),
            vec![(Fault, "null-sender-refused"), (Warning, "unanswered")],
        ),
        (
            "anyone, and a relay",
            Script::blind().with_starttls(Arc::clone(&SERVER)),
            vec![(Fault, "unverifiable"), (Fault, "relays")],
        ),
        ("told at DATA", sound().judging(Judges::AtData), vec![(Warning, "blind-at-rcpt")]),
        ("told after the message", sound().judging(Judges::AfterTheMessage), vec![(Fault, "unverifiable")]),
        (
            "a relay",
            sound().on(at(Phase::Rcpt).in_domain("example.com"), Action::reply("250 2.1.5 Ok")),
            vec![(Fault, "relays")],
        ),
        (
            "a relay for whoever uses our name",
            sound()
                .on(at(Phase::Rcpt).from(FALLBACK).in_domain("example.com"), Action::reply("250 2.1.5 Ok")),
            vec![(Fault, "relays")],
        ),
        ("another's domain", sound().serving_only(&["example.net"]), vec![(Fault, "domain-not-served")]),
        ("greylisting", always("450 4.2.0 Greylisted"), vec![(Warning, "defers-questions")]),
        ("policy", always("550 5.7.1 Blocked"), vec![(Warning, "refuses-questions")]),
        (
            "now so, now so",
            sound().on(at(Phase::Rcpt).nth(2), Action::reply("450 4.2.0 Later")),
            vec![(Warning, "fickle")],
        ),
    ])
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_known_recipient_that_is_refused_is_told() {
    let known = ["ann@example.org", "gone@example.org"].map(|known| Mailbox::parse(known).unwrap());
    let judgement = examined(sound(), Plan { known: known.to_vec(), ..plan() }, role()).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Fault, "known-refused")]);
    assert!(found(&judgement, "known-refused").what.contains("gone@example.org"));
    for full in ["552 5.2.2 Mailbox full", "452 4.2.2 Mailbox full"] {
        let full = sound().on(at(Phase::Rcpt).to("ann@example.org"), Action::reply(full));
        let plan = Plan { known: known[..1].to_vec(), ..plan() };
        assert_eq!(wrong(&examined(full, plan, role()).await.judgement), [], "it exists");
    }
    let greylists = sound().on(at(Phase::Rcpt).to("ann@example.org"), Action::reply("450 4.2.0 Later"));
    let judgement =
        examined(greylists, Plan { known: known[..1].to_vec(), ..plan() }, role()).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "known-undetermined")]);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_sender_that_works_is_told() {
    let script = sound().on(at(Phase::Mail).from("").to(""), Action::reply("550 5.7.1 No null senders"));
    let judgement = examined(script, plan(), role()).await.judgement;
    let finding = found(&judgement, "null-sender-refused");
    assert!(finding.means.contains(FALLBACK), "{finding:?}");
    // The other questions were asked with it.
    assert!(judgement.well.iter().any(|line| line.starts_with("refuses names nobody has")), "{judgement:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_configured_sender_is_asked_with_and_the_null_sender_for_bounces() {
    let sender = Mailbox::parse("probe@example.org").ok();
    let with_sender = || Plan { sender: sender.clone(), ..plan() };
    let refused = |sender: &str| sound().on(at(Phase::Mail).to(sender), Action::reply("550 5.7.1 Not you"));
    let no_null = || sound().on(at(Phase::Mail).from("").to(""), Action::reply("550 5.7.1 No null senders"));
    let judgement = examined(no_null(), with_sender(), role()).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "null-sender-refused")]);
    assert!(judgement.well.contains(&"takes the sender <probe@example.org>".to_owned()), "{judgement:#?}");
    let judgement = examined(refused("probe@example.org"), with_sender(), role()).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "sender-refused")]);
    let later = sound().on(at(Phase::Mail).from("").to(""), Action::reply("451 4.7.1 Later"));
    let judgement = examined(later, plan(), role()).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "null-sender-unanswered")]);
}

#[tokio::test(start_paused = true)]
async fn a_domain_without_a_postmaster_is_noted() {
    let script = sound().on(at(Phase::Rcpt).to("postmaster@example.org"), Action::reply("550 5.1.1 No"));
    let judgement = examined(script, plan(), role()).await.judgement;
    assert_eq!(wrong(&judgement), []);
    assert_eq!(found(&judgement, "postmaster-refused").severity, Severity::Note);
}

#[tokio::test(start_paused = true)]
async fn a_single_recipient_behind_a_null_sender_is_noted() {
    let script = sound().on(
        at(Phase::Rcpt).from("").to("postmaster@example.org").nth(3),
        Action::reply("452 4.5.3 One recipient for a bounce"),
    );
    let Examined { facts, judgement, .. } = examined(script, plan(), role()).await;
    // The first question about postmaster was a transaction of its own.
    assert_eq!(facts.together.map(|together| together.taken), Some(4));
    assert_eq!(found(&judgement, "few-recipients").severity, Severity::Note);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_slows_down_after_errors_is_noted() {
    // As Postfix does after its soft limit, in every session.
    let slow = |script: Script, turn| {
        script.on(at(Phase::Rcpt).turn(turn), Action::ordinary().after(Duration::from_secs(1)))
    };
    let script = [11, 12].into_iter().fold(sound(), slow);
    let Examined { facts, judgement, .. } = examined(script, plan(), role()).await;
    let endurance = facts.endurance.unwrap();
    assert_eq!((endurance.refusals, endurance.slower_after), (12, Some(10)));
    assert_eq!(endurance.slower_by, Duration::from_secs(1));
    assert_eq!(found(&judgement, "slows-after-refusals").severity, Severity::Note);
    assert_eq!(wrong(&judgement), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_blind_port_means_depends_on_who_decides() {
    let blind = || sound().judging(Judges::AfterTheMessage);
    for (asked, id, severity) in [
        (IsAsked::Decides, "unverifiable", Severity::Fault),
        (IsAsked::Elsewhere, "blind-delivery", Severity::Note),
        (IsAsked::Never, "blind", Severity::Warning),
    ] {
        let judgement = examined(blind(), plan(), Role { asked, ..role() }).await.judgement;
        assert_eq!(found(&judgement, id).severity, severity, "{judgement:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_only_where_that_is_wanted() {
    let Examined { facts, record, .. } =
        examined(sound(), Plan { connections: None, ..plan() }, role()).await;
    assert!(facts.connections.is_none());
    assert_eq!(record.most_open, 1);
}

/// An Exchange as it is, with its 5 s and its limits.
async fn exchange(which: Exchange) -> Examined {
    let role = Role { profile: Profile::Exchange, ..role() };
    examined(which.knowing(MAILBOXES), plan(), role).await
}

#[tokio::test(start_paused = true)]
async fn exchange_2010_tarpits_and_ends_a_session_after_five_refusals() {
    let Examined { facts, judgement, .. } = exchange(Exchange::V2010).await;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "no-tls"), (Severity::Warning, "tarpit")]);
    assert!(found(&judgement, "tarpit").what.contains("5.0 s"));
    let endurance = facts.endurance.unwrap();
    assert_eq!(endurance.refusals, 5);
    assert!(matches!(endurance.end, EnduranceEnd::Ended(_)), "{endurance:?}");
    assert_eq!(facts.connections.map(|connections| connections.opened), Some(18));
    assert!(judgement.well.iter().any(|line| line.contains("550 5.7.1 Unable to relay")), "{judgement:#?}");
}

#[tokio::test(start_paused = true)]
async fn exchange_2013_on_port_25_cannot_be_verified() {
    let Examined { facts, judgement, .. } = exchange(Exchange::Frontend).await;
    assert_eq!(wrong(&judgement), [(Severity::Fault, "unverifiable"), (Severity::Warning, "no-tls")]);
    let finding = found(&judgement, "unverifiable");
    assert!(finding.what.contains("354 Start mail input"), "{finding:?}");
    assert!(finding.remedy.contains("verify.backends = [\"mail.example.org:2525\"]"), "{finding:?}");
    assert!(facts.endurance.is_none());
}

#[tokio::test(start_paused = true)]
async fn exchange_2013_on_port_2525_tells_at_rcpt() {
    let judgement = exchange(Exchange::Hub).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "no-tls"), (Severity::Warning, "tarpit")]);
    assert!(judgement.well.iter().any(|line| line.contains("550 5.1.10 RESOLVER.ADR.RecipientNotFound")));
}

#[tokio::test(start_paused = true)]
async fn exchange_online_tells_at_rcpt() {
    let judgement = exchange(Exchange::Online).await.judgement;
    assert_eq!(wrong(&judgement), [(Severity::Warning, "no-tls")]);
    assert!(judgement.well.iter().any(|line| line.contains("550 5.4.1 Recipient address rejected")));
}

#[tokio::test(start_paused = true)]
async fn more_connections_than_exchange_takes_are_found_out() {
    let role = Role { max_connections: 45, ..role() };
    let plan = Plan { connections: Some(45), ..plan() };
    let Examined { facts, judgement, .. } = examined(Exchange::Online.knowing(MAILBOXES), plan, role).await;
    assert_eq!(facts.connections.map(|connections| connections.opened), Some(20));
    let finding = found(&judgement, "few-connections");
    assert!(finding.what.contains("per-source limit"), "{finding:?}");
    assert!(finding.remedy.contains("max_connections = 18"), "{finding:?}");
}
