//! What a reply to a probe means for the recipient that was asked about.
//!
//! Order: the stage of the session first, then the enhanced code, then the basic code. Only the answer to
//! RCPT after an accepted MAIL (or to DATA, when that is asked) can speak about the recipient; everything
//! else is about us, the sender or the server, and is never held against an address.

mod relaying;
mod words;

use super::reply::{Class, Reply};
use relaying::denies_relaying;
use words::own_words;

pub use relaying::{Relaying, relaying};

/// May mail for a recipient be taken?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The store knows it.
    Deliverable,
    /// The store does not, in these words.
    Undeliverable(Reply),
    /// Nobody could say.
    Unknown(Cause),
}

/// Why nobody could say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The store answered with a temporary reply (greylisting, load): it was asked, but said nothing about
    /// the recipient.
    Deferred(Reply),
    /// The store refused our probe for what it is: policy, authentication.
    Policy(Reply),
    /// The store refuses the senders we probe with.
    SenderRefused(Reply),
    /// 252: it takes the recipient without knowing it.
    Unverified,
    /// The store does not serve the domain, or wants something first: the route is wrong.
    RouteFault(Reply),
    /// Only a route for every domain covers the domain, and the store refuses to relay for it: nobody serves it.
    NotServed(Reply),
    /// The store takes any recipient: it knows no answer.
    Blind,
    /// The store refuses in numbers what it knew a moment ago, this one too.
    StoreIll(Reply),
    /// No session with the store could be had, or it ended before the answer.
    Unreachable,
    /// The answer did not come within `verify.timeout`.
    Timeout,
    /// Too many questions wait already.
    NoCapacity,
}

impl Cause {
    /// Whether the store was heard at all. If so a client's own MAIL and RCPT may be better answered than
    /// our probe; if not there is nobody to ask.
    #[must_use]
    pub const fn store_answered(&self) -> StoreAnswered {
        match self {
            Self::Deferred(_)
            | Self::Policy(_)
            | Self::SenderRefused(_)
            | Self::NotServed(_)
            | Self::Unverified
            | Self::Blind => StoreAnswered::NotAboutTheRecipient,
            Self::RouteFault(_)
            | Self::StoreIll(_)
            | Self::Unreachable
            | Self::Timeout
            | Self::NoCapacity => StoreAnswered::Nothing,
        }
    }

    /// The same, of the store's words no more than so many octets.
    #[must_use]
    pub fn shortened(self, most: usize) -> Self {
        match self {
            Self::Deferred(reply) => Self::Deferred(reply.shortened(most)),
            Self::Policy(reply) => Self::Policy(reply.shortened(most)),
            Self::SenderRefused(reply) => Self::SenderRefused(reply.shortened(most)),
            Self::RouteFault(reply) => Self::RouteFault(reply.shortened(most)),
            Self::NotServed(reply) => Self::NotServed(reply.shortened(most)),
            Self::StoreIll(reply) => Self::StoreIll(reply.shortened(most)),
            Self::Unverified | Self::Blind | Self::Unreachable | Self::Timeout | Self::NoCapacity => self,
        }
    }

    /// For logs and people.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Deferred(_) => "deferred",
            Self::Policy(_) => "policy",
            Self::SenderRefused(_) => "sender-refused",
            Self::Unverified => "unverified",
            Self::RouteFault(_) => "route-fault",
            Self::NotServed(_) => "not-served",
            Self::Blind => "blind",
            Self::StoreIll(_) => "store-ill",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::NoCapacity => "no-capacity",
        }
    }

    /// The store's own words, where it had any.
    #[must_use]
    pub const fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Deferred(r)
            | Self::Policy(r)
            | Self::SenderRefused(r)
            | Self::RouteFault(r)
            | Self::NotServed(r)
            | Self::StoreIll(r) => Some(r),
            Self::Unverified | Self::Blind | Self::Unreachable | Self::Timeout | Self::NoCapacity => None,
        }
    }
}

/// What is left when a verdict is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreAnswered {
    /// It said something, but not about the recipient.
    NotAboutTheRecipient,
    /// It said nothing.
    Nothing,
}

/// Where in the probe's session a reply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before any command.
    Greeting,
    /// EHLO, or HELO after it.
    Hello,
    /// STARTTLS.
    StartTls,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
    /// DATA, in a transaction with a single recipient.
    Data,
}

