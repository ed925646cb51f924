//! What an answer leads to: what is remembered, who hears of it, what is asked next.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::{Answer, Prober, Purpose, Question, Voice};
use crate::observe::AlarmKind;
use crate::observe::metrics::{ProbeResult, RecipientSource};
use crate::proto::reply::Reply;
use crate::proto::verdict::{Cause, Meaning, Stage, StoreAnswered, Verdict, meaning};
use crate::verify::conversation::Conversation;
use crate::verify::probe::Finding;
use crate::verify::scope::{AskAt, Belief, Scope};
use crate::verify::truth::Sighting;

/// How something was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) at: AskAt,
    pub(super) sender: ProbeSender,
}

/// As whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeSender {
    /// `verify.sender`.
    First,
    /// `verify.fallback_sender`.
    Fallback,
}

/// Sessions a question may see end before it is given up.
const MAX_TRIES: u8 = 3;

impl Prober {
    /// What random names and witnesses came to. Heard before the recipients they were asked beside.
    pub(super) fn hear_aside(&self, question: &Question, finding: Option<&Finding>) {
        match question.purpose {
            Purpose::Recipient => {}
            Purpose::Random(what) => {
                question.scope.tested(what, Sighting::of(finding));
                for entry in question.scope.proved() {
                    self.shared.cache.learn_good(entry, &question.scope.tally());
                }
            }
            Purpose::Witness => match finding {
                Some(Finding::Good) => question.scope.knows(&question.mailbox),
                Some(Finding::Bad(_)) => question.scope.denied(&question.mailbox),
                _ => {}
            },
        }
    }

    /// An answer to a question. What is to be asked again, or first, comes into `again`.
    pub(super) fn answered(
        &self,
        mut question: Question,
        finding: Finding,
        said: Conversation,
        how: How,
        again: &mut Vec<Question>,
    ) {
        if question.purpose != Purpose::Recipient {
            return;
        }
        if finding == Finding::Later {
            return again.push(question);
        }
        let more_tries = question.tries + 1 < MAX_TRIES;
        let finding = match finding {
            // The fallback sender is not heard here: the usual one asks once more, beside another recipient.
            Finding::OtherSender(_) if question.voice == Voice::Second => {
                return self.ask_beside(question, Voice::Last, again);
            }
            Finding::Again if question.voice == Voice::Second && !more_tries => {
                return self.ask_beside(question, Voice::Last, again);
            }
            Finding::Again if more_tries => {
                question.tries += 1;
                return again.push(question);
            }
            Finding::Again => Finding::Unknown(Cause::Unreachable),
            Finding::OtherSender(reply) => match self.other_sender(reply, how.sender, more_tries) {
                Some(finding) => finding,
                None => {
                    question.tries += 1;
                    return again.push(question);
                }
            },
            Finding::Good if question.scope.belief(how.at) == Belief::None => match question.scope.ask_at() {
                AskAt::Nowhere | AskAt::Recipient => Finding::Unknown(Cause::Blind),
                // RCPT takes anyone: DATA may tell.
                AskAt::Data => return again.push(question),
            },
            Finding::Bad(_) if self.is_doubtful(&question) => {
                question.doubted = Some(Instant::now());
                return self.ask_beside(question, Voice::Second, again);
            }
            finding => finding,
        };
        let finding = match finding {
            Finding::Bad(reply) => self.believed(&question, reply),
            finding => finding,
        };
        self.settle(&question, finding, said, how.at);
    }

    /// A good recipient that is refused is asked about a second time before that is believed.
    fn is_doubtful(&self, question: &Question) -> bool {
        question.voice == Voice::Usual && !question.scope.is_braked() && self.was_good(question)
    }

    fn was_good(&self, question: &Question) -> bool {
        self.shared.cache.held_good(question.scope.entry(question.key), question.scope.guard())
    }

    /// In another voice, and beside another recipient that was good: one that vanished leaves the others there.
    fn ask_beside(&self, mut question: Question, voice: Voice, again: &mut Vec<Question>) {
        question.voice = voice;
        question.tries = 0;
        let other = question.scope.witnesses().into_iter().find(|witness| *witness != question.mailbox);
        again.extend(other.map(|witness| self.aside(&question, witness, Purpose::Witness)));
        again.push(question);
    }

    /// Whether a refusal for good is believed: not while the store refuses in numbers what it knew, and not of what was
    /// good while no other recipient is known.
    fn believed(&self, question: &Question, reply: Reply) -> Finding {
        let scope = &question.scope;
        if self.was_good(question) && !scope.is_braked() {
            if !scope.believes_refusal(question.doubted.unwrap_or(question.asked)) {
                return Finding::Unknown(Cause::StoreIll(reply));
            }
            scope.turned(&question.mailbox);
        }
        if scope.is_braked() { Finding::Unknown(Cause::StoreIll(reply)) } else { Finding::Bad(reply) }
    }

