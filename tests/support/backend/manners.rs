//! What a scripted backend says when no rule does, when it judges a recipient, and what it puts up with.

use std::time::Duration;

/// When a backend that knows its mailboxes refuses another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judges {
    AtRcpt,
    /// 250 to every RCPT; DATA is refused when one of the recipients is unknown.
    AtData,
    /// 250 to every RCPT and 354 to DATA; the whole message is refused when one of its recipients is unknown.
    AfterTheMessage,
}

/// Ordinary replies, with their codes.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Behind 220 and the host's name.
    pub greeting: &'static str,
    /// Behind the host's name in the answer to EHLO and HELO.
    pub hello: &'static str,
    pub sender: &'static str,
    pub recipient: &'static str,
    /// `{}` is the recipient.
    pub unknown: &'static str,
    /// A recipient in a domain it does not serve.
    pub foreign: &'static str,
    pub go_ahead: &'static str,
    pub queued: &'static str,
    pub reset: &'static str,
    pub bye: &'static str,
    pub too_many_errors: &'static str,
    pub too_many_connections: &'static str,
    /// It was idle for too long, or lasted too long.
    pub too_long: &'static str,
}

impl Words {
    /// Those of no server in particular.
    pub const PLAIN: Self = Self {
        greeting: "ESMTP",
        hello: "",
        sender: "250 2.1.0 Ok",
        recipient: "250 2.1.5 Ok",
        unknown: "550 5.1.1 <{}>: Recipient address rejected: User unknown",
        foreign: "554 5.7.1 <{}>: Relay access denied",
        go_ahead: "354 Go ahead",
        queued: "250 2.0.0 Ok: queued",
        reset: "250 2.0.0 Ok",
        bye: "221 2.0.0 Bye",
        too_many_errors: "421 4.7.0 Too many errors",
        too_many_connections: "421 4.7.0 Too many connections from your address",
        too_long: "421 4.4.2 Timeout exceeded",
    };
}

/// What a backend puts up with. The default is everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Before each refusal of a recipient.
    pub tarpit: Duration,
    /// Refusals in one session: with the last one it ends.
    pub errors: Option<usize>,
    /// Connections at the same time.
    pub connections: Option<usize>,
    /// Between two commands.
    pub idle: Option<Duration>,
    /// For a whole session.
    pub lifetime: Option<Duration>,
}
