//! What can go wrong in a session with a backend, and whose fault it is.

use std::io;

use super::introduction::{Introduction, Means};
use crate::net::dial::DialFault;
use crate::net::tls::HandshakeFault;
use crate::proto::reply::{Class, Reply, ReplyFault};
use crate::proto::verdict::{Meaning, about_the_session};

/// Where in the session something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Before the greeting was whole.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// XCLIENT: about the client from here on.
    Introduction,
    /// EHLO or HELO in the name of the client that XCLIENT told of.
    HelloOfClient,
    /// STARTTLS.
    StartTls,
    /// Any command after that.
    Command,
    /// Behind the end of a message.
    EndOfData,
}

/// Why a session with a backend ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialFault),
    /// It said no before any transaction.
    #[error("refused us at {0:?}: {1}")]
    Refused(Phase, Reply),
    /// Its name is our own: mail would go round for ever.
    #[error("it greets with our own name")]
    Ourselves,
    /// It did not answer in time.
    #[error("no answer in time at {0:?}")]
    Timeout(Phase),
    /// It closed the connection.
    #[error("closed the connection at {0:?}")]
    Closed(Phase),
    /// The system says no.
    #[error("connection failed at {0:?}: {1}")]
    Io(Phase, io::Error),
    /// What it sent is not SMTP.
    #[error("sent {1} at {0:?}")]
    Garbled(Phase, ReplyFault),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] HandshakeFault),
    /// TLS came about, and not one reply inside it: the backend may have judged the handshake after we were done
    /// (RFC 8446 §4.6).
    #[error("the session in TLS was over before its first reply: {0}")]
    TlsForNothing(Box<Self>),
    /// It does not offer what may not be done without.
    #[error(
        "does not offer STARTTLS, and tls = {0:?} never goes on without; switch it on there, or write tls = \"off\""
    )]
    NoTls(&'static str),
    /// Octets that answer nothing.
    #[error("sent something unasked")]
    Unsolicited,
    /// A reply that no server gives to what it follows: whose is it then?
    #[error("answered {0:?} with {1}, which is no answer to it")]
    Astray(Phase, Reply),
    /// It does not expect the header that it was sent.
    #[error(
        "does not understand the PROXY header it was sent: {0}; expect it there (Postfix: smtpd_upstream_proxy_protocol), or \
         write another client_address"
    )]
    NoProxyHeader(Reply),
    /// It does not take from us who the client is.
    #[error("it does not offer us XCLIENT with ADDR, which client_address = \"xclient\" needs")]
    NoXclient,
}

/// Whose fault it is that a session did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blame {
    /// The backend's, or that of the way to it.
    Backend,
    /// The client's: the backend has heard of it, and said this.
    Client(Reply),
    /// Nobody can tell: the backend has heard of the client, and says this for now, or nothing. It may mean the client, or
    /// everybody; checks of our own tell.
    Unclear(Option<Reply>),
    /// The route's: what it says about the client does not fit the backend, or the network.
    Route,
}

impl Fault {
    /// The same, now that it is known whether the backend ever took the PROXY header that it was sent. One that did refuses
    /// the client; of one that did not it may be the header itself that it refuses.
    pub(super) fn in_the_light_of(self, introduction: &Introduction, headers_taken: bool) -> Self {
        let headed = matches!(introduction.means(), Some(Means::Proxy(_)));
        match self {
            Self::NoProxyHeader(reply) if headers_taken && matches!(reply.code(), 504 | 554) => {
                Self::Refused(Phase::Hello, reply)
            }
            Self::Refused(Phase::Greeting, reply)
                if headed && !headers_taken && reply.class() == Class::Permanent =>
            {
                Self::NoProxyHeader(reply)
            }
            fault => fault,
        }
    }

    /// Whose fault it is, in a session that was to be introduced so.
    #[must_use]
    pub fn blame(&self, introduction: &Introduction) -> Blame {
        match (self, introduction.means()) {
            (Self::NoXclient | Self::NoProxyHeader(_) | Self::Dial(DialFault::Transparent(..)), _) => {
                Blame::Route
            }
            // Not taken as a command at all, or not from us.
            (Self::Refused(Phase::Introduction, reply), _) if is_about_xclient(reply) => Blame::Route,
            (Self::Refused(Phase::Introduction | Phase::HelloOfClient, reply), _)
            | (
                Self::Refused(Phase::Greeting | Phase::Hello, reply),
                Some(Means::Proxy(_) | Means::Transparent),
            ) => match reply.class() {
                Class::Permanent => Blame::Client(reply.clone()),
                _ => Blame::Unclear(Some(reply.clone())),
            },
            // A client that is kept out there is not always told so.
            (Self::Dial(_), Some(Means::Transparent))
            | (
                Self::Closed(Phase::Introduction | Phase::HelloOfClient)
                | Self::Timeout(Phase::Introduction | Phase::HelloOfClient)
                | Self::Io(Phase::Introduction | Phase::HelloOfClient, _),
                _,
            )
            | (
                Self::Closed(Phase::Greeting | Phase::Hello)
                | Self::Timeout(Phase::Greeting | Phase::Hello)
                | Self::Io(Phase::Greeting | Phase::Hello, _),
                Some(Means::Proxy(_) | Means::Transparent),
            ) => Blame::Unclear(None),
            _ => Blame::Backend,
        }
    }
}

/// Whether a refusal says that what was sent is no command, or not one for now.
pub(super) fn is_about_no_command(reply: &Reply) -> bool {
    matches!(reply.code(), 500 | 502..=504 | 554)
}

/// Whether a refusal of XCLIENT speaks of the command, rather than of the client it names.
fn is_about_xclient(reply: &Reply) -> bool {
    matches!(reply.code(), 500..=504) || (reply.code() == 550 && reply.mentions("authorization"))
}

impl Fault {
    /// Whether it is one of TLS, which a session without might not have.
    pub(super) const fn is_of_tls(&self) -> bool {
        matches!(
            self,
            Self::Tls(_)
                | Self::TlsForNothing(_)
                | Self::Refused(Phase::StartTls, _)
                | Self::Timeout(Phase::StartTls)
                | Self::Closed(Phase::StartTls)
                | Self::Io(Phase::StartTls, _)
                | Self::Garbled(Phase::StartTls, _)
        )
    }

    /// Whether it is one of time alone: with more of it there might have been none.
    pub(super) fn is_of_time(&self) -> bool {
        match self {
            Self::TlsForNothing(fault) => fault.is_of_time(),
            Self::Timeout(_) | Self::Tls(HandshakeFault::Timeout) => true,
            _ => false,
        }
    }

    /// Whether the backend is well, and has too many connections of ours.
    pub(super) fn is_crowded(&self, introduction: &Introduction) -> bool {
        self.blame(introduction) == Blame::Backend
            && matches!(self, Self::Refused(_, reply)
                if about_the_session(reply) == Some(Meaning::TooManyConnections))
    }
}
