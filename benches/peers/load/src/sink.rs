//! The fastest backend there is: answers whatever has arrived with one write, and keeps nothing.
//!
//! It knows one recipient, `user` in any domain; every other is unknown (550 5.1.1). It announces what
//! a modern server does: PIPELINING, SIZE, 8BITMIME, ENHANCEDSTATUSCODES, CHUNKING. It asks for no order of
//! commands and checks no syntax: it is a measure, not a server. The private command XCOUNTS, alone in
//! a packet, tells what was seen since it was last given: sessions that said anything, how many of them were
//! open at once, RCPTs, messages, octets of message data.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use memchr::memmem::Finder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;

const GREETING: &[u8] = b"220 sink.example ESMTP\r\n";
const HELLO: &[u8] = b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n\
    250-ENHANCEDSTATUSCODES\r\n250 CHUNKING\r\n";
const DONE: &[u8] = b"250 2.0.0 ok\r\n";
const UNKNOWN: &[u8] = b"550 5.1.1 no such user\r\n";
const GO_AHEAD: &[u8] = b"354 go ahead\r\n";
const BYE: &[u8] = b"221 2.0.0 bye\r\n";
/// Connections the kernel keeps until they are accepted.
const BACKLOG: u32 = 4096;
/// Octets read at a time.
const BUFFER: usize = 256 * 1024;

/// What was seen since somebody asked last.
#[derive(Debug, Default)]
struct Counts {
    /// How often somebody asked.
    asked: Cell<u64>,
    /// Sessions that said anything, those of them that are open, and the most that were at once.
    sessions: Cell<u64>,
    open: Cell<u64>,
    most_open: Cell<u64>,
    recipients: Cell<u64>,
    messages: Cell<u64>,
    octets: Cell<u64>,
}

impl Counts {
    fn told(&self) -> String {
        add(&self.asked, 1);
        self.open.set(0);
        let Self { sessions, most_open, recipients, messages, octets, .. } = self;
        let seen = [sessions, most_open, recipients, messages, octets].map(|count| count.take().to_string());
        format!("250 {}\r\n", seen.join(" "))
    }
}

/// A session as far as it is counted: once between two questions, and only if it says anything there.
struct Counted<'c> {
    counts: &'c Counts,
    /// The question it was counted for; none before its first word.
    asked: Option<u64>,
}

impl Counted<'_> {
    fn spoke(&mut self) {
        let asked = Some(self.counts.asked.get());
        if self.asked != asked {
            self.asked = asked;
            add(&self.counts.sessions, 1);
            add(&self.counts.open, 1);
            self.counts.most_open.set(self.counts.most_open.get().max(self.counts.open.get()));
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if self.asked == Some(self.counts.asked.get()) {
            self.counts.open.set(self.counts.open.get() - 1);
        }
    }
}

/// Serves until the process is ended.
pub(crate) async fn serve(address: SocketAddr) -> io::Result<()> {
    let listener = listener(address)?;
    let counts = Rc::new(Counts::default());
    let serve = async {
        loop {
            let (stream, _) = listener.accept().await?;
            let counts = Rc::clone(&counts);
            // A front that breaks off harms nobody here.
            tokio::task::spawn_local(async move { converse(stream, &counts).await.ok() });
        }
    };
    LocalSet::new().run_until(serve).await
}

/// Listens, with room for all clients of a load.
pub(crate) fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn converse(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(GREETING).await?;
    let mut session = Session { input: Vec::new(), output: Vec::new(), awaiting: Awaiting::Command, counts };
    let mut counted = Counted { counts, asked: None };
    loop {
        session.input.reserve(if session.awaiting == Awaiting::Command { 4096 } else { BUFFER });
        if stream.read_buf(&mut session.input).await? == 0 {
            return Ok(());
        }
        if session.input.starts_with(b"XCOUNTS") {
            return stream.write_all(counts.told().as_bytes()).await;
        }
        counted.spoke();
        let next = session.answer();
        stream.write_all(&session.output).await?;
        session.output.clear();
        if next == Next::Leave {
            return Ok(());
        }
    }
}

struct Session<'c> {
    input: Vec<u8>,
    output: Vec<u8>,
    awaiting: Awaiting,
    counts: &'c Counts,
}

/// What comes next from the front.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Awaiting {
    Command,
    /// CRLF dot CRLF.
    EndOfData,
    /// So many octets of a chunk.
    Octets(usize),
}

