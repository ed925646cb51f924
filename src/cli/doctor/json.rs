//! The report as JSON. Fields and ids may be added; those that are there stay.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Examined, Report};
use crate::proto::reply::Reply;
use crate::verify::examine::dnsbl::{Listing, Lookup};
use crate::verify::examine::facts::{Asked, DomainFact, EnduranceEnd, Facts, Reach, SenderFact};
use crate::verify::examine::judge::{Finding, Severity};

pub(super) fn report(report: &Report) -> Value {
    let count = |severity| report.findings().filter(|finding| finding.severity == severity).count();
    let worst = report.findings().map(|finding| finding.severity).max();
    json!({
        "hostname": report.hostname,
        "healthy": worst.is_none_or(|worst| worst == Severity::Note),
        "faults": count(Severity::Fault),
        "warnings": count(Severity::Warning),
        "notes": count(Severity::Note),
        "backends": report.backends.iter().map(backend).collect::<Vec<_>>(),
        "lists": {
            "lookups": report.lists.lookups.iter().map(lookup).collect::<Vec<_>>(),
            "findings": report.lists.findings.iter().map(finding).collect::<Vec<_>>(),
        },
    })
}

fn backend(examined: &Examined) -> Value {
    let Examined { target, facts, judgement, took } = examined;
    json!({
        "address": target.role.address,
        "delivers_for": target.delivers_for,
        "asked_by": target.asked_by,
        "domains": target.domains.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "reached": matches!(facts.reach, Reach::Open { .. }),
        "seconds": seconds(*took),
        "findings": judgement.findings.iter().map(finding).collect::<Vec<_>>(),
        "well": judgement.well,
        "facts": seen(facts),
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "id": finding.id,
        "severity": finding.severity.as_str(),
        "what": finding.what,
        "means": finding.means,
        "remedy": finding.remedy,
    })
}

fn seen(facts: &Facts) -> Value {
    let Reach::Open { took, announced, tls } = &facts.reach else { return Value::Null };
    json!({
        "connect_seconds": seconds(*took),
        "announced": announced.lines().collect::<Vec<_>>(),
        "tls": tls.as_ref().map(ToString::to_string),
        "senders": facts.senders.iter().map(sender).collect::<Vec<_>>(),
        "domains": facts.domains.iter().map(domain).collect::<Vec<_>>(),
        "known": facts.known.iter().map(asked).collect::<Vec<_>>(),
        "relay": facts.relay.iter().map(asked).collect::<Vec<_>>(),
        "together": facts.together.as_ref().map(|together| json!({
            "asked": together.asked,
            "taken": together.taken,
            "refusal": said(together.refusal.as_ref()),
        })),
        "endurance": facts.endurance.as_ref().map(|endurance| json!({
            "refusals": endurance.refusals,
            "slower_after": endurance.slower_after,
            "slower_by_seconds": seconds(endurance.slower_by),
            "ended": match &endurance.end {
                EnduranceEnd::Ended(words) => Value::from(words.as_str()),
                EnduranceEnd::Enough | EnduranceEnd::Slow => Value::Null,
            },
        })),
        "connections": facts.connections.as_ref().map(|connections| json!({
            "wanted": connections.wanted,
            "opened": connections.opened,
        })),
    })
}

fn sender(fact: &SenderFact) -> Value {
    json!({
        "sender": fact.sender.as_ref().map_or("", |sender| sender.written()),
        "reply": said(fact.reply.as_ref()),
    })
}

fn domain(fact: &DomainFact) -> Value {
    let nobody = fact.nobody.iter();
    json!({
        "domain": fact.domain,
        "nobody": nobody.map(|rcpt| json!({ "reply": rcpt.reply.to_string(), "seconds": seconds(rcpt.took) }))
            .collect::<Vec<_>>(),
        "data": said(fact.data.as_ref()),
        "postmaster": said(fact.postmaster.as_ref()),
    })
}

fn asked(asked: &Asked) -> Value {
    json!({ "sender": asked.sender, "recipient": asked.recipient, "reply": said(asked.reply.as_ref()) })
}

fn lookup(lookup: &Lookup) -> Value {
    let (listing, answers): (_, &[_]) = match &lookup.listing {
        Listing::Listed(answers) => ("listed", answers),
        Listing::Clear => ("clear", &[]),
        Listing::Refused(answers) => ("refused", answers),
        Listing::Silent => ("silent", &[]),
    };
    let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
    json!({ "zone": lookup.zone, "subject": lookup.subject, "listing": listing, "answers": answers })
}

fn said(reply: Option<&Reply>) -> Option<String> {
    reply.map(ToString::to_string)
}

/// In thousandths.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
