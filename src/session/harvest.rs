//! What a session does about clients that guess recipients: it asks for leave before it looks any up, keeps refusals back for a
//! moment, and hears whether a client waits for the greeting.
//!
//! A pause holds a timer and the connection, nothing else. It ends when we are to end, and when the client holds a backend
//! connection that others wait for.

use super::Session;
use super::client::{Paused, Silence};
use crate::guard::{Granted, Held, Leave};
use crate::net::client_key::is_private;
use crate::observe::metrics::{RecipientResult, RecipientSource, RefusalCause};
use crate::observe::record::{End, Grounds};
use crate::proto::dialogue::{Outcome, Recipient};
use crate::proto::replies;
use crate::proto::reply::{Class, Reply};

impl Session {
    /// Whether it is held against this client what it asks for, and whether it may ask at all. Gives how the session ended, if
    /// it did.
    pub(super) fn judge_client(&mut self) -> Option<End> {
        let (address, harvest) = (self.arrival.address().ip(), &self.context.harvest);
        let exempt = is_private(address) || self.context.config.harvest.exempt.contains(address);
        self.held = if exempt { Held::Never } else { Held::Against };
        // What the client before did in this session is not held against this one.
        self.conduct = Default::default();
        if exempt || harvest.ban(self.key).is_none() {
            return None;
        }
        self.client.say(&replies::HARVEST);
        Some(End::Banned)
    }

    /// Lets the client wait for the greeting. Gives how the session ended, if it did.
    pub(super) async fn hold_greeting(&mut self) -> Option<End> {
        let delay = self.context.config.harvest.greet_delay?;
        if self.held == Held::Never || self.arrival.is_unknown() {
            return None;
        }
        let (reply, end) = match self.client.silence(delay, &self.context.drain).await {
            Silence::Kept => return None,
            Silence::Left => return Some(End::ClientLost),
            Silence::Broken => (replies::EARLY_TALKER, End::EarlyTalker),
            Silence::Drain => (replies::DRAINING, End::Drained),
        };
        self.client.say(&reply);
        Some(end)
    }

    /// Leave to look up some of `waiting`, or what becomes of all of them.
    pub(super) async fn leave(&self, waiting: &[Recipient]) -> Result<Granted, Vec<Outcome>> {
        let harvest = &self.context.harvest;
        let allowed = match self.held {
            Held::Against => waiting.len().min(self.conduct.allowance(&self.context.config.harvest)),
            Held::Never => waiting.len(),
        };
        let leave =
            if allowed == 0 { Leave::Banned } else { harvest.leave(self.key, self.held, allowed).await };
        match leave {
            Leave::Granted(granted) => Ok(granted),
            Leave::Banned => {
                // The others are not answered.
                let grounds = Grounds {
                    result: RecipientResult::Limited,
                    source: RecipientSource::Policy,
                    cause: RefusalCause::Guessing,
                };
                self.limited(waiting.iter().take(1), &replies::HARVEST, grounds);
                Err(vec![Outcome::Barred])
            }
            Leave::Busy => {
                let reply = replies::UNDETERMINED;
                let grounds = Grounds {
                    result: RecipientResult::Undetermined,
                    source: RecipientSource::Policy,
                    cause: RefusalCause::Busy,
                };
                self.limited(waiting.iter(), &reply, grounds);
                Err(waiting.iter().map(|_| Outcome::Refused(reply.clone())).collect())
            }
        }
    }

    /// Counts and logs recipients that are not looked up.
    pub(super) fn limited<'r>(
        &self,
        recipients: impl Iterator<Item = &'r Recipient>,
        reply: &Reply,
        grounds: Grounds,
    ) {
        for recipient in recipients {
            let route = self.context.config.routes.of(&recipient.mailbox);
            self.refused(route, recipient, reply, grounds);
        }
    }

    /// Says what became of recipients, each refusal after a pause. What was said before does not wait.
    pub(super) async fn say_slowly(&mut self, replies: Vec<Reply>) {
        let mut waits = self.held == Held::Against;
        for reply in replies {
            if waits && reply.class() == Class::Permanent {
                waits = self.pause().await == Paused::Over;
            }
            self.client.say(&reply);
            // A client that is gone is found out when it is listened to.
            let _ = self.client.flush_much(self.context.config.timeouts.command).await;
        }
    }

    /// The pause before a refusal.
    async fn pause(&mut self) -> Paused {
        let pause = self.conduct.pause(&self.context.config.harvest);
        if pause.is_zero() {
            return Paused::Over;
        }
        if self.client.flush(self.context.config.timeouts.command).await.is_err() {
            return Paused::Left;
        }
        let holds = self.budget();
        self.client.pause(pause, &self.context.drain, holds.as_deref()).await
    }
}
