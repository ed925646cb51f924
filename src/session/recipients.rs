//! A batch of recipients: judged together, then given to the real server, whose answer counts.
//!
//! Order: is the domain ours, is the address one we take, what does the mail store say, what does the
//! delivery port say. The last word is always the delivery port's; it also corrects the cache.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Session;
use super::attachment::{Answer, Attachment, Envelope, Given};
use super::client::Sequel;
use crate::backend::{Backend, Blame, Introduction, Use};
use crate::config::{ClientAddress, Mode, Route, RoutedRecipients};
use crate::guard::Standing;
use crate::net::dial::turn;
use crate::observe::metrics::{RecipientResult, RecipientSource, RefusalCause};
use crate::observe::record::{Grounds, Refusal, Said};
use crate::observe::redact;
use crate::proto::dialogue::{Health, Input, Outcome, Recipient, Sender, Step, Transaction};
use crate::proto::ehlo::Keyword;
use crate::proto::replies;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Meaning, Stage, meaning};
use crate::verify::{Asker, Contradicted, Decision, Judgement, Kept, Serving, Urgency};

/// How long an envelope may take, a session replaced in between included: clients wait 5 minutes (RFC 5321 §4.5.3.2.3).
pub(super) const ENVELOPE: Duration = Duration::from_secs(240);

/// One recipient on its way through the batch.
struct Candidate {
    recipient: Recipient,
    route: Option<Arc<Route>>,
    fate: Fate,
}

enum Fate {
    /// To be given to the backend.
    Forward(RecipientSource),
    /// Decided.
    Settled(Outcome),
}

/// What the backend's side comes to for one recipient.
enum Word {
    /// The delivery port, on the recipient itself.
    Own(Reply),
    /// A refusal of the sender, an extension that is missing, no session: nothing about the recipient.
    Shared(Reply),
    /// The backend is lost.
    Lost,
}

impl Candidate {
    fn refused(recipient: Recipient, route: Option<Arc<Route>>, reply: Reply) -> Self {
        Self { recipient, route, fate: Fate::Settled(Outcome::Refused(reply)) }
    }
}

impl Session {
    /// What `batch` is answered, in its order: as many at once as may be looked up. The dialogue hears of each part before
    /// the next, so that whoever was accepted is in the transaction should its backend have to be replaced.
    pub(super) async fn recipients(&mut self, batch: Vec<Recipient>) -> Step {
        self.envelope_ends = Instant::now() + ENVELOPE;
        let mut said = Vec::with_capacity(batch.len());
        let mut waiting = batch;
        loop {
            let (outcomes, later) = self.some_recipients(waiting).await;
            match self.dialogue.step(Input::Recipients(outcomes)) {
                Step::SayEach(replies) => said.extend(replies),
                Step::SayEachAndHangUp(replies) => {
                    said.extend(replies);
                    return Step::SayEachAndHangUp(said);
                }
                step => return step,
            }
            if later.is_empty() {
                return Step::SayEach(said);
            }
            waiting = later;
        }
    }

    /// What becomes of the first of `waiting`, and who is left.
    async fn some_recipients(&mut self, mut waiting: Vec<Recipient>) -> (Vec<Outcome>, Vec<Recipient>) {
        if self.dialogue.transaction().is_some_and(|transaction| transaction.health() == Health::Broken) {
            // With those that were told 250 its backend is gone: nobody else can be served in it.
            let grounds = live(RecipientResult::Undetermined, RefusalCause::BackendLost);
            self.limited(waiting.iter(), &replies::BACKEND_LOST, grounds);
            return (waiting.iter().map(|_| Outcome::Lost).collect(), Vec::new());
        }
        let granted = match self.leave(&waiting).await {
            Ok(granted) => granted,
            Err(outcomes) => return (outcomes, Vec::new()),
        };
        let later = waiting.split_off(granted.recipients().min(waiting.len()));
        let sequel = if later.is_empty() { self.client.sequel() } else { Sequel::Unknown };
        let outcomes = self.look_up(waiting, granted.standing(), sequel).await;
        granted.answered(self.conduct.take());
        (outcomes, later)
    }

