//! From a request to its answer. No socket here.

use std::net::IpAddr;
use std::time::Duration;

use hyper::StatusCode;
use hyper::http::request::Parts;
use tokio::time::timeout;

use super::answer::{self, Answer, Refusal};
use super::target::{Audience, Resource, parameters};
use super::{Panel, access, clients, health, recipients, status};

/// How long an answer may take; a probe waits for the mail store.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// The answer to `request`, whatever it is.
pub(super) async fn answer(panel: &Panel, caller: IpAddr, request: &Parts) -> Answer {
    let done = timeout(DEADLINE, perform(panel, caller, request)).await;
    done.unwrap_or(Err(Refusal::Deadline(DEADLINE))).unwrap_or_else(Answer::from)
}

async fn perform(panel: &Panel, caller: IpAddr, request: &Parts) -> Result<Answer, Refusal> {
    let path = request.uri.path();
    let resource = Resource::at(path);
    // What is not there is for operators too: strangers learn nothing.
    if resource.is_none_or(|resource| resource.audience() == Audience::Operators) {
        access::admit(panel, caller, request)?;
    }
    let Some(resource) = resource else { return Err(Refusal::Nowhere(path.to_owned())) };
    let query = request.uri.query().unwrap_or_default();
    let parameters = parameters(query).ok_or_else(|| Refusal::Encoding(query.to_owned()))?;
    match (resource, request.method.as_str()) {
        (Resource::Live, "GET" | "HEAD") => Ok(answer::text(StatusCode::OK, answer::TEXT, "ok\n".into())),
        (Resource::Ready, "GET" | "HEAD") => Ok(health::ready(panel, health::detail(&parameters))),
        (Resource::Metrics, "GET" | "HEAD") => Ok(health::metrics(panel)),
        (Resource::Status, "GET" | "HEAD") => Ok(answer::json(&status::Status::of(panel))),
        (Resource::Recipient(address), "GET" | "HEAD") => recipients::explain(panel, address),
        (Resource::Recipient(address), "DELETE") => recipients::forget(panel, address),
        (Resource::Recipients, "DELETE") => recipients::forget_many(panel, &parameters),
        (Resource::Probe(address), "POST") => recipients::probe(panel, address).await,
        (Resource::Clients, "GET" | "HEAD") => Ok(clients::list(panel).await),
        (Resource::Client(address), "DELETE") => clients::pardon(panel, address),
        (resource, method) => Err(Refusal::Method { method: method.to_owned(), allowed: resource.methods() }),
    }
}