    /// The sender was refused. Gives what that comes to, or none when the other one is to be tried.
    fn other_sender(&self, reply: Reply, used: ProbeSender, more_tries: bool) -> Option<Finding> {
        if used == ProbeSender::Fallback || self.store.fallback_sender.is_none() {
            *self.refused_sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Some(Finding::Unknown(Cause::RouteFault(reply)));
        }
        let refused = Some((reply.clone(), Instant::now()));
        *self.refused_sender.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        (!more_tries).then_some(Finding::Unknown(Cause::SenderRefused(reply)))
    }

    /// Remembers what a question came to, and tells all who wait.
    pub(super) fn settle(
        &self,
        question: &Question,
        finding: Finding,
        conversation: Conversation,
        at: AskAt,
    ) {
        let Question { key, mailbox, scope, .. } = question;
        let cache = &self.shared.cache;
        let entry = scope.entry(*key);
        let finding = not_served(scope, finding);
        self.raise_alarms(question, &finding);
        // Held while it is learnt: whoever wants it forgotten meanwhile waits, and forgets it then.
        let pending = self.pending.get(key);
        let remember = pending.as_ref().is_none_or(|pending| !pending.forget);
        let (verdict, result) = match finding {
            Finding::Good => {
                match scope.belief(at) {
                    Belief::Full => {
                        scope.knows(mailbox);
                        if remember {
                            cache.learn_good(entry, &scope.tally());
                        }
                    }
                    Belief::Once if remember && at == AskAt::Recipient => scope.provisionally(entry),
                    Belief::Once | Belief::None => {}
                }
                (Verdict::Deliverable, ProbeResult::Deliverable)
            }
            Finding::Bad(reply) => {
                if remember {
                    cache.learn_bad(entry, &reply, mailbox.written());
                }
                (Verdict::Undeliverable(reply), ProbeResult::Undeliverable)
            }
            Finding::Refused(reply) => (Verdict::Undeliverable(reply), ProbeResult::Undeliverable),
            Finding::Unknown(cause) => {
                // Only what the store itself said damps a stampede; its absence is never put on an address. 252 is
                // no fault that a pause would help.
                let damps = cause.store_answered() == StoreAnswered::NotAboutTheRecipient
                    && cause != Cause::Unverified;
                if remember && damps {
                    cache.learn_deferred(entry, &cause);
                }
                (Verdict::Unknown(cause), ProbeResult::Unknown)
            }
            Finding::OtherSender(_) | Finding::Again | Finding::Later => {
                (Verdict::Unknown(Cause::Unreachable), ProbeResult::Unknown)
            }
        };
        drop(pending);
        self.shared.metrics.probed(question.asked.elapsed());
        self.series.probe(result);
        if !conversation.lines().is_empty() {
            self.shared.conversations.keep(*key, &conversation);
        }
        // Behind the verdict: who waits for the end of the lease finds it.
        self.release(*key, entry);
        if let Some((_, pending)) = self.pending.remove(key) {
            let answer = Answer { verdict, conversation, source: RecipientSource::Probe };
            for subscriber in pending.subscribers {
                let _ = subscriber.send(answer.clone());
            }
        }
    }

    /// Faults of the route are an operator's business, and never an address's.
    fn raise_alarms(&self, question: &Question, finding: &Finding) {
        let (alarms, route) = (&self.shared.alarms, question.scope.route());
        let about = question.scope.alarms_name();
        match finding {
            Finding::Unknown(Cause::RouteFault(reply)) => {
                alarms.raise(route, AlarmKind::RouteFault, about, &reply.to_string());
            }
            Finding::Unknown(Cause::SenderRefused(reply)) => {
                alarms.raise(route, AlarmKind::SenderRefused, "", &reply.to_string());
            }
            Finding::Good | Finding::Bad(_) => {
                alarms.clear(route, AlarmKind::RouteFault, about);
                match self.refused_sender() {
                    Some(reply) => alarms.raise(route, AlarmKind::SenderRefused, "", &reply.to_string()),
                    None => alarms.clear(route, AlarmKind::SenderRefused, ""),
                }
            }
            _ => {}
        }
    }

    /// No backend gives a session: nobody is to wait for one.
    pub(super) fn fail_all(self: &Arc<Self>) {
        let waiting = self.work().waiting.take_all();
        for question in waiting {
            self.hear_aside(&question, None);
            if question.purpose == Purpose::Recipient {
                let unreachable = Finding::Unknown(Cause::Unreachable);
                self.settle(&question, unreachable, Conversation::default(), AskAt::Recipient);
            }
        }
    }
}

/// A store that relays for no domain but its own is what a route for every domain wants: no fault, and nobody's mail.
fn not_served(scope: &Scope, finding: Finding) -> Finding {
    match finding {
        Finding::Unknown(Cause::RouteFault(reply)) if scope.is_unnamed() && reply.code() != 530 => {
            let about_relaying = meaning(Stage::Recipient, &reply) == Meaning::RouteFault;
            Finding::Unknown(if about_relaying { Cause::NotServed(reply) } else { Cause::RouteFault(reply) })
        }
        finding => finding,
    }
}