    /// What becomes of recipients that may be looked up, all of them at once.
    async fn look_up(
        &mut self,
        recipients: Vec<Recipient>,
        standing: Standing,
        sequel: Sequel,
    ) -> Vec<Outcome> {
        let asker = self.asker(standing);
        let judged = recipients.into_iter().map(|recipient| self.judge(recipient, asker));
        let mut candidates = futures_util::future::join_all(judged).await;
        self.keep_to_one_route(&mut candidates);
        self.keep_apart(&mut candidates);
        self.forward(&mut candidates, sequel).await;
        candidates
            .into_iter()
            .map(|candidate| match candidate.fate {
                // So that whoever is asked about a refusal finds the session in the log.
                Fate::Settled(Outcome::Refused(reply)) if reply.is_ours() => {
                    Outcome::Refused(reply.with_note(&self.record.session))
                }
                Fate::Settled(outcome) => outcome,
                Fate::Forward(_) => Outcome::Lost,
            })
            .collect()
    }

    /// Everything that can be said of a recipient without the delivery port.
    async fn judge(&self, recipient: Recipient, asker: Asker) -> Candidate {
        let config = &self.context.config;
        let Some(route) = config.routes.of(&recipient.mailbox).map(Arc::clone) else {
            let grounds = by_policy(RecipientResult::RelayDenied, RefusalCause::NoRoute);
            self.refused(None, &recipient, &replies::NO_ROUTE, grounds);
            return Candidate::refused(recipient, None, replies::NO_ROUTE);
        };
        let routed =
            config.limits.routed_recipients == RoutedRecipients::Refuse && recipient.mailbox.is_routed();
        if routed {
            let reply = replies::ROUTED_RECIPIENT;
            let grounds = by_policy(RecipientResult::RelayDenied, RefusalCause::Routed);
            self.refused(Some(&route), &recipient, &reply, grounds);
            return Candidate::refused(recipient, Some(route), reply);
        }
        // Before anything that lets recipients pass unverified: nobody is to relay through us.
        if self.serves(&route, &recipient).await == Serving::RelayUntested {
            let reply = replies::UNDETERMINED;
            let grounds = by_policy(RecipientResult::Undetermined, RefusalCause::RelayUntested);
            self.refused(Some(&route), &recipient, &reply, grounds);
            return Candidate::refused(recipient, Some(route), reply);
        }
        if self.bypass || route.verify.mode == Mode::Off {
            return Candidate { recipient, route: Some(route), fate: Fate::Forward(RecipientSource::Policy) };
        }
        let Judgement { decision, source, about, cause } =
            self.context.verifier.judge(&route, &recipient.mailbox, asker).await;
        match decision {
            Decision::Forward => Candidate { recipient, route: Some(route), fate: Fate::Forward(source) },
            Decision::Refuse(reply) if route.verify.mode == Mode::Shadow => {
                tracing::info!(
                    session = %self.record.session,
                    route = %route.name,
                    recipient = format!("<{}>", redact::address(recipient.mailbox.written())),
                    reply = redact::words(&reply.to_string(), recipient.mailbox.written()),
                    "shadow: this recipient would be refused"
                );
                self.context.route(&route).shadow_refusal(cause);
                let grounds = Grounds { result: about, source, cause };
                self.refusal(&route.name, &recipient, &reply, grounds).tell(
                    self.record.address(),
                    Said::InShadow,
                    &self.context.events,
                );
                Candidate { recipient, route: Some(route), fate: Fate::Forward(source) }
            }
            Decision::Refuse(reply) => {
                self.refused(Some(&route), &recipient, &reply, Grounds { result: about, source, cause });
                Candidate::refused(recipient, Some(route), reply)
            }
        }
    }

