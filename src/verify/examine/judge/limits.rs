//! What the backend can take: slowness on purpose, recipients, refusals, connections.

use std::time::Duration;

use super::{Judgement, Role, Severity};
use crate::proto::reply::Class;
use crate::proto::verdict::{Meaning, Stage, meaning};
use crate::verify::examine::HELD_BACK;
use crate::verify::examine::facts::{Connections, DomainFact, Endurance, EnduranceEnd, Shut, Together};

/// Refusals a session should endure; below, questions cost many sessions.
const FEW_REFUSALS: usize = 3;

pub(super) fn tarpit(domains: &[DomainFact], out: &mut Judgement) {
    let held_back = |fact: &DomainFact| {
        let refusals = fact.nobody.iter().filter(|rcpt| rcpt.reply.class() == Class::Permanent);
        // The quickest of them: the others may have had a reason of their own.
        refusals.map(|rcpt| rcpt.took.saturating_sub(fact.round_trip)).min()
    };
    match domains.iter().filter_map(held_back).min() {
        Some(tarpit) if tarpit >= HELD_BACK => out.found(
            Severity::Warning,
            "tarpit",
            format!("holds each refusal back for {}", seconds(tarpit)),
            "Clients wait as long for the first refusal of a name, and a burst of unknown names needs many sessions at once; what is remembered is refused at once",
            "end it for our address (Exchange: a receive connector for it with Set-ReceiveConnector -TarpitInterval 00:00:00; Postfix: smtpd_error_sleep_time = 0)",
        ),
        Some(_) => out.well("refuses without delay"),
        None => {}
    }
}

pub(super) fn together(together: Option<&Together>, out: &mut Judgement) {
    let Some(Together { asked, taken, refusal }) = together else { return };
    match refusal {
        None if taken == asked => {
            out.well(format!("takes {taken} recipients in a transaction of the probe's sender"));
        }
        Some(reply) if *taken > 0 && meaning(Stage::Recipient, reply) == Meaning::SessionLimit => out.found(
            Severity::Note,
            "few-recipients",
            format!("takes {taken} in a transaction of the probe's sender: {reply}"),
            "Questions have a transaction each until a server has shown that it takes more",
            "",
        ),
        _ => {}
    }
}

pub(super) fn endurance(endurance: Option<&Endurance>, role: &Role, out: &mut Judgement) {
    let Some(seen) = endurance else { return };
    let EndOf { severity, id, what } = match (&seen.end, seen.slower_after) {
        (EnduranceEnd::Ended(words), _) => EndOf {
            severity: if seen.refusals < FEW_REFUSALS { Severity::Warning } else { Severity::Note },
            id: "ends-after-refusals",
            what: format!("ends a session after {} refusals: {words}", seen.refusals),
        },
        (_, Some(after)) => EndOf {
            severity: Severity::Note,
            id: "slows-after-refusals",
            what: format!("answers {} later after {after} refusals in a session", seconds(seen.slower_by)),
        },
        (EnduranceEnd::Enough | EnduranceEnd::Slow, None) => {
            out.well(format!("endures {} refusals in a session, as many as were asked for", seen.refusals));
            return;
        }
    };
    out.found(
        severity,
        id,
        what,
        "Backstop learns this and leaves each session before; the fewer, the more sessions a burst of unknown names costs",
        match role.profile {
            crate::config::Profile::Exchange => {
                "Set-ReceiveConnector -MaxProtocolErrors for our address makes it cheaper"
            }
            crate::config::Profile::Standard => {
                "more for our address makes it cheaper (Postfix: smtpd_soft_error_limit, smtpd_hard_error_limit; Exim: no delay in the RCPT ACL, smtp_ratelimit_rcpt), for Exchange write profile = \"exchange\""
            }
        },
    );
}

struct EndOf {
    severity: Severity,
    id: &'static str,
    what: String,
}

pub(super) fn connections(connections: Option<&Connections>, out: &mut Judgement) {
    let Some(Connections { wanted, opened, refusal }) = connections else { return };
    let Some(refusal) = refusal else {
        out.well(format!("takes {opened} connections at once, as many as max_connections allows"));
        return;
    };
    let why = match refusal {
        Shut::Greeting(reply) | Shut::Hello(reply) => reply.to_string(),
        Shut::Connection(why) | Shut::Silent(why) | Shut::Tls(why) => why.clone(),
        Shut::Timeout => "the connection attempt took too long".to_owned(),
        Shut::Name | Shut::Ourselves => "it is no longer reached".to_owned(),
    };
    let room = opened.saturating_sub(2).max(2);
    out.found(
        Severity::Warning,
        "few-connections",
        format!("takes {opened} connections of ours at once, and max_connections is {wanted}: {why}"),
        "Under load what goes beyond is refused; Backstop then halves what it uses and grows back slowly. Other clients at our address, a running Backstop among them, count too",
        format!("write max_connections = {room}, or raise its limit for our address (Exchange: Set-ReceiveConnector -MaxInboundConnectionPerSource; Postfix: smtpd_client_connection_count_limit; Exim: smtp_accept_max, smtp_accept_max_per_host)"),
    );
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
