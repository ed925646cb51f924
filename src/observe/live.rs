//! Sessions that are open now, for whoever looks.
//!
//! Bounded: as many as [`MOST`] are on the list, so what the list costs does not grow with the clients. Those that
//! come while it is full are counted where sessions are counted, and are not on it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::time::Instant;

use super::SessionId;
use super::event::RecipientCounts;
use super::metrics::{RecipientResult, SessionState};

/// Sessions on the list.
const MOST: usize = 1000;

/// The list; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// In the order they began.
    sessions: Mutex<BTreeMap<u64, Arc<Mutex<Facts>>>>,
    begun: AtomicU64,
}

/// What is known of an open session. Texts are escaped.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    session: SessionId,
    listener: Arc<str>,
    began: Instant,
    pub(super) client: SocketAddr,
    pub(super) state: SessionState,
    pub(super) helo: Option<String>,
    pub(super) tls: Option<String>,
    pub(super) from: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) recipients: RecipientCounts,
    pub(super) messages: u32,
    pub(super) bytes: u64,
}

/// An open session, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub struct OpenSession {
    /// Its name.
    pub session: String,
    /// Where it was accepted.
    pub listener: String,
    /// The true client.
    pub client: String,
    /// How long it has lasted.
    pub seconds: u64,
    /// What it is doing.
    pub state: &'static str,
    /// What the client called itself.
    pub helo: Option<String>,
    /// Version and cipher suite.
    pub tls: Option<String>,
    /// The last envelope sender, in brackets.
    pub from: Option<String>,
    /// The last backend.
    pub backend: Option<String>,
    /// What became of its recipients.
    pub recipients: RecipientCounts,
    /// Messages it was told are accepted.
    pub messages: u32,
    /// Octets of message data.
    pub bytes: u64,
}

/// A session's place on the list; it leaves it when dropped.
#[derive(Debug)]
pub(super) struct Place {
    live: Live,
    number: u64,
    facts: Arc<Mutex<Facts>>,
}

impl Live {
    /// Puts a session on the list, if there is room.
    pub(super) fn enter(
        &self,
        session: &SessionId,
        listener: &Arc<str>,
        client: SocketAddr,
    ) -> Option<Place> {
        let mut sessions = lock(&self.0.sessions);
        if sessions.len() >= MOST {
            return None;
        }
        let facts = Arc::new(Mutex::new(Facts {
            session: session.clone(),
            listener: Arc::clone(listener),
            began: Instant::now(),
            client,
            state: SessionState::Idle,
            helo: None,
            tls: None,
            from: None,
            backend: None,
            recipients: RecipientCounts::default(),
            messages: 0,
            bytes: 0,
        }));
        let number = self.0.begun.fetch_add(1, Ordering::Relaxed);
        sessions.insert(number, Arc::clone(&facts));
        Some(Place { live: self.clone(), number, facts })
    }

    /// How many are on the list, and the `most` that have lasted longest.
    #[must_use]
    pub fn sessions(&self, most: usize) -> (usize, Vec<OpenSession>) {
        let sessions = lock(&self.0.sessions);
        let (listed, oldest) = (sessions.len(), sessions.values().take(most).cloned().collect::<Vec<_>>());
        drop(sessions);
        (listed, oldest.iter().map(|facts| OpenSession::of(&lock(facts))).collect())
    }
}

impl Place {
    /// Changes what is shown.
    pub(super) fn show(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut lock(&self.facts));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.live.0.sessions).remove(&self.number);
    }
}

impl RecipientCounts {
    /// One more with this result.
    pub(super) const fn add(&mut self, result: RecipientResult) {
        let count = match result {
            RecipientResult::Accepted => &mut self.accepted,
            RecipientResult::Unknown => &mut self.unknown,
            RecipientResult::Undetermined => &mut self.undetermined,
            RecipientResult::RelayDenied => &mut self.relay_denied,
            RecipientResult::Limited => &mut self.limited,
            RecipientResult::Refused => &mut self.refused,
        };
        *count = count.saturating_add(1);
    }
}

impl OpenSession {
    fn of(facts: &Facts) -> Self {
        Self {
            session: facts.session.to_string(),
            listener: facts.listener.to_string(),
            client: facts.client.to_string(),
            seconds: facts.began.elapsed().as_secs(),
            state: facts.state.as_str(),
            helo: facts.helo.clone(),
            tls: facts.tls.clone(),
            from: facts.from.clone(),
            backend: facts.backend.clone(),
            recipients: facts.recipients,
            messages: facts.messages,
            bytes: facts.bytes,
        }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_listed_while_they_last_as_far_as_there_is_room() {
        let live = Live::default();
        let enter = || live.enter(&SessionId::new(), &"mx".into(), ([192, 0, 2, 7], 2525).into());
        let mut places: Vec<_> = (0..MOST).map(|_| enter().expect("there is room")).collect();
        assert!(enter().is_none());
        places[0].show(|facts| facts.helo = Some("mail.example".into()));
        let (listed, oldest) = live.sessions(10);
        assert_eq!((listed, oldest.len()), (MOST, 10));
        assert_eq!((oldest[0].helo.as_deref(), oldest[1].helo.as_deref()), (Some("mail.example"), None));
        places.remove(0);
        assert!(enter().is_some(), "who left made room");
        drop(places);
        assert_eq!(live.sessions(10).0, 0);
    }
}
