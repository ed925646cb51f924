//! Health and metrics, for machines that ask every few seconds.
//!
//! Ready means: clients are accepted, and nobody has announced the end. A backend that is down does not
//! change that. Clients get their temporary failure from us as well as from anybody else, and a balancer that
//! took every proxy out of service because the one mail store restarts would turn delay into refusal.

use std::sync::Arc;

use hyper::StatusCode;

use super::Panel;
use super::answer::{self, Answer};
use crate::backend::{Backend, LookedUp};
use crate::config::{Destination, Mode, RecipientSource};
use crate::observe::metrics::{BackendUse, RouteState};
use crate::observe::{Alarm, AlarmKind};
use crate::store::{Account, TierAccount};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// The result; the checks only when one failed.
    Brief,
    /// Every check.
    Verbose,
}

/// What `?verbose` asks for.
pub(super) fn detail(parameters: &[(String, String)]) -> Detail {
    if parameters.iter().any(|(name, _)| name == "verbose") { Detail::Verbose } else { Detail::Brief }
}

/// Whether clients may be sent here.
pub(super) fn ready(panel: &Panel, detail: Detail) -> Answer {
    let listening = panel.serving.is_cancelled();
    let draining = panel.drain.is_announced();
    let is_ready = listening && !draining;
    if is_ready && detail == Detail::Brief {
        return answer::text(StatusCode::OK, answer::TEXT, "ok\n".to_owned());
    }
    let check = |name: &str, passed: bool, fault: &str| {
        if passed { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: {fault}\n") }
    };
    let mut text = check("listening", listening, "not all listeners accept yet");
    text += &check("draining", !draining, "the end is announced");
    text += &backends(panel);
    text += &store(panel);
    text += &tier(panel);
    text += &alarms(panel);
    let (status, result) = if is_ready {
        (StatusCode::OK, "readyz check passed\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "readyz check failed\n")
    };
    answer::text(status, answer::TEXT, text + result)
}

/// One line for each backend, and for each name of backends that DNS does not tell now, for information.
fn backends(panel: &Panel) -> String {
    let state = |backend: Arc<Backend>| match (backend.last_fault(), backend.announced()) {
        (Some(fault), _) => format!("[-]backend {} failed, not counted: {fault}\n", backend.site()),
        (None, Some(_)) => format!("[+]backend {} ok\n", backend.site()),
        (None, None) => format!("[+]backend {} not tried yet\n", backend.site()),
    };
    let dns = panel.backends.destinations().filter_map(|destination| match destination.looked_up() {
        LookedUp::Fault(fault) => {
            Some(format!("[-]dns {} failed, not counted: {fault}\n", destination.named()))
        }
        LookedUp::NotYet => Some(format!("[-]dns {} not answered yet\n", destination.named())),
        LookedUp::Known => Some(format!("[+]dns {} ok\n", destination.named())),
        LookedUp::Never => None,
    });
    let mut lines: Vec<String> = dns.chain(panel.backends.iter().map(state)).collect();
    lines.sort_unstable();
    lines.concat()
}

/// One line for the store, for information.
fn store(panel: &Panel) -> String {
    match panel.verifier.store() {
        None => String::new(),
        Some(Account { fault: None, .. }) => "[+]store ok\n".to_owned(),
        Some(Account { fault: Some(fault), .. }) => format!("[-]store failed, not counted: {fault}\n"),
    }
}

/// One line for what is shared with other instances, for information.
fn tier(panel: &Panel) -> String {
    match panel.verifier.tier() {
        None => String::new(),
        Some(TierAccount { up: true, .. }) => "[+]shared ok\n".to_owned(),
        Some(TierAccount { fault: None, .. }) => "[-]shared not joined yet, not counted\n".to_owned(),
        Some(TierAccount { fault: Some(fault), since, .. }) => {
            format!("[-]shared failed, not counted, for {} s: {fault}\n", since.as_secs())
        }
    }
}

/// One line for each alarm of a route, for information.
fn alarms(panel: &Panel) -> String {
    let line = |alarm: Alarm| {
        let Alarm { route, kind, about, detail, since } = alarm;
        let (kind, seconds) = (kind.as_str(), since.elapsed().as_secs());
        format!("[-]route {route} {kind} {about}, not counted, for {seconds} s: {detail}\n")
    };
    panel.alarms.raised().into_iter().map(line).collect()
}

/// What is counted.
pub(super) fn metrics(panel: &Panel) -> Answer {
    panel.verifier.observe();
    let raised = panel.alarms.raised();
    for route in panel.config.routes.iter() {
        for kind in AlarmKind::ALL {
            let count = raised.iter().filter(|alarm| alarm.route == route.name && alarm.kind == kind).count();
            panel.metrics.alarms(&route.name, kind, count);
        }
        let is_up = |named: &[Destination]| {
            let mut destinations = named.iter().filter_map(|named| panel.backends.find(named));
            if destinations.any(|destination| destination.is_up()) {
                RouteState::Up
            } else {
                RouteState::Down
            }
        };
        panel.metrics.route_up(&route.name, BackendUse::Delivery, is_up(&route.backends));
        if let RecipientSource::Callout { backends } = &route.verify.source
            && route.verify.mode != Mode::Off
        {
            panel.metrics.route_up(&route.name, BackendUse::Probe, is_up(backends));
        }
    }
    panel.backends.observe();
    panel.metrics.harvest_clients(panel.harvest.clients().0);
    answer::text(StatusCode::OK, answer::METRICS, panel.metrics.render())
}
