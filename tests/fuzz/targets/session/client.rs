//! Clients that heed replies, one by one or for several commands together, and clients that rave.

use std::cell::RefCell;
use std::time::Duration;

use backstop::proto::reply::ReplyReader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::sleep;

use super::World;

/// What clients say, and the codes that may answer it; 421 may answer anything, and is the last word.
const COMMANDS: [(&str, &[u16]); 20] = [
    ("EHLO client.example.net", &[250]),
    ("HELO client.example.net", &[250]),
    ("MAIL FROM:<bob@example.net>", &[250, 503]),
    ("MAIL FROM:<bob@example.net> BODY=8BITMIME", &[250, 503, 555]),
    ("RCPT TO:<ann@example.org>", RECIPIENT),
    ("RCPT TO:<cid@example.org>", RECIPIENT),
    ("RCPT TO:<dee@example.org>", RECIPIENT),
    ("RCPT TO:<eve@elsewhere.example>", &[503, 550]),
    ("DATA", &[354, 451, 503, 550]),
    ("RSET", &[250]),
    ("NOOP", &[250]),
    ("VRFY ann", &[252]),
    ("XYZZY", &[500]),
    ("RCPT TO:<>", &[501]),
    ("STARTTLS", &[502]),
    ("NOOP\0", &[500]),
    ("BDAT 4\r\nab\r\n", CHUNK),
    ("BDAT LAST", CHUNK),
    ("BDAT 0 LAST", CHUNK),
    ("NOOP ", &[250, 500]),
];
const RECIPIENT: &[u16] = &[250, 252, 451, 503, 550];
const CHUNK: &[u16] = &[250, 252, 451, 502, 503, 550];
/// The last chunk of a message, with a tag and its size; `.` CRLF is no end there.
const TAGGED_CHUNK: &str = "BDAT LAST";
/// The command that is sent without end.
const ENDLESS_COMMAND: usize = 19;
const BODIES: [&str; 7] =
    ["", "text\r\n", "..dot\r\n", "a\nb\r\n", "\r\n.\r.\r\n", "x\r\n.\n\r\n", "endless"];

/// Whether a client hears what is said to it while it says something itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ears {
    Open,
    Shut,
}

pub(super) struct Client {
    stream: DuplexStream,
    input: Vec<u8>,
    replies: ReplyReader,
    /// What it sends as if without end; nothing once it was sent.
    endless: usize,
    /// Recipients of the transaction it was told are accepted, as it named them.
    accepted: Vec<&'static str>,
    /// The message whose answer is to come.
    tag: Option<usize>,
}

impl Client {
    pub(super) fn new(stream: DuplexStream, endless: usize) -> Self {
        Self {
            stream,
            input: Vec::new(),
            replies: ReplyReader::default(),
            endless,
            accepted: Vec::new(),
            tag: None,
        }
    }

    /// Says commands, several at once where that is wanted, and hears their replies.
    pub(super) async fn heed(&mut self, choices: &[u8], world: &RefCell<World>, together: bool) {
        let Some(220) = self.reply().await else { return };
        let mut choices = choices.iter().take(48).map(|choice| usize::from(*choice)).peekable();
        while choices.peek().is_some() {
            let group = group(&mut choices, together);
            if self.say_all(&group, world).await.is_none() {
                return;
            }
            for choice in &group {
                if self.hear(*choice, world).await.is_none() {
                    return;
                }
            }
            assert!(self.input.is_empty(), "a reply too many");
        }
    }

    async fn say_all(&mut self, group: &[usize], world: &RefCell<World>) -> Option<()> {
        let mut octets = Vec::new();
        for choice in group {
            let (line, _) = COMMANDS[choice % COMMANDS.len()];
            if choice / COMMANDS.len() == 12 {
                sleep(Duration::from_secs(10)).await;
            }
            if line == TAGGED_CHUNK {
                let (tag, text) = world.borrow_mut().tag();
                self.tag = Some(tag);
                octets.extend_from_slice(format!("BDAT {} LAST\r\n.\r\n{text}", text.len() + 3).as_bytes());
                world.borrow_mut().ended = true;
                continue;
            }
            octets.extend_from_slice(line.as_bytes());
            if choice % COMMANDS.len() == ENDLESS_COMMAND {
                octets.resize(octets.len() + std::mem::take(&mut self.endless), b'x');
            }
            if !line.ends_with('\n') {
                octets.extend_from_slice(b"\r\n");
            }
            if line.contains("LAST") {
                world.borrow_mut().ended = true;
            }
        }
        self.say(&octets, Ears::Open).await
    }