#[derive(Debug, PartialEq)]
enum Next {
    Read,
    Leave,
}

impl Session<'_> {
    /// Answers all that has arrived completely.
    fn answer(&mut self) -> Next {
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let next = loop {
            let consumed = match self.awaiting {
                Awaiting::Command => {
                    let Some(end) = memchr::memchr(b'\n', rest) else { break Next::Read };
                    let (line, after) = rest.split_at(end + 1);
                    rest = after;
                    if self.command(line) == Next::Leave {
                        break Next::Leave;
                    }
                    continue;
                }
                Awaiting::EndOfData => self.data(rest),
                Awaiting::Octets(left) => self.chunk(left, rest.len()),
            };
            rest = rest.get(consumed..).unwrap_or_default();
            if self.awaiting != Awaiting::Command {
                break Next::Read;
            }
        };
        let consumed = input.len() - rest.len();
        self.input = input;
        self.input.drain(..consumed);
        next
    }

    fn command(&mut self, line: &[u8]) -> Next {
        let verb: [u8; 4] = line.first_chunk().map_or(*b"    ", |verb| verb.map(|b| b.to_ascii_uppercase()));
        match &verb {
            b"RCPT" => {
                add(&self.counts.recipients, 1);
                let address =
                    memchr::memchr(b'<', line).and_then(|at| line.get(at + 1..)).unwrap_or_default();
                self.say(if address.starts_with(b"user@") { DONE } else { UNKNOWN });
            }
            b"EHLO" | b"HELO" => self.say(HELLO),
            b"DATA" => {
                self.awaiting = Awaiting::EndOfData;
                self.say(GO_AHEAD);
            }
            b"BDAT" => {
                let size =
                    line.split(u8::is_ascii_whitespace).nth(1).and_then(|w| std::str::from_utf8(w).ok());
                self.awaiting = Awaiting::Octets(size.and_then(|size| size.parse().ok()).unwrap_or_default());
            }
            b"QUIT" => {
                self.say(BYE);
                return Next::Leave;
            }
            _ => self.say(DONE),
        }
        Next::Read
    }

    /// Swallows message data. Gives how much of it; what could be the start of its end stays.
    fn data(&mut self, rest: &[u8]) -> usize {
        let end = Finder::new(b"\r\n.\r\n").find(rest).map(|at| at + 5);
        let consumed = end.unwrap_or(rest.len().saturating_sub(4));
        add(&self.counts.octets, consumed as u64);
        if end.is_some() {
            self.taken();
        }
        consumed
    }

    /// Swallows octets of a chunk. Gives how many.
    fn chunk(&mut self, left: usize, here: usize) -> usize {
        let consumed = left.min(here);
        add(&self.counts.octets, consumed as u64);
        self.awaiting = Awaiting::Octets(left - consumed);
        if left == consumed {
            self.taken();
        }
        consumed
    }

    fn taken(&mut self) {
        add(&self.counts.messages, 1);
        self.awaiting = Awaiting::Command;
        self.say(DONE);
    }

    fn say(&mut self, reply: &[u8]) {
        self.output.extend_from_slice(reply);
    }
}

fn add(count: &Cell<u64>, more: u64) {
    count.set(count.get() + more);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONVERSATION: &[u8] = b"MAIL FROM:<a@b.c>\r\nRCPT TO:<no1@b.c>\r\nRCPT TO:<user@b.c>\r\nDATA\r\n\
        From: x\r\n\r\nno end: .\r\n..\r\n.\r\nBDAT 5 LAST\r\n12345QUIT\r\n";

    #[test]
    fn any_chunking_gets_the_same_answers() {
        let answers = |size: usize| {
            let counts = Counts::default();
            let mut session =
                Session { input: vec![], output: vec![], awaiting: Awaiting::Command, counts: &counts };
            for piece in CONVERSATION.chunks(size) {
                session.input.extend_from_slice(piece);
                session.answer();
            }
            let codes: Vec<_> = session.output.split(|b| *b == b'\n').filter_map(|l| l.get(..3)).collect();
            (codes.concat(), counts.told())
        };
        let whole = answers(CONVERSATION.len());
        assert_eq!(whole, (b"250550250354250250221".to_vec(), "250 0 0 2 2 34\r\n".to_owned()));
        for size in 1..CONVERSATION.len() {
            assert_eq!(answers(size), whole, "in pieces of {size}");
        }
    }
}
