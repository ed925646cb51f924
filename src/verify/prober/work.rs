//! What the sessions of a prober are at, and what follows: whether another is worth opening, and which questions
//! may be taken now.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Question;
use super::queue::{Queue, Urgency};

/// A round that takes longer is slow: the store sleeps before it refuses, or is far away. It is not counted on.
pub(super) const PROMPT: Duration = Duration::from_millis(25);
/// A question that waits for longer is worth another session whatever the others are at.
pub(super) const OVERDUE: Duration = Duration::from_secs(1);
/// Rounds at a time that no client with a clean record waits for, while nothing is overdue. A store that answers promptly
/// answers more of them hardly faster, and has less time for mail.
const AT_LEISURE: usize = 4;

/// The questions that wait, and the sessions.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) waiting: Queue,
    /// Sessions there are; those that open, too.
    pub(super) sessions: usize,
    /// Those that are at a round, by its number.
    busy: HashMap<u64, Busy>,
    /// Numbers the rounds.
    begun: u64,
    /// Sessions that wait for a question, the longest idle first.
    idle: Vec<oneshot::Sender<()>>,
    /// No session waits for a question any more.
    pub(super) leaving: bool,
}

/// A session at a round.
#[derive(Debug)]
struct Busy {
    since: Instant,
    /// No client with a clean record waited for it when it was begun.
    at_leisure: bool,
}

impl Work {
    /// A session begins a round. Gives its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.busy.insert(self.begun, Busy { since: Instant::now(), at_leisure: false });
        self.begun
    }

    /// The next question for this round, if it is one: the first of a round, which is at leisure where that question is, or
    /// one as urgent as the `first` of it.
    pub(super) fn pop(
        &mut self,
        most: usize,
        round: Option<u64>,
        first: Option<Urgency>,
    ) -> Option<Question> {
        let Some(first) = first else {
            // What was popped before came to nothing.
            self.set_at_leisure(round, false);
            let question = self.waiting.pop(self.least(most))?;
            self.set_at_leisure(round, question.asker.urgency != Urgency::Clean);
            return Some(question);
        };
        self.waiting.pop(first)
    }

    fn set_at_leisure(&mut self, round: Option<u64>, at_leisure: bool) {
        if let Some(busy) = round.and_then(|round| self.busy.get_mut(&round)) {
            busy.at_leisure = at_leisure;
        }
    }

    pub(super) fn end(&mut self, round: u64) {
        self.busy.remove(&round);
    }

    /// How urgent a question must be for a session that is free to take it now, where there may be `most` sessions: few rounds
    /// at a time are at leisure, and the last session is kept for clients with a clean record; where something is overdue
    /// only against other rounds at leisure, not against slow ones of such clients.
    pub(super) fn least(&self, most: usize) -> Urgency {
        let (at_leisure, overdue) = (self.count(|busy| busy.at_leisure), self.is_overdue());
        let taken = if overdue { at_leisure } else { self.count(|busy| busy.at_leisure || busy.is_slow()) };
        let is_last = most > 1 && taken + 1 >= most;
        let are_few = at_leisure < AT_LEISURE || overdue;
        if are_few && !is_last { Urgency::Background } else { Urgency::Clean }
    }

    /// Whether another session is worth opening for what waits, where there may be `most`, each asked a `batch` at a time.
    /// Those that are slow are not counted on.
    pub(super) fn wants_another(&self, most: usize, batch: usize) -> bool {
        let clean = self.waiting.how_many(Urgency::Clean);
        let others = self.waiting.len() - clean;
        let more_at_leisure = AT_LEISURE.saturating_sub(self.count(|busy| busy.at_leisure && busy.is_slow()));
        let prompt = clean.div_ceil(batch) + others.div_ceil(batch).min(more_at_leisure);
        let wanted = self.count(Busy::is_slow) + prompt;
        let wanted = if self.is_overdue() { wanted.max(self.sessions + 1) } else { wanted };
        // The last one is kept for clients with a clean record.
        let most = if clean > 0 { most } else { most.saturating_sub(1).max(1) };
        self.sessions < wanted.min(most)
    }

    /// Whether something waits that a free session may take now.
    pub(super) fn has_work(&self, most: usize) -> bool {
        self.waiting.has(self.least(most))
    }

    /// Wakes the session that became idle last. Gives whether there was one.
    pub(super) fn wake(&mut self) -> bool {
        while let Some(idle) = self.idle.pop() {
            if idle.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    /// What an idle session waits for.
    pub(super) fn wait(&mut self) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.idle.retain(|gone| !gone.is_closed());
        self.idle.push(wake);
        woken
    }

    /// Sessions end as soon as nothing waits.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.idle.clear();
    }

    fn is_overdue(&self) -> bool {
        self.waiting.waits_since().is_some_and(|since| since.elapsed() > OVERDUE)
    }

    fn count(&self, what: impl Fn(&Busy) -> bool) -> usize {
        self.busy.values().filter(|busy| what(busy)).count()
    }
}