    /// Hears the reply to a command, and to the message behind it. None when the session is over.
    async fn hear(&mut self, choice: usize, world: &RefCell<World>) -> Option<()> {
        let (line, expected) = COMMANDS[choice % COMMANDS.len()];
        let code = self.reply().await?;
        if code == 421 {
            assert_eq!(self.reply().await, None, "a word behind the last");
            return None;
        }
        // A backend's own refusal is passed on as it is.
        let backends = line.starts_with("RCPT TO:<") || line == "DATA" || line.starts_with("BDAT");
        assert!(expected.contains(&code) || backends && code >= 400, "{code} to {line}");
        if line.starts_with("MAIL") && code == 250 {
            self.accepted.clear();
        } else if line.starts_with("RCPT") && code / 100 == 2 {
            self.accepted.push(line);
        }
        if line == "DATA" && code == 354 {
            self.message(choice / COMMANDS.len(), world).await
        } else if line.contains("LAST") {
            world.borrow_mut().ended = false;
            self.acknowledged(code, world);
            Some(())
        } else {
            Some(())
        }
    }

    async fn message(&mut self, choice: usize, world: &RefCell<World>) -> Option<()> {
        world.borrow_mut().ended = true;
        let body = BODIES[choice % BODIES.len()];
        if body == "endless" {
            let endless = vec![b'x'; std::mem::take(&mut self.endless)];
            self.say(&endless, Ears::Open).await?;
            self.say(b"\r\n", Ears::Open).await?;
        } else {
            self.say(body.as_bytes(), Ears::Open).await?;
        }
        // The empty message stays empty.
        if !body.is_empty() {
            let (tag, text) = world.borrow_mut().tag();
            self.tag = Some(tag);
            self.say(text.as_bytes(), Ears::Open).await?;
        }
        self.say(b".\r\n", Ears::Open).await?;
        let code = self.reply().await?;
        world.borrow_mut().ended = false;
        self.acknowledged(code, world);
        assert!(code / 100 != 2 || !body.replace("\r\n", "").contains(['\r', '\n']), "took bare newlines");
        Some(())
    }

    /// A message was answered.
    fn acknowledged(&mut self, code: u16, world: &RefCell<World>) {
        let tag = self.tag.take();
        if code / 100 != 2 {
            return;
        }
        let mut world = world.borrow_mut();
        world.acknowledged += 1;
        assert!(world.acknowledged <= world.stored, "acknowledged what was not stored");
        if let Some(tag) = tag.filter(|_| !world.out_of_step && !world.early) {
            let taken_for = world.taken_for.get(&tag).expect("what is acknowledged was given");
            assert_eq!(*taken_for, self.accepted, "for whom message {tag} was taken, and who was accepted");
        }
    }

    /// Says the input as it is, in segments, and hears what comes of it.
    pub(super) async fn rave(&mut self, octets: &[u8], rules: u8) {
        let size = usize::from(rules >> 2).max(1);
        for (number, segment) in octets.chunks(size).enumerate() {
            if self.say(segment, Ears::Shut).await.is_none() {
                break;
            }
            if number % 4 == 3 {
                sleep(Duration::from_millis(10)).await;
            }
        }
        if rules & 4 == 0 && self.stream.shutdown().await.is_err() {
            return;
        }
        while self.reply().await.is_some() {}
    }

    /// Says something. None when nobody takes it; what a session said before it ended is still to be heard.
    async fn say(&mut self, octets: &[u8], ears: Ears) -> Option<()> {
        let (mut hears, mut says) = tokio::io::split(&mut self.stream);
        let mut rest = octets;
        while !rest.is_empty() {
            tokio::select! {
                biased;
                written = says.write(rest) => match written {
                    Ok(octets) => rest = rest.get(octets..)?,
                    Err(_) if ears == Ears::Open => break,
                    Err(_) => return None,
                },
                heard = hears.read_buf(&mut self.input), if ears == Ears::Open => {
                    if heard.ok()? == 0 {
                        break;
                    }
                }
                () = sleep(Duration::from_secs(3600)) => return None,
            }
        }
        Some(())
    }

    /// The code of the next reply, which must be a clean one; none at the end.
    async fn reply(&mut self) -> Option<u16> {
        loop {
            let (taken, reply) = self.replies.take(&self.input).expect("what a client hears are replies");
            assert!(
                self.input[..taken].split(|b| *b == b'\n').all(|line| line.len() < 512),
                "a line too long"
            );
            self.input.drain(..taken);
            if let Some(reply) = reply {
                assert!(reply.lines().flatten().all(|b| *b >= 0x20 || *b == b'\t'), "control characters");
                return Some(reply.code());
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The commands that go out next: one, or some, up to one whose reply must be heard first.
fn group(choices: &mut impl Iterator<Item = usize>, together: bool) -> Vec<usize> {
    let mut group = Vec::new();
    for choice in choices {
        group.push(choice);
        let waits = matches!(choice % COMMANDS.len(), 8 | 16..=19);
        if waits || !together || group.len() == 8 {
            break;
        }
    }
    group
}
