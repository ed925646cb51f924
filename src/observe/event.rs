//! What happens, for whoever watches: sessions that ended and recipients that were refused.
//!
//! Telling is cheap, and nearly free while nobody listens: then a refusal is only put among the latest, and of
//! more than [`REMEMBERED`] within a second none at all. Nobody is waited for: a listener that is slow misses
//! events and is told how many. Everything a peer said is [`Escaped`](super::Escaped), which also bounds it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

/// Events a listener may be behind.
const BEHIND: usize = 1024;
/// Who may listen at once.
pub const MOST_LISTENERS: usize = 16;
/// The latest refusals that are kept.
const LATEST: usize = 100;
/// Refusals of one second that are kept among them.
const REMEMBERED: u64 = 50;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Event {
    /// A session ended.
    Session(Box<SessionEnded>),
    /// A recipient was refused.
    Refusal(Box<RecipientRefused>),
}

/// A session that ended.
#[derive(Debug, Clone, Serialize)]
pub struct SessionEnded {
    /// Seconds since 1970.
    pub time: f64,
    /// Its name.
    pub session: String,
    /// Where it was accepted.
    pub listener: String,
    /// The true client.
    pub client: String,
    /// The front it came through.
    pub via: Option<String>,
    /// What it called itself.
    pub helo: Option<String>,
    /// Version and cipher suite.
    pub tls: Option<String>,
    /// The last envelope sender, in brackets.
    pub from: Option<String>,
    /// What became of its recipients.
    pub recipients: RecipientCounts,
    /// Messages it was told are accepted.
    pub messages: u32,
    /// Octets of message data.
    pub bytes: u64,
    /// The last backend.
    pub backend: Option<String>,
    /// From accept to close.
    pub duration_seconds: f64,
    /// Why it ended.
    pub end: &'static str,
}

/// Recipients by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are those of RecipientResult")]
pub struct RecipientCounts {
    pub accepted: u32,
    pub unknown: u32,
    pub undetermined: u32,
    pub relay_denied: u32,
    pub limited: u32,
    pub refused: u32,
}

/// A recipient that was refused, or would have been.
#[derive(Debug, Clone, Serialize)]
pub struct RecipientRefused {
    /// Seconds since 1970.
    pub time: f64,
    /// The session's name.
    pub session: String,
    /// The client's address.
    pub client: String,
    /// The route's name; empty for a domain without one.
    pub route: String,
    /// As written, in brackets; or what is told in its place.
    pub recipient: String,
    /// The recipient is not told: nothing can be looked up by what stands in its place.
    pub redacted: bool,
    /// What the client was told, or would have been.
    pub reply: String,
    /// What it is counted as.
    pub result: &'static str,
    /// Who decided.
    pub source: &'static str,
    /// Why.
    pub cause: &'static str,
    /// It was let pass, as the route only watches.
    pub shadow: bool,
}

/// Where events go; clones share it.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sender: broadcast::Sender<Arc<Event>>,
    listeners: AtomicUsize,
    latest: Mutex<VecDeque<Arc<Event>>>,
    /// The second of the last refusal in the upper bits, how many it had in the lower ones.
    pace: AtomicU64,
}

/// Somebody who listens; makes room when dropped.
#[derive(Debug)]
pub struct Listener {
    inner: Arc<Inner>,
    receiver: broadcast::Receiver<Arc<Event>>,
}

/// What a listener hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// The next event.
    Event(Arc<Event>),
    /// So many were lost.
    Lost(u64),
}

/// Whether it is worth making a refusal's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Kept,
    Heard,
    Nowhere,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Inner {
            sender: broadcast::Sender::new(BEHIND),
            listeners: AtomicUsize::new(0),
            latest: Mutex::default(),
            pace: AtomicU64::new(0),
        }))
    }
}

impl Events {
    /// Begins to listen; none where [`MOST_LISTENERS`] do.
    #[must_use]
    pub fn listen(&self) -> Option<Listener> {
        let room = |listeners| (listeners < MOST_LISTENERS).then_some(listeners + 1);
        self.0.listeners.try_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        Some(Listener { inner: Arc::clone(&self.0), receiver: self.0.sender.subscribe() })
    }

    /// Tells of a session; `ended` is asked only where somebody listens.
    pub(super) fn session(&self, ended: impl FnOnce(f64) -> SessionEnded) {
        if self.is_heard() {
            let _ = self.0.sender.send(Arc::new(Event::Session(Box::new(ended(now())))));
        }
    }

