//! What a session asks next: a batch at RCPT, or one question at DATA, with the random names and witnesses that
//! belong beside it.

use super::queue::Urgency;
use super::{Pending, Prober, Purpose, Question, Voice};
use crate::proto::verdict::Cause;
use crate::verify::conversation::Conversation;
use crate::verify::key::Key;
use crate::verify::names;
use crate::verify::probe::Finding;
use crate::verify::scope::{AskAt, Plan, Tested};
use crate::verify::truth::Sighting;

/// What is asked in one go.
#[derive(Debug)]
pub(super) enum Round {
    /// These, at RCPT, all in one voice.
    Recipients(Vec<Question>),
    /// This one, at DATA.
    Data(Question),
    /// Nothing waits that this session may take.
    Nothing,
}

impl Round {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Recipients(questions) => questions.len(),
            Self::Data(_) => 1,
            Self::Nothing => 0,
        }
    }
}

impl Prober {
    /// Questions that wait again, before all others. Somebody more urgent may have joined them meanwhile.
    pub(super) fn put_back(&self, questions: Vec<Question>) {
        let keys: Vec<Key> = questions.iter().map(|question| question.key).collect();
        self.work().waiting.put_first(questions);
        keys.into_iter().for_each(|key| self.catch_up(key));
    }

    /// A question that waits is as urgent as the most urgent of those who joined while it was put there.
    pub(super) fn catch_up(&self, key: Key) {
        let asker = self.pending.get(&key).map(|pending| pending.asker);
        asker.into_iter().for_each(|asker| self.work().waiting.hurry(key, asker));
    }

    /// The next questions that somebody still waits for, `room` of them at most, for the round with this number.
    pub(super) fn next_round(&self, number: u64, room: usize) -> Round {
        let mut batch: Vec<Question> = Vec::new();
        while batch.len() < room {
            let first = batch.first().map(|first| first.asker.urgency);
            let Some(question) = self.pop(Some(number), first) else { break };
            match self.place(question, &mut batch) {
                Placed::InBatch => {}
                Placed::Before(first) => {
                    debug_assert!(batch.is_empty(), "what goes first is not found behind others");
                    self.put_back(batch);
                    return first;
                }
                Placed::Later(question) => {
                    self.put_back(vec![question]);
                    break;
                }
                Placed::Nowhere(question) => self.settle_blind(&question),
            }
        }
        if batch.is_empty() { Round::Nothing } else { Round::Recipients(batch) }
    }

    /// What waits first and nobody can tell needs no session.
    pub(super) fn settle_undecidable(&self) {
        while let Some(question) = self.pop(None, None) {
            if question.scope.ask_at() != AskAt::Nowhere || question.scope.test_is_due() {
                return self.put_back(vec![question]);
            }
            self.settle_blind(&question);
        }
    }

    fn settle_blind(&self, question: &Question) {
        let blind = Finding::Unknown(Cause::Blind);
        self.settle(question, blind, Conversation::default(), AskAt::Nowhere);
    }

    /// Puts a question into the batch with what belongs beside it, or says where else it goes.
    fn place(&self, question: Question, batch: &mut Vec<Question>) -> Placed {
        let plan = question.scope.plan();
        // What a random name shows may decide how, or whether, the question itself is asked. And where the last one got
        // no answer, since the session ended over what was before it, the next goes first.
        let name_first = plan.ask_at != AskAt::Recipient || plan.missed;
        let fits = batch.first().is_none_or(|first| first.voice == question.voice && !name_first);
        if !fits {
            return Placed::Later(question);
        }
        let random = self.random_beside(&question, plan);
        match (random, plan.ask_at) {
            (Some(random), _) if name_first => {
                self.put_back(vec![question]);
                Placed::Before(match random.purpose {
                    Purpose::Random(Tested::Data) => Round::Data(random),
                    _ => Round::Recipients(vec![random]),
                })
            }
            (random, AskAt::Recipient) => {
                let recovery = self.recovery_beside(&question);
                batch.push(question);
                // Behind it: there are stores that end the session over the first name they do not know.
                batch.extend(random.into_iter().chain(recovery));
                Placed::InBatch
            }
            (_, AskAt::Data) => Placed::Before(Round::Data(question)),
            (_, AskAt::Nowhere) => Placed::Nowhere(question),
        }
    }

    /// While the store's refusals are not believed: a recipient it knew, to see whether it does again.
    fn recovery_beside(&self, question: &Question) -> Option<Question> {
        let witness = question.scope.begin_recovery()?;
        Some(self.aside(question, witness, Purpose::Witness))
    }

    /// A name nobody has, where it is time to ask about one.
    fn random_beside(&self, question: &Question, plan: Plan) -> Option<Question> {
        let domain = question.mailbox.domain()?;
        if question.voice != Voice::Usual || question.purpose != Purpose::Recipient {
            return None;
        }
        let tested = question.scope.begin_test(plan)?;
        let Some(nobody) = names::nobody_at(domain) else {
            question.scope.tested(tested, Sighting::Vague);
            return None;
        };
        Some(self.aside(question, nobody, Purpose::Random(tested)))
    }

    /// The next question that somebody still waits for, as urgent as the first of its batch.
    fn pop(&self, round: Option<u64>, first: Option<Urgency>) -> Option<Question> {
        loop {
            let question = {
                let mut work = self.work();
                let question = work.pop(self.most_sessions(), round, first)?;
                if first.is_some_and(|first| question.asker.urgency != first) {
                    drop(work);
                    self.put_back(vec![question]);
                    return None;
                }
                question
            };
            let deserted = |_: &Key, pending: &Pending| pending.is_deserted();
            match self.pending.remove_if(&question.key, deserted) {
                None => return Some(question),
                Some((_, Pending { leased: true, .. })) => {
                    self.shared.cache.tier().into_iter().for_each(|tier| {
                        tier.release(question.scope.entry(question.key).to_bits());
                    });
                }
                Some(_) => {}
            }
        }
    }
}

/// Where a question went.
enum Placed {
    InBatch,
    /// This is asked first.
    Before(Round),
    /// It does not go with the batch.
    Later(Question),
    /// Nobody can tell.
    Nowhere(Question),
}
