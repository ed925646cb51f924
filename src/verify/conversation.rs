//! What was said in a probe, for people who ask why.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::time::Instant;

use super::key::{AsIs, Key};
use crate::proto::reply::Reply;

/// Commands and replies, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    lines: Vec<String>,
}

impl Conversation {
    /// Adds a command, which is ours, and its reply, which is not: it is made harmless.
    pub fn exchange(&mut self, command: &str, reply: &Reply) {
        self.lines.push(format!("> {}", command.trim_end()));
        self.lines.push(format!("< {reply}"));
    }

    /// One entry for each line said: `> ` ours, `< ` theirs.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Conversations kept; older ones give way.
const MOST: usize = 1000;

/// The last conversation about each recipient, for whoever asks why.
#[derive(Debug)]
pub(super) struct Conversations(Cache<Key, Arc<(Instant, Conversation)>, UnitWeighter, AsIs>);

impl Default for Conversations {
    fn default() -> Self {
        Self(Cache::with(MOST, MOST as u64, UnitWeighter, AsIs, DefaultLifecycle::default()))
    }
}

impl Conversations {
    pub(super) fn keep(&self, key: Key, conversation: &Conversation) {
        self.0.insert(key, Arc::new((Instant::now(), conversation.clone())));
    }

    /// The last one, and how long ago it was held.
    pub(super) fn last(&self, key: Key) -> Option<(Duration, Conversation)> {
        self.0.get(&key).map(|kept| (kept.0.elapsed(), kept.1.clone()))
    }
}