impl Busy {
    fn is_slow(&self) -> bool {
        self.since.elapsed() >= PROMPT
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::super::queue::Asker;
    use super::super::queue::tests::{asker, question, scope};
    use super::*;
    use crate::verify::key::Key;

    const MOST: usize = 10;

    /// So many questions wait, in the order in which they came.
    fn waiting(clean: u64, suspect: u64) -> Work {
        let mut work = Work::default();
        for number in 0..clean + suspect {
            let urgency = if number < clean { Urgency::Clean } else { Urgency::Suspect };
            work.waiting.push(question(&scope(), number, asker(1, urgency))).unwrap();
        }
        work
    }

    fn begin_at_leisure(work: &mut Work) -> u64 {
        let round = work.begin();
        work.set_at_leisure(Some(round), true);
        round
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_at_leisure_where_its_first_question_is() {
        use Urgency::{Clean, Suspect};
        for (clean, suspect, least) in [(0, 2, Clean), (1, 1, Urgency::Background)] {
            let mut work = waiting(clean, suspect);
            let round = work.begin();
            // The second of two sessions there may be is the last.
            let first = work.pop(2, Some(round), None).unwrap().asker.urgency;
            assert_eq!(first, if clean > 0 { Clean } else { Suspect });
            assert_eq!(work.least(2), least);
            assert_eq!(work.pop(2, Some(round), Some(first)).is_some(), clean == 0, "what goes with it does");
            // All of that came to nothing.
            work.waiting.push(question(&scope(), 9, asker(2, Clean))).unwrap();
            assert_eq!(work.pop(2, Some(round), None).unwrap().asker.urgency, Clean);
            assert_eq!(work.least(2), Urgency::Background);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_opened_for_what_the_prompt_ones_leave() {
        for (clean, suspect, enough) in [
            (0, 0, 0),
            (1, 0, 1),
            (16, 0, 1),
            (17, 0, 2),
            (1000, 0, MOST),
            (0, 16, 1),
            (0, 17, 2),
            (0, 1000, 4),
            (16, 1000, 5),
        ] {
            let mut work = waiting(clean, suspect);
            for sessions in 0..=MOST {
                work.sessions = sessions;
                assert_eq!(work.wants_another(MOST, 16), sessions < enough, "{clean} {suspect} {sessions}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_counts_on_a_slow_round() {
        let mut work = waiting(1, 0);
        work.sessions = 2;
        let rounds = [work.begin(), work.begin()];
        assert!(!work.wants_another(MOST, 16));
        advance(PROMPT).await;
        assert!(work.wants_another(MOST, 16) && !work.wants_another(2, 16));
        rounds.into_iter().for_each(|round| work.end(round));
        assert!(!work.wants_another(MOST, 16));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_never_overdue() {
        let mut work = waiting(0, 0);
        work.waiting.push(question(&scope(), 1, Asker::BACKGROUND)).unwrap();
        work.sessions = 1;
        advance(2 * OVERDUE).await;
        assert!(!work.wants_another(MOST, 16));
        let clean = asker(1, Urgency::Clean);
        work.waiting.hurry(Key::anonymous(1), clean);
        assert!(work.wants_another(MOST, 16));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_overdue_is_worth_a_session_whatever_the_others_are_at() {
        for (clean, suspect, most) in [(1, 0, MOST), (0, 1, MOST - 1)] {
            let mut work = waiting(clean, suspect);
            work.sessions = most - 1;
            assert!(!work.wants_another(MOST, 16));
            advance(OVERDUE + PROMPT).await;
            assert!(work.wants_another(MOST, 16));
            work.sessions = most;
            assert!(!work.wants_another(MOST, 16));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_rounds_are_at_leisure_and_the_last_session_is_for_the_clean() {
        use Urgency::{Background, Clean};
        // Where there may be so many sessions and so many are at a round at leisure, and at a slow one for the clean.
        for (most, at_leisure, slow, least, overdue) in [
            (1, 0, 0, Background, Background),
            (1, 1, 1, Background, Background),
            (2, 0, 0, Background, Background),
            (2, 1, 0, Clean, Clean),
            (2, 0, 1, Clean, Background),
            (MOST, 3, 0, Background, Background),
            (MOST, 4, 0, Clean, Background),
            (MOST, 3, 5, Background, Background),
            (MOST, 3, 6, Clean, Background),
            (MOST, 9, 0, Clean, Clean),
        ] {
            let mut work = waiting(0, 1);
            let slow: Vec<_> = (0..slow).map(|_| work.begin()).collect();
            advance(PROMPT).await;
            let prompt: Vec<_> = (0..at_leisure).map(|_| begin_at_leisure(&mut work)).collect();
            assert_eq!(work.least(most), least, "{most} {at_leisure} {}", slow.len());
            advance(OVERDUE).await;
            assert_eq!(work.least(most), overdue, "{most} {at_leisure} {}, overdue", slow.len());
            slow.into_iter().chain(prompt).for_each(|round| work.end(round));
            assert_eq!(work.least(most), Background);
        }
    }
}