    /// Whether mail for `recipient` may be passed on, through the backend we are attached to if we are.
    async fn serves(&self, route: &Arc<Route>, recipient: &Recipient) -> Serving {
        let verifier = &self.context.verifier;
        let serving = verifier.serves(route, &recipient.mailbox).await;
        match &self.attachment {
            Some(attached) if serving == Serving::Served && Arc::ptr_eq(&attached.route, route) => {
                verifier.serves_through(route, &recipient.mailbox, attached.lease.backend())
            }
            _ => serving,
        }
    }

    /// On whose behalf the store is asked, and how urgently.
    fn asker(&self, standing: Standing) -> Asker {
        let urgency = match standing {
            Standing::Clean => Urgency::Clean,
            Standing::Suspect => Urgency::Suspect,
        };
        Asker { client: Some(self.key), urgency }
    }

    /// A transaction has one backend. Recipients of another route are to come in another transaction.
    fn keep_to_one_route(&self, candidates: &mut [Candidate]) {
        let mut route = self.attachment.as_ref().map(|a| Arc::clone(&a.route)).or_else(|| self.route.clone());
        for candidate in candidates {
            let (Fate::Forward(source), Some(own)) = (&candidate.fate, &candidate.route) else { continue };
            let first = route.get_or_insert_with(|| Arc::clone(own));
            if !Arc::ptr_eq(first, own) {
                let reply = replies::OTHER_ROUTE;
                let grounds = limited(*source, RefusalCause::OtherRoute);
                self.refused(Some(own), &candidate.recipient, &reply, grounds);
                candidate.fate = Fate::Settled(Outcome::Refused(reply));
            }
        }
    }

    /// Where the backend refuses a whole message for one recipient, each is to come in its own transaction.
    fn keep_apart(&self, candidates: &mut [Candidate]) {
        let alone = |route: &Arc<Route>, recipient: &Recipient| {
            !self.bypass
                && route.verify.mode == Mode::Enforce
                && self.context.verifier.kept(route, &recipient.mailbox) == Kept::Apart
        };
        let accepted = self.dialogue.transaction().map_or(&[][..], Transaction::accepted);
        let mut taken = accepted.len();
        let mut full = self.route.as_ref().is_some_and(|route| accepted.iter().any(|r| alone(route, r)));
        for candidate in candidates {
            let (Fate::Forward(source), Some(route)) = (&candidate.fate, &candidate.route) else { continue };
            let apart = alone(route, &candidate.recipient);
            if full || (apart && taken > 0) {
                let reply = replies::ONE_RECIPIENT;
                let grounds = limited(*source, RefusalCause::OneRecipient);
                self.refused(Some(route), &candidate.recipient, &reply, grounds);
                candidate.fate = Fate::Settled(Outcome::Refused(reply));
                continue;
            }
            taken += 1;
            full = apart;
        }
    }

    /// Gives the good ones to the backend.
    async fn forward(&mut self, candidates: &mut [Candidate], sequel: Sequel) {
        let mut chosen: Vec<&mut Candidate> =
            candidates.iter_mut().filter(|c| matches!(c.fate, Fate::Forward(_))).collect();
        let Some(route) = chosen.first().and_then(|first| first.route.clone()) else { return };
        let Some((sender, earlier)) =
            self.dialogue.transaction().map(|t| (t.sender().clone(), t.accepted().to_vec()))
        else {
            return;
        };
        let new: Vec<Recipient> = chosen.iter().map(|c| c.recipient.clone()).collect();
        let given = self.give(&route, &sender, &earlier, &new, sequel, None).await;
        let words = self.words(&route, given, new.len());
        let contradicted = self.all_contradicted(&route, &chosen, &words).await;
        for ((candidate, word), contradicted) in chosen.iter_mut().zip(words).zip(contradicted) {
            let Fate::Forward(source) = candidate.fate else { continue };
            let recipient = &candidate.recipient;
            candidate.fate = Fate::Settled(match word {
                Word::Own(reply) => self.answered(&route, recipient.clone(), reply, (source, contradicted)),
                Word::Shared(reply) => {
                    let grounds = match reply.class() {
                        Class::Permanent => live(RecipientResult::Refused, RefusalCause::Backend),
                        _ => live(RecipientResult::Undetermined, RefusalCause::BackendDeferred),
                    };
                    self.refused(Some(&route), recipient, &reply, grounds);
                    Outcome::Refused(reply)
                }
                Word::Lost => {
                    let grounds = live(RecipientResult::Undetermined, RefusalCause::BackendLost);
                    self.refused(Some(&route), recipient, &replies::BACKEND_LOST, grounds);
                    Outcome::Lost
                }
            });
        }
    }

