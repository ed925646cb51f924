//! The dialogue with a client: what may come now, what is answered, what is done about it.
//!
//! Pure: [`Dialogue::step`] takes an [`Input`] and gives a [`Step`]. The session performs the step and comes
//! back with the next input. No socket, clock, log or metric is seen here, so the dialogue is fuzzed and
//! simulated with arbitrary lines, outcomes and replies.
//!
//! It holds a session part and a transaction part. A transaction is a value that is dropped, not fields that
//! are cleared, so nothing of one can leak into the next. Each verb is first checked (legal now? syntax,
//! order, limits), then done.
//!
//! Held here, whatever the inputs: one reply per command, in order; a 2yz to a message only as the backend's
//! own; DATA and BDAT only with a recipient that was accepted; nothing from before STARTTLS survives it; the
//! octets of a refused BDAT are consumed, never parsed.
//!
//! RFC 5321 §4.1.4 (order), RFC 2920 (pipelining), RFC 3030 (BDAT), RFC 3207 (STARTTLS).

mod message;
mod rules;
mod transaction;

use std::collections::VecDeque;

use super::address::Path;
use super::command::{Chunk, Command, CommandFault, Place};
use super::ehlo::{Extensions, Keyword};
use super::line::{self, Overlong};
use super::replies;
use super::reply::{Class, Reply};
use super::xclient::{self, Attributes};
pub use message::{BodyEnd, Framing, Remainder, Stop};
pub use rules::{Rules, Tls, Xclient};
pub use transaction::{Health, Recipient, Sender, Transaction};

/// Commands that move no mail which one client may send between two that do: an accepted recipient, a chunk.
const MAX_IDLE_COMMANDS: u32 = 1000;

/// Something happened.
#[derive(Debug, Clone)]
pub enum Input<'i> {
    /// A command line without its CRLF.
    Line(&'i [u8]),
    /// Several RCPT lines that had arrived together, in order. One that is no RCPT is answered as an error.
    RecipientLines(&'i [&'i [u8]]),
    /// A command line above the limit has been read to its end.
    OverlongLine(Overlong),
    /// A CR or LF alone in a command line.
    BareNewline,
    /// What became of the first recipients of [`Step::Recipients`] that were not answered yet, in their order. Those
    /// left, if any, are answered with another such input, and nothing else may come before.
    Recipients(Vec<Outcome>),
    /// The backend's reply to [`Step::Forward`].
    BackendReply(Reply),
    /// What became of [`Step::Body`].
    BodyEnd(BodyEnd),
    /// [`Step::Discard`] is done.
    Discarded,
    /// Octets stood behind STARTTLS.
    BytesBehindStartTls,
    /// The handshake of [`Step::StartTls`] is done.
    TlsDone,
    /// The client of [`Step::Client`] is known.
    ClientKnown,
    /// The client took too long.
    Timeout,
    /// We are to end, and have waited for the client's transaction as long as we will.
    Drain,
    /// The client closed or broke the connection, and all it sent has been answered.
    ClientGone,
    /// The backend of this transaction is lost, or took back what it had agreed to.
    BackendGone,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer, then read on.
    Say(Reply),
    /// Answer several commands, in order, then read on.
    SayEach(Vec<Reply>),
    /// Answer several commands, in order, the last of them with 421, then close.
    SayEachAndHangUp(Vec<Reply>),
    /// Nothing to say; read on.
    Continue,
    /// Find out about these recipients, all at once or some first; comes back as [`Input::Recipients`].
    Recipients(Vec<Recipient>),
    /// One exchange with the backend; comes back as [`Input::BackendReply`] or [`Input::BackendGone`].
    Forward(Exchange),
    /// Say this, if any, then carry message data to the backend; comes back as [`Input::BodyEnd`].
    Body(Option<Reply>, Framing),
    /// Swallow what is left of a message; comes back as [`Input::Discarded`].
    Discard(Remainder),
    /// If no octet is waiting say this and begin TLS; comes back as [`Input::TlsDone`] or
    /// [`Input::BytesBehindStartTls`].
    StartTls(Reply),
    /// The client is another from now on; comes back as [`Input::ClientKnown`].
    Client(Box<Attributes>),
    /// Say this, if any, and close.
    HangUp(Option<Reply>),
}

/// A command passed on to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// DATA.
    Data,
}

