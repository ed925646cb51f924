//! Domains whose recipients are to come alone, each in a transaction of its own.
//!
//! Exchange with the recipient filter on a Mailbox server takes every recipient and refuses the whole message
//! for a bad one. With one recipient that refusal is true of it. With several it is not true of the others:
//! the message is refused for now and the domain marked here, so that the sender's next try succeeds for the
//! good ones and fails for the bad one alone.
//!
//! A mark ends by itself. The table is bounded; a new mark pushes out the one that would have ended first.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::Verifier;
use crate::config::Route;
use crate::proto::address::{Domain, Mailbox};

/// Most domains marked. A route for all subdomains of a domain takes any name below it.
const MAX_MARKS: usize = 1000;

/// A route, and one of its domains; empty for the bare postmaster.
type Place = (Arc<str>, Box<str>);

/// Whether a recipient may share its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It may.
    Together,
    /// It is to come alone.
    Apart,
}

/// The marks.
#[derive(Debug, Default)]
pub(super) struct Apart {
    ends: RwLock<HashMap<Place, Instant>>,
}

/// A domain that is marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The domain.
    pub domain: String,
    /// How long it stays marked.
    pub remaining: Duration,
}

impl Apart {
    /// Marks `domain` of `route` for so long.
    pub(super) fn mark(&self, route: &Arc<str>, domain: &str, lifetime: Duration) {
        let now = Instant::now();
        let mut ends = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|_, end| *end > now);
        let place = (Arc::clone(route), domain.into());
        if ends.len() >= MAX_MARKS && !ends.contains_key(&place) {
            let first = ends.iter().min_by_key(|(_, end)| **end).map(|(place, _)| place.clone());
            first.and_then(|first| ends.remove(&first));
        }
        ends.insert(place, now + lifetime);
    }

    /// Whether recipients in `domain` of `route` are to come alone.
    pub(super) fn is_marked(&self, route: &Arc<str>, domain: &str) -> bool {
        let ends = self.ends.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly always so, and then the key is not worth making.
        if ends.is_empty() {
            return false;
        }
        ends.get(&(Arc::clone(route), domain.into())).is_some_and(|end| *end > Instant::now())
    }

    /// The marked domains of `route`, by name.
    pub(super) fn of(&self, route: &str) -> Vec<Mark> {
        let now = Instant::now();
        let ends = self.ends.read().unwrap_or_else(PoisonError::into_inner);
        let marks = ends.iter().filter(|((of, _), end)| &**of == route && **end > now);
        let mut marks: Vec<Mark> = marks
            .map(|((_, domain), end)| Mark { domain: domain.to_string(), remaining: end.duration_since(now) })
            .collect();
        marks.sort_by(|a, b| a.domain.cmp(&b.domain));
        marks
    }

    /// Takes the marks of `domain` away, whatever the route.
    pub(super) fn forget(&self, domain: &str) {
        self.forget_if(|marked| marked == domain);
    }

    /// Takes the marks of those domains away.
    pub(super) fn forget_if(&self, is_one: impl Fn(&str) -> bool) {
        let mut ends = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|(_, marked), _| !is_one(marked));
    }

    /// Takes all marks away.
    pub(super) fn clear(&self) {
        self.ends.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Verifier {
    /// The delivery port refused a whole message for one recipient, and nobody knows which: from now on each
    /// recipient in the domains of `recipients` is to come alone, for `cache.blind_ttl`.
    pub fn keep_apart<'m>(&self, route: &Arc<Route>, recipients: impl Iterator<Item = &'m Mailbox>) {
        for mailbox in recipients {
            self.apart.mark(&route.name, domain_of(mailbox), self.blind_ttl);
        }
    }

    /// Whether `mailbox` may share its transaction with other recipients.
    #[must_use]
    pub fn kept(&self, route: &Arc<Route>, mailbox: &Mailbox) -> Kept {
        if self.apart.is_marked(&route.name, domain_of(mailbox)) { Kept::Apart } else { Kept::Together }
    }

    /// The domains of `route` whose recipients are to come alone.
    #[must_use]
    pub fn marks(&self, route: &Route) -> Vec<Mark> {
        self.apart.of(&route.name)
    }
}

/// Empty for the bare postmaster.
fn domain_of(mailbox: &Mailbox) -> &str {
    mailbox.domain().map_or("", Domain::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_mark_is_one_routes_and_ends() {
        let (apart, one, other) = (Apart::default(), Arc::from("one"), Arc::from("other"));
        apart.mark(&one, "a.example", HOUR);
        apart.mark(&one, "b.example", HOUR * 2);
        assert!(apart.is_marked(&one, "a.example") && !apart.is_marked(&other, "a.example"));
        assert_eq!(apart.of("one").len(), 2);
        tokio::time::advance(HOUR).await;
        assert!(!apart.is_marked(&one, "a.example"));
        assert_eq!(apart.of("one"), [Mark { domain: "b.example".to_owned(), remaining: HOUR }]);
        apart.forget("b.example");
        assert_eq!(apart.of("one"), []);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_the_oldest_mark_goes_first() {
        let (apart, route) = (Apart::default(), Arc::from("any"));
        for n in 0..=MAX_MARKS {
            apart.mark(&route, &format!("d{n}.example"), HOUR);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(apart.of("any").len(), MAX_MARKS);
        assert!(!apart.is_marked(&route, "d0.example") && apart.is_marked(&route, "d1.example"));
    }
}
