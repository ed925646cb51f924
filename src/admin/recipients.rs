//! Recipients: why one is refused, ask again, forget.

use std::sync::Arc;

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::Panel;
use super::answer::{self, Answer, error, wrong_method};
use crate::config::Route;
use crate::proto::address::{Domain, Mailbox};
use crate::proto::verdict::Verdict;
use crate::verify::{Decision, Explanation, Freshness, Known, decide};

/// `/api/v1/recipients/{address}` and `…/probe`.
pub(super) async fn one(panel: &Panel, method: &Method, rest: &str) -> Answer {
    let (address, probe) = match rest.strip_suffix("/probe") {
        Some(address) => (address, true),
        None => (rest, false),
    };
    let (mailbox, route) = match find(panel, address) {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    match (method, probe) {
        (&Method::POST, true) => {
            let verified = panel.verifier.probe(&route, &mailbox).await;
            let mut explained = explain(panel, &route, &mailbox);
            if let Some(fields) = explained.as_object_mut() {
                fields.insert("probe".to_owned(), verdict(&verified.verdict));
                fields.insert("conversation".to_owned(), json!(verified.conversation.lines()));
            }
            answer::json(&explained)
        }
        (_, true) => wrong_method("POST"),
        (&Method::GET | &Method::HEAD, false) => answer::json(&explain(panel, &route, &mailbox)),
        (&Method::DELETE, false) => {
            panel.verifier.forget(&route, &mailbox);
            answer::json(&json!({ "forgotten": mailbox.written() }))
        }
        (_, false) => wrong_method("GET, HEAD, DELETE"),
    }
}

/// `DELETE /api/v1/recipients`, all or those of a domain.
pub(super) fn forget_many(panel: &Panel, query: Option<&str>) -> Answer {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        panel.verifier.forget_all();
        return answer::json(&json!({ "forgotten": "all" }));
    };
    let Some(written) = query.strip_prefix("domain=").and_then(decoded) else {
        return error(StatusCode::BAD_REQUEST, "write ?domain=example.org");
    };
    match Domain::parse(&written) {
        Ok(domain) => {
            panel.verifier.forget_domain(&domain);
            answer::json(&json!({ "forgotten": { "domain": domain.as_str() } }))
        }
        Err(fault) => error(StatusCode::BAD_REQUEST, format_args!("{written:?} is not a domain: {fault}")),
    }
}

#[expect(clippy::result_large_err, reason = "made once per request, and handed straight out")]
fn find(panel: &Panel, address: &str) -> Result<(Mailbox, Arc<Route>), Answer> {
    let bad = |why: &dyn std::fmt::Display| {
        error(StatusCode::BAD_REQUEST, format_args!("{address:?} is not an address: {why}"))
    };
    let written = decoded(address).ok_or_else(|| bad(&"bad percent-encoding"))?;
    let mailbox = Mailbox::parse(&written).map_err(|fault| bad(&fault))?;
    let routes = &panel.config.routes;
    let route = match mailbox.domain() {
        Some(domain) => routes.find(domain),
        None => Some(routes.first()),
    };
    let route = route.map(Arc::clone).ok_or_else(|| {
        error(StatusCode::NOT_FOUND, format_args!("no route for {written}: it is refused with 550 5.7.1"))
    })?;
    Ok((mailbox, route))
}

/// Route, entry, and what a client would be answered now.
fn explain(panel: &Panel, route: &Arc<Route>, mailbox: &Mailbox) -> Value {
    let Explanation { route, entry, listed } = panel.verifier.explain(route, mailbox);
    let now = match (&listed, &entry) {
        (Some(listed), _) => answer_to(listed.clone(), &route),
        (None, Some(entry)) => match &entry.known {
            Known::Good(Freshness::Stale) => "asks the mail store; accepted if it cannot be asked".to_owned(),
            Known::Good(_) => answer_to(Verdict::Deliverable, &route),
            Known::Bad(_) | Known::Deferred(_) if entry.remaining.is_zero() => {
                "asks the mail store".to_owned()
            }
            Known::Bad(reply) => answer_to(Verdict::Undeliverable(reply.clone()), &route),
            Known::Deferred(cause) => answer_to(Verdict::Unknown(cause.clone()), &route),
            Known::Nothing => "asks the mail store".to_owned(),
        },
        (None, None) => "asks the mail store".to_owned(),
    };
    json!({
        "address": mailbox.written(),
        "route": route.name.as_ref(),
        "mode": format!("{:?}", route.verify.mode).to_lowercase(),
        "listed": listed.as_ref().map(verdict),
        "entry": entry.as_ref().map(|entry| json!({
            "verdict": known(&entry.known),
            "age_seconds": entry.age.as_secs(),
            "remaining_seconds": entry.remaining.as_secs(),
        })),
        "answer_now": now,
    })
}

/// What a client is answered, in a line.
fn answer_to(verdict: Verdict, route: &Route) -> String {
    match decide(verdict, route.verify.on_unknown).0 {
        Decision::Forward => "the delivery port decides".to_owned(),
        Decision::Refuse(reply) => reply.to_string(),
    }
}

fn known(known: &Known) -> Value {
    match known {
        Known::Good(_) => verdict(&Verdict::Deliverable),
        Known::Bad(reply) => verdict(&Verdict::Undeliverable(reply.clone())),
        Known::Deferred(cause) => verdict(&Verdict::Unknown(cause.clone())),
        Known::Nothing => Value::Null,
    }
}

fn verdict(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Deliverable => json!({ "is": "deliverable" }),
        Verdict::Undeliverable(reply) => json!({ "is": "undeliverable", "reply": reply.to_string() }),
        Verdict::Unknown(cause) => json!({
            "is": "unknown",
            "cause": cause.as_str(),
            "reply": cause.reply().map(ToString::to_string),
        }),
    }
}

/// Without percent-encoding; none when that is malformed or not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = if *first == b'%' {
            let (pair, behind) = behind.split_at_checked(2)?;
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
            out.push(u8::from_str_radix(pair, 16).ok()?);
            behind
        } else {
            out.push(*first);
            behind
        };
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_or_refused() {
        assert_eq!(decoded("a%40b+c%C3%A9"), Some("a@b+cé".to_owned()));
        for bad in ["%", "%4", "%zz", "%+4", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
