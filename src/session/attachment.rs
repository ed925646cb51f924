//! The backend's side of a transaction: a leased session and the envelope given on it.
//!
//! Attached at the first recipient that may be taken, given back when the transaction ends. MAIL goes out
//! with the first recipients; where the backend takes pipelining all in one write, its replies read in order
//! (RFC 2920). A kept session is cleared with RSET in that same write, and nothing it says is believed unless
//! the RSET got its 2yz.

use std::sync::Arc;

use crate::backend::{EnvelopeFault, Fault, Lease, Origin, mail_command, rcpt_command};
use crate::config::Route;
use crate::proto::dialogue::{Recipient, Sender};
use crate::proto::ehlo::Keyword;
use crate::proto::reply::{Class, Reply};

/// A backend session in a transaction.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) lease: Lease,
    pub(super) route: Arc<Route>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing said yet.
    Clean,
    /// The sender was accepted.
    Sender,
}

/// The envelope as far as it is to be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope<'e> {
    pub(super) sender: &'e Sender,
    /// Recipients the client was told are accepted; given again when the session is new.
    pub(super) earlier: &'e [Recipient],
    /// Recipients to be given now.
    pub(super) new: &'e [Recipient],
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
    /// The session is lost, or took back what the client was told is accepted.
    Lost,
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
        Self { lease, route, stage: Stage::Clean }
    }

    /// Gives the envelope, as much of it as this session has not had yet.
    pub(super) async fn give(&mut self, envelope: Envelope<'_>) -> Given {
        match self.try_give(envelope).await {
            Ok(given) => given,
            Err(fault) => {
                tracing::debug!(backend = %self.lease.backend().endpoint(), %fault, "backend session lost");
                Given::Lost
            }
        }
    }

    async fn try_give(&mut self, envelope: Envelope<'_>) -> Result<Given, Fault> {
        let announced = *self.lease.connection().announced();
        let fresh = self.stage == Stage::Clean;
        let earlier = if fresh { envelope.earlier } else { &[] };
        let mail = if fresh {
            match mail_command(envelope.sender, &announced) {
                Ok(line) => Some(line),
                Err(fault) if earlier.is_empty() => return Ok(Given::SenderMissing(fault)),
                Err(_) => return Ok(Given::Lost),
            }
        } else {
            None
        };
        let reset = (fresh && self.lease.origin() == Origin::Kept).then(|| "RSET\r\n".to_owned());
        let commands =
            earlier.iter().chain(envelope.new).map(|r| rcpt_command(r, &announced)).collect::<Vec<_>>();
        let lines: Vec<&str> = [&reset, &mail]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .chain(commands.iter().flatten().map(String::as_str))
            .collect();
        let together = announced.has(Keyword::Pipelining);
        if together {
            self.lease.connection().send(lines.concat().as_bytes()).await?;
        }
        let mut exchange = Exchange { lease: &mut self.lease, lines: lines.into_iter(), together };
        if reset.is_some() && exchange.next().await?.class() != Class::Positive {
            return Ok(Given::Lost);
        }
        if mail.is_some() {
            let reply = exchange.next().await?;
            if reply.class() != Class::Positive && !earlier.is_empty() {
                return Ok(Given::Lost);
            }
            if reply.class() != Class::Positive {
                exchange.finish().await?;
                return Ok(Given::SenderRefused(reply));
            }
        }
        let mut answers = Vec::with_capacity(commands.len());
        for command in &commands {
            answers.push(match command {
                Ok(_) => Answer::Reply(exchange.next().await?),
                Err(fault) => Answer::Missing(*fault),
            });
        }
        self.stage = Stage::Sender;
        let new = answers.split_off(earlier.len());
        Ok(if answers.iter().all(is_acceptance) { Given::Answered(new) } else { Given::Lost })
    }
}

fn is_acceptance(answer: &Answer) -> bool {
    matches!(answer, Answer::Reply(reply) if reply.class() == Class::Positive)
}

/// Commands and their replies, whether sent together or one by one.
struct Exchange<'x, 'l, I: Iterator<Item = &'l str>> {
    lease: &'x mut Lease,
    lines: I,
    together: bool,
}

impl<'l, I: Iterator<Item = &'l str>> Exchange<'_, 'l, I> {
    /// The reply to the next command. A 421 is the end of the session (RFC 5321 §3.8).
    async fn next(&mut self) -> Result<Reply, Fault> {
        let line = self.lines.next().unwrap_or_default();
        let connection = self.lease.connection();
        if !self.together {
            connection.send(line.as_bytes()).await?;
        }
        let reply = connection.answer().await?;
        if reply.code() == 421 {
            Err(Fault::Refused(crate::backend::Phase::Command, reply))
        } else {
            Ok(reply)
        }
    }

    /// The sender was refused: the replies to what went out with it are read away.
    async fn finish(&mut self) -> Result<(), Fault> {
        if self.together {
            while self.lines.next().is_some() {
                self.lease.connection().answer().await?;
            }
        }
        Ok(())
    }
}