    /// For each recipient what the delivery port's word says of what is remembered, all of them looked into at once.
    async fn all_contradicted(
        &self,
        route: &Arc<Route>,
        chosen: &[&mut Candidate],
        words: &[Word],
    ) -> Vec<Contradicted> {
        let each = chosen.iter().zip(words).map(async |(candidate, word)| match (word, &candidate.fate) {
            (Word::Own(reply), Fate::Forward(source))
                if meaning(Stage::Recipient, &replies::passed_on(reply.clone())) == Meaning::Bad =>
            {
                self.contradicted(route, &candidate.recipient, (reply, *source)).await
            }
            _ => Contradicted::Nothing,
        });
        futures_util::future::join_all(each).await
    }

    pub(super) async fn contradicted(
        &self,
        route: &Arc<Route>,
        recipient: &Recipient,
        word: (&Reply, RecipientSource),
    ) -> Contradicted {
        let asker = self.asker(Standing::Suspect);
        self.context.verifier.contradicted(route, &recipient.mailbox, word, asker).await
    }

    /// The delivery port's word on one recipient.
    fn answered(
        &self,
        route: &Arc<Route>,
        recipient: Recipient,
        reply: Reply,
        (source, contradicted): (RecipientSource, Contradicted),
    ) -> Outcome {
        let metrics = self.context.route(route);
        if reply.is_done() {
            metrics.recipient(RecipientResult::Accepted, source);
            self.record.recipient(RecipientResult::Accepted);
            self.conduct.named_known();
            return Outcome::Accepted(recipient, reply);
        }
        let reply = replies::passed_on(reply);
        let grounds = match (meaning(Stage::Recipient, &reply), reply.class()) {
            (Meaning::Bad, _) => match contradicted {
                Contradicted::StoreIll => {
                    let reply = replies::UNDETERMINED;
                    let grounds = live(RecipientResult::Undetermined, RefusalCause::StoreIll);
                    self.refused(Some(route), &recipient, &reply, grounds);
                    return Outcome::Refused(reply);
                }
                Contradicted::Good | Contradicted::Nothing => {
                    live(RecipientResult::Unknown, RefusalCause::Unknown)
                }
            },
            (Meaning::SessionLimit, _) => live(RecipientResult::Limited, RefusalCause::BackendDeferred),
            // Policy, a full mailbox: nothing says that the recipient does not exist.
            (_, Class::Permanent) => live(RecipientResult::Refused, RefusalCause::Backend),
            _ => live(RecipientResult::Undetermined, RefusalCause::BackendDeferred),
        };
        self.refused(Some(route), &recipient, &reply, grounds);
        Outcome::Refused(reply)
    }

    /// A word for each recipient.
    fn words(&self, route: &Arc<Route>, given: Result<Given, Reply>, recipients: usize) -> Vec<Word> {
        let same = |reply: Reply| (0..recipients).map(|_| Word::Shared(reply.clone())).collect();
        match given {
            Ok(Given::Answered(answers)) => answers
                .into_iter()
                .map(|answer| match answer {
                    Answer::Reply(reply) => Word::Own(reply),
                    Answer::Missing(fault) => Word::Shared(missing(route, fault.0)),
                })
                .collect(),
            // Class and words kept.
            Ok(Given::SenderRefused(reply)) => same(replies::passed_on(reply)),
            Ok(Given::SenderMissing(fault)) => same(missing(route, fault.0)),
            Ok(Given::TakenBack | Given::Cut(_)) => (0..recipients).map(|_| Word::Lost).collect(),
            Err(reply) => same(reply),
        }
    }

