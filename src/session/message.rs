//! The message: DATA, its octets, and the backend's word on it.

use std::sync::Arc;

use tokio::time::Instant;

use super::Session;
use super::attachment::Given;
use super::client::Sequel;
use super::recipients::{ENVELOPE, live};
use super::relay::{self, Body, Limits, Loss};
use crate::backend::Backend;
use crate::config::{Mode, Route};
use crate::guard::{Event, Tally};
use crate::observe::metrics::{MessageResult, RecipientResult, RecipientSource, RefusalCause};
use crate::observe::redact;
use crate::proto::command::Place;
use crate::proto::dialogue::{BodyEnd, Framing, Input, Remainder, Stop};
use crate::proto::replies;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Meaning, Stage, meaning};
use crate::verify::Contradicted;

impl Session {
    /// DATA, on a session that has the whole envelope.
    pub(super) async fn data(&mut self) -> Input<'static> {
        loop {
            let Some(attachment) = &mut self.attachment else { return Input::BackendGone };
            match attachment.data().await {
                Ok(reply) if reply.code() == 421 => {}
                Ok(reply) => {
                    // Whether it reads commands now, or a message, nobody knows.
                    if reply.code() != 354 && matches!(reply.class(), Class::Positive | Class::Intermediate) {
                        self.tear();
                    }
                    return Input::BackendReply(self.about_the_message(reply).await);
                }
                Err(_) => {}
            }
            if let Some(dead) = self.attachment.take() {
                let lost = dead.failed_backend();
                dead.lease.abort();
                // What was said of the recipients does not wait for another backend.
                let _ = self.client.flush(self.context.config.timeouts.command).await;
                if self.replaced || !self.envelope_again(&dead.route, lost).await {
                    return Input::BackendGone;
                }
            }
        }
    }

    /// Gives the envelope once more, on a new session, of another backend than has `lost` it where there is one.
    async fn envelope_again(&mut self, route: &Arc<Route>, lost: Option<Arc<Backend>>) -> bool {
        self.replaced = true;
        self.envelope_ends = Instant::now() + ENVELOPE;
        let Some((sender, earlier)) =
            self.dialogue.transaction().map(|t| (t.sender().clone(), t.accepted().to_vec()))
        else {
            return false;
        };
        let given = self.give(route, &sender, &earlier, &[], Sequel::Unknown, lost).await;
        matches!(given, Ok(Given::Answered(_)))
    }

    /// Message data, and the backend's word on it.
    pub(super) async fn body(&mut self, go_ahead: Option<Reply>, framing: Framing) -> Result<BodyEnd, Loss> {
        let mut body = match framing {
            Framing::Lines => Body::lines(self.bare_newlines),
            Framing::Chunk(chunk) => Body::counted(chunk.size, self.pace),
        };
        let end = match self.carry(&mut body, go_ahead.as_ref(), framing).await {
            Ok(end) => Ok(self.understood(end).await),
            Err(loss) => Err(loss),
        };
        self.client.body_done();
        self.pace = body.pace();
        self.record.octets(body.octets());
        self.count(end.as_ref(), framing, body.octets());
        match &end {
            Ok(BodyEnd::Answered(reply)) if is_word_on_message(reply) => {}
            // The backend must not take what it has for a message; or what it took it for nobody knows.
            Ok(_) | Err(_) => self.tear(),
        }
        let end = end?;
        if matches!(end, BodyEnd::Stopped(_)) {
            self.stopped = Some(body);
        }
        Ok(end)
    }

    /// The same end, with what the client is to be told of a refusal that is about a recipient.
    async fn understood(&self, end: BodyEnd) -> BodyEnd {
        match end {
            BodyEnd::Answered(reply) => BodyEnd::Answered(self.about_the_message(reply).await),
            BodyEnd::Stopped(Stop::EarlyReply(reply)) => {
                BodyEnd::Stopped(Stop::EarlyReply(self.about_the_message(reply).await))
            }
            end => end,
        }
    }

    /// Carries `body` as far as it goes.
    async fn carry(
        &mut self,
        body: &mut Body,
        go_ahead: Option<&Reply>,
        framing: Framing,
    ) -> Result<BodyEnd, Loss> {
        go_ahead.into_iter().for_each(|reply| self.client.say(reply));
        let limits = self.body_limits();
        self.client.flush(limits.data).await.map_err(|_| Loss::Gone)?;
        let before = self.trace();
        // The backend may have been lost with an earlier recipient; the octets are the client's all the same.
        let Some(attachment) = &mut self.attachment else {
            return Ok(BodyEnd::Stopped(Stop::BackendGone));
        };
        let backend = attachment.lease.connection();
        match framing {
            Framing::Lines => body.carry(before, &mut self.client, backend, &limits).await,
            Framing::Chunk(chunk) => {
                body.carry_chunk(&before, &mut self.client, backend, chunk, &limits).await
            }
        }
    }

    fn body_limits(&self) -> Limits {
        let config = &self.context.config;
        Limits {
            data: config.timeouts.data,
            session_end: config.timeouts.session.map(|whole| self.began + whole),
            min_rate: config.timeouts.data_min_rate,
            holds: self.budget(),
            max_size: config.limits.max_message_size,
            drain: self.context.drain.clone(),
        }
    }

    /// Counts a message that ended, one way or another.
    fn count(&mut self, end: Result<&BodyEnd, &Loss>, framing: Framing, octets: u64) {
        let Some(attachment) = &self.attachment else { return };
        let middle = matches!(framing, Framing::Chunk(chunk) if chunk.place == Place::Middle);
        let result = match end {
            Ok(BodyEnd::Answered(reply)) => match reply.class() {
                Class::Positive if reply.takes_message() && middle => return,
                Class::Positive if reply.takes_message() => {
                    self.stored = Some((Arc::clone(&attachment.route), octets));
                    return;
                }
                Class::Permanent => MessageResult::Refused,
                Class::Positive | Class::Transient | Class::Intermediate => MessageResult::Tempfailed,
            },
            Ok(BodyEnd::Unanswered) => MessageResult::Tempfailed,
            Ok(BodyEnd::Stopped(Stop::BareNewline | Stop::TooLarge)) => MessageResult::Refused,
            Ok(BodyEnd::Stopped(_)) => MessageResult::Tempfailed,
            Err(_) => MessageResult::Aborted,
        };
        self.context.route(&attachment.route).message(result, octets);
    }

    pub(super) async fn discard(&mut self, remainder: Remainder) -> Result<(), Loss> {
        let limits = self.body_limits();
        self.client.flush(limits.data).await.map_err(|_| Loss::Gone)?;
        let mut body = relay::remainder(remainder, self.stopped.take());
        let discarded = body.discard(&mut self.client, &limits).await;
        self.client.body_done();
        discarded
    }

    /// What the client is told where the backend, asked about nobody any more, refuses the whole message.
    ///
    /// A 5.1.x there is about a recipient it had taken. Of one recipient it is true; of several it is true of
    /// one, and to pass it on would refuse the others too. So they are to be tried again one by one.
    async fn about_the_message(&self, reply: Reply) -> Reply {
        let (Some(route), Some(transaction)) = (&self.route, self.dialogue.transaction()) else {
            return reply;
        };
        let enforced = route.verify.mode == Mode::Enforce && !self.bypass;
        if !enforced || meaning(Stage::Data, &reply) != Meaning::Bad {
            return reply;
        }
        match transaction.accepted() {
            // Once, or named more than once.
            [only, again @ ..] if again.iter().all(|other| other.mailbox == only.mailbox) => {
                let word = (&reply, RecipientSource::Live);
                if self.contradicted(route, only, word).await == Contradicted::StoreIll {
                    return replies::UNDETERMINED;
                }
                let told = Event::Answered(Tally { unknown: 1, known: 0 }, self.held);
                self.context.harvest.learn(self.key, told);
                self.tell_refusal(
                    Some(route),
                    only,
                    &reply,
                    live(RecipientResult::Unknown, RefusalCause::Unknown),
                );
                reply
            }
            several => {
                let mailboxes = several.iter().map(|recipient| &recipient.mailbox);
                self.context.verifier.keep_apart(route, mailboxes);
                tracing::info!(
                    session = %self.record.session,
                    route = %route.name,
                    reply = redact::words(&reply.to_string(), ""),
                    "a message to several was refused for one of them: they are to come alone"
                );
                replies::REFUSED_FOR_ONE
            }
        }
    }
}

/// Whether `reply` takes a message or a chunk, or refuses it.
const fn is_word_on_message(reply: &Reply) -> bool {
    reply.takes_message() || matches!(reply.class(), Class::Transient | Class::Permanent)
}
