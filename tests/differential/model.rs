//! What a client's octets amount to, read from the definitions with the whole stream at hand.
//!
//! Nothing here is shared with the product, and nothing is incremental: a command ends with CRLF, a message sent with
//! DATA with the first CRLF `.` CRLF (RFC 5321 §4.1.1.4), a chunk after its octets (RFC 3030 §2). It knows as much of
//! SMTP as the generated streams use; every other line is an unknown command.

use memchr::memmem;

/// What Backstop was told to do about a CR or LF alone in a message sent with DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bare {
    Reject,
    Normalize,
}

impl Bare {
    /// The value of `limits.bare_newline`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Normalize => "normalize",
        }
    }
}

/// Whether the backend takes chunks, so that Backstop offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    Offered,
    Missing,
}

/// What must come of a stream.
#[derive(Debug, Default)]
pub struct Expected {
    pub replies: Vec<Due>,
    /// The messages whose acknowledgement is among the replies.
    pub messages: Vec<Message>,
}

/// A reply behind the greeting.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// How it begins.
    pub start: &'static str,
    /// It comes once the server has seen so many octets of the stream.
    pub after: usize,
}

/// A message that is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub recipients: Vec<String>,
    /// Its octets, dots no longer doubled, newlines normalised where that is asked for.
    pub content: Vec<u8>,
    pub framing: Framing,
}

/// How it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Lines,
    Chunks,
}

/// Reads a stream.
pub fn expected(octets: &[u8], bare: Bare, chunking: Chunking) -> Expected {
    let mut server = Server {
        octets,
        at: 0,
        state: State::Open,
        bare,
        chunking,
        transaction: None,
        expected: Expected::default(),
    };
    while server.state == State::Open && server.at < octets.len() {
        server.command();
    }
    server.expected
}

struct Server<'o> {
    octets: &'o [u8],
    at: usize,
    state: State,
    bare: Bare,
    chunking: Chunking,
    transaction: Option<Transaction>,
    expected: Expected,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    Closed,
}

#[derive(Default)]
struct Transaction {
    recipients: Vec<String>,
    /// What came in chunks; none before the first.
    chunks: Option<Vec<u8>>,
}

impl Server<'_> {
    fn say(&mut self, start: &'static str) {
        self.expected.replies.push(Due { start, after: self.at });
    }

    fn hang_up(&mut self, start: &'static str) {
        self.say(start);
        self.state = State::Closed;
    }

    fn command(&mut self) {
        let rest = &self.octets[self.at..];
        let end = memchr::memchr2(b'\r', b'\n', rest).expect("streams end with a whole command");
        if !rest[end..].starts_with(b"\r\n") {
            // Whether a CR is one alone is told by the octet behind it.
            self.at += end + if rest[end] == b'\r' { 2 } else { 1 };
            return self.hang_up("500 5.5.2");
        }
        self.at += end + 2;
        let line = String::from_utf8_lossy(&rest[..end]);
        match line.split_once([' ', ':']).map_or((&*line, ""), |(verb, argument)| (verb, argument)) {
            ("EHLO", _) => {
                self.transaction = None;
                self.say("250");
            }
            ("RSET", "") => {
                self.transaction = None;
                self.say("250 2.0.0");
            }
            ("NOOP", "") => self.say("250 2.0.0"),
            ("QUIT", "") => self.hang_up("221"),
            ("MAIL", _) => self.mail(),
            ("RCPT", argument) => self.rcpt(argument),
            ("DATA", "") => self.data(),
            ("BDAT", argument) => self.bdat(argument),
            _ => self.say("500 5.5.2"),
        }
    }

    fn mail(&mut self) {
        if self.transaction.is_some() {
            return self.say("503 5.5.1");
        }
        self.transaction = Some(Transaction::default());
        self.say("250 2.1.0");
    }

    fn rcpt(&mut self, argument: &str) {
        match &mut self.transaction {
            Some(Transaction { recipients, chunks: None }) => {
                recipients.push(argument.trim_start_matches("TO:<").trim_end_matches('>').to_owned());
                self.say("250");
            }
            _ => self.say("503 5.5.1"),
        }
    }

    fn data(&mut self) {
        match &self.transaction {
            Some(Transaction { recipients, chunks: None }) if !recipients.is_empty() => self.say("354"),
            _ => return self.say("503 5.5.1"),
        }
        // The CRLF of the command is the one before the first line.
        let start = self.at - 2;
        let length =
            memmem::find(&self.octets[start..], b"\r\n.\r\n").expect("streams end the messages they begin");
        let message = &self.octets[self.at..self.at.max(start + length + 2)];
        self.at = start + length + 5;
        let recipients = self.transaction.take().unwrap_or_default().recipients;
        if self.bare == Bare::Reject && has_bare_newline(message) {
            return self.say("550 5.6.11");
        }
        self.expected.messages.push(Message {
            recipients,
            content: content(message),
            framing: Framing::Lines,
        });
        self.say("250");
    }

    fn bdat(&mut self, argument: &str) {
        let (size, last) = argument.split_once(' ').map_or((argument, ""), |(size, last)| (size, last));
        let size: usize = size.parse().expect("streams count in decimal");
        let octets = &self.octets[self.at..self.at + size];
        self.at += size;
        if self.chunking == Chunking::Missing {
            return self.say("502 5.5.1");
        }
        let Some(transaction) =
            self.transaction.as_mut().filter(|transaction| !transaction.recipients.is_empty())
        else {
            // What follows belongs to no transaction either.
            self.transaction = None;
            return self.say("503 5.5.1");
        };
        if size == 0 && last.is_empty() {
            // RFC 3030 allows it, Postfix and Exim refuse it: Backstop says what they say.
            self.transaction = None;
            return self.say("5");
        }
        transaction.chunks.get_or_insert_default().extend_from_slice(octets);
        if last == "LAST" {
            let Transaction { recipients, chunks } = self.transaction.take().unwrap_or_default();
            let content = chunks.unwrap_or_default();
            self.expected.messages.push(Message { recipients, content, framing: Framing::Chunks });
        }
        self.say("250");
    }
}

/// Whether a message, up to and with the CRLF before its end, has a CR or LF alone.
fn has_bare_newline(message: &[u8]) -> bool {
    lines(message).any(|line| line.iter().any(|octet| b"\r\n".contains(octet)))
}

/// The lines of a message by its CRLFs, without them.
fn lines(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let end = memmem::find(rest, b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        Some(line)
    })
}

/// The message without doubled dots (RFC 5321 §4.5.2), each CR and LF alone made a CRLF. A dot between a CRLF and a bare
/// newline is a line of its own and stays; behind a bare newline no dot was doubled.
fn content(message: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for line in lines(message) {
        let mut parts: Vec<&[u8]> = line.split(|octet| b"\r\n".contains(octet)).collect();
        let alone = parts.len() > 1 && parts[0] == b".";
        if !alone {
            parts[0] = parts[0].strip_prefix(b".").unwrap_or(parts[0]);
        }
        for part in parts {
            content.extend_from_slice(part);
            content.extend_from_slice(b"\r\n");
        }
    }
    content
}