    /// Gives the envelope on the attached session, attaching one first where there is none. A session that
    /// turns out dead before any message data is replaced once, silently: what it had accepted is given again,
    /// and what it had not answered, to another backend than has `lost` it where there is one.
    pub(super) async fn give(
        &mut self,
        route: &Arc<Route>,
        sender: &Sender,
        earlier: &[Recipient],
        new: &[Recipient],
        sequel: Sequel,
        mut lost: Option<Arc<Backend>>,
    ) -> Result<Given, Reply> {
        // As long as it can become: whoever is accepted alone is named in it, and where several are, nobody.
        let longest = earlier.iter().chain(new).max_by_key(|recipient| recipient.mailbox.written().len());
        let added = self.trace_of(route, sender, longest).map_or(0, |line| line.len() as u64);
        let mut earlier = earlier.to_vec();
        let mut answered: Vec<Answer> = Vec::new();
        loop {
            let mut attachment = match self.attachment.take() {
                Some(attachment) => attachment,
                None => self.attach(route, lost.take(), earlier.iter().chain(new)).await?,
            };
            let left = new.get(answered.len()..).unwrap_or_default();
            let ends = self.envelope_ends;
            let giving =
                attachment.give(Envelope { sender, added, earlier: &earlier, new: left, sequel, ends });
            let given = timeout_at(ends, giving).await.unwrap_or_else(|_| Given::Cut(Vec::new()));
            match given {
                Given::Cut(answers) if !self.replaced && Instant::now() < self.envelope_ends => {
                    self.replaced = true;
                    lost = attachment.failed_backend();
                    attachment.lease.abort();
                    let accepted = left.iter().zip(&answers).filter(|(_, answer)| answer.is_acceptance());
                    earlier.extend(accepted.map(|(recipient, _)| recipient.clone()));
                    answered.extend(answers);
                }
                Given::Cut(_) | Given::TakenBack => {
                    attachment.lease.abort();
                    return Ok(Given::TakenBack);
                }
                Given::Answered(answers) => {
                    answered.extend(answers);
                    self.keep(attachment, route);
                    return Ok(Given::Answered(answered));
                }
                refused @ (Given::SenderRefused(_) | Given::SenderMissing(_)) => {
                    self.keep(attachment, route);
                    // Recipients the session before had accepted are lost with it.
                    return Ok(if earlier.is_empty() { refused } else { Given::TakenBack });
                }
            }
        }
    }

    fn keep(&mut self, attachment: Box<Attachment>, route: &Arc<Route>) {
        self.record_backend(&attachment);
        self.route = Some(Arc::clone(route));
        if attachment.is_for_nobody() {
            attachment.release();
        } else {
            self.attachment = Some(attachment);
        }
    }

