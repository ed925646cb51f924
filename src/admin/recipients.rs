//! What is known of a recipient, what a client would hear, and making the proxy forget or ask.
//!
//! What would be answered is told for a client that is not in `limits.bypass`. Where it is "forward" the last
//! word is the delivery port's, which nobody asks here.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::Panel;
use super::answer::{self, Answer, Refusal};
use super::target::decoded;
use crate::config::{Config, Mode, Route, RoutedRecipients};
use crate::observe::EscapedWhole;
use crate::observe::metrics::RecipientSource;
use crate::proto::address::{Domain, Mailbox};
use crate::proto::replies;
use crate::proto::reply::Reply;
use crate::proto::verdict::Verdict;
use crate::verify::{
    Conversation, Decision, Entry, Explanation, Freshness, Known, Serving, Verified, decide,
};

/// `GET /api/v1/recipients/{address}`.
pub(super) fn explain(panel: &Panel, address: &str) -> Result<Answer, Refusal> {
    let (mailbox, route) = recipient(panel, address)?;
    Ok(answer::json(&Explained::of(panel, route, &mailbox)))
}

/// `DELETE /api/v1/recipients/{address}`.
pub(super) fn forget(panel: &Panel, address: &str) -> Result<Answer, Refusal> {
    let (mailbox, route) = recipient(panel, address)?;
    panel.verifier.forget(route, &mailbox);
    Ok(answer::json(&json!({ "forgotten": mailbox.written() })))
}

/// `DELETE /api/v1/recipients`, of one domain or of all.
pub(super) fn forget_many(panel: &Panel, parameters: &[(String, String)]) -> Result<Answer, Refusal> {
    let forgotten = match parameters {
        [] => {
            panel.verifier.forget_all();
            "*".to_owned()
        }
        [(name, written)] if name == "domain" => {
            let domain = Domain::parse(written).map_err(|fault| Refusal::Domain(written.clone(), fault))?;
            panel.config.routes.find(&domain).ok_or_else(|| Refusal::NoRoute(domain.clone()))?;
            panel.verifier.forget_domain(&domain);
            format!("@{domain}")
        }
        _ => return Err(Refusal::Parameters),
    };
    Ok(answer::json(&json!({ "forgotten": forgotten })))
}

/// `POST /api/v1/recipients/{address}/probe`.
pub(super) async fn probe(panel: &Panel, address: &str) -> Result<Answer, Refusal> {
    let (mailbox, route) = recipient(panel, address)?;
    let Verified { verdict, source, conversation } = panel.verifier.probe(route, &mailbox).await;
    Ok(answer::json(&Probed {
        verdict: Told::of(&verdict),
        source: source.as_str(),
        conversation: lines(&conversation),
        explained: Explained::of(panel, route, &mailbox),
    }))
}

/// The recipient an address in a path names, and its route.
fn recipient<'p>(panel: &'p Panel, encoded: &str) -> Result<(Mailbox, &'p Arc<Route>), Refusal> {
    let address = decoded(encoded).ok_or_else(|| Refusal::Encoding(encoded.to_owned()))?;
    let mailbox = Mailbox::parse(&address).map_err(|fault| Refusal::Address(address, fault))?;
    let routes = &panel.config.routes;
    let route = match mailbox.domain() {
        Some(domain) => routes.find(domain).ok_or_else(|| Refusal::NoRoute(domain.clone()))?,
        None => routes.first(),
    };
    Ok((mailbox, route))
}

/// All that is known of a recipient.
#[derive(Debug, Serialize)]
struct Explained<'p> {
    address: String,
    route: &'p str,
    mode: &'static str,
    /// What `allow`, `deny` or the recipient file says, if they do.
    listed: Option<&'static str>,
    cache: Option<Remembered>,
    /// What is known of its domain.
    domain: Option<Domained>,
    answer: Expected,
    /// What was said when the store was asked last.
    last_probe: Option<LastProbe>,
}

#[derive(Debug, Serialize)]
struct Domained {
    name: String,
    rcpt: &'static str,
    data: &'static str,
    delivery: &'static str,
    believed: bool,
}

#[derive(Debug, Serialize)]
struct LastProbe {
    age_seconds: u64,
    conversation: Vec<String>,
}

