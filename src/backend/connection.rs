//! One SMTP session with a backend, as its client.
//!
//! Held here: a reply is only ever taken for the command it follows. Before each write the read side must be
//! empty (the socket's included), for anything that stands there was not asked for; after any fault the
//! session is of no more use. Every wait has a deadline (RFC 5321 §4.5.3.2).

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::budget::{Budget, Opening, Round, Shrunk};
use super::fault::{Fault, Phase, is_about_no_command};
use super::introduction::{Introduction, Means};
use super::secure::{Handshaking, Protection};
use crate::config::EndpointTls;
use crate::net::dial::{Dialer, Site};
use crate::net::stream::{Pending, Stream, read_some, write_through};
use crate::net::tls::Handshake;
use crate::proto::dialogue::HelloKind;
use crate::proto::ehlo::{Extensions, Keyword};
use crate::proto::proxy_header::Version;
use crate::proto::reply::{Class, Reply, ReplyReader};
use crate::proto::tls::TlsFacts;
use crate::proto::verdict::{Meaning, about_the_session};
use crate::proto::xclient;

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the connection itself.
    pub connect: Duration,
    /// For each reply.
    pub command: Duration,
    /// For the reply to a message (RFC 5321 §4.5.3.2.6: at least 10 minutes, else messages are doubled).
    pub end_of_data: Duration,
}

/// Who we are to a backend.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Our name in EHLO, and what no backend may greet with.
    pub hostname: Arc<str>,
    /// The header it expects on every connection, also on those that are for no client.
    pub header: Option<Version>,
}

/// Where a backend is, and how we come to it.
#[derive(Debug, Clone)]
pub struct Approach {
    /// Where it listens.
    pub site: Site,
    /// How it is reached.
    pub dialer: Dialer,
    /// Who we are to it.
    pub identity: Identity,
    /// How long it may take.
    pub patience: Patience,
}

/// An open session, greeted both ways.
#[derive(Debug)]
pub struct Connection {
    site: Site,
    /// What the backend has too much of is told to this one.
    budget: Arc<Budget>,
    /// When the last command was sent.
    round: Round,
    stream: Stream,
    input: Vec<u8>,
    reader: ReplyReader,
    patience: Patience,
    announced: Extensions,
    /// The same before XCLIENT.
    announced_first: Extensions,
    /// What it would be told of a client.
    xclient: Option<xclient::Announced>,
    introduction: Introduction,
    hello: HelloKind,
    opened: Instant,
    /// Refusals it has given; backends count them as errors against us.
    refusals: u32,
    /// It said 421.
    over: bool,
    /// It was sent a PROXY header.
    headed: bool,
    /// What was said last is about this.
    phase: Phase,
    secured: Option<(TlsFacts, Handshake)>,
}

impl Connection {
    /// Dials, and says in the first octets for whom where they are to say it. Nothing else may be asked of it before it is
    /// [set up](Self::set_up).
    ///
    /// # Errors
    /// The [`Fault`] with the phase it happened in.
    pub(super) async fn dial(
        approach: &Approach,
        opening: &Opening,
        introduction: &Introduction,
    ) -> Result<Self, Fault> {
        let Approach { site, dialer, identity, patience } = approach;
        let stream = dialer.dial(site, introduction.origin(), patience.connect).await?;
        let mut connection = Self {
            site: site.clone(),
            budget: Arc::clone(opening.budget()),
            round: opening.round(),
            stream,
            input: Vec::new(),
            reader: ReplyReader::default(),
            patience: *patience,
            announced: Extensions::default(),
            announced_first: Extensions::default(),
            xclient: None,
            introduction: match introduction.bound_to() {
                Some(_) => introduction.clone(),
                None => Introduction::Ourselves,
            },
            hello: HelloKind::Ehlo,
            opened: Instant::now(),
            refusals: 0,
            over: false,
            headed: false,
            phase: Phase::Greeting,
            secured: None,
        };
        let ends = connection.stream.local_address().zip(connection.stream.peer_address());
        if let Some(header) = introduction.header(identity.header, ends) {
            connection.write(&header, Phase::Greeting).await?;
            connection.headed = true;
        }
        Ok(connection)
    }

