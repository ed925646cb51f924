//! What is wrong with a route for longer than a moment, and wants an operator.
//!
//! An alarm is raised again and again while its cause lasts, logged once, and cleared by whoever finds the cause
//! gone. It never touches an address. Bounded: what it is about are configured names, or domains below a
//! configured one, up to [`MOST_OF_A_KIND`] for each kind and route, so that none is crowded out by another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::redact;

/// Alarms of a kind that a route has at once; more of them say nothing new.
const MOST_OF_A_KIND: usize = 100;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The backend denies relaying for the domain, or wants something first: it does not serve it for us.
    RouteFault,
    /// The backend relays mail for foreign domains.
    OpenRelay,
    /// Whether the backend relays for foreign domains could not be found out.
    RelayUntested,
    /// The store refuses in numbers what it knew: its refusals are not believed.
    StoreIll,
    /// The store takes any recipient, at RCPT and at DATA: the domain is not verified.
    Unverifiable,
    /// The store refuses the senders we ask with.
    SenderRefused,
}

impl AlarmKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RouteFault,
        Self::OpenRelay,
        Self::RelayUntested,
        Self::StoreIll,
        Self::Unverifiable,
        Self::SenderRefused,
    ];

    /// For people and machines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RouteFault => "route-fault",
            Self::OpenRelay => "open-relay",
            Self::RelayUntested => "relay-untested",
            Self::StoreIll => "store-ill",
            Self::Unverifiable => "unverifiable",
            Self::SenderRefused => "sender-refused",
        }
    }

    /// What it means, and what to do.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::RouteFault => {
                "the backend does not take mail for this domain from us: name the right backend, or allow our address there"
            }
            Self::OpenRelay => {
                "mail for domains nobody named does not go through it, and is answered 451 where there is no other: stop the backend from relaying for our address, or name its domains"
            }
            Self::RelayUntested => {
                "mail for domains nobody named does not go through a backend, and is answered 451 where there is no other, until it was seen to refuse a foreign domain"
            }
            Self::StoreIll => {
                "unknown recipients are answered 451 until the store knows one of its own again: look at its directory"
            }
            Self::Unverifiable => {
                "every recipient passes: turn on recipient filtering, or write verify.backends or source = \"file\""
            }
            Self::SenderRefused => {
                "the store refuses the sender we ask with; fallback_sender is used where it takes that: let it take <> (RFC 5321 §6.1), or write verify.sender"
            }
        }
    }
}

/// One alarm.
#[derive(Debug, Clone)]
pub struct Alarm {
    /// The route.
    pub route: Arc<str>,
    /// What is wrong.
    pub kind: AlarmKind,
    /// A backend or a domain, as far as it is about one.
    pub about: String,
    /// What was seen, made harmless.
    pub detail: String,
    /// When it was raised first.
    pub since: Instant,
}

/// All alarms; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Alarms(Arc<Mutex<BTreeMap<Place, Alarm>>>);

/// Route, kind, and what it is about.
type Place = (Arc<str>, AlarmKind, String);

impl Alarms {
    /// Something is wrong with `route`. `detail` may hold a peer's text.
    pub fn raise(&self, route: &Arc<str>, kind: AlarmKind, about: &str, detail: &str) {
        let mut alarms = self.lock();
        let place = (Arc::clone(route), kind, about.to_owned());
        let detail = redact::words(detail, "");
        if let Some(alarm) = alarms.get_mut(&place) {
            alarm.detail = detail;
        } else if alarms.keys().filter(|(of, what, _)| of == route && *what == kind).count() < MOST_OF_A_KIND
        {
            tracing::warn!(%route, kind = kind.as_str(), about, detail, "{}", kind.advice());
            let (route, about) = (Arc::clone(route), about.to_owned());
            alarms.insert(place, Alarm { route, kind, about, detail, since: Instant::now() });
        }
    }

    /// It is right again.
    pub fn clear(&self, route: &Arc<str>, kind: AlarmKind, about: &str) {
        let mut alarms = self.lock();
        if !alarms.is_empty() && alarms.remove(&(Arc::clone(route), kind, about.to_owned())).is_some() {
            tracing::info!(%route, kind = kind.as_str(), about, "the alarm is over");
        }
    }

    /// Those that `concern` nobody any more are over: there is nobody left to find their cause gone.
    pub fn keep(&self, concern: impl Fn(&Alarm) -> bool) {
        self.lock().retain(|_, alarm| {
            let kept = concern(alarm);
            if !kept {
                let Alarm { route, kind, about, .. } = alarm;
                tracing::info!(%route, kind = kind.as_str(), about, "the alarm concerns nobody any more");
            }
            kept
        });
    }

    /// Those that are raised, by route.
    #[must_use]
    pub fn raised(&self) -> Vec<Alarm> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_alarms_of_a_kind_leave_room_for_the_others() {
        let (alarms, route, other) = (Alarms::default(), Arc::from("mail"), Arc::from("other"));
        for n in 0..=MOST_OF_A_KIND {
            alarms.raise(&route, AlarmKind::RouteFault, &format!("d{n}.example"), "");
        }
        alarms.raise(&route, AlarmKind::StoreIll, "d.example", "");
        alarms.raise(&other, AlarmKind::RouteFault, "d.example", "");
        assert_eq!(alarms.raised().len(), MOST_OF_A_KIND + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_lasts_from_its_first_cause_until_it_is_cleared() {
        let (alarms, route) = (Alarms::default(), Arc::from("mail"));
        alarms.raise(&route, AlarmKind::RouteFault, "a.example", "554 relay denied");
        let first = alarms.raised()[0].since;
        tokio::time::advance(std::time::Duration::from_secs(5)).await;
        alarms.raise(&route, AlarmKind::RouteFault, "a.example", "554\u{1b}[2J");
        alarms.raise(&route, AlarmKind::OpenRelay, "", "");
        let raised = alarms.raised();
        assert_eq!((raised.len(), raised[0].since), (2, first));
        assert!(!raised[0].detail.contains('\u{1b}'), "{}", raised[0].detail);
        alarms.clear(&route, AlarmKind::RouteFault, "a.example");
        alarms.clear(&route, AlarmKind::RouteFault, "a.example");
        assert_eq!(alarms.raised().len(), 1);
    }
}