/// All that is known once the store was asked.
#[derive(Debug, Serialize)]
struct Probed<'p> {
    #[serde(flatten)]
    verdict: Told,
    source: &'static str,
    conversation: Vec<String>,
    #[serde(flatten)]
    explained: Explained<'p>,
}

/// A verdict in words.
#[derive(Debug, Serialize)]
struct Told {
    verdict: &'static str,
    /// Why nobody could say.
    cause: Option<&'static str>,
    /// The store's own words.
    reply: Option<String>,
}

#[derive(Debug, Serialize)]
struct Remembered {
    #[serde(flatten)]
    verdict: Told,
    age_seconds: u64,
    /// Zero when it is past its lifetime.
    remaining_seconds: u64,
}

/// What a client would hear now.
#[derive(Debug, Serialize)]
struct Expected {
    action: Action,
    /// Who decides.
    source: &'static str,
    reply: Option<String>,
    note: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    /// It is given to the delivery port.
    Forward,
    /// It is refused.
    Refuse,
    /// The store is asked first.
    Ask,
}

impl<'p> Explained<'p> {
    fn of(panel: &Panel, route: &'p Arc<Route>, mailbox: &Mailbox) -> Self {
        let explanation = panel.verifier.explain(route, mailbox);
        Self {
            address: EscapedWhole(mailbox.written()).to_string(),
            route: &route.name,
            mode: route.verify.mode.as_str(),
            listed: explanation.listed.as_ref().map(|verdict| Told::of(verdict).verdict),
            cache: explanation.entry.as_ref().and_then(Remembered::of),
            answer: Expected::of(&panel.config, mailbox, &explanation),
            domain: explanation.scope.map(|scope| Domained {
                name: scope.name,
                rcpt: scope.recipient.as_str(),
                data: scope.data.as_str(),
                delivery: scope.delivery.as_str(),
                believed: !scope.braked,
            }),
            last_probe: explanation
                .conversation
                .map(|(age, said)| LastProbe { age_seconds: age.as_secs(), conversation: lines(&said) }),
        }
    }
}

impl Told {
    fn of(verdict: &Verdict) -> Self {
        let (word, cause, reply) = match verdict {
            Verdict::Deliverable => ("deliverable", None, None),
            Verdict::Undeliverable(reply) => ("unknown", None, Some(reply)),
            Verdict::Unknown(cause) => ("undetermined", Some(cause.as_str()), cause.reply()),
        };
        Self { verdict: word, cause, reply: reply.map(shown) }
    }
}

impl Remembered {
    fn of(entry: &Entry) -> Option<Self> {
        Some(Self {
            verdict: Told::of(&verdict(&entry.known)?),
            age_seconds: entry.age.as_secs(),
            remaining_seconds: entry.remaining.as_secs(),
        })
    }
}

impl Expected {
    /// Follows the order of the session: policy, lists, what is remembered, the store.
    fn of(config: &Config, mailbox: &Mailbox, explanation: &Explanation) -> Self {
        let route = &explanation.route;
        if config.limits.routed_recipients == RoutedRecipients::Refuse && mailbox.is_routed() {
            return Self::decided(Decision::Refuse(replies::ROUTED_RECIPIENT), RecipientSource::Policy);
        }
        if explanation.serving == Serving::RelayUntested {
            return Self::decided(Decision::Refuse(replies::UNDETERMINED), RecipientSource::Policy)
                .noting("the backend was not seen to refuse foreign domains");
        }
        if route.verify.mode == Mode::Off {
            return Self::decided(Decision::Forward, RecipientSource::Policy).noting("nobody is asked");
        }
        let expected = match (&explanation.listed, &explanation.entry) {
            (Some(listed), _) => {
                let (decision, _) = decide(listed.clone(), route.verify.on_unknown);
                Self::decided(decision, RecipientSource::Policy)
            }
            (None, Some(entry)) => Self::remembered(route, entry),
            (None, None) => match &explanation.undecidable {
                Some(cause) => {
                    let (decision, _) = decide(Verdict::Unknown(cause.clone()), route.verify.on_unknown);
                    Self::decided(decision, RecipientSource::Policy).noting("nobody can tell")
                }
                None => Self::asked(),
            },
        };
        if expected.action == Action::Refuse && route.verify.mode == Mode::Shadow {
            return Self { action: Action::Forward, ..expected }.noting("shadow: this reply is only logged");
        }
        expected
    }