    /// Tells of a refusal; `refused` is asked only where it is wanted.
    pub(super) fn refusal(&self, refused: impl FnOnce(f64) -> RecipientRefused) {
        let now = now();
        let wanted = self.wanted(now);
        if wanted == Wanted::Nowhere {
            return;
        }
        let event = Arc::new(Event::Refusal(Box::new(refused(now))));
        if wanted == Wanted::Kept {
            let mut latest = self.latest_locked();
            if latest.len() == LATEST {
                latest.pop_front();
            }
            latest.push_back(Arc::clone(&event));
        }
        if self.is_heard() {
            let _ = self.0.sender.send(event);
        }
    }

    /// The latest refusals, the last first.
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<Event>> {
        self.latest_locked().iter().rev().cloned().collect()
    }

    fn is_heard(&self) -> bool {
        self.0.listeners.load(Ordering::Relaxed) > 0
    }

    fn wanted(&self, now: f64) -> Wanted {
        // Whole seconds alone count here.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since 1970")]
        let second = now as u64;
        let next = |pace: u64| if pace >> COUNT_BITS == second { pace + 1 } else { second << COUNT_BITS | 1 };
        let pace = self.0.pace.update(Ordering::Relaxed, Ordering::Relaxed, next);
        let before = if pace >> COUNT_BITS == second { pace & ((1 << COUNT_BITS) - 1) } else { 0 };
        match (before < REMEMBERED, self.is_heard()) {
            (true, _) => Wanted::Kept,
            (false, true) => Wanted::Heard,
            (false, false) => Wanted::Nowhere,
        }
    }

    fn latest_locked(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bits of `pace` for the count: no second has so many refusals.
const COUNT_BITS: u32 = 28;

impl Event {
    /// What it is called in the stream.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Session(_) => "session",
            Self::Refusal(_) => "refusal",
        }
    }
}

impl Listener {
    /// The next thing; none when nobody tells any more.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.receiver.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Heard::Lost(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The same as far as it is there already.
    pub fn already(&mut self) -> Option<Heard> {
        match self.receiver.try_recv() {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::TryRecvError::Lagged(lost)) => Some(Heard::Lost(lost)),
            Err(_) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.inner.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Seconds since 1970, to the millisecond.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).floor() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(recipient: &str, time: f64) -> RecipientRefused {
        RecipientRefused {
            time,
            session: String::new(),
            client: String::new(),
            route: String::new(),
            recipient: recipient.to_owned(),
            redacted: false,
            reply: String::new(),
            result: "unknown",
            source: "probe",
            cause: "unknown",
            shadow: false,
        }
    }

    fn recipient(event: &Event) -> &str {
        match event {
            Event::Refusal(refused) => &refused.recipient,
            Event::Session(_) => "a session",
        }
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed() {
        let events = Events::default();
        let mut listener = events.listen().expect("there is room");
        for number in 0..BEHIND + 7 {
            events.refusal(|time| refused(&number.to_string(), time));
        }
        assert!(matches!(listener.next().await, Some(Heard::Lost(7))));
        let Some(Heard::Event(event)) = listener.next().await else { panic!("the others are there") };
        assert_eq!(recipient(&event), "7");
    }

    #[test]
    fn of_a_flood_that_nobody_hears_only_the_first_are_made() {
        let events = Events::default();
        let mut made = 0;
        for _ in 0..10 * REMEMBERED {
            events.refusal(|time| {
                made += 1;
                refused("x", time)
            });
        }
        // The second may turn meanwhile.
        assert!((REMEMBERED..=2 * REMEMBERED).contains(&made), "{made}");
        let mut told = 0;
        events.session(|_| {
            told += 1;
            unreachable!("nobody listens")
        });
        assert_eq!(told, 0);
    }

    #[test]
    fn the_latest_are_kept_and_no_more() {
        let events = Events::default();
        for number in 0..3 * LATEST {
            let second = f64::from(u32::try_from(number).expect("a small number"));
            assert_eq!(events.wanted(second), Wanted::Kept, "{number}");
        }
        for number in 0..REMEMBERED {
            events.refusal(|time| refused(&number.to_string(), time));
        }
        let latest = events.latest();
        assert_eq!(recipient(&latest[0]), (REMEMBERED - 1).to_string());
        assert!(latest.len() <= LATEST);
    }

    #[test]
    fn listeners_have_so_much_room_and_give_it_back() {
        let events = Events::default();
        let all: Vec<_> = (0..MOST_LISTENERS).map(|_| events.listen().expect("room")).collect();
        assert!(events.listen().is_none());
        drop(all);
        assert!(events.listen().is_some());
    }
}
