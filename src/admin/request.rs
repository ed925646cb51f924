//! From a request to its answer. No socket here.

use std::net::IpAddr;
use std::time::Duration;

use hyper::StatusCode;
use hyper::http::request::Parts;
use tokio::time::timeout;

use super::answer::{self, Answer, Refusal};
use super::target::{Audience, Place, Resource, parameters};
use super::{
    Panel, access, clients, configuration, events, health, history, orders, page, recipients, refusals,
    sessions, status,
};

/// How long an answer may take; a probe waits for the mail store.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The answer to `request`, whatever it is.
pub(super) async fn answer(panel: &Panel, caller: IpAddr, request: &Parts) -> Answer {
    let done = timeout(DEADLINE, perform(panel, caller, request)).await;
    done.unwrap_or(Err(Refusal::Deadline(DEADLINE))).unwrap_or_else(Answer::from)
}

/// Whether a machine asks how we are; it is answered when nobody else can be.
pub(super) fn is_for_health(request: &Parts) -> bool {
    let found = Place::at(request.uri.path());
    found.is_some_and(|(place, _)| matches!(place.resource, Resource::Live | Resource::Ready))
}

async fn perform(panel: &Panel, caller: IpAddr, request: &Parts) -> Result<Answer, Refusal> {
    let path = request.uri.path();
    let found = Place::at(path);
    // What is not there is for operators too: strangers learn nothing.
    if found.is_none_or(|(place, _)| place.audience == Audience::Operators) {
        access::admit(panel, caller, request)?;
    }
    let Some((place, part)) = found else { return Err(Refusal::Nowhere(path.to_owned())) };
    let query = request.uri.query().unwrap_or_default();
    let parameters = parameters(query).ok_or_else(|| Refusal::Encoding(query.to_owned()))?;
    match (place.resource, request.method.as_str()) {
        (Resource::Page, "GET" | "HEAD") => Ok(page::page()),
        (Resource::Live, "GET" | "HEAD") => Ok(answer::text(StatusCode::OK, answer::TEXT, "ok\n".into())),
        (Resource::Ready, "GET" | "HEAD") => Ok(health::ready(panel, health::detail(&parameters))),
        (Resource::Metrics, "GET" | "HEAD") => Ok(health::metrics(panel)),
        (Resource::Description, "GET" | "HEAD") => Ok(page::description()),
        (Resource::Status, "GET" | "HEAD") => Ok(answer::json(&status::Status::of(panel))),
        (Resource::History, "GET" | "HEAD") => history::show(panel, &parameters),
        (Resource::Events, "GET") => events::stream(panel, &parameters),
        (Resource::Sessions, "GET" | "HEAD") => Ok(sessions::list(panel)),
        (Resource::Refusals, "GET" | "HEAD") => Ok(refusals::list(panel)),
        (Resource::Configuration, "GET" | "HEAD") => Ok(configuration::list(panel)),
        (Resource::Recipient, "GET" | "HEAD") => recipients::explain(panel, part),
        (Resource::Recipient, "DELETE") => recipients::forget(panel, part),
        (Resource::Recipients, "DELETE") => recipients::forget_many(panel, &parameters),
        (Resource::Probe, "POST") => recipients::probe(panel, part).await,
        (Resource::Clients, "GET" | "HEAD") => Ok(clients::list(panel).await),
        (Resource::Client, "DELETE") => clients::pardon(panel, part),
        (Resource::Reload, "POST") => orders::reload(panel).await,
        (Resource::Drain, "POST") => orders::drain(panel).await,
        (_, method) => Err(Refusal::Method { method: method.to_owned(), allowed: place.methods }),
    }
}