/// What a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The recipient exists.
    Good,
    /// The recipient is taken, and nothing learnt.
    Taken,
    /// The recipient does not exist: refuse, and remember.
    Bad,
    /// Refuse this once with the backend's words; it is not known to be about the recipient.
    Refused,
    /// A refusal of our probe, not of the recipient.
    Policy,
    /// Not now; says nothing about the recipient.
    Deferred,
    /// The backend does not do this for us: wrong route, or something wanted first.
    RouteFault,
    /// The probe's sender is refused: use the other one.
    SenderRefused,
    /// No more recipients in this transaction: ask again in a new one.
    SessionLimit,
    /// The session is over: ask again in another.
    SessionLost,
    /// The backend has too many connections of ours.
    TooManyConnections,
    /// The backend is under pressure: fewer at once.
    Pressure,
    /// The backend is not in order.
    BackendFault,
    /// Go on with the session.
    Proceed,
}

/// What `reply` means at `stage` of a probe.
#[must_use]
pub fn meaning(stage: Stage, reply: &Reply) -> Meaning {
    if let Some(meaning) = about_the_session(reply) {
        return meaning;
    }
    match stage {
        Stage::Greeting | Stage::Hello | Stage::StartTls => match reply.class() {
            Class::Positive => Meaning::Proceed,
            _ => Meaning::BackendFault,
        },
        Stage::Mail => at_mail(reply),
        Stage::Recipient => at_recipient(reply),
        Stage::Data => at_data(reply),
    }
}

/// What a reply means that means the same at any stage, and in a delivery too.
#[must_use]
pub fn about_the_session(reply: &Reply) -> Option<Meaning> {
    if reply.class() != Class::Transient {
        return None;
    }
    // One that repeats an address may have these words from whoever named it; only 421 is about nobody's recipient.
    let is_ours = reply.code() == 421 || !reply.mentions("@");
    let speaks_of_connections = [
        "too many connections",
        "per-source limit",
        "too many concurrent",
        // Exchange, of all its clients and of one.
        "maximum number of concurrent connections",
        "maximum number of concurrent server connections",
        "connection limit",
        "max connections",
    ]
    .iter()
    .any(|words| reply.mentions(words));
    if speaks_of_connections && is_ours {
        return Some(Meaning::TooManyConnections);
    }
    if reply.code() == 421 {
        return Some(Meaning::SessionLost);
    }
    let pressure = match (reply.code(), detail(reply)) {
        (452, Some((3, 1))) | (451, Some((7, 500))) => true,
        (451, Some((7, 0))) => is_ours && reply.mentions("PRX"),
        _ => false,
    };
    pressure.then_some(Meaning::Pressure)
}

fn at_mail(reply: &Reply) -> Meaning {
    match reply.class() {
        Class::Positive => Meaning::Proceed,
        Class::Intermediate => Meaning::BackendFault,
        Class::Transient => Meaning::Deferred,
        Class::Permanent if reply.code() == 530 => Meaning::RouteFault,
        Class::Permanent => Meaning::SenderRefused,
    }
}

fn at_recipient(reply: &Reply) -> Meaning {
    let detail = detail(reply);
    match reply.class() {
        Class::Positive if reply.code() == 252 => Meaning::Taken,
        Class::Positive if reply.is_done() => Meaning::Good,
        Class::Positive | Class::Intermediate => Meaning::BackendFault,
        // A full mailbox exists; the live session will say so itself.
        _ if detail == Some((2, 2)) || is_full(reply, detail) => Meaning::Good,
        _ if detail == Some((5, 3)) || is_too_many(reply) => Meaning::SessionLimit,
        Class::Transient if reply.code() == 452 && detail.is_none() => Meaning::SessionLimit,
        Class::Transient => Meaning::Deferred,
        Class::Permanent if reply.code() == 530 || speaks_of_relaying(reply) => Meaning::RouteFault,
        Class::Permanent => refused_recipient(reply, detail),
    }
}

/// 552 alone is about storage; with an enhanced code it is what that says.
fn is_full(reply: &Reply, detail: Option<(u16, u16)>) -> bool {
    reply.code() == 552 && matches!(detail, None | Some((3, 4))) && !is_too_many(reply)
}

/// 552 for too many recipients is from RFC 821, and to be read as 452 (RFC 5321 §4.5.3.1.10).
fn is_too_many(reply: &Reply) -> bool {
    reply.code() == 552 && own_words(reply).contains("too many recipients")
}

