//! What waits to be asked, and who is next.
//!
//! Clients with a clean record come before the others, and both before what is asked for the cache's sake.
//! Within a class clients take turns, so one that asks about thousands of names delays nobody else, and what was
//! asked in vain comes first again: it has waited longest.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;

use super::Question;
use crate::net::client_key::ClientKey;
use crate::verify::key::{AsIs, Key};

/// Questions that may wait.
const MOST: usize = 20_000;
/// Of those, the room only clients with a clean record have.
const KEPT_FOR_CLEAN: usize = MOST / 4;

/// The room of what is asked for the cache's sake.
const MOST_REFRESHING: usize = MOST / 20;

/// How urgent a question is; the first is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A client waits that has a clean record.
    Clean,
    /// A client waits that has named unknown recipients.
    Suspect,
    /// Nobody waits: what is known is to be refreshed.
    Background,
}

impl Urgency {
    /// The most urgent first.
    const ALL: [Self; 3] = [Self::Clean, Self::Suspect, Self::Background];
}

/// On whose behalf something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The client; none where nobody in particular waits.
    pub client: Option<ClientKey>,
    /// How it is served.
    pub urgency: Urgency,
}

impl Asker {
    /// Nobody waits.
    pub const BACKGROUND: Self = Self { client: None, urgency: Urgency::Background };
    /// An operator waits.
    pub const OPERATOR: Self = Self { client: None, urgency: Urgency::Clean };
}

/// Too many questions wait.
#[derive(Debug)]
pub(super) struct Full;

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    again: VecDeque<Question>,
    /// By key, so that a question can be moved to a better place without being sought.
    questions: HashMap<Key, Question, AsIs>,
    lines: [Turns; 3],
    /// How many wait, by urgency.
    waiting: [usize; 3],
}

/// Clients that take turns, each with its questions in order.
#[derive(Debug, Default)]
struct Turns {
    turns: VecDeque<Option<ClientKey>>,
    by_client: HashMap<Option<ClientKey>, VecDeque<Key>>,
}

impl Turns {
    fn push(&mut self, client: Option<ClientKey>, key: Key) {
        let line = self.by_client.entry(client).or_default();
        if line.is_empty() {
            self.turns.push_back(client);
        }
        line.push_back(key);
    }

    /// The next of the client whose turn it is; the client goes to the end.
    fn pop(&mut self) -> Option<Key> {
        let client = self.turns.pop_front()?;
        let line = self.by_client.get_mut(&client)?;
        let key = line.pop_front();
        if line.is_empty() {
            self.by_client.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        key
    }
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.iter().sum()
    }

    /// How many of this urgency wait.
    pub(super) fn how_many(&self, urgency: Urgency) -> usize {
        let [clean, suspect, background] = self.waiting;
        match urgency {
            Urgency::Clean => clean,
            Urgency::Suspect => suspect,
            Urgency::Background => background,
        }
    }

    /// Takes a question at the end of its client's line.
    pub(super) fn push(&mut self, question: Question) -> Result<(), Full> {
        let Asker { client, urgency } = question.asker;
        let room = if urgency == Urgency::Clean { MOST } else { MOST - KEPT_FOR_CLEAN };
        let refreshing = self.how_many(Urgency::Background);
        if self.len() >= room || (urgency == Urgency::Background && refreshing >= MOST_REFRESHING) {
            return Err(Full);
        }
        let key = question.key;
        self.count(urgency, 1);
        self.line(urgency).push(client, key);
        if let Some(before) = self.questions.insert(key, question) {
            self.count(before.asker.urgency, -1);
        }
        Ok(())
    }

    /// A question that waits is wanted by somebody more urgent: it stands in their line too.
    pub(super) fn hurry(&mut self, key: Key, asker: Asker) {
        let in_line = self.questions.get_mut(&key);
        let stands = in_line.is_some();
        let Some(question) = in_line.or_else(|| self.again.iter_mut().find(|again| again.key == key)) else {
            return;
        };
        let before = question.asker.urgency;
        if asker.urgency < before {
            question.asker = asker;
            self.count(before, -1);
            self.count(asker.urgency, 1);
            if stands {
                self.line(asker.urgency).push(asker.client, key);
            }
        }
    }