/// What became of a recipient.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Accepted, by the backend too, with this reply.
    Accepted(Recipient, Reply),
    /// Not accepted.
    Refused(Reply),
    /// Not looked up, because of how the client behaves: it is to leave. Nothing behind it is answered.
    Barred,
    /// The backend was lost, or disagreed with what it had taken before: neither this recipient nor those
    /// accepted earlier can be served in this transaction.
    Lost,
}

/// How the client greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The name it gave.
    pub name: Box<str>,
    /// The command it used.
    pub kind: HelloKind,
}

/// EHLO or HELO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloKind {
    /// HELO: no extensions.
    Helo,
    /// EHLO.
    Ehlo,
}

/// What the dialogue waits for.
#[derive(Debug)]
enum State {
    Command,
    /// The answers to a run of RCPTs: given already, or to come with the outcomes.
    Verifying(VecDeque<Option<Reply>>),
    GoAhead,
    Body,
    Chunk(Chunk),
    Discarding(Reply),
    Upgrading,
    Introducing,
    Over,
}

/// One client's dialogue.
#[derive(Debug)]
pub struct Dialogue {
    rules: Rules,
    hello: Option<Hello>,
    errors: u32,
    idle_commands: u32,
    state: State,
    transaction: Option<Transaction>,
}

impl Dialogue {
    /// A new session, not greeted yet.
    #[must_use]
    pub const fn new(rules: Rules) -> Self {
        Self { rules, hello: None, errors: 0, idle_commands: 0, state: State::Command, transaction: None }
    }

    /// A header has told who the client is, and so whether it is believed about others.
    pub const fn set_xclient(&mut self, xclient: Xclient) {
        self.rules.xclient = xclient;
    }

    /// The first thing said.
    #[must_use]
    pub fn greeting(&self) -> Reply {
        replies::greeting(&self.rules.hostname)
    }

    /// The transaction under way.
    #[must_use]
    pub const fn transaction(&self) -> Option<&Transaction> {
        self.transaction.as_ref()
    }

    /// How the client greeted last.
    #[must_use]
    pub const fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// What was offered to this client, given how it greeted.
    #[must_use]
    pub fn offered(&self) -> Extensions {
        match &self.hello {
            Some(Hello { kind: HelloKind::Ehlo, .. }) => match self.rules.tls {
                Tls::Offered | Tls::Required => self.rules.offer.with(Keyword::StartTls),
                Tls::Off | Tls::Active => self.rules.offer,
            },
            _ => Extensions::default(),
        }
    }

    /// The next step. Inputs that do not belong to the state end the session: they cannot come from a client.
    pub fn step(&mut self, input: Input<'_>) -> Step {
        let state = std::mem::replace(&mut self.state, State::Command);
        match (state, input) {
            (State::Over, _) | (_, Input::ClientGone) => self.hang_up(None),
            (_, Input::Timeout) => self.hang_up(Some(replies::IDLE)),
            (State::Command, Input::Line(_) | Input::RecipientLines(_) | Input::OverlongLine(_))
                if self.out_of_patience() =>
            {
                self.hang_up(Some(replies::TOO_MANY_ERRORS))
            }
            (State::Command, Input::Line(line)) => self.line(line),
            (State::Command, Input::RecipientLines(lines)) => {
                self.idle_commands += u32::try_from(lines.len()).unwrap_or(MAX_IDLE_COMMANDS);
                self.recipient_lines(lines)
            }
            (State::Command, Input::OverlongLine(Overlong::Chunk)) => self.hang_up(Some(replies::BAD_CHUNK)),
            (State::Command, Input::OverlongLine(Overlong::Other)) => self.wrong(replies::LINE_TOO_LONG),
            (State::Command, Input::BareNewline) => self.hang_up(Some(replies::BARE_NEWLINE_IN_COMMAND)),
            (State::Command, Input::Drain) => self.hang_up(Some(replies::DRAINING)),
            (State::Command, Input::BackendGone) => self.backend_gone(),
            (State::Verifying(answers), Input::Recipients(outcomes)) => self.outcomes(answers, outcomes),
            (State::GoAhead, Input::BackendReply(reply)) => self.answered_data(reply),
            (State::GoAhead, Input::BackendGone) => self.end_transaction(replies::BACKEND_LOST),
            (State::Body, Input::BodyEnd(end)) => self.body_end(end),
            (State::Chunk(chunk), Input::BodyEnd(end)) => self.chunk_end(chunk, end),
            (State::Discarding(answer), Input::Discarded) => Step::Say(answer),
            (State::Upgrading, Input::TlsDone) => self.tls_done(),
            (State::Introducing, Input::ClientKnown) => Step::Say(self.greeting()),
            (State::Upgrading, Input::BytesBehindStartTls) => {
                self.hang_up(Some(replies::BYTES_BEHIND_STARTTLS))
            }
            _ => self.hang_up(Some(replies::BACKEND_CONFUSED)),
        }
    }

