//! What runs here, and in what state.

use serde_json::{Value, json};

use super::Panel;
use crate::config::{DomainPattern, Endpoint, RecipientSource, Route};

/// Everything an operator asks first.
pub(super) fn status(panel: &Panel) -> Value {
    let sizes = panel.verifier.sizes();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": panel.started.elapsed().as_secs(),
        "hostname": panel.config.hostname,
        "draining": panel.drain.is_announced(),
        "cache": {
            "deliverable": sizes.good,
            "undeliverable": sizes.bad,
            "unknown": sizes.deferred,
            "evictions": sizes.evictions,
            "max_entries": panel.config.cache.max_entries,
        },
        "routes": panel.config.routes.iter().map(|r| route(panel, r)).collect::<Vec<_>>(),
    })
}

fn route(panel: &Panel, route: &Route) -> Value {
    let asked = match &route.verify.source {
        RecipientSource::Callout { backends } => backends.iter().map(|b| backend(panel, b)).collect(),
        RecipientSource::File(path) => vec![json!({ "file": path })],
    };
    json!({
        "name": route.name.as_ref(),
        "domains": route.domains.iter().map(DomainPattern::to_string).collect::<Vec<_>>(),
        "mode": format!("{:?}", route.verify.mode).to_lowercase(),
        "backends": route.backends.iter().map(|b| backend(panel, b)).collect::<Vec<_>>(),
        "asked": asked,
    })
}

fn backend(panel: &Panel, endpoint: &Endpoint) -> Value {
    let backend = panel.backends.find(endpoint);
    json!({
        "address": endpoint.to_string(),
        "reached": backend.is_some_and(|b| b.announced().is_some()),
        "fault": backend.and_then(|b| b.last_fault()),
        "extensions": backend.and_then(|b| b.announced()).map(|e| e.to_string()),
    })
}