    /// Puts questions before all others of their urgency, in their order.
    pub(super) fn put_first(&mut self, questions: Vec<Question>) {
        for question in questions.into_iter().rev() {
            self.count(question.asker.urgency, 1);
            self.again.push_front(question);
        }
    }

    /// The next question, of those as urgent as `least`. The most urgent first; among equals what was asked in vain.
    pub(super) fn pop(&mut self, least: Urgency) -> Option<Question> {
        let question = Urgency::ALL
            .into_iter()
            .take_while(|urgency| *urgency <= least)
            .find_map(|urgency| self.pop_again(urgency).or_else(|| self.pop_line(urgency)))?;
        self.count(question.asker.urgency, -1);
        Some(question)
    }

    fn pop_again(&mut self, urgency: Urgency) -> Option<Question> {
        let place = self.again.iter().position(|question| question.asker.urgency == urgency)?;
        self.again.remove(place)
    }

    fn pop_line(&mut self, urgency: Urgency) -> Option<Question> {
        while let Some(key) = self.line(urgency).pop() {
            // What was hurried stands in two lines, and is taken once.
            if let Some(question) = self.questions.remove(&key) {
                return Some(question);
            }
        }
        None
    }

    /// Since when one of those that somebody waits for has waited: about the longest.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let is_waited_for = |question: &&Question| question.asker.urgency != Urgency::Background;
        let [clean, suspect, _] = &self.lines;
        let in_line = [clean, suspect].into_iter().filter_map(|line| {
            // What was hurried, and taken from there, still stands here.
            let mut keys = line.turns.iter().filter_map(|client| line.by_client.get(client)).flatten();
            keys.find_map(|key| self.questions.get(key).filter(is_waited_for))
        });
        let again = self.again.iter().find(is_waited_for);
        again.into_iter().chain(in_line).map(|question| question.asked).min()
    }

    /// Whether something at least as urgent waits.
    pub(super) fn has(&self, least: Urgency) -> bool {
        self.waiting.iter().take(least as usize + 1).any(|waiting| *waiting > 0)
    }

    /// Everything, in no order.
    pub(super) fn take_all(&mut self) -> Vec<Question> {
        let Self { again, questions, .. } = std::mem::take(self);
        again.into_iter().chain(questions.into_values()).collect()
    }

    fn count(&mut self, urgency: Urgency, change: isize) {
        let [clean, suspect, background] = &mut self.waiting;
        let count = match urgency {
            Urgency::Clean => clean,
            Urgency::Suspect => suspect,
            Urgency::Background => background,
        };
        *count = count.saturating_add_signed(change);
    }

    const fn line(&mut self, urgency: Urgency) -> &mut Turns {
        let [clean, suspect, background] = &mut self.lines;
        match urgency {
            Urgency::Clean => clean,
            Urgency::Suspect => suspect,
            Urgency::Background => background,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Purpose, Voice};
    use super::*;
    use crate::config::StageKind;
    use crate::observe::Alarms;
    use crate::proto::address::Mailbox;
    use crate::verify::cache::Cache;
    use crate::verify::scope::{Common, Scope};

    pub(in super::super) fn scope() -> Arc<Scope> {
        let cache = Cache::new(crate::config::Cache {
            max_entries: 10,
            positive_ttl: Duration::ZERO,
            positive_refresh: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            negative_ttl_max: Duration::ZERO,
            tempfail_ttl: Duration::ZERO,
            blind_ttl: Duration::from_secs(1),
            serve_stale: Duration::ZERO,
        });
        let common = Common {
            route: "route".into(),
            stage: StageKind::Auto,
            blind_ttl: Duration::from_secs(1),
            alarms: Alarms::default(),
            identity: [][..].into(),
            sights: Arc::default(),
        };
        Scope::new(&common, "example.org", cache.tally_of("route", "example.org"))
    }

    pub(in super::super) fn asker(client: u8, urgency: Urgency) -> Asker {
        Asker { client: Some(ClientKey::of([192, 0, 2, client].into())), urgency }
    }

    pub(in super::super) fn question(scope: &Arc<Scope>, number: u64, asker: Asker) -> Question {
        Question {
            key: Key::anonymous(number),
            mailbox: Mailbox::parse("ann@example.org").unwrap(),
            scope: Arc::clone(scope),
            asker,
            purpose: Purpose::Recipient,
            voice: Voice::Usual,
            tries: 0,
            asked: Instant::now(),
            doubted: None,
        }
    }

    fn order(queue: &mut Queue, least: Urgency) -> Vec<Key> {
        std::iter::from_fn(|| queue.pop(least).map(|question| question.key)).collect()
    }

    fn keys(numbers: &[u64]) -> Vec<Key> {
        numbers.iter().map(|number| Key::anonymous(*number)).collect()
    }

    #[tokio::test]
    async fn clients_take_turns_and_the_clean_come_first() {
        use Urgency::{Background, Clean, Suspect};
        let (scope, mut queue) = (scope(), Queue::default());
        for (number, client, urgency) in [
            (1, 1, Suspect),
            (2, 1, Suspect),
            (3, 1, Suspect),
            (4, 2, Suspect),
            (5, 3, Background),
            (6, 4, Clean),
            (7, 5, Clean),
            (8, 4, Clean),
        ] {
            queue.push(question(&scope, number, asker(client, urgency))).unwrap();
        }
        queue.put_first(vec![question(&scope, 9, asker(1, Suspect))]);
        assert!(queue.has(Clean));
        assert_eq!(order(&mut queue, Clean), keys(&[6, 7, 8]));
        assert!(!queue.has(Clean) && queue.has(Suspect));
        assert_eq!(order(&mut queue, Background), keys(&[9, 1, 4, 2, 3, 5]));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn what_a_suspect_asked_in_vain_does_not_overtake_the_clean() {
        let (scope, mut queue) = (scope(), Queue::default());
        queue.push(question(&scope, 1, asker(1, Urgency::Clean))).unwrap();
        queue.put_first(vec![question(&scope, 2, asker(2, Urgency::Suspect))]);
        queue.put_first(vec![question(&scope, 3, asker(3, Urgency::Clean))]);
        assert_eq!(order(&mut queue, Urgency::Background), keys(&[3, 1, 2]));
    }

    #[tokio::test]
    async fn what_somebody_more_urgent_wants_is_hurried_and_asked_once() {
        let (scope, mut queue) = (scope(), Queue::default());
        for number in 1..=3 {
            queue.push(question(&scope, number, asker(1, Urgency::Suspect))).unwrap();
        }
        queue.hurry(Key::anonymous(3), asker(2, Urgency::Clean));
        queue.hurry(Key::anonymous(2), asker(3, Urgency::Background));
        assert_eq!(order(&mut queue, Urgency::Background), keys(&[3, 1, 2]));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn what_was_asked_in_vain_is_hurried_too() {
        let (scope, mut queue) = (scope(), Queue::default());
        queue.put_first(vec![question(&scope, 1, Asker::BACKGROUND), question(&scope, 2, Asker::BACKGROUND)]);
        queue.push(question(&scope, 3, asker(1, Urgency::Suspect))).unwrap();
        queue.hurry(Key::anonymous(2), asker(2, Urgency::Clean));
        assert!(queue.has(Urgency::Clean));
        assert_eq!(order(&mut queue, Urgency::Background), keys(&[2, 3, 1]));
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn what_is_asked_for_the_caches_sake_has_little_room() {
        let (scope, mut queue) = (scope(), Queue::default());
        let mut number = 0;
        while queue.push(question(&scope, number, Asker::BACKGROUND)).is_ok() {
            number += 1;
        }
        assert_eq!(queue.len(), MOST_REFRESHING);
        queue.push(question(&scope, number + 1, asker(1, Urgency::Suspect))).unwrap();
        assert_eq!(queue.pop(Urgency::Background).unwrap().key, Key::anonymous(number + 1));
        assert!(queue.push(question(&scope, number + 2, Asker::BACKGROUND)).is_err());
        queue.pop(Urgency::Background).unwrap();
        queue.push(question(&scope, number + 2, Asker::BACKGROUND)).unwrap();
    }

    #[tokio::test]
    async fn who_guesses_cannot_fill_the_queue_for_others() {
        let (scope, mut queue) = (scope(), Queue::default());
        let mut number = 0;
        while queue.push(question(&scope, number, asker(1, Urgency::Suspect))).is_ok() {
            number += 1;
        }
        assert_eq!(queue.len(), MOST - KEPT_FOR_CLEAN);
        number += 1;
        queue.push(question(&scope, number, asker(2, Urgency::Clean))).unwrap();
        assert_eq!(queue.pop(Urgency::Background).unwrap().key, Key::anonymous(number));
    }
}