    /// Whether the client has had its share of errors, or of commands that move no mail.
    fn out_of_patience(&self) -> bool {
        self.rules.max_errors.is_some_and(|max| self.errors >= max) || self.idle_commands >= MAX_IDLE_COMMANDS
    }

    /// One command line: checked, then done.
    fn line(&mut self, line: &[u8]) -> Step {
        if line::has_nul(line) {
            return match line::is_chunk(line) {
                true => self.hang_up(Some(replies::BAD_CHUNK)),
                false => self.wrong(replies::NUL_IN_COMMAND),
            };
        }
        self.idle_commands += 1;
        match Command::parse(line) {
            Ok(Command::Rcpt(_)) => self.recipient_lines(&[line]),
            Ok(command) => self.command(command),
            Err(CommandFault::Unrecognized) => self.wrong(replies::UNRECOGNIZED),
            Err(CommandFault::Chunk) => self.hang_up(Some(replies::BAD_CHUNK)),
            Err(CommandFault::Argument) => self.wrong(replies::BAD_ARGUMENT),
            Err(CommandFault::Path(_)) if line::is_recipient(line) => self.wrong(replies::BAD_RECIPIENT),
            Err(CommandFault::Path(_)) => self.wrong(replies::BAD_SENDER),
        }
    }

    fn command(&mut self, command: Command<'_>) -> Step {
        match command {
            Command::Ehlo(name) => self.greeted(name, HelloKind::Ehlo),
            Command::Helo(name) => self.greeted(name, HelloKind::Helo),
            Command::Quit => self.hang_up(Some(replies::BYE)),
            Command::Noop => Step::Say(replies::OK),
            Command::StartTls => self.start_tls(),
            Command::Http => self.hang_up(Some(replies::NOT_HTTP)),
            Command::ProxyHeader => self.hang_up(Some(replies::STRAY_PROXY_HEADER)),
            Command::Bdat(chunk) => self.bdat(chunk),
            Command::Xclient(_) if self.rules.xclient == Xclient::Refused => {
                self.wrong(replies::NOT_IMPLEMENTED)
            }
            _ if self.rules.tls == Tls::Required => self.wrong(replies::TLS_FIRST),
            Command::Xclient(attributes) => self.xclient(attributes),
            Command::Mail(path) => self.mail(path),
            Command::Data => self.data(),
            Command::Rset => {
                self.transaction = None;
                Step::Say(replies::OK)
            }
            Command::Help => Step::Say(replies::HELP),
            Command::Vrfy => Step::Say(replies::CANNOT_VERIFY),
            Command::NotImplemented | Command::Rcpt(_) => self.wrong(replies::NOT_IMPLEMENTED),
        }
    }

    fn greeted(&mut self, name: &str, kind: HelloKind) -> Step {
        self.transaction = None;
        self.hello = Some(Hello { name: name.into(), kind });
        Step::Say(match kind {
            HelloKind::Ehlo => {
                let offer = self.offered().offer(&self.rules.hostname);
                match (self.rules.xclient, self.rules.tls) {
                    (Xclient::Taken, Tls::Required) | (Xclient::Refused, _) => offer,
                    (Xclient::Taken, _) => offer.with_line(xclient::OFFER),
                }
            }
            HelloKind::Helo => replies::hello(&self.rules.hostname),
        })
    }

    fn mail(&mut self, path: Path<'_>) -> Step {
        if self.hello.is_none() {
            return self.wrong(replies::GREET_FIRST);
        }
        if self.transaction.is_some() {
            return self.wrong(replies::NESTED_SENDER);
        }
        match Sender::parse(path, &self.offered()) {
            Ok(sender) => {
                self.transaction = Some(Transaction::new(sender));
                Step::Say(replies::SENDER_OK)
            }
            Err(reply) => self.wrong(reply),
        }
    }