/// A permanent refusal at RCPT that is neither about size, limits nor relaying.
fn refused_recipient(reply: &Reply, detail: Option<(u16, u16)>) -> Meaning {
    match detail {
        Some((1, 0 | 1 | 2 | 3 | 6 | 10) | (2, 1) | (0, 0)) => Meaning::Bad,
        // Exchange Online's directory based edge blocking.
        Some((4, 1)) if reply.code() == 550 && reply.mentions("recipient address rejected") => Meaning::Bad,
        // The sender is what it does not like.
        Some((7, _) | (1, 7 | 8)) => Meaning::Policy,
        Some(_) => Meaning::Refused,
        None if matches!(reply.code(), 550 | 551 | 553) => Meaning::Bad,
        None => Meaning::Refused,
    }
}

/// "Unable to relay", "relay access denied": the backend does not serve this domain. Only where the code
/// is one that servers use for it, and never in an address, since a mailbox may be named relay.
fn speaks_of_relaying(reply: &Reply) -> bool {
    match detail(reply) {
        // Exchange Online: no tenant takes it.
        Some((7, 64)) => return true,
        Some((7, 1 | 54) | (4, 1)) => {}
        None if matches!(reply.code(), 550 | 551 | 553 | 554) => {}
        _ => return false,
    }
    denies_relaying(reply)
}

fn detail(reply: &Reply) -> Option<(u16, u16)> {
    reply.enhanced().map(|enhanced| (enhanced.subject, enhanced.detail))
}

