//! The mail store of one route, and everything that is found out by asking it.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::timeout;

use super::Verified;
use super::names;
use super::probe::{self, Finding};
use super::prober::{Answer, Asker, Prober, Shared, Store, Subject, Why};
use super::scope::{Common, Scope, Tested};
use super::scopes::Scopes;
use super::truth::Sighting;
use crate::backend::{Backend, Backends, Balancer};
use crate::config::{Config, Destination, Route};
use crate::observe::metrics::{RecipientSource, RouteMetrics};
use crate::proto::address::Mailbox;
use crate::proto::verdict::{Cause, Verdict};

/// A mail store that is asked.
#[derive(Debug)]
pub(super) struct Callout {
    /// What was asked whom; it goes into every key.
    pub(super) identity: Vec<u8>,
    /// The same with who asks: what is asked by one prober.
    pub(super) asker: String,
    pub(super) prober: Arc<Prober>,
    pub(super) scopes: Scopes,
    /// The delivery ports that are none of those that are asked.
    delivery: Option<Balancer>,
}

/// The probers there are, by whom they ask and as whom.
pub(super) type Probers = HashMap<String, Arc<Prober>>;

impl Callout {
    pub(super) fn new(
        config: &Config,
        route: &Arc<Route>,
        asked: &[Destination],
        backends: &Backends,
        (shared, series): (&Shared, &RouteMetrics),
        probers: &mut Probers,
        old: Option<&Self>,
    ) -> Self {
        let names: Vec<String> = asked.iter().map(identified).collect();
        let identity =
            format!("[{}] {:?} {}", names.join(", "), route.verify.sender, route.verify.stage.as_str());
        // The fallback sender is no part of what was asked, but of who asks.
        let asker = format!("{identity} {:?}", route.verify.fallback_sender);
        let prober = probers.entry(asker.clone()).or_insert_with(|| {
            let store = Store {
                backends: backends.balancer(asked, route.balance),
                sender: route.verify.sender.clone(),
                fallback_sender: route.verify.fallback_sender.clone(),
                patience: route.verify.timeout,
            };
            Prober::new(store, shared.clone(), series.clone())
        });
        let delivery: Vec<String> = route.backends.iter().map(identified).collect();
        let common = Common {
            route: Arc::clone(&route.name),
            stage: route.verify.stage,
            blind_ttl: config.cache.blind_ttl,
            alarms: shared.alarms.clone(),
            identity: format!("{identity} {}", delivery.join(", ")).into_bytes().into(),
            sights: Arc::clone(&shared.sights),
        };
        let elsewhere: Vec<_> =
            route.backends.iter().filter(|named| !asked.contains(named)).cloned().collect();
        Self {
            identity: identity.into_bytes(),
            asker,
            prober: Arc::clone(prober),
            scopes: Scopes::new(common, route, &shared.cache, old.map(|old| &old.scopes)),
            delivery: (!elsewhere.is_empty()).then(|| backends.balancer(&elsewhere, route.balance)),
        }
    }

    /// Asks about `subject`, within `verify.timeout`.
    pub(super) async fn asked(&self, subject: Subject, asker: Asker, why: Why, route: &Route) -> Verified {
        let answer = timeout(route.verify.timeout, self.prober.ask(subject, asker, why)).await;
        let unknown = |cause| Verified::of(Verdict::Unknown(cause), RecipientSource::Probe);
        match answer {
            Ok(Ok(Answer { verdict, conversation, source })) => Verified { verdict, source, conversation },
            Ok(Err(_)) => unknown(Cause::Unreachable),
            Err(_) => unknown(Cause::Timeout),
        }
    }

    /// Whether the servers that are asked take the mail, too.
    pub(super) const fn delivers_where_it_asks(&self) -> bool {
        self.delivery.is_none()
    }

    /// Where other ports take the mail: finds out, every now and then, whether they are truthful too. Nobody waits for it.
    pub(super) fn test_delivery(&self, scope: &Arc<Scope>, mailbox: &Mailbox) {
        let (Some(delivery), Some(domain)) = (&self.delivery, mailbox.domain()) else { return };
        let backends: Vec<_> = delivery.backends().collect();
        if backends.is_empty() || !scope.begin_delivery_test() {
            return;
        }
        let (scope, nobody, prober) = (Arc::clone(scope), names::nobody_at(domain), Arc::clone(&self.prober));
        tokio::spawn(async move {
            let sighting = match nobody {
                Some(nobody) => sight_all(&backends, prober.senders(), &nobody).await,
                None => Sighting::Vague,
            };
            scope.tested(Tested::Delivery, sighting);
        });
    }
}

/// What all of `backends` show: any of them may get the mail, so that the worst counts.
async fn sight_all(backends: &[Arc<Backend>], senders: [Option<&Mailbox>; 2], nobody: &Mailbox) -> Sighting {
    let each = backends.iter().map(|backend| sight(backend, senders, nobody));
    // Who cannot be asked is given no mail, either.
    let worst = [Sighting::Taken, Sighting::Vague, Sighting::Refused, Sighting::Unknown];
    let seen = futures_util::future::join_all(each).await;
    worst.into_iter().find(|sighting| seen.contains(sighting)).unwrap_or(Sighting::Lost)
}

/// What a destination is within the identity of a group. Answers are stored under it: it must stay.
fn identified(destination: &Destination) -> String {
    match destination {
        Destination::Host(endpoint) => format!("{endpoint:?}"),
        Destination::Srv(_) | Destination::Mx(_) => destination.to_string(),
    }
}

/// Whether `backend` takes a recipient that does not exist, asked as the first of `senders` that it takes.
async fn sight(backend: &Arc<Backend>, senders: [Option<&Mailbox>; 2], nobody: &Mailbox) -> Sighting {
    for sender in senders {
        match probe::ask_once(backend, sender, nobody).await {
            Some(Finding::OtherSender(_)) => {}
            finding => return Sighting::of(finding.as_ref()),
        }
    }
    Sighting::Vague
}