    /// A run of RCPTs: what is wrong with one is known at once, the rest is to be found out.
    fn recipient_lines(&mut self, lines: &[&[u8]]) -> Step {
        let mut answers = VecDeque::with_capacity(lines.len());
        let mut asked = Vec::with_capacity(lines.len());
        for line in lines {
            match self.recipient(line) {
                Ok(recipient) => {
                    asked.push(recipient);
                    answers.push_back(None);
                }
                Err(reply) => answers.push_back(Some(reply)),
            }
        }
        if asked.is_empty() {
            return Step::SayEach(answers.into_iter().flatten().collect());
        }
        self.state = State::Verifying(answers);
        Step::Recipients(asked)
    }

    /// Checks one RCPT line.
    fn recipient(&mut self, line: &[u8]) -> Result<Recipient, Reply> {
        if line::has_nul(line) {
            self.errors += 1;
            return Err(replies::NUL_IN_COMMAND);
        }
        let Ok(Command::Rcpt(path)) = Command::parse(line) else {
            self.errors += 1;
            return Err(replies::BAD_RECIPIENT);
        };
        if self.rules.tls == Tls::Required {
            self.errors += 1;
            return Err(replies::TLS_FIRST);
        }
        let offered = self.offered();
        // A RCPT behind a refused MAIL is what pipelining looks like, not an error (RFC 2920 §3.1).
        let transaction = self.transaction.as_mut().ok_or(replies::SENDER_FIRST)?;
        transaction.check_recipient(path, &offered, self.rules.max_recipients).inspect_err(|reply| {
            // Too many recipients, or a lost backend, is no fault of the client's.
            self.errors += u32::from(reply.class() == Class::Permanent);
        })
    }

    /// Answers as far as is known. Who is accepted is in the transaction before the others are looked up.
    fn outcomes(&mut self, mut answers: VecDeque<Option<Reply>>, outcomes: Vec<Outcome>) -> Step {
        let mut outcomes = outcomes.into_iter();
        let mut said = Vec::with_capacity(answers.len());
        while let Some(answer) = answers.pop_front() {
            let reply = match answer.map_or_else(|| outcomes.next().map(Err), |reply| Some(Ok(reply))) {
                Some(Ok(reply)) => reply,
                Some(Err(Outcome::Barred)) => {
                    said.push(replies::HARVEST);
                    self.hang_up(None);
                    return Step::SayEachAndHangUp(said);
                }
                Some(Err(outcome)) => self.outcome(outcome),
                None => {
                    answers.push_front(None);
                    self.state = State::Verifying(answers);
                    break;
                }
            };
            said.push(reply);
        }
        Step::SayEach(said)
    }

    fn outcome(&mut self, outcome: Outcome) -> Reply {
        match (outcome, &mut self.transaction) {
            (Outcome::Accepted(recipient, reply), Some(transaction)) if reply.is_done() => {
                self.idle_commands = 0;
                transaction.accept(recipient);
                reply
            }
            (Outcome::Refused(reply), _) if reply.class() != Class::Positive => replies::passed_on(reply),
            (_, Some(transaction)) => {
                transaction.lose_backend();
                replies::BACKEND_LOST
            }
            (_, None) => replies::BACKEND_LOST,
        }
    }

    fn data(&mut self) -> Step {
        let Some(transaction) = &self.transaction else {
            return Step::Say(replies::SENDER_FIRST);
        };
        if let Err(reply) = transaction.check_data() {
            // The client's next command begins afresh when the backend is what failed.
            if reply.class() == Class::Transient {
                self.transaction = None;
            }
            return Step::Say(reply);
        }
        self.state = State::GoAhead;
        Step::Forward(Exchange::Data)
    }

    /// The backend's answer to DATA; its verdict on the envelope may come here.
    fn answered_data(&mut self, reply: Reply) -> Step {
        if reply.code() == 354 {
            self.state = State::Body;
            return Step::Body(Some(replies::GO_AHEAD), Framing::Lines);
        }
        match reply.class() {
            Class::Positive | Class::Intermediate => self.end_transaction(replies::BACKEND_CONFUSED),
            Class::Transient | Class::Permanent => self.end_transaction(replies::passed_on(reply)),
        }
    }

