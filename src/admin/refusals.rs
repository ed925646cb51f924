//! What was refused, or would have been in shadow mode: by route and cause since the start, and the latest.

use std::sync::Arc;

use serde::Serialize;

use super::Panel;
use super::answer::{self, Answer};
use crate::observe::Event;
use crate::observe::metrics::{RefusalCause, RouteMetrics};

/// `GET /api/v1/refusals`.
#[derive(Debug, Serialize)]
struct Refusals<'p> {
    /// How long it has been counted.
    seconds: u64,
    /// Routes as they are configured, and what they do about unknown recipients.
    routes: Vec<RouteMode<'p>>,
    /// By route, then by cause; "" for domains without a route.
    counts: Vec<Count>,
    /// The latest, the last first. Of a flood not every one is kept.
    latest: Vec<Event>,
}

#[derive(Debug, Serialize)]
struct RouteMode<'p> {
    name: &'p str,
    mode: &'static str,
    /// Recipients its backends took since the start.
    accepted: u64,
}

#[derive(Debug, Serialize)]
struct Count {
    route: String,
    cause: &'static str,
    meaning: &'static str,
    refused: u64,
    would_refuse: u64,
}

/// All of it.
pub(super) fn list(panel: &Panel) -> Answer {
    let of_route = |(route, metrics): (Arc<str>, RouteMetrics)| {
        metrics.refusals().into_iter().map(move |counted| Count {
            route: route.to_string(),
            cause: counted.cause.as_str(),
            meaning: meaning(counted.cause),
            refused: counted.refused,
            would_refuse: counted.would,
        })
    };
    answer::json(&Refusals {
        seconds: panel.started.elapsed().as_secs(),
        routes: panel
            .config
            .routes
            .iter()
            .map(|route| RouteMode {
                name: &route.name,
                mode: route.verify.mode.as_str(),
                accepted: panel.metrics.route(&route.name).accepted(),
            })
            .collect(),
        counts: panel.metrics.routes().into_iter().flat_map(of_route).collect(),
        latest: panel.events.latest().iter().map(|event| Event::clone(event)).collect(),
    })
}

/// For people.
const fn meaning(cause: RefusalCause) -> &'static str {
    match cause {
        RefusalCause::Unknown => "the mail store does not know the recipient",
        RefusalCause::Denied => "a list denies the recipient, or does not have it",
        RefusalCause::NoRoute => "nobody here serves the domain",
        RefusalCause::Routed => "the local part asks for relaying",
        RefusalCause::RelayUntested => "the backend was not seen to refuse foreign domains",
        RefusalCause::Deferred => "the mail store gave a temporary answer",
        RefusalCause::Policy => "the mail store refused our question, not the recipient",
        RefusalCause::SenderRefused => "the mail store refuses the senders we ask with",
        RefusalCause::Unverified => "the mail store takes the recipient without knowing it",
        RefusalCause::RouteFault => "the mail store does not serve the domain for us",
        RefusalCause::Blind => "the mail store takes any recipient",
        RefusalCause::StoreIll => "the mail store refuses in numbers what it knew",
        RefusalCause::Unreachable => "the mail store could not be reached",
        RefusalCause::Timeout => "the mail store did not answer in time",
        RefusalCause::NoCapacity => "too many questions waited for the mail store",
        RefusalCause::Guessing => "the client guesses recipients",
        RefusalCause::Busy => "too many other recipients of the client had no answer yet",
        RefusalCause::OtherRoute => "the recipient belongs to another server than the one before it",
        RefusalCause::OneRecipient => "each recipient is to come alone",
        RefusalCause::Backend => "the delivery port refused, for another reason than that it is unknown",
        RefusalCause::BackendDeferred => "the delivery port refused for the moment, or could not be reached",
        RefusalCause::BackendLost => "the delivery port was lost before it answered",
    }
}
