//! The backend's side of a transaction: a leased session and the envelope given on it.
//!
//! Attached at the first recipient that may be taken, given back when the transaction ends. MAIL goes out
//! with the first recipients; where the backend takes pipelining all in one write, its replies read in order
//! (RFC 2920), DATA behind them if the client has said it, too. A kept session is cleared with RSET in that same write, and
//! nothing it says is believed unless the RSET got its 2yz.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::client::Sequel;
use crate::backend::{Backend, EnvelopeFault, Fault, Lease, Origin, Phase, mail_command, rcpt_command};
use crate::config::Route;
use crate::proto::dialogue::{Recipient, Sender};
use crate::proto::ehlo::Keyword;
use crate::proto::parameter::BodyKind;
use crate::proto::reply::{Class, Reply};

/// A backend session in a transaction.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) lease: Lease,
    pub(super) route: Arc<Route>,
    stage: Stage,
    /// Octets that the backend was told will stand before the message.
    pub(super) added: u64,
}

#[derive(Debug)]
enum Stage {
    /// Nothing said yet.
    Clean,
    /// The sender was accepted.
    Sender,
    /// DATA was said with the envelope, and got this answer.
    Data(Result<Reply, Fault>),
    /// The same, but nobody was accepted who could get a message. What becomes of the sender then, servers see differently.
    DataForNobody(Result<Reply, Fault>),
}

/// The envelope as far as it is to be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'e> {
    pub(super) sender: &'e Sender,
    /// Octets put before the message.
    pub(super) added: u64,
    /// Recipients the client was told are accepted; given again when the session is new.
    pub(super) earlier: &'e [Recipient],
    /// Recipients to be given now.
    pub(super) new: &'e [Recipient],
    /// What the client has said behind them.
    pub(super) sequel: Sequel,
    /// When it must have been given.
    pub(super) ends: Instant,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Given {
    /// An answer for each new recipient.
    Answered(Vec<Answer>),
    /// The sender was refused with this reply: so is everyone.
    SenderRefused(Reply),
    /// The sender's parameters need what the backend lacks.
    SenderMissing(EnvelopeFault),
    /// The session is lost; these first ones were answered before.
    Cut(Vec<Answer>),
    /// The session took back an earlier recipient.
    TakenBack,
}

/// What the backend says of one recipient.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its reply.
    Reply(Reply),
    /// It was not asked: it lacks what the recipient needs.
    Missing(EnvelopeFault),
}

impl Attachment {
    pub(super) const fn new(lease: Lease, route: Arc<Route>) -> Self {
        Self { lease, route, stage: Stage::Clean, added: 0 }
    }

    /// Gives the envelope, as much of it as this session has not had yet.
    pub(super) async fn give(&mut self, envelope: Envelope<'_>) -> Given {
        let mut answers = Vec::with_capacity(envelope.new.len());
        match self.try_give(envelope, &mut answers).await {
            Ok(Some(given)) => given,
            Ok(None) => Given::Answered(answers),
            Err(fault) => {
                tracing::debug!(backend = %self.lease.backend().endpoint(), %fault, "backend session lost");
                Given::Cut(answers)
            }
        }
    }

    /// Gives what ends it early, if anything does; the answers to the new recipients come into `answers`.
    async fn try_give(
        &mut self,
        envelope: Envelope<'_>,
        answers: &mut Vec<Answer>,
    ) -> Result<Option<Given>, Fault> {
        let announced = *self.lease.connection().announced();
        let clean = matches!(self.stage, Stage::Clean);
        if clean {
            self.added = envelope.added;
        }
        let mail = match clean.then(|| mail_command(envelope.sender, &announced, envelope.added)).transpose()
        {
            Ok(mail) => mail,
            Err(fault) => return Ok(Some(Given::SenderMissing(fault))),
        };
        let reset = (clean && self.lease.origin() == Origin::Kept).then(|| "RSET\r\n".to_owned());
        let earlier = if clean { envelope.earlier } else { &[] };
        let commands: Vec<_> =
            earlier.iter().chain(envelope.new).map(|r| rcpt_command(r, &announced)).collect();
        let before = reset.iter().chain(&mail).map(String::as_str);
        let together = announced.has(Keyword::Pipelining);
        // The DATA of a binary message is refused here (RFC 3030 §3).
        let binary = envelope.sender.parameters.body == BodyKind::Binary;
        let anyone_asked = !envelope.earlier.is_empty() || commands.iter().any(Result::is_ok);
        let data =
            (together && !binary && anyone_asked && envelope.sequel == Sequel::Data).then_some("DATA\r\n");
        let lines: Vec<&str> =
            before.chain(commands.iter().flatten().map(String::as_str)).chain(data).collect();
        if together {
            self.lease.connection().send(lines.concat().as_bytes()).await?;
        }
        let mut exchange = Exchange { lease: &mut self.lease, lines: lines.into_iter(), together };
        if reset.is_some() && !exchange.next().await?.is_done() {
            return Ok(Some(Given::Cut(Vec::new())));
        }
        if mail.is_some() {
            let reply = exchange.next().await?;
            if !reply.is_done() {
                // Should the session end over it, the next use finds that out; the refusal stands.
                let last = timeout_at(envelope.ends, exchange.finish(&reply)).await;
                let last = last.unwrap_or(Err(Fault::Timeout(Phase::Command)));
                if data.is_some() {
                    let in_step = self.lease.connection().in_step();
                    self.stage = Stage::DataForNobody(last.and_then(|last| in_step.map(|()| last)));
                }
                return Ok(Some(Given::SenderRefused(reply)));
            }
        }
        let mut intact = true;
        for (place, command) in commands.iter().enumerate() {
            let answer = match command {
                Ok(_) => Answer::Reply(exchange.next().await?),
                Err(fault) => Answer::Missing(*fault),
            };
            if data.is_some() && answer.is_go_ahead() {
                // It answers DATA: those before it that are missing were never said.
                answers.clear();
                return Err(Fault::Unsolicited);
            }
            if place < earlier.len() {
                intact &= answer.is_acceptance();
            } else {
                answers.push(answer);
            }
        }
        // The recipients have their answers, whatever becomes of this one.
        let go_ahead = match data {
            Some(_) => {
                let answer = timeout_at(envelope.ends, exchange.next()).await;
                Some(answer.unwrap_or(Err(Fault::Timeout(Phase::Command))))
            }
            None => None,
        };
        self.answers_fit(go_ahead.as_ref()).inspect_err(|_| answers.clear())?;
        let anyone = !envelope.earlier.is_empty() || answers.iter().any(Answer::is_acceptance);
        self.stage = match go_ahead {
            Some(answer) if anyone => Stage::Data(answer),
            Some(answer) => Stage::DataForNobody(answer),
            None => Stage::Sender,
        };
        Ok((!intact).then_some(Given::TakenBack))
    }