    fn remembered(route: &Route, entry: &Entry) -> Self {
        let Some(verdict) = verdict(&entry.known) else { return Self::asked() };
        if entry.known == Known::Good(Freshness::Stale) {
            return Self::asked().noting("taken if the store cannot be asked");
        }
        if entry.remaining.is_zero() {
            return Self::asked();
        }
        let may_recheck = matches!(verdict, Verdict::Undeliverable(_)) && entry.age >= route.verify.recheck;
        let (decision, _) = decide(verdict, route.verify.on_unknown);
        let expected = Self::decided(decision, RecipientSource::Cache);
        if may_recheck { expected.noting("asked again for a client with a clean record") } else { expected }
    }

    fn decided(decision: Decision, source: RecipientSource) -> Self {
        let (action, reply) = match decision {
            Decision::Forward => (Action::Forward, None),
            Decision::Refuse(reply) => (Action::Refuse, Some(shown(&reply))),
        };
        Self { action, source: source.as_str(), reply, note: None }
    }

    const fn asked() -> Self {
        Self { action: Action::Ask, source: RecipientSource::Probe.as_str(), reply: None, note: None }
    }

    fn noting(self, note: &'static str) -> Self {
        Self { note: Some(note), ..self }
    }
}

/// A reply as it came, but for what a terminal would obey: whoever asks may well print it to one.
fn shown(reply: &Reply) -> String {
    EscapedWhole(reply.to_string()).to_string()
}

fn lines(conversation: &Conversation) -> Vec<String> {
    conversation.lines().iter().map(|line| EscapedWhole(line).to_string()).collect()
}

/// The verdict an entry stands for.
fn verdict(known: &Known) -> Option<Verdict> {
    match known {
        Known::Good(_) => Some(Verdict::Deliverable),
        Known::Bad(reply) => Some(Verdict::Undeliverable(reply.clone())),
        Known::Deferred(cause) => Some(Verdict::Unknown(cause.clone())),
        Known::Nothing => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Environment, Flags, OnUnknown, Source};
    use crate::proto::verdict::Cause;

    #[test]
    fn what_is_remembered_answers_as_long_as_it_serves() {
        let flags = Flags {
            domain: vec!["example.org".into()],
            backend: vec!["[::1]:25".into()],
            ..Flags::default()
        };
        let environment =
            Environment { variables: Vec::new(), host_name: "mx.example.org".into(), search: Vec::new() };
        let config = crate::config::load_in(&Source::Flags(flags), &environment).unwrap().config;
        let mut route = Route::clone(config.routes.first());
        route.verify.on_unknown = OnUnknown::Tempfail;
        let bad = || Known::Bad(Reply::fixed(550, "5.1.1 no such user"));
        let busy = || Known::Deferred(Cause::Deferred(Reply::fixed(450, "4.2.0 later")));
        let recheck = route.verify.recheck.as_secs();
        for (known, age, remaining, action, reply, noted) in [
            (Known::Good(Freshness::Fresh), 1, 9, Action::Forward, None, false),
            (Known::Good(Freshness::Aging), 8, 2, Action::Forward, None, false),
            (Known::Good(Freshness::Stale), 11, 0, Action::Ask, None, true),
            (bad(), 1, 9, Action::Refuse, Some("550 5.1.1 no such user"), false),
            (bad(), recheck, 9, Action::Refuse, Some("550 5.1.1 no such user"), true),
            (bad(), 10, 0, Action::Ask, None, false),
            (busy(), 1, 4, Action::Refuse, Some("450 4.2.0 later"), false),
            (busy(), 5, 0, Action::Ask, None, false),
        ] {
            let name = format!("{known:?} {age} {remaining}");
            let (age, remaining) = (Duration::from_secs(age), Duration::from_secs(remaining));
            let expected = Expected::remembered(&route, &Entry { known, age, remaining });
            assert_eq!((expected.action, expected.reply.as_deref()), (action, reply), "{name}");
            assert_eq!(expected.note.is_some(), noted, "{name}");
        }
    }
}
