//! The demo's mail store: an SMTP server of its own on a loopback socket, with a handful of mailboxes.
//!
//! Used by nothing else. It holds the same dialogue as the proxy, and knows its recipients by heart.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::net::stream::{Stream, read_some};
use crate::proto::address::LocalCase;
use crate::proto::body::{BareNewlines, BodyReader, Found};
use crate::proto::dialogue::{BodyEnd, Dialogue, Input, Outcome, Recipient, Rules, Step, Tls, Xclient};
use crate::proto::ehlo::Extensions;
use crate::proto::line::{LineReader, Scan};
use crate::proto::reply::Reply;

/// Longest command line it takes.
const MAX_LINE: usize = 2048;

pub(super) struct MailStore {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

/// What all its sessions share.
struct Shelf {
    domain: String,
    mailboxes: HashSet<String>,
    messages: AtomicUsize,
}

impl MailStore {
    /// Listens on a free port, for `local@domain` of each of `locals`.
    pub(super) async fn start(domain: &str, locals: &[&str]) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shelf = Arc::new(Shelf {
            domain: domain.to_owned(),
            mailboxes: locals.iter().map(|local| format!("{local}@{domain}")).collect(),
            messages: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&shelf);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self { address, shelf })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages stored so far.
    pub(super) fn messages(&self) -> usize {
        self.shelf.messages.load(Ordering::SeqCst)
    }
}

impl Shelf {
    fn answer(&self, recipient: Recipient) -> Outcome {
        let address = recipient.mailbox.written().to_owned();
        let known = recipient.mailbox.canonical(LocalCase::Insensitive);
        if known == "postmaster" || self.mailboxes.contains(&known) {
            Outcome::Accepted(recipient, Reply::fixed(250, "2.1.5 Ok"))
        } else {
            Outcome::Refused(Reply::new(
                550,
                format!("5.1.1 <{address}>: No such mailbox in the demo's store"),
            ))
        }
    }
}

/// One session.
async fn serve(stream: TcpStream, shelf: Arc<Shelf>) {
    let rules = Rules {
        hostname: format!("store.{}", shelf.domain).into(),
        offer: Extensions::assumed(),
        max_size: None,
        tls: Tls::Off,
        xclient: Xclient::Refused,
        max_recipients: 100,
        max_errors: None,
    };
    let mut session =
        Session { stream: Stream::Tcp(stream), input: Vec::new(), dialogue: Dialogue::new(rules), shelf };
    let greeting = session.dialogue.greeting();
    let _ = session.converse(&greeting).await;
}

struct Session {
    stream: Stream,
    input: Vec<u8>,
    dialogue: Dialogue,
    shelf: Arc<Shelf>,
}

impl Session {
    async fn converse(&mut self, greeting: &Reply) -> std::io::Result<()> {
        self.say(greeting).await?;
        let mut lines = LineReader::default();
        loop {
            let step = match lines.scan(&self.input, MAX_LINE) {
                Scan::Line { len } => {
                    let line: Vec<u8> = self.input.drain(..len + 2).take(len).collect();
                    self.dialogue.step(Input::Line(&line))
                }
                Scan::TooLong { consumed, line } => {
                    self.input.drain(..consumed);
                    self.dialogue.step(Input::OverlongLine(line))
                }
                Scan::BareNewline => self.dialogue.step(Input::BareNewline),
                Scan::Incomplete => {
                    self.input.drain(..lines.excess(&self.input));
                    if read_some(&mut self.stream, &mut self.input).await? == 0 {
                        return Ok(());
                    }
                    continue;
                }
            };
            if self.perform(step).await? == Next::Close {
                return Ok(());
            }
        }
    }

    async fn perform(&mut self, mut step: Step) -> std::io::Result<Next> {
        loop {
            step = match step {
                Step::Say(reply) => {
                    self.say(&reply).await?;
                    return Ok(Next::Listen);
                }
                // The second never: everybody may ask for anyone.
                Step::SayEach(replies) | Step::SayEachAndHangUp(replies) => {
                    for reply in &replies {
                        self.say(reply).await?;
                    }
                    return Ok(Next::Listen);
                }
                Step::Continue => return Ok(Next::Listen),
                Step::Recipients(batch) => {
                    let outcomes = batch.into_iter().map(|recipient| self.shelf.answer(recipient)).collect();
                    self.dialogue.step(Input::Recipients(outcomes))
                }
                Step::Forward(_) => self.dialogue.step(Input::BackendReply(Reply::fixed(354, "Go ahead"))),
                Step::Body(go_ahead, _) => {
                    if let Some(reply) = &go_ahead {
                        self.say(reply).await?;
                    }
                    let end = self.store().await?;
                    self.dialogue.step(Input::BodyEnd(end))
                }
                Step::HangUp(reply) => {
                    if let Some(reply) = &reply {
                        self.say(reply).await?;
                    }
                    return Ok(Next::Close);
                }
                // Neither BDAT, STARTTLS nor XCLIENT is offered.
                Step::Discard(_) | Step::StartTls(_) | Step::Client(_) => return Ok(Next::Close),
            };
        }
    }

    /// Takes a message to its end. The demo looks at none of it.
    async fn store(&mut self) -> std::io::Result<BodyEnd> {
        let mut reader = BodyReader::new(BareNewlines::Normalize);
        loop {
            match reader.discard(&self.input) {
                Found::End { consumed } => {
                    self.input.drain(..consumed);
                    let number = self.shelf.messages.fetch_add(1, Ordering::SeqCst) + 1;
                    return Ok(BodyEnd::Answered(Reply::new(
                        250,
                        format!("2.0.0 Ok: stored as message {number}"),
                    )));
                }
                Found::More | Found::BareNewline { .. } => self.input.clear(),
            }
            if read_some(&mut self.stream, &mut self.input).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn say(&mut self, reply: &Reply) -> std::io::Result<()> {
        let mut text = Vec::new();
        reply.write(&mut text);
        self.stream.write_all(&text).await
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Listen,
    Close,
}
