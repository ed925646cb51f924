//! The command: what it says of real servers and how it ends.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::backend::{Backend, Exchange, Limits, Script};
use crate::support::certificate::Pair;
use crate::support::dns::NameServer;
use crate::support::exim::Exim;
use crate::support::machine::{Directory, free_address};
use crate::support::postfix::Postfix;

/// Runs `backstop doctor` before a server for `example.org`.
async fn doctor(backend: impl ToString, arguments: &[&str]) -> Output {
    let backend = backend.to_string();
    let mut all = vec!["doctor", "--domain", "example.org", "--backend", &backend];
    all.extend(arguments);
    run(Command::new(env!("CARGO_BIN_EXE_backstop")), &all).await
}

async fn run(mut command: Command, arguments: &[&str]) -> Output {
    let directory = Directory::new("doctor");
    command.args(arguments).current_dir(directory.path()).stdin(Stdio::null());
    command.env("BACKSTOP__HOSTNAME", "mx.example.org");
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    drop(directory);
    output
}

fn text(output: &Output) -> String {
    // Lines are wrapped: what is looked for may be on two of them.
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|fault| panic!("{fault}: {output:?}"))
}

/// The ids of all findings of the one backend, in order.
fn ids(report: &Value) -> Vec<&str> {
    let findings = report["backends"][0]["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test]
async fn of_a_real_postfix_it_says_what_is_true() {
    // Its own error limits: a second for each error beyond the tenth of a session.
    let postfix = Postfix::start_with(
        &["ann@example.org", "postmaster@example.org"],
        &[("smtpd_error_sleep_time", "1s")],
    )
    .await;
    let output = doctor(postfix.address(), &["--known", "ann@example.org"]).await;
    let said = text(&output);
    for part in [
        "takes mail for example.org; is asked about recipients of example.org",
        "ok takes the sender <>",
        "ok refuses names nobody has in example.org at RCPT: 550 5.1.1 <",
        "User unknown in virtual mailbox table",
        "ok takes ann@example.org: 250 2.1.5 Ok",
        "ok refuses to relay for us: 554 5.7.1 <",
        "ok takes 5 recipients in a transaction",
        "ok takes 45 connections at once, as many as max_connections allows",
        "note does not offer STARTTLS [no-tls]",
        "later after 10 refusals in a session [slows-after-refusals]",
        "1 backend: 0 faults, 0 warnings, ",
    ] {
        assert!(said.contains(part), "{part}:\n{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(code(&output), 0, "{said}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains('\x1b'), "colour where there is no terminal");
    postfix.log_caught_up().await;
    assert_eq!(postfix.count("DATA"), 0);
}

#[tokio::test]
async fn a_postfix_that_relays_for_us_and_takes_anyone_is_found_out() {
    let postfix = Postfix::start_with(
        &["ann@example.org"],
        &[
            ("smtpd_relay_restrictions", "permit_mynetworks, reject"),
            ("virtual_mailbox_maps", "static:all/"),
            ("smtpd_sender_restrictions", "check_sender_access inline:{ {<> = reject no null senders} }"),
            ("smtpd_delay_reject", "no"),
        ],
    )
    .await;
    let output = doctor(postfix.address(), &["--json", "--no-connections"]).await;
    let report = json(&output);
    let found = ids(&report);
    assert_eq!(found.first_chunk(), Some(&["unverifiable", "relays", "null-sender-refused"]), "{report:#}");
    assert_eq!((&report["healthy"], &report["faults"]), (&Value::Bool(false), &Value::from(2)));
    assert_eq!(code(&output), 1);
    postfix.settled().await;
    assert_eq!(postfix.messages("ann@example.org").len(), 0);
}

#[tokio::test]
async fn of_a_real_exim_it_says_what_is_true() {
    let Some(exim) = Exim::start(&["ann@example.org", "postmaster@example.org"]).await else { return };
    let output = doctor(exim.address(), &["--known", "ann@example.org", "--no-connections", "--json"]).await;
    let report = json(&output);
    let backend = &report["backends"][0];
    assert_eq!((&report["faults"], &report["warnings"]), (&Value::from(0), &Value::from(0)), "{report:#}");
    let announced = backend["facts"]["announced"].as_array().unwrap();
    assert!(announced.contains(&Value::from("CHUNKING")), "{announced:?}");
    let well = |line: &str| {
        backend["well"].as_array().unwrap().iter().any(|well| well.as_str().unwrap().contains(line))
    };
    assert!(well("refuses names nobody has in example.org at RCPT: 550 "), "{report:#}");
    assert!(well("takes ann@example.org"), "{report:#}");
    assert!(well("refuses to relay for us: 550 "), "{report:#}");
    assert_eq!(code(&output), 0);
    assert!(exim.messages("ann@example.org").is_empty());
}

#[tokio::test]
async fn of_each_exchange_it_says_what_is_true() {
    let mailboxes = ["ann@example.org", "postmaster@example.org"];
    let cases = [
        (Exchange::V2010, 1, "holds each refusal back for 0.6 s [tarpit]", "550 5.1.1 User unknown"),
        (
            Exchange::Frontend,
            1,
            "DATA is answered 354 Start mail input; end with <CRLF>.<CRLF> [unverifiable]",
            "250 2.1.5 Recipient OK",
        ),
        (
            Exchange::Hub,
            1,
            "holds each refusal back for 0.6 s [tarpit]",
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound",
        ),
        (
            Exchange::Online,
            0,
            "ends a session after 5 refusals",
            "550 5.4.1 Recipient address rejected: Access denied.",
        ),
    ];
    for (which, exit, finding, words) in cases {
        let mut script = which.knowing(mailboxes);
        // Long enough to be noticed, short enough to wait for.
        script.limits.tarpit = script.limits.tarpit.min(Duration::from_millis(610));
        let (store, address) = Backend::start(script).await;
        let directory = Directory::new("doctor-exchange");
        let file = directory.write("backstop.toml", format!(
            "hostname = \"mx.example.org\"\n[[route]]\nname = \"exchange\"\nprofile = \"exchange\"\ndomains = [\"example.org\"]\nbackends = [\"{address}\"]\n"
        ));
        let command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        let output = run(command, &["doctor", "--config", file.to_str().unwrap()]).await;
        let said = text(&output);
        for part in [finding, words, "takes 18 connections at once", "takes mail for exchange"] {
            assert!(said.contains(part), "{which:?}: {part}:\n{}", String::from_utf8_lossy(&output.stdout));
        }
        assert_eq!(code(&output), exit, "{which:?}: {said}");
        assert_eq!((store.record().body_octets, store.record().most_open), (0, 18), "{which:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_from_one_that_has_no_name() {
    let closed = free_address();
    for (backend, id) in
        [(closed.to_string(), "connection-refused"), ("no-such-host.invalid:25".to_owned(), "unresolvable")]
    {
        let output = doctor(backend, &["--json"]).await;
        let report = json(&output);
        assert_eq!(ids(&report), [id]);
        assert_eq!(report["backends"][0]["reached"], Value::Bool(false));
        assert_eq!(code(&output), 1);
    }
}

#[tokio::test]
async fn tls_is_held_against_what_the_route_wants() {
    let script = || Script::knowing(["postmaster@example.org"]).serving_only_their_domains();
    let own = Pair::alone(&["mail.example.org"]);
    let pinned = format!("tls = \"pin\"\ntls_pins = [{:?}]", own.pin());
    let other = format!("tls = \"pin\"\ntls_pins = [{:?}]", Pair::alone(&["mail.example.org"]).pin());
    for (script, keys, finding, exit) in [
        (script().with_starttls(own.server()), "", None, 0),
        (script().with_starttls(own.server()), &*pinned, None, 0),
        (script().with_starttls(own.server()), &*other, Some("tls-refused"), 1),
        (script().with_starttls(own.server()), "tls = \"off\"", Some("tls-unused"), 0),
        (script(), "tls = \"required\"", Some("tls-refused"), 1),
    ] {
        let (_store, address) = Backend::start(script).await;
        let directory = Directory::new("doctor-tls");
        let text = format!(
            "hostname = \"mx.example.org\"\n[[route]]\ndomains = [\"example.org\"]\nbackends = [\"{address}\"]\n{keys}\n"
        );
        let file = directory.write("backstop.toml", text);
        let command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        let arguments = ["doctor", "--json", "--no-connections", "--config", file.to_str().unwrap()];
        let output = run(command, &arguments).await;
        let report = json(&output);
        let found: Vec<_> = ids(&report).into_iter().filter(|id| id.contains("tls")).collect();
        assert_eq!(found, Vec::from_iter(finding), "{keys}: {report:#}");
        assert_eq!(
            report["backends"][0]["facts"]["tls"].is_string(),
            finding.is_none(),
            "{keys}: {report:#}"
        );
        assert_eq!(code(&output), exit, "{keys}: {report:#}");
    }
}

#[tokio::test]
async fn every_backend_is_examined_for_what_it_is_to_us() {
    let (blind, delivery) = Backend::start(Script::blind()).await;
    let script = Script::knowing(["postmaster@example.org"]).serving_only_their_domains();
    let (_truthful, store) = Backend::start(script.limited(Limits::default())).await;
    let directory = Directory::new("doctor-two");
    let file = directory.write("backstop.toml", format!(
        "hostname = \"mx.example.org\"\n[[route]]\ndomains = [\"example.org\", \"*.example.org\"]\nbackends = [\"{delivery}\"]\n[route.verify]\nbackends = [\"{store}\"]\n"
    ));
    let command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    let output =
        run(command, &["doctor", "--json", "--no-connections", "--config", file.to_str().unwrap()]).await;
    let report = json(&output);
    let backends = report["backends"].as_array().unwrap();
    let of = |address: SocketAddr| {
        let backend = backends.iter().find(|backend| backend["address"] == address.to_string().as_str());
        backend.unwrap_or_else(|| panic!("{address}: {report:#}"))
    };
    assert_eq!(of(delivery)["asked_by"], Value::Array(Vec::new()));
    assert_eq!(of(store)["delivers_for"], Value::Array(Vec::new()));
    let has = |address, id: &str| {
        of(address)["findings"].as_array().unwrap().iter().any(|finding| finding["id"] == id)
    };
    assert!(has(delivery, "blind-delivery") && has(delivery, "relays") && !has(delivery, "unverifiable"));
    assert!(!has(store, "blind-delivery") && !has(store, "relays"));
    assert_eq!(code(&output), 1);
    assert_eq!(blind.record().body_octets, 0);
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_said_so() {
    let command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    let output = run(command, &["doctor", "--config", "/nonexistent/backstop.toml"]).await;
    assert_eq!(code(&output), 78);
    let closed = free_address().to_string();
    assert_eq!(code(&doctor(&closed, &["--known", "no address"]).await), 78);
}

#[tokio::test]
async fn blocklists_are_asked_through_the_systems_resolver() {
    let script = Script::knowing(["postmaster@example.org"]).serving_only_their_domains();
    let (_store, address) = Backend::start(script).await;
    let (dns, server) = NameServer::start_for_the_system().await;
    for (name, address) in [
        ("2.0.0.127.bl.test", [127, 0, 0, 2]),
        ("99.2.0.192.bl.test", [127, 0, 0, 4]),
        ("2.0.0.127.shy.test", [127, 0, 0, 2]),
        ("99.2.0.192.shy.test", [127, 255, 255, 254]),
        ("mx.example.org.shy.test", [127, 255, 255, 254]),
    ] {
        dns.leads(name, 60, &[(address, 0).into()]);
    }
    let directory = Directory::new("doctor-lists");
    let resolver = directory.write("resolv.conf", format!("nameserver {}\noptions timeout:5\n", server.ip()));
    // In a mount namespace of its own the system's resolver is ours.
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", resolver.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", env!("CARGO_BIN_EXE_backstop")]);
    let address = address.to_string();
    let arguments = [
        "doctor",
        "--json",
        "--no-connections",
        "--domain",
        "example.org",
        "--backend",
        &address,
        "--address",
        "192.0.2.99",
        "--dnsbl",
        "bl.test",
        "--dnsbl",
        "shy.test",
        "--dnsbl",
        "gone.test",
    ];
    let output = run(command, &arguments).await;
    let report = json(&output);
    let lookups = report["lists"]["lookups"].as_array().unwrap();
    let seen: Vec<_> = lookups
        .iter()
        .map(|l| [&l["zone"], &l["subject"], &l["listing"]].map(|part| part.as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            ["bl.test", "192.0.2.99", "listed"],
            ["bl.test", "mx.example.org", "clear"],
            ["shy.test", "192.0.2.99", "refused"],
            ["shy.test", "mx.example.org", "refused"],
            ["gone.test", "192.0.2.99", "silent"],
            ["gone.test", "mx.example.org", "silent"],
        ],
        "{report:#}"
    );
    assert_eq!(code(&output), 1);
}