    /// A session with the first backend of the route that gives one, in the order of its `balance`; the one that
    /// `lost` this transaction already comes last. Only through which mail for `recipients` may go.
    async fn attach(
        &mut self,
        route: &Arc<Route>,
        lost: Option<Arc<Backend>>,
        recipients: impl Iterator<Item = &Recipient> + Clone,
    ) -> Result<Box<Attachment>, Reply> {
        if route.client_address == ClientAddress::Xclient {
            self.name_client().await;
        }
        let introduction = self.introduction(route);
        let mut reply = replies::BACKEND_UNREACHABLE;
        // What looking up took is not the backend's.
        let deadline = Instant::now() + route.verify.timeout;
        let client = (route.client_address == ClientAddress::Transparent).then(|| self.arrival.address());
        let Some(mut order) =
            self.context.delivery(route).map(|delivery| delivery.order(client).avoiding(lost))
        else {
            return Err(reply);
        };
        while let Some(backend) = order.next() {
            let deadline = turn(deadline, order.len() + 1);
            let verifier = &self.context.verifier;
            let bars =
                |r: &Recipient| verifier.serves_through(route, &r.mailbox, &backend) != Serving::Served;
            if recipients.clone().any(bars) {
                continue;
            }
            let purpose = Use::Delivery(self.key);
            let lease = if self.replaced {
                backend.lease_fresh(purpose, &introduction, deadline).await
            } else {
                backend.lease(purpose, &introduction, deadline).await
            };
            let fault = match lease {
                Ok(lease) => {
                    self.bound |= introduction.means().is_some();
                    return Ok(Box::new(Attachment::new(lease, Arc::clone(route))));
                }
                Err(fault) => fault,
            };
            tracing::debug!(session = %self.record.session, backend = %backend.site(), %fault, "not attached");
            match fault.blame(&introduction) {
                // It has heard who the client is, and does not want it: class and words kept.
                Blame::Client(refusal) => return Err(replies::passed_on(refusal)),
                // Another backend may take the client.
                Blame::Unclear(refusal) => {
                    reply = refusal.map_or(replies::BACKEND_UNREACHABLE, replies::passed_on);
                }
                Blame::Route => reply = replies::ROUTE_FAULT,
                Blame::Backend => {}
            }
        }
        Err(reply)
    }

    /// As whom a backend of the route is to know us.
    fn introduction(&self, route: &Route) -> Introduction {
        let session = self.record.session.to_string();
        Introduction::of(route.client_address, &session, || self.facts())
    }

    /// Counts, logs and tells a refusal.
    pub(super) fn refused(
        &self,
        route: Option<&Arc<Route>>,
        recipient: &Recipient,
        reply: &Reply,
        grounds: Grounds,
    ) {
        let Grounds { result, source, .. } = grounds;
        self.context.route_or_none(route).recipient(result, source);
        self.record.recipient(result);
        // In shadow mode nobody is refused for what verification finds, nor for what follows from it.
        let shadow = route.is_some_and(|route| route.verify.mode == Mode::Shadow);
        if result == RecipientResult::Unknown && !shadow {
            self.conduct.named_unknown();
        }
        self.tell_refusal(route, recipient, reply, grounds);
    }

    pub(super) fn tell_refusal(
        &self,
        route: Option<&Arc<Route>>,
        recipient: &Recipient,
        reply: &Reply,
        grounds: Grounds,
    ) {
        self.context.route_or_none(route).refusal(grounds.cause);
        let refusal = self.refusal(route.map_or("", |route| &route.name), recipient, reply, grounds);
        refusal.log();
        refusal.tell(self.record.address(), Said::Aloud, &self.context.events);
    }

    fn refusal<'r>(
        &'r self,
        route: &'r str,
        recipient: &'r Recipient,
        reply: &'r Reply,
        grounds: Grounds,
    ) -> Refusal<'r> {
        Refusal {
            session: &self.record.session,
            route,
            recipient: recipient.mailbox.written(),
            reply,
            grounds,
        }
    }
}

/// Refused for what the configuration says.
const fn by_policy(result: RecipientResult, cause: RefusalCause) -> Grounds {
    Grounds { result, source: RecipientSource::Policy, cause }
}

/// Refused for a limit of the transaction.
const fn limited(source: RecipientSource, cause: RefusalCause) -> Grounds {
    Grounds { result: RecipientResult::Limited, source, cause }
}

/// Refused by the delivery port.
pub(super) const fn live(result: RecipientResult, cause: RefusalCause) -> Grounds {
    Grounds { result, source: RecipientSource::Live, cause }
}

/// The backend lacks an extension that was offered: it had it once, or another backend has it.
fn missing(route: &Arc<Route>, keyword: Keyword) -> Reply {
    tracing::debug!(route = %route.name, keyword = keyword.as_str(), "a backend lacks an extension that was offered");
    replies::EXTENSION_LOST
}
