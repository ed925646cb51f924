//! One connection of the scripted backend.
//!
//! Reads commands one by one (so that a pipelined group is answered in order), asks the script before each answer, and
//! writes down what it saw before it answers: who has a reply in hand finds it in the record.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::rustls::ServerConfig;

use super::Shared;
use super::content::Content;
use super::manners::{Judges, Limits, Words};
use super::record::Message;
use super::script::{Action, Event, Phase, Script, Step, Tls, Within};
use super::wire::Wire;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The backend closed it: QUIT, or by script.
    Closed,
    /// By script.
    Reset,
    /// The client did.
    ClientGone,
}

pub(super) struct Session<'a, S> {
    stream: BufReader<Wire<S>>,
    within: Within,
    shared: &'a Shared,
    number: usize,
    /// Every phase as often as it was reached.
    turns: Vec<Phase>,
    transaction: Option<Transaction>,
    /// Of the latest MAIL.
    sender: Option<String>,
    /// Refusals so far.
    errors: usize,
}

struct Transaction {
    sender: String,
    recipients: Vec<String>,
    content: Content,
}

const BUFFER: usize = 64 * 1024;

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    pub(super) fn new(stream: S, shared: &'a Shared) -> Self {
        let number = shared.note(|record| {
            record.connections += 1;
            record.open += 1;
            record.most_open = record.most_open.max(record.open);
            record.connections - 1
        });
        let stream = BufReader::with_capacity(BUFFER, Wire::Plain(stream));
        Self {
            stream,
            within: Within::Plaintext,
            shared,
            number,
            turns: Vec::new(),
            transaction: None,
            sender: None,
            errors: 0,
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn run(&mut self) -> Ended {
        match self.converse().await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn converse(&mut self) -> Result<Infallible, Ended> {
        if let Tls::FromStart(config) = self.script(|script| script.tls.clone()) {
            self.secure(config).await?;
        }
        let Limits { connections, idle, lifetime, .. } = self.script(|script| script.limits);
        if connections.is_some_and(|most| self.shared.record().open > most) {
            let words = self.script(|script| script.words.too_many_connections);
            self.perform(Action::reply(words)).await?;
            return Err(Ended::Closed);
        }
        let greeting = self.script(|script| format!("220 {} {}", script.host, script.words.greeting));
        self.answer(Phase::Greeting, &greeting).await?;
        let end = lifetime.map(|lifetime| Instant::now() + lifetime);
        loop {
            let deadline = idle.map(|idle| Instant::now() + idle).into_iter().chain(end).min();
            let line = match deadline {
                None => self.line().await?,
                Some(deadline) => match timeout_at(deadline, self.line()).await {
                    Ok(line) => line?,
                    Err(_) => return self.hang_up(|words| words.too_long).await,
                },
            };
            self.shared.note(|record| record.commands.push((self.number, line.clone())));
            self.command(&line).await?;
            if self.script(|script| script.limits.errors).is_some_and(|most| self.errors >= most) {
                return self.hang_up(|words| words.too_many_errors).await;
            }
        }
    }

    async fn hang_up(&mut self, words: impl FnOnce(&Words) -> &'static str) -> Result<Infallible, Ended> {
        let words = self.script(|script| words(&script.words));
        self.perform(Action::reply(words)).await?;
        Err(Ended::Closed)
    }

    /// Shakes hands. What the client said before, and not inside TLS, is dropped.
    async fn secure(&mut self, config: Arc<ServerConfig>) -> Result<(), Ended> {
        let action = self.decide(Phase::Handshake, None, 0, "");
        if !action.is_empty() {
            self.stream.fill_buf().await.map_err(lost)?;
            self.perform(action).await?;
        }
        let gone = BufReader::new(Wire::Gone);
        let wire = std::mem::replace(&mut self.stream, gone).into_inner();
        let secured = wire.secure(config).await.map_err(lost)?;
        self.stream = BufReader::with_capacity(BUFFER, secured);
        self.within = Within::Tls;
        self.shared.note(|record| record.secured += 1);
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), Ended> {
        let config = match self.script(|script| script.tls.clone()) {
            Tls::OnRequest(config) if self.within == Within::Plaintext => config,
            _ => return self.answer(Phase::StartTls, "503 5.5.1 Not now").await,
        };
        let action = self.decide(Phase::StartTls, None, 0, "220 2.0.0 Go ahead");
        let go = action.says() == Some(b'2');
        self.perform(action).await?;
        if go { self.secure(config).await } else { Ok(()) }
    }

    async fn command(&mut self, line: &str) -> Result<(), Ended> {
        let verb = line.split([' ', '\t']).next().unwrap_or_default().to_ascii_uppercase();
        if ["EHLO", "HELO", "RSET"].contains(&verb.as_str()) {
            self.transaction = None;
        }
        match verb.as_str() {
            "EHLO" => {
                let within = self.within;
                let reply = self.script(|script| script.ehlo(within));
                self.answer(Phase::Ehlo, &reply).await
            }
            "HELO" => {
                let reply = self.script(|script| format!("250 {}{}", script.host, script.words.hello));
                self.answer(Phase::Helo, &reply).await
            }
            "STARTTLS" => self.start_tls().await,
            "MAIL" => self.mail(address(line)).await,
            "RCPT" => self.rcpt(address(line)).await,
            "DATA" => self.data().await,
            "BDAT" => self.bdat(line).await,
            "RSET" => {
                let reply = self.script(|script| script.words.reset);
                self.answer(Phase::Rset, reply).await
            }
            "NOOP" => self.answer(Phase::Noop, "250 2.0.0 Ok").await,
            "QUIT" => {
                let reply = self.script(|script| script.words.bye);
                self.answer(Phase::Quit, reply).await?;
                Err(Ended::Closed)
            }
            _ => self.answer(Phase::Other, "502 5.5.1 Not implemented").await,
        }
    }

    async fn mail(&mut self, sender: &str) -> Result<(), Ended> {
        self.sender = Some(sender.to_owned());
        let ordinary = match self.transaction {
            None => self.script(|script| script.words.sender),
            Some(_) => "503 5.5.1 Nested MAIL command",
        };
        let action = self.decide(Phase::Mail, Some(sender), 0, ordinary);
        if action.says() == Some(b'2') {
            let content = Content::new(self.script(|script| script.keep));
            self.transaction =
                Some(Transaction { sender: sender.to_owned(), recipients: Vec::new(), content });
        }
        self.perform(action).await
    }

    async fn rcpt(&mut self, recipient: &str) -> Result<(), Ended> {
        let ordinary = match self.transaction {
            None => "503 5.5.1 Need MAIL command".to_owned(),
            Some(_) => self.script(|script| script.answer_to(recipient)),
        };
        let action = self.decide(Phase::Rcpt, Some(recipient), 0, &ordinary);
        if action.says() == Some(b'5') {
            self.errors += 1;
            sleep(self.script(|script| script.limits.tarpit)).await;
        }
        if action.says() == Some(b'2')
            && let Some(transaction) = &mut self.transaction
        {
            transaction.recipients.push(recipient.to_owned());
        }
        self.perform(action).await
    }

    async fn data(&mut self) -> Result<(), Ended> {
        let recipients = self.recipients();
        let ordinary = match self.script(|script| script.refusal_of(recipients, Judges::AtData)) {
            _ if recipients.is_empty() => "554 5.5.1 No valid recipients".to_owned(),
            Some(refusal) => refusal,
            None => self.script(|script| script.words.go_ahead.to_owned()),
        };
        let action = self.decide(Phase::Data, None, 0, &ordinary);
        let said = action.says();
        self.perform(action).await?;
        match self.transaction.take() {
            Some(transaction) if said == Some(b'3') => self.message(transaction).await,
            transaction => {
                self.transaction = transaction;
                Ok(())
            }
        }
    }

    /// Reads a message up to its final dot and answers it.
    async fn message(&mut self, mut transaction: Transaction) -> Result<(), Ended> {
        let mut early = None;
        loop {
            let chunk = self.stream.fill_buf().await.map_err(lost)?;
            if chunk.is_empty() {
                return Err(Ended::ClientGone);
            }
            let taken = transaction.content.take(chunk);
            self.stream.consume(taken.octets);
            self.shared.note(|record| record.body_octets += taken.octets as u64);
            if early.is_none() {
                let action = self.decide(Phase::Body, None, transaction.content.octets(), "");
                // A rule acts once in a message: until it does, the action is empty.
                early = (!action.is_empty()).then(|| action.says());
                self.perform(action).await?;
            }
            if taken.complete {
                break;
            }
        }
        // An early reply was the reply; only a rule makes the backend speak again.
        let answered = early.flatten().is_some();
        let ordinary = if answered { String::new() } else { self.word_on(&transaction.recipients) };
        let action = self.decide(Phase::EndOfData, None, transaction.content.octets(), &ordinary);
        if action.says() == Some(b'2') {
            self.store(transaction);
        }
        self.perform(action).await
    }

    /// What it says to a whole message.
    fn word_on(&self, recipients: &[String]) -> String {
        self.script(|script| {
            let refusal = script.refusal_of(recipients, Judges::AfterTheMessage);
            refusal.unwrap_or_else(|| script.words.queued.to_owned())
        })
    }

    fn recipients(&self) -> &[String] {
        self.transaction.as_ref().map_or(&[], |transaction| &transaction.recipients)
    }

    async fn bdat(&mut self, line: &str) -> Result<(), Ended> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let size: u64 = words.next().and_then(|size| size.parse().ok()).unwrap_or_default();
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        let mut octets = Vec::new();
        (&mut self.stream).take(size).read_to_end(&mut octets).await.map_err(lost)?;
        if (octets.len() as u64) < size {
            return Err(Ended::ClientGone);
        }
        self.shared.note(|record| record.body_octets += size);
        let ready = match &mut self.transaction {
            Some(transaction) if !transaction.recipients.is_empty() => {
                transaction.content.append(&octets);
                true
            }
            _ => false,
        };
        let ordinary = match (ready, last) {
            (false, _) => "503 5.5.1 No valid recipients".to_owned(),
            (true, false) => "250 2.0.0 Ok".to_owned(),
            (true, true) => self.word_on(self.recipients()),
        };
        let action = self.decide(Phase::Bdat, None, 0, &ordinary);
        if last
            && ready
            && action.says() == Some(b'2')
            && let Some(transaction) = self.transaction.take()
        {
            self.store(transaction);
        }
        self.perform(action).await
    }

    fn store(&self, transaction: Transaction) {
        let Transaction { sender, recipients, content } = transaction;
        let session = self.number;
        let octets = content.octets();
        let (raw, body) = content.into_raw_and_body();
        self.shared
            .note(|record| record.messages.push(Message { session, sender, recipients, raw, body, octets }));
    }

    async fn line(&mut self) -> Result<String, Ended> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.map_err(lost)?;
        let line = line.strip_suffix(b"\n").ok_or(Ended::ClientGone)?;
        Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned())
    }

    fn script<T>(&self, look: impl FnOnce(&Script) -> T) -> T {
        look(&self.shared.script())
    }

    /// What the script wants done. An empty ordinary reply is none.
    fn decide(&mut self, phase: Phase, address: Option<&str>, octets: u64, ordinary: &str) -> Action {
        self.turns.push(phase);
        let turn = self.turns.iter().filter(|&&reached| reached == phase).count();
        let sender = self.sender.as_deref();
        let event = Event { phase, session: self.number, address, sender, turn, octets };
        self.shared.script().decide(&event, ordinary)
    }

    async fn answer(&mut self, phase: Phase, ordinary: &str) -> Result<(), Ended> {
        let action = self.decide(phase, None, 0, ordinary);
        self.perform(action).await
    }

    async fn perform(&mut self, action: Action) -> Result<(), Ended> {
        for step in action.into_steps() {
            match step {
                Step::Write(octets) => {
                    self.stream.write_all(&octets).await.map_err(lost)?;
                    self.stream.flush().await.map_err(lost)?;
                }
                Step::Wait(delay) => sleep(delay).await,
                Step::Hold(gate) => gate.cancelled().await,
                Step::Close => return Err(Ended::Closed),
                Step::Reset => return Err(Ended::Reset),
                Step::Ignore => {
                    tokio::io::copy(&mut self.stream, &mut tokio::io::sink()).await.map_err(lost)?;
                    return Err(Ended::ClientGone);
                }
                Step::Freeze => pending().await,
                // Filled in when it was decided; an action has one ordinary reply at most.
                Step::Ordinary => {}
            }
        }
        Ok(())
    }
}

impl<S> Drop for Session<'_, S> {
    fn drop(&mut self) {
        self.shared.note(|record| record.open -= 1);
    }
}

fn lost(_: io::Error) -> Ended {
    Ended::ClientGone
}

/// The address in MAIL or RCPT, without its angle brackets.
fn address(line: &str) -> &str {
    let (_, path) = line.split_once(':').unwrap_or_default();
    let path = path.trim_start().strip_prefix('<').unwrap_or(path);
    path.rfind('>').map_or(path, |end| &path[..end])
}