    /// Whether each answer was read for the command it followed, that to DATA among them where it went along. There must be no
    /// reply too many, and no acceptance that answers DATA, for it is a recipient's.
    ///
    /// A refusal in the place of DATA's answer may be a recipient's as well; nothing tells those apart.
    fn answers_fit(&mut self, data: Option<&Result<Reply, Fault>>) -> Result<(), Fault> {
        match data {
            // Where nothing more came there is none too many.
            Some(Err(Fault::Closed(_) | Fault::Timeout(_) | Fault::Io(..))) => return Ok(()),
            Some(Ok(reply)) if reply.class() == Class::Positive => return Err(Fault::Unsolicited),
            _ => {}
        }
        self.lease.connection().in_step()
    }

    /// The backend's answer to DATA, which is said now unless it went out with the envelope. A go-ahead counts only as long as
    /// nothing has come behind it.
    pub(super) async fn data(&mut self) -> Result<Reply, Fault> {
        match std::mem::replace(&mut self.stage, Stage::Sender) {
            Stage::Data(Ok(reply)) if !is_refusal(&reply) => self.lease.connection().quiet().map(|()| reply),
            Stage::Data(answer) => answer,
            _ => self.lease.connection().exchange(b"DATA\r\n").await,
        }
    }

    /// Whether DATA was said and nobody accepted: nothing more can be given on this session.
    pub(super) const fn is_for_nobody(&self) -> bool {
        matches!(self.stage, Stage::DataForNobody(_))
    }

    /// The backend that has lost this session, if that tells of it: a kept one may just have been old.
    pub(super) fn failed_backend(&self) -> Option<Arc<Backend>> {
        (self.lease.origin() == Origin::Fresh).then(|| Arc::clone(self.lease.backend()))
    }

    /// Gives the session back, unless it waits for a message, or may: it is closed then. The lone dot that RFC 2920 §3.1 has for
    /// this could be taken for an empty message.
    pub(super) fn release(self) {
        match &self.stage {
            Stage::Clean | Stage::Sender => self.lease.release(),
            Stage::Data(Ok(reply)) | Stage::DataForNobody(Ok(reply)) if is_refusal(reply) => {
                self.lease.release();
            }
            Stage::Data(_) | Stage::DataForNobody(_) => {
                let backend = self.lease.backend().endpoint();
                tracing::debug!(%backend, "session closed: DATA was said, and no message comes");
                self.lease.abort();
            }
        }
    }
}

/// Whether DATA was answered so that commands are read as before.
const fn is_refusal(answer: &Reply) -> bool {
    matches!(answer.class(), Class::Transient | Class::Permanent)
}

impl Answer {
    /// Whether the recipient was accepted.
    pub(super) fn is_acceptance(&self) -> bool {
        matches!(self, Self::Reply(reply) if reply.is_done())
    }

    /// Whether it is one that only DATA can have.
    fn is_go_ahead(&self) -> bool {
        matches!(self, Self::Reply(reply) if reply.class() == Class::Intermediate)
    }
}

/// Commands and their replies, whether sent together or one by one.
struct Exchange<'x, 'l, I: Iterator<Item = &'l str>> {
    lease: &'x mut Lease,
    lines: I,
    together: bool,
}

impl<'l, I: Iterator<Item = &'l str>> Exchange<'_, 'l, I> {
    /// The reply to the next command. A 421 is the end of the session (RFC 5321 §3.8), and so is a 2yz that answers no
    /// command of a transaction: what it was said to, and what was taken, nobody knows.
    async fn next(&mut self) -> Result<Reply, Fault> {
        let line = self.lines.next().unwrap_or_default();
        let connection = self.lease.connection();
        if !self.together {
            connection.send(line.as_bytes()).await?;
        }
        let reply = connection.answer().await?;
        let stray = reply.class() == Class::Positive && !reply.is_done();
        if reply.code() == 421 || stray { Err(Fault::Refused(Phase::Command, reply)) } else { Ok(reply) }
    }

    /// The sender was refused: the replies to what went out with it are read away. Gives the last.
    async fn finish(&mut self, refusal: &Reply) -> Result<Reply, Fault> {
        let mut last = refusal.clone();
        if self.together {
            while self.lines.next().is_some() {
                last = self.lease.connection().answer().await?;
            }
        }
        Ok(last)
    }
}
