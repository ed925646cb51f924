//! One mail transaction: a sender, the recipients accepted so far, how its message is sent.

use crate::proto::address::{Mailbox, Path};
use crate::proto::command::Chunk;
use crate::proto::ehlo::{Extensions, Keyword};
use crate::proto::parameter::{BodyKind, Of, ParameterFault, Parameters};
use crate::proto::replies;
use crate::proto::reply::Reply;

/// MAIL: who it is from, and how it will be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// None is the null sender.
    pub mailbox: Option<Mailbox>,
    /// ESMTP parameters.
    pub parameters: Parameters,
}

impl Sender {
    pub(super) fn parse(path: Path<'_>, offered: &Extensions) -> Result<Self, Reply> {
        let parameters = Parameters::parse(path.rest, Of::Mail, offered).map_err(parameter_reply)?;
        let needs_utf8 = path.mailbox.as_ref().is_some_and(|mailbox| !mailbox.is_ascii());
        if needs_utf8 && !parameters.uses.has(Keyword::SmtpUtf8) {
            return Err(replies::NEEDS_SMTPUTF8);
        }
        match (parameters.size, offered.max_size) {
            (Some(size), Some(max)) if size > max => Err(replies::TOO_LARGE),
            _ => Ok(Self { mailbox: path.mailbox, parameters }),
        }
    }

    /// The address as written; empty for the null sender.
    #[must_use]
    pub fn written(&self) -> &str {
        self.mailbox.as_ref().map_or("", Mailbox::written)
    }
}

/// RCPT: one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Whom it is for.
    pub mailbox: Mailbox,
    /// ESMTP parameters.
    pub parameters: Parameters,
}

/// Whether the transaction can still succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Whole,
    /// Recipients were accepted whose backend is lost: it can only end in 451.
    Broken,
}

/// A transaction from MAIL to the final reply.
#[derive(Debug)]
pub struct Transaction {
    sender: Sender,
    accepted: Vec<Recipient>,
    asked: usize,
    health: Health,
    /// Octets announced by BDAT so far; none before the first chunk.
    chunks: Option<u64>,
}

impl Transaction {
    pub(super) const fn new(sender: Sender) -> Self {
        Self { sender, accepted: Vec::new(), asked: 0, health: Health::Whole, chunks: None }
    }

    /// Who it is from.
    #[must_use]
    pub const fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The recipients accepted so far, in order.
    #[must_use]
    pub fn accepted(&self) -> &[Recipient] {
        &self.accepted
    }

    /// Whether it can still succeed.
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Whether a chunk of its message has come.
    #[must_use]
    pub const fn is_in_chunks(&self) -> bool {
        self.chunks.is_some()
    }

    pub(super) fn check_recipient(
        &mut self,
        path: Path<'_>,
        offered: &Extensions,
        max: usize,
    ) -> Result<Recipient, Reply> {
        if self.chunks.is_some() {
            return Err(replies::CHUNKS_ONLY);
        }
        let parameters = Parameters::parse(path.rest, Of::Rcpt, offered).map_err(parameter_reply)?;
        let mailbox = path.mailbox.ok_or(replies::BAD_RECIPIENT)?;
        if !self.sender.parameters.uses.has(Keyword::SmtpUtf8) {
            if !mailbox.is_ascii() {
                return Err(replies::NEEDS_SMTPUTF8);
            }
            if !parameters.is_ascii() {
                return Err(replies::BAD_PARAMETER);
            }
        }
        if self.asked >= max {
            return Err(replies::TOO_MANY_RECIPIENTS);
        }
        if self.health == Health::Broken {
            return Err(replies::BACKEND_LOST);
        }
        self.asked += 1;
        Ok(Recipient { mailbox, parameters })
    }

    pub(super) fn accept(&mut self, recipient: Recipient) {
        self.accepted.push(recipient);
    }

    /// Breaks the transaction if a recipient was accepted; else a new backend can still be had.
    pub(super) fn lose_backend(&mut self) {
        if !self.accepted.is_empty() {
            self.health = Health::Broken;
        }
    }

    pub(super) fn check_data(&self) -> Result<(), Reply> {
        if self.chunks.is_some() || self.sender.parameters.body == BodyKind::Binary {
            return Err(replies::CHUNKS_ONLY);
        }
        self.check_deliverable()
    }

    /// Counts the chunk in when it may come.
    pub(super) fn check_chunk(&mut self, chunk: Chunk, max_size: Option<u64>) -> Result<(), Reply> {
        self.check_deliverable()?;
        let total = self.chunks.unwrap_or(0).checked_add(chunk.size).ok_or(replies::TOO_LARGE)?;
        if max_size.is_some_and(|max| total > max) {
            return Err(replies::TOO_LARGE);
        }
        self.chunks = Some(total);
        Ok(())
    }

    fn check_deliverable(&self) -> Result<(), Reply> {
        match (self.health, self.accepted.is_empty()) {
            (Health::Broken, _) => Err(replies::BACKEND_LOST),
            (Health::Whole, true) => Err(replies::NO_RECIPIENT),
            (Health::Whole, false) => Ok(()),
        }
    }
}

const fn parameter_reply(fault: ParameterFault) -> Reply {
    match fault {
        ParameterFault::Syntax | ParameterFault::Value => replies::BAD_PARAMETER,
        ParameterFault::NotOffered => replies::PARAMETER_NOT_OFFERED,
    }
}