    /// Waits for the greeting, says EHLO (HELO where EHLO is refused), again inside TLS where there is to be any, and whom
    /// it is for.
    ///
    /// # Errors
    /// The [`Fault`] with the phase it happened in.
    pub(super) async fn set_up(
        &mut self,
        identity: &Identity,
        introduction: &Introduction,
        protection: Protection<'_>,
    ) -> Result<(), Fault> {
        if self.site.endpoint.tls == EndpointTls::Implicit
            && let Protection::Demanded(handshaking, _) = protection
        {
            self.shake_hands(handshaking).await?;
        }
        let greeting = self.expect(Phase::Greeting, 220).await;
        let greeting = self.leaving_if_refused(greeting).await?;
        if names(&greeting, &identity.hostname) {
            return Err(Fault::Ourselves);
        }
        let name = introduction.greets_as(&identity.hostname);
        self.greet_other(name, identity).await?;
        if self.site.endpoint.tls == EndpointTls::Negotiated {
            self.protect(protection, name, identity).await?;
        }
        self.introduce(introduction).await
    }

    /// Greets one that must not have our own name.
    async fn greet_other(&mut self, name: &str, identity: &Identity) -> Result<(), Fault> {
        let reply = self.greet(name, Phase::Hello).await?;
        if names(&reply, &identity.hostname) { Err(Fault::Ourselves) } else { Ok(()) }
    }

    /// Goes on inside TLS where that is wanted and to be had.
    async fn protect(
        &mut self,
        protection: Protection<'_>,
        name: &str,
        identity: &Identity,
    ) -> Result<(), Fault> {
        let offered = self.announced.has(Keyword::StartTls);
        let hurried = match protection {
            Protection::Offered(handshaking) => Some(handshaking.patience),
            Protection::Demanded(..) | Protection::Absent => None,
        };
        let handshaking = match protection {
            Protection::Demanded(handshaking, _) | Protection::Offered(handshaking) if offered => handshaking,
            Protection::Demanded(_, policy) => {
                self.farewell().await;
                return Err(Fault::NoTls(policy));
            }
            Protection::Offered(_) | Protection::Absent => return Ok(()),
        };
        self.quiet()?;
        self.write(b"STARTTLS\r\n", Phase::StartTls).await?;
        let reply = self.reply(Phase::StartTls).await?;
        if reply.code() != 220 {
            self.farewell().await;
            return Err(Fault::Refused(Phase::StartTls, reply));
        }
        // What stands behind the 220 was not said inside TLS, whoever said it (RFC 3207 §4.2).
        match self.stream.pending(&mut self.input) {
            Pending::Nothing if self.input.is_empty() => {}
            Pending::End if self.input.is_empty() => return Err(Fault::Closed(Phase::StartTls)),
            _ => return Err(Fault::Unsolicited),
        }
        self.shake_hands(handshaking).await?;
        // Nothing it said before counts (RFC 3207 §4.2).
        (self.reader, self.announced, self.hello) =
            (ReplyReader::default(), Extensions::default(), HelloKind::Ehlo);
        self.xclient = None;
        // Where there may be a session without TLS it is to have its time, too.
        let greeting = self.greet_other(name, identity);
        let greeted = match hurried {
            Some(patience) => timeout(patience, greeting).await.unwrap_or(Err(Fault::Timeout(Phase::Hello))),
            None => greeting.await,
        };
        greeted.map_err(|fault| match fault {
            Fault::Io(..)
            | Fault::Closed(_)
            | Fault::Timeout(_)
            | Fault::Garbled(..)
            | Fault::Unsolicited => Fault::TlsForNothing(Box::new(fault)),
            fault => fault,
        })
    }

    async fn shake_hands(&mut self, handshaking: Handshaking<'_>) -> Result<(), Fault> {
        let Handshaking { connector, patience } = handshaking;
        let secured = connector.connect(self.stream.hand_over(), patience).await?;
        self.stream = secured.stream;
        self.secured = Some((secured.facts, secured.handshake));
        Ok(())
    }