fn at_data(reply: &Reply) -> Meaning {
    match reply.class() {
        Class::Intermediate if reply.code() == 354 => Meaning::Good,
        Class::Positive | Class::Intermediate => Meaning::BackendFault,
        Class::Transient => Meaning::Deferred,
        Class::Permanent => match reply.enhanced() {
            Some(enhanced) if enhanced.subject == 1 => refused_recipient(reply, Some((1, enhanced.detail))),
            Some(enhanced) if enhanced.subject == 7 => Meaning::Policy,
            _ => Meaning::Refused,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stage: Stage, cases: &[(u16, &'static str, Meaning)]) {
        for (code, text, expected) in cases {
            assert_eq!(meaning(stage, &Reply::fixed(*code, text)), *expected, "{code} {text}");
        }
    }

    #[test]
    fn at_rcpt_only_an_answer_about_the_recipient_counts() {
        use Meaning::{Bad, Deferred, Good, Policy, Refused, RouteFault, SessionLimit, Taken};
        check(
            Stage::Recipient,
            &[
                (250, "2.1.5 Ok", Good),
                (251, "will forward", Good),
                (252, "cannot verify", Taken),
                (354, "go", Meaning::BackendFault),
                (550, "5.1.1 <x@y>: Recipient address rejected: User unknown", Bad),
                (554, "5.1.1 no", Bad),
                (550, "5.1.2 bad domain", Bad),
                (550, "5.1.3 bad syntax", Bad),
                (550, "5.1.6 moved", Bad),
                (550, "5.1.10 RESOLVER.ADR.RecipientNotFound; not found", Bad),
                (550, "5.2.1 disabled", Bad),
                (550, "5.0.0 no", Bad),
                (550, "5.1.0 Address rejected", Bad),
                (550, "No such user here", Bad),
                (551, "User not local", Bad),
                (553, "no mailbox", Bad),
                (550, "5.4.1 Recipient address rejected: Access denied", Bad),
                (550, "5.4.1 Unable to relay", RouteFault),
                (550, "5.7.1 Unable to relay", RouteFault),
                (554, "5.7.1 <x@y>: Relay access denied", RouteFault),
                (550, "5.7.54 SMTP; Unable to relay recipient in non-accepted domain", RouteFault),
                (550, "relay not permitted", RouteFault),
                (550, "5.1.1 <relay@y>: User unknown", Bad),
                (550, "Relaying not allowed", RouteFault),
                (550, "Relay denied", RouteFault),
                (550, "Sorry, we do not relay", RouteFault),
                (550, "no relaying allowed", RouteFault),
                (554, "Relay rejected for policy reasons.", RouteFault),
                (550, "5.7.1 Relaying to <x@y> denied (authentication required)", RouteFault),
                (550, "5.7.64 TenantAttribution; Relay Access Denied [server.example]", RouteFault),
                (553, "sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", RouteFault),
                (551, "we don't relay mail here", RouteFault),
                (550, "<relay-denied@y>: no such user", Bad),
                (550, "relay@denied.example: no such user", Bad),
                (550, "Mailbox relay not found", Bad),
                (550, "sorry, no mailbox here by that name. (#5.1.1)", Bad),
                (550, "sorry, too much policy. (#5.7.1)", Policy),
                (550, "5.7.1 Service unavailable; client host blocked", Policy),
                (550, "5.7.25 no PTR", Policy),
                (550, "5.1.8 sender domain not found", Policy),
                (530, "5.7.0 Must issue STARTTLS", RouteFault),
                (530, "Authentication required", RouteFault),
                (552, "5.2.2 mailbox full", Good),
                (452, "4.2.2 mailbox full", Good),
                (552, "too much mail", Good),
                (552, "5.3.4 message too big", Good),
                (552, "5.1.1 no such user", Bad),
                (552, "5.5.3 too many recipients", SessionLimit),
                (552, "5.7.1 content refused", Policy),
                (552, "5.3.0 something", Refused),
                (452, "4.5.3 too many recipients", SessionLimit),
                (452, "too many", SessionLimit),
                (550, "5.5.3 too many recipients", SessionLimit),
                (554, "5.3.0 something", Refused),
                (500, "what", Refused),
                (450, "4.2.0 greylisted", Deferred),
                (451, "4.3.0 later", Deferred),
                (451, "4.7.1 greylisted", Deferred),
                (452, "4.3.1 insufficient system resources", Meaning::Pressure),
                (451, "4.7.500 server busy", Meaning::Pressure),
                (451, "4.7.0 Temporary server error. PRX2", Meaning::Pressure),
                (451, "4.7.0 try later", Deferred),
                // What a client named says nothing.
                (450, "4.2.0 <too many connections@y>: Recipient address rejected: Greylisted", Deferred),
                (450, "4.2.0 too many connections x@y: Greylisted", Deferred),
                (451, "4.7.0 <prx@y>: try later", Deferred),
                (550, "5.7.1 <\"> relay denied <\"@y>: blocked", Policy),
                (550, "5.7.1 <> relay denied <@y>: blocked", Policy),
                (552, "<too many recipients@y>: mailbox full", Good),
                (552, "Too many recipients", SessionLimit),
                (450, "4.7.0 too many connections", Meaning::TooManyConnections),
                (421, "4.7.0 <x@y>: too many connections", Meaning::TooManyConnections),
                (421, "4.4.2 bye", Meaning::SessionLost),
                (
                    421,
                    "4.3.2 The maximum number of concurrent connections has exceeded a limit, closing transmission channel",
                    Meaning::TooManyConnections,
                ),
                (
                    421,
                    "4.3.2 The maximum number of concurrent server connections has exceeded a limit, closing transmission channel",
                    Meaning::TooManyConnections,
                ),
            ],
        );
    }

    #[test]
    fn before_rcpt_nothing_is_about_a_recipient() {
        use Meaning::{BackendFault, Deferred, Proceed, RouteFault, SenderRefused};
        check(
            Stage::Mail,
            &[
                (250, "2.1.0 Ok", Proceed),
                (550, "5.1.1 null sender", SenderRefused),
                (553, "no", SenderRefused),
                (530, "5.7.0 authenticate", RouteFault),
                (451, "4.7.1 later", Deferred),
                (354, "?", BackendFault),
            ],
        );
        for stage in [Stage::Greeting, Stage::Hello, Stage::StartTls] {
            check(
                stage,
                &[
                    (220, "hello", Proceed),
                    (554, "5.7.1 go away", BackendFault),
                    (550, "5.1.1 User unknown", BackendFault),
                    (450, "later", BackendFault),
                    (421, "4.3.2 per-source limit exceeded", Meaning::TooManyConnections),
                    (421, "4.3.0 down", Meaning::SessionLost),
                ],
            );
        }
    }

    #[test]
    fn at_data_a_single_recipient_is_judged() {
        check(
            Stage::Data,
            &[
                (354, "go", Meaning::Good),
                (250, "?", Meaning::BackendFault),
                (550, "5.1.1 User unknown", Meaning::Bad),
                (550, "5.1.10 not found", Meaning::Bad),
                (550, "5.7.1 policy", Meaning::Policy),
                (554, "no valid recipients", Meaning::Refused),
                (451, "4.3.0 later", Meaning::Deferred),
            ],
        );
    }

    #[test]
    fn a_cause_tells_whether_the_store_was_heard() {
        let reply = Reply::fixed(450, "x");
        assert_eq!(Cause::Deferred(reply.clone()).store_answered(), StoreAnswered::NotAboutTheRecipient);
        assert_eq!(Cause::RouteFault(reply).store_answered(), StoreAnswered::Nothing);
        assert_eq!(Cause::Unreachable.store_answered(), StoreAnswered::Nothing);
    }
}