    fn body_end(&mut self, end: BodyEnd) -> Step {
        match end {
            // Taken as a whole, or refused: another 2yz speaks of something else.
            BodyEnd::Answered(reply) if reply.is_done() && !reply.takes_message() => {
                self.end_transaction(replies::BACKEND_CONFUSED)
            }
            BodyEnd::Answered(reply) => self.end_transaction(replies::passed_on(reply)),
            BodyEnd::Unanswered => self.end_transaction(replies::BACKEND_LOST),
            BodyEnd::Stopped(stop) => self.stopped(stop),
        }
    }

    /// The message is lost; what is left of it is read before the answer is given.
    fn stopped(&mut self, stop: Stop) -> Step {
        self.transaction = None;
        self.state = State::Discarding(match stop {
            Stop::EarlyReply(reply) => match reply.class() {
                // An acknowledgement of something that has not been sent yet.
                Class::Positive => replies::BACKEND_CONFUSED,
                _ => replies::passed_on(reply),
            },
            Stop::BackendGone => replies::BACKEND_LOST,
            Stop::BareNewline => replies::BARE_NEWLINE,
            Stop::TooLarge => replies::TOO_LARGE,
        });
        Step::Discard(Remainder::Body)
    }

    fn bdat(&mut self, chunk: Chunk) -> Step {
        if !self.offered().has(Keyword::Chunking) {
            self.errors += 1;
            return self.refuse_chunk(chunk, replies::NOT_IMPLEMENTED);
        }
        let Some(transaction) = &mut self.transaction else {
            return self.refuse_chunk(chunk, replies::SENDER_FIRST);
        };
        match transaction.check_chunk(chunk, self.rules.max_size) {
            Ok(()) => {
                self.state = State::Chunk(chunk);
                Step::Body(None, Framing::Chunk(chunk))
            }
            Err(reply) => {
                // The chunks that follow belong to no transaction and are refused likewise.
                self.transaction = None;
                self.refuse_chunk(chunk, reply)
            }
        }
    }

    /// Its octets are consumed all the same (RFC 3030 §2).
    fn refuse_chunk(&mut self, chunk: Chunk, answer: Reply) -> Step {
        self.state = State::Discarding(answer);
        Step::Discard(Remainder::Octets(chunk.size))
    }

    fn chunk_end(&mut self, chunk: Chunk, end: BodyEnd) -> Step {
        match end {
            BodyEnd::Answered(reply) if reply.takes_message() && chunk.place == Place::Middle => {
                // An empty one moves nothing.
                if chunk.size > 0 {
                    self.idle_commands = 0;
                }
                Step::Say(reply)
            }
            end => self.body_end(end),
        }
    }

    fn start_tls(&mut self) -> Step {
        match self.rules.tls {
            Tls::Off => self.wrong(replies::NOT_IMPLEMENTED),
            Tls::Active => self.wrong(replies::TLS_ACTIVE),
            Tls::Offered | Tls::Required => {
                self.transaction = None;
                self.state = State::Upgrading;
                Step::StartTls(replies::TLS_READY)
            }
        }
    }

    /// The session begins anew for another client, whose errors are its own (Postfix XCLIENT_README).
    fn xclient(&mut self, attributes: &str) -> Step {
        if self.transaction.is_some() {
            return self.wrong(replies::TRANSACTION_OPEN);
        }
        let Ok(attributes) = Attributes::parse(attributes) else {
            return self.wrong(replies::BAD_ARGUMENT);
        };
        self.hello = None;
        self.errors = 0;
        self.state = State::Introducing;
        Step::Client(Box::new(attributes))
    }

    /// Everything from before is forgotten (RFC 3207 §4.2).
    fn tls_done(&mut self) -> Step {
        self.rules.tls = Tls::Active;
        self.hello = None;
        self.transaction = None;
        Step::Continue
    }

    fn backend_gone(&mut self) -> Step {
        if let Some(transaction) = &mut self.transaction {
            transaction.lose_backend();
        }
        Step::Continue
    }

    fn end_transaction(&mut self, reply: Reply) -> Step {
        self.transaction = None;
        Step::Say(reply)
    }

    /// An error of the client's.
    fn wrong(&mut self, reply: Reply) -> Step {
        self.errors += 1;
        Step::Say(reply)
    }

    fn hang_up(&mut self, reply: Option<Reply>) -> Step {
        self.transaction = None;
        self.state = State::Over;
        Step::HangUp(reply)
    }
}

#[cfg(test)]
mod tests;
