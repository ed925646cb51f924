//! What an examination saw. Nothing is judged here.

use std::time::Duration;

use super::ask::Timed;
use crate::backend::{Fault, Phase};
use crate::net::dial::DialFault;
use crate::proto::address::Mailbox;
use crate::proto::ehlo::Extensions;
use crate::proto::reply::Reply;
use crate::proto::tls::TlsFacts;

/// All that was seen of one backend.
#[derive(Debug)]
pub struct Facts {
    /// Whether it could be reached; what is below is empty where it could not.
    pub reach: Reach,
    /// Which senders it takes.
    pub senders: Vec<SenderFact>,
    /// What it says of each domain.
    pub domains: Vec<DomainFact>,
    /// What it says of recipients that should exist.
    pub known: Vec<Asked>,
    /// What it says of a recipient in a domain that is nobody's, by sender.
    pub relay: Vec<Asked>,
    /// Several recipients in one transaction of the null sender.
    pub together: Option<Together>,
    /// Refusals in one session.
    pub endurance: Option<Endurance>,
    /// Connections at once.
    pub connections: Option<Connections>,
}

impl Facts {
    /// Nothing but whether it could be reached.
    pub(super) const fn of(reach: Reach) -> Self {
        Self {
            reach,
            senders: Vec::new(),
            domains: Vec::new(),
            known: Vec::new(),
            relay: Vec::new(),
            together: None,
            endurance: None,
            connections: None,
        }
    }

    /// No session could be had, for this reason.
    #[must_use]
    pub const fn shut(why: Shut) -> Self {
        Self::of(Reach::Shut(why))
    }
}

/// Whether a session could be had.
#[derive(Debug)]
pub enum Reach {
    /// Yes.
    Open {
        /// From dialling to the answer to EHLO.
        took: Duration,
        /// What it announced, inside TLS where there is any.
        announced: Extensions,
        /// What was agreed on, inside TLS.
        tls: Option<TlsFacts>,
    },
    /// No.
    Shut(Shut),
}

/// Why no session could be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shut {
    /// Its name has no address.
    Name,
    /// The connection was refused, or there is no way there, in the system's words.
    Connection(String),
    /// Nobody took the connection in time.
    Timeout,
    /// It is we.
    Ourselves,
    /// It took the connection and sent us away in this greeting.
    Greeting(Reply),
    /// TLS is demanded, or comes first there, and no handshake came about.
    Tls(String),
    /// It refused EHLO and HELO.
    Hello(Reply),
    /// It took the connection and then was silent, closed it, or spoke something else than SMTP.
    Silent(String),
}

impl Shut {
    /// What kept a session from being opened.
    pub(super) fn of(fault: Fault) -> Self {
        match fault {
            Fault::Dial(DialFault::Unresolvable(_)) => Self::Name,
            Fault::Dial(DialFault::Timeout(_)) => Self::Timeout,
            Fault::Dial(DialFault::Refused(_, why)) if why.kind() == std::io::ErrorKind::TimedOut => {
                Self::Timeout
            }
            Fault::Dial(DialFault::Refused(_, why)) => Self::Connection(why.to_string()),
            Fault::Dial(DialFault::Ourselves(_)) | Fault::Ourselves => Self::Ourselves,
            Fault::Refused(Phase::Greeting, reply) => Self::Greeting(reply),
            Fault::Refused(Phase::StartTls, reply) => Self::Tls(format!("STARTTLS is answered {reply}")),
            fault @ (Fault::Tls(_)
            | Fault::NoTls(_)
            | Fault::Timeout(Phase::StartTls)
            | Fault::Closed(Phase::StartTls)
            | Fault::Io(Phase::StartTls, _)
            | Fault::Garbled(Phase::StartTls, _)) => Self::Tls(fault.to_string()),
            Fault::Refused(_, reply) => Self::Hello(reply),
            other => Self::Silent(other.to_string()),
        }
    }
}

/// A sender, and what MAIL with it was answered; none where the session was lost over it.
#[derive(Debug)]
pub struct SenderFact {
    /// None is the null sender.
    pub sender: Option<Mailbox>,
    /// The answer.
    pub reply: Option<Reply>,
    /// Whether probes use it first, or only where the first is refused.
    pub part: Part,
}

/// What a sender is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every bounce has it: the null sender, where probes use another.
    Bounces,
    /// Probes use it.
    Probes,
    /// Probes use it where the other is refused.
    Fallback,
}

/// A recipient, and what RCPT with it was answered; none where the session was lost over it.
#[derive(Debug)]
pub struct Asked {
    /// The sender of the transaction; empty for the null sender.
    pub sender: String,
    /// Whom it was about.
    pub recipient: String,
    /// The answer: to RCPT, or to MAIL where that was refused.
    pub reply: Option<Reply>,
    /// Which of them it answers.
    pub to: Answered,
}

/// The command an answer belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// MAIL: the recipient could not be asked about.
    Mail,
    /// RCPT.
    Rcpt,
}

/// What a backend says of the recipients of a domain.
#[derive(Debug)]
pub struct DomainFact {
    /// The domain.
    pub domain: String,
    /// To RCPT with names nobody has.
    pub nobody: Vec<Timed>,
    /// To DATA behind one of them, where it was taken.
    pub data: Option<Reply>,
    /// To RCPT with postmaster, which must exist (RFC 5321 §4.5.1).
    pub postmaster: Option<Reply>,
    /// To MAIL in the same session: what an answer takes that is not held back.
    pub round_trip: Duration,
    /// How the session ended over it, if it did.
    pub lost: Option<String>,
}

/// Several recipients in one transaction.
#[derive(Debug)]
pub struct Together {
    /// Recipients asked for.
    pub asked: usize,
    /// Recipients taken.
    pub taken: usize,
    /// What the first that was not taken was answered.
    pub refusal: Option<Reply>,
}

/// Refusals in one session.
#[derive(Debug)]
pub struct Endurance {
    /// Refusals heard.
    pub refusals: usize,
    /// After so many answers took longer.
    pub slower_after: Option<usize>,
    /// By so much.
    pub slower_by: Duration,
    /// Why no more was asked.
    pub end: EnduranceEnd,
}

/// Why no more was asked in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnduranceEnd {
    /// It was enough.
    Enough,
    /// It took too long.
    Slow,
    /// The backend ended the session, with these words.
    Ended(String),
}

/// Connections at once.
#[derive(Debug)]
pub struct Connections {
    /// As many as the configuration may use.
    pub wanted: usize,
    /// So many were open together.
    pub opened: usize,
    /// Why not more.
    pub refusal: Option<Shut>,
}