    /// What was agreed on, inside TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsFacts> {
        self.secured.as_ref().map(|(facts, _)| facts)
    }

    /// Where it is.
    pub(super) const fn phase(&self) -> Phase {
        self.phase
    }

    /// How TLS came about; none without.
    #[must_use]
    pub fn handshake(&self) -> Option<Handshake> {
        self.secured.as_ref().map(|(_, handshake)| *handshake)
    }

    /// EHLO with `name`, HELO where that is refused. Gives the answer.
    async fn greet(&mut self, name: &str, phase: Phase) -> Result<Reply, Fault> {
        self.hello = HelloKind::Ehlo;
        self.quiet()?;
        self.write(format!("EHLO {name}\r\n").as_bytes(), phase).await?;
        let mut answer = self.expect(phase, 250).await;
        match answer {
            // The header was read as commands: whatever it says now is one reply behind.
            Err(Fault::Refused(_, reply)) if self.headed && is_about_no_command(&reply) => {
                return Err(Fault::NoProxyHeader(reply));
            }
            // Only HELO's refusal is a fault: servers from before EHLO are still out there. None of them knows headers.
            Err(Fault::Refused(_, ref reply)) if reply.class() == Class::Permanent && !self.headed => {
                self.hello = HelloKind::Helo;
                self.quiet()?;
                self.write(format!("HELO {name}\r\n").as_bytes(), phase).await?;
                answer = self.expect(phase, 250).await;
            }
            _ => {}
        }
        let reply = self.leaving_if_refused(answer).await?;
        self.announced = match self.hello {
            HelloKind::Ehlo => Extensions::announced(&reply),
            HelloKind::Helo => Extensions::default(),
        };
        if phase == Phase::Hello {
            self.xclient = xclient::Announced::of(&reply);
            self.announced_first = self.announced;
        }
        Ok(reply)
    }

    /// Says whom the session is for, where there are words for it, and greets again as that client.
    async fn introduce(&mut self, introduction: &Introduction) -> Result<(), Fault> {
        if let Introduction::Client { means: Means::Xclient, client, .. } = introduction {
            let Some(announced) = self.xclient else {
                self.farewell().await;
                return Err(Fault::NoXclient);
            };
            self.introduction = introduction.clone();
            self.quiet()?;
            self.write(announced.command(client).as_bytes(), Phase::Introduction).await?;
            let answer = self.expect(Phase::Introduction, 220).await;
            self.leaving_if_refused(answer).await?;
            self.greet(&client.helo, Phase::HelloOfClient).await?;
        }
        Ok(())
    }

    /// Whom the session is for.
    #[must_use]
    pub const fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// Makes a session that was another client's this one's: nothing of the last transaction stays.
    pub(super) async fn introduce_anew(&mut self, introduction: &Introduction) -> Result<(), Fault> {
        let cleared = self.exchange(b"RSET\r\n").await?;
        if cleared.class() != Class::Positive {
            return Err(Fault::Refused(Phase::Command, cleared));
        }
        self.quiet()?;
        self.introduce(introduction).await?;
        self.quiet()
    }

    /// What it announced; nothing after HELO.
    #[must_use]
    pub const fn announced(&self) -> &Extensions {
        &self.announced
    }

    /// What it announced to us, rather than to a client it was introduced to; none where it never took us for ourselves.
    #[must_use]
    pub fn announced_to_us(&self) -> Option<&Extensions> {
        match self.introduction.bound_to() {
            None => Some(&self.announced_first),
            Some(_) => None,
        }
    }

    /// How long the session has lasted.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Refusals it has given in this session.
    #[must_use]
    pub const fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Sends commands (whole lines), one or several when it takes pipelining. Their replies are to be read
    /// in order with [`Self::answer`].
    ///
    /// # Errors
    /// [`Fault::Unsolicited`] when something stands unread, else those of writing.
    pub async fn send(&mut self, commands: &[u8]) -> Result<(), Fault> {
        self.quiet()?;
        self.write(commands, Phase::Command).await
    }

    /// The next reply to what was sent.
    ///
    /// # Errors
    /// The [`Fault`]; the session is over.
    pub async fn answer(&mut self) -> Result<Reply, Fault> {
        self.reply(Phase::Command).await
    }

    /// One command, one reply.
    ///
    /// # Errors
    /// Those of [`Self::send`] and [`Self::answer`].
    pub async fn exchange(&mut self, command: &[u8]) -> Result<Reply, Fault> {
        self.send(command).await?;
        self.answer().await
    }

    /// The reply to a message, for which there is more patience.
    ///
    /// # Errors
    /// The [`Fault`]; nothing may be told the client but a 4yz.
    pub async fn answer_to_message(&mut self) -> Result<Reply, Fault> {
        self.reply(Phase::EndOfData).await
    }

    /// Nothing was said that we did not ask for, not even the beginning of a reply, nor was it the last word.
    ///
    /// # Errors
    /// [`Fault::Unsolicited`]: an early reply, an idle 421, the end of the stream.
    pub fn quiet(&mut self) -> Result<(), Fault> {
        let silent = !self.over
            && self.input.is_empty()
            && !self.reader.is_amid_reply()
            && self.stream.pending(&mut self.input) == Pending::Nothing;
        if silent { Ok(()) } else { Err(Fault::Unsolicited) }
    }

    /// No reply came that answers nothing. Once the answers to several commands are in, this says whether
    /// each was read for the command it followed.
    ///
    /// # Errors
    /// [`Fault::Unsolicited`]. A connection that was closed behind the last answer is none.
    pub fn in_step(&mut self) -> Result<(), Fault> {
        let spoke = !self.input.is_empty()
            || self.reader.is_amid_reply()
            || self.stream.pending(&mut self.input) == Pending::Octets;
        if spoke { Err(Fault::Unsolicited) } else { Ok(()) }
    }

    /// Says QUIT and closes, without waiting longer than a moment for the farewell.
    pub async fn quit(mut self) {
        self.farewell().await;
    }

    /// Closes in the middle of a message: nobody may take what was sent for the whole.
    pub fn abort(self) {
        self.stream.abort();
    }

    /// The parts the relay of message data works on.
    pub const fn parts(&mut self) -> (&mut Stream, &mut Vec<u8>) {
        (&mut self.stream, &mut self.input)
    }

    /// QUIT, and a short wait for its answer, so that neither end sees a reset.
    async fn farewell(&mut self) {
        if self.write(b"QUIT\r\n", Phase::Command).await.is_ok() {
            let wait = self.patience.command.min(Duration::from_secs(2));
            let _ = timeout(wait, self.reply(Phase::Command)).await;
            // Inside TLS an end without a word of its own is that of a connection cut off.
            let _ = timeout(wait, self.stream.shutdown()).await;
        }
    }

    /// The reply with this code. One of success with another answers something else: whatever follows would be one
    /// reply behind.
    async fn expect(&mut self, phase: Phase, code: u16) -> Result<Reply, Fault> {
        let reply = self.reply(phase).await?;
        match reply.class() {
            Class::Transient | Class::Permanent => Err(Fault::Refused(phase, reply)),
            Class::Positive if reply.code() == code => Ok(reply),
            Class::Positive | Class::Intermediate => Err(Fault::Astray(phase, reply)),
        }
    }

    /// `answer`, with a farewell where it is a refusal.
    async fn leaving_if_refused(&mut self, answer: Result<Reply, Fault>) -> Result<Reply, Fault> {
        if matches!(answer, Err(Fault::Refused(..))) {
            self.farewell().await;
        }
        answer
    }

    async fn write(&mut self, octets: &[u8], phase: Phase) -> Result<(), Fault> {
        (self.round, self.phase) = (self.budget.round(), phase);
        let written = timeout(self.patience.command, write_through(&mut self.stream, octets)).await;
        written.map_err(|_| Fault::Timeout(phase))?.map_err(|fault| Fault::Io(phase, fault))
    }

    /// One whole reply before the deadline of its phase, in however many pieces it comes.
    async fn reply(&mut self, phase: Phase) -> Result<Reply, Fault> {
        let wait = match phase {
            Phase::EndOfData => self.patience.end_of_data,
            Phase::Greeting
            | Phase::Hello
            | Phase::StartTls
            | Phase::Introduction
            | Phase::HelloOfClient
            | Phase::Command => self.patience.command,
        };
        let deadline = Instant::now() + wait;
        loop {
            let (taken, reply) =
                self.reader.take(&self.input).map_err(|fault| Fault::Garbled(phase, fault))?;
            self.input.drain(..taken);
            if let Some(reply) = reply {
                match reply.class() {
                    // The last word of a session (RFC 5321 §3.8), rather than one more refusal in it.
                    Class::Transient if reply.code() == 421 => self.over = true,
                    Class::Transient | Class::Permanent => self.refusals += 1,
                    Class::Positive | Class::Intermediate => {}
                }
                self.heed(&reply);
                return Ok(reply);
            }
            let read = timeout_at(deadline, read_some(&mut self.stream, &mut self.input)).await;
            match read.map_err(|_| Fault::Timeout(phase))? {
                Ok(0) => return Err(Fault::Closed(phase)),
                Ok(_) => {}
                Err(fault) => return Err(Fault::Io(phase, fault)),
            }
        }
    }
}

impl Connection {
    /// Whatever the backend says it has too much of, it gets less of it.
    fn heed(&self, reply: &Reply) {
        match about_the_session(reply) {
            // Of the client's, not of ours.
            Some(Meaning::TooManyConnections) if self.introduction != Introduction::Ourselves => {}
            Some(Meaning::TooManyConnections) => match self.budget.refused(self.round) {
                Shrunk::To(limit) => tracing::warn!(
                    backend = %self.site, limit, %reply,
                    "backend has too many connections of ours: it is given fewer for a while"
                ),
                Shrunk::Before => {}
            },
            Some(Meaning::Pressure) => self.budget.pressed(),
            _ => {}
        }
    }
}

/// Whether a greeting's first word is `hostname`.
fn names(greeting: &Reply, hostname: &str) -> bool {
    let first = greeting.lines().next().and_then(|line| line.split(|b| *b == b' ').next());
    first.is_some_and(|word| word.eq_ignore_ascii_case(hostname.as_bytes()))
}
