//! Backends in every mood, and what they hold a client of theirs to.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio::time::sleep;

use super::{DAY, ENDLESS, World, find, read};

/// What a backend does about a command.
enum Mood {
    Good,
    Reply(&'static str),
    Pieces,
    Late,
    Twice,
    Half,
    Long,
    Endless(&'static str),
    Silence,
    Close,
}

fn mood(choice: u8) -> Mood {
    match choice {
        0..160 => Mood::Good,
        160..170 => Mood::Reply("550 5.1.1 No such user"),
        170..176 => Mood::Reply("451 4.3.0 Later"),
        176..182 => Mood::Reply("421 4.3.2 Going down"),
        182..188 => Mood::Reply("354 Go on"),
        188..194 => Mood::Reply("250 2.0.0 Ok"),
        194..198 => Mood::Reply("25 ok"),
        198..202 => Mood::Reply("250-2.0.0 a\r\n550 b"),
        202..206 => Mood::Reply("252 Perhaps"),
        206..216 => Mood::Pieces,
        216..226 => Mood::Late,
        226..232 => Mood::Twice,
        232..235 => Mood::Half,
        235 => Mood::Long,
        236 => Mood::Endless("250-2.0.0 and another line of it\r\n"),
        237 => Mood::Endless("250 2.0.0 and on and on "),
        238..246 => Mood::Silence,
        _ => Mood::Close,
    }
}

/// Those who have a mailbox; nobody else has, but a blind backend takes everyone.
const NAMES: [&str; 4] = ["<ann@", "<cid@", "<dee@", "<postmaster"];

fn has_mailbox(line: &str) -> bool {
    NAMES.iter().any(|name| line.contains(name))
}

/// One session of a backend: greets, then answers each command in the mood it is in.
pub(super) async fn serve(mut stream: DuplexStream, world: Rc<RefCell<World>>) {
    let mut session = Backend {
        probe: true,
        accepted: Vec::new(),
        chunks: Vec::new(),
        sender: false,
        blind: false,
        tells: true,
        out_of_step: false,
    };
    let _ = session.converse(&mut stream, &world).await;
}

struct Backend {
    probe: bool,
    /// The RCPT lines it took.
    accepted: Vec<String>,
    /// The last octets of the chunks it has.
    chunks: Vec<u8>,
    sender: bool,
    blind: bool,
    /// The last recipient it took has a mailbox.
    tells: bool,
    /// It answered something twice: its client takes that for the answer to what it said next, and cannot know better until more
    /// comes.
    out_of_step: bool,
}

impl Backend {
    async fn converse(&mut self, stream: &mut DuplexStream, world: &RefCell<World>) -> Option<()> {
        self.answer(stream, world, "220 store.example.org").await?;
        let mut input = Vec::new();
        loop {
            let line = line(stream, &mut input).await?;
            if let Some(chunk) = line.strip_prefix("BDAT ") {
                self.chunk(chunk, stream, &mut input, world).await?;
                continue;
            }
            let proper = self.proper(&line, world);
            let code = self.answer(stream, world, &proper).await?;
            let taken = code == Some(2);
            if line.starts_with("MAIL") {
                (self.sender, self.accepted, self.chunks) = (taken, Vec::new(), Vec::new());
            } else if line.starts_with("RCPT") && taken && self.sender {
                self.accepted.push(line.clone());
                self.tells = has_mailbox(&line);
                if self.probe {
                    world.borrow_mut().good.insert(line);
                }
            } else if line == "DATA" && code == Some(3) && self.probe {
                // It wanted to know no more than that; of somebody who does not exist, that nobody can tell.
                world.borrow_mut().blind |= !self.tells;
                assert!(
                    input.is_empty() && read(stream, &mut input).await.is_none(),
                    "a probe sends a message"
                );
                return None;
            } else if line == "DATA" && code == Some(3) && !self.may_be_given_a_message() {
                // It came along with recipients of whom none was taken (RFC 2920 §3.1).
                assert!(
                    input.is_empty() && read(stream, &mut input).await.is_none(),
                    "a message without a recipient that was taken"
                );
                return None;
            } else if line == "DATA" && code == Some(3) {
                self.message(stream, &mut input, world).await?;
            }
        }
    }

    /// What a backend in its right mind says; also where what arrives is judged.
    fn proper(&mut self, line: &str, world: &RefCell<World>) -> String {
        if line.starts_with("EHLO") {
            let choice = world.borrow_mut().choose();
            let pipelining = if choice & 1 == 0 { "250-PIPELINING\r\n" } else { "" };
            self.blind = choice & 4 != 0;
            let chunking = if choice & 2 == 0 { "250-CHUNKING\r\n" } else { "" };
            return format!("250-store.example.org\r\n{pipelining}{chunking}250 8BITMIME");
        }
        if let Some(path) = line.strip_prefix("MAIL FROM:") {
            // The null sender, or the one used where that is refused.
            self.probe = path.starts_with("<>") || path.starts_with("<postmaster@mx.example.org>");
        } else if line.starts_with("RCPT") && !self.probe {
            let world = world.borrow();
            assert!(
                world.good.contains(line) || world.blind || world.out_of_step,
                "{line} was given unasked"
            );
        }
        if line.starts_with("RCPT") && !self.blind && !has_mailbox(line) {
            return "550 5.1.1 No such user".to_owned();
        }
        if line == "DATA" {
            assert!(
                !self.probe || self.may_be_given_a_message(),
                "a probe says DATA without a recipient that was taken"
            );
            return "354 Go ahead".to_owned();
        }
        "250 2.0.0 Ok".to_owned()
    }

    fn may_be_given_a_message(&self) -> bool {
        !self.accepted.is_empty() || self.out_of_step
    }

    /// A chunk to its end, and what is said about it.
    async fn chunk(
        &mut self,
        chunk: &str,
        stream: &mut DuplexStream,
        input: &mut Vec<u8>,
        world: &RefCell<World>,
    ) -> Option<()> {
        assert!(self.may_be_given_a_message() && !self.probe, "BDAT without a recipient that was taken");
        let (octets, last) = match chunk.split_once(' ') {
            Some((octets, place)) => (octets, place == "LAST"),
            None => (chunk, false),
        };
        let octets: usize = octets.parse().expect("a size");
        while input.len() < octets {
            read(stream, input).await?;
        }
        self.chunks.extend(input.drain(..octets));
        self.chunks.drain(..self.chunks.len().saturating_sub(TAG));
        if last {
            let content = std::mem::take(&mut self.chunks);
            if self.answer_stored(stream, &content, world).await? == Some(2) {
                self.accepted.clear();
            }
        } else {
            self.answer(stream, world, "250 2.0.0 Ok").await?;
        }
        Some(())
    }

    /// A message to its end, and what is said about it, perhaps too early.
    async fn message(
        &mut self,
        stream: &mut DuplexStream,
        input: &mut Vec<u8>,
        world: &RefCell<World>,
    ) -> Option<()> {
        if world.borrow_mut().choose() > 220 {
            let on_its_way = world.borrow().ended;
            world.borrow_mut().early = true;
            world.borrow_mut().stored += usize::from(on_its_way);
            stream.write_all(b"250 2.0.0 Early\r\n").await.ok()?;
        }
        input.splice(..0, *b"\r\n");
        let content: Vec<u8> = loop {
            if let Some(end) = find(input, b"\r\n.\r\n") {
                break input.drain(..end + 5).collect();
            }
            // No more than may hold the tag, and the beginning of the end, is looked at again.
            input.drain(..input.len().saturating_sub(TAG));
            read(stream, input).await?;
        };
        if self.answer_stored(stream, &content, world).await? == Some(2) {
            self.accepted.clear();
        }
        Some(())
    }

    async fn answer_stored(
        &mut self,
        stream: &mut DuplexStream,
        content: &[u8],
        world: &RefCell<World>,
    ) -> Option<Option<u8>> {
        if let Some(tag) = tag(content) {
            let before = world.borrow_mut().taken_for.insert(tag, self.accepted.clone());
            assert_eq!(before, None, "message {tag} is given a second time");
        }
        // Counted before the client can hear of it, and taken back when it was no whole 2yz.
        world.borrow_mut().stored += 1;
        let code = self.answer(stream, world, "250 2.0.0 Stored").await;
        if code.flatten() != Some(2) {
            world.borrow_mut().stored -= 1;
        }
        code
    }

    /// Says something; gives the class of what was said as a whole reply, none when the session is over.
    async fn answer(
        &mut self,
        stream: &mut DuplexStream,
        world: &RefCell<World>,
        proper: &str,
    ) -> Option<Option<u8>> {
        let mood = mood(world.borrow_mut().choose());
        let class = |text: &str| text.bytes().next().map(|digit| digit - b'0');
        let whole = format!("{proper}\r\n");
        match mood {
            Mood::Good => stream.write_all(whole.as_bytes()).await.ok()?,
            Mood::Reply(text) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
                let garbled = text.starts_with("25 ") || text.contains('\r');
                return Some(class(text).filter(|_| !garbled));
            }
            Mood::Pieces => {
                // What follows from the last of it is noted before the peer can act on it.
                for octet in whole.as_bytes() {
                    sleep(Duration::from_millis(1)).await;
                    stream.write_all(&[*octet]).await.ok()?;
                }
            }
            Mood::Late => {
                sleep(Duration::from_secs(20)).await;
                stream.write_all(whole.as_bytes()).await.ok()?;
            }
            Mood::Twice => {
                self.out_of_step = true;
                world.borrow_mut().out_of_step = true;
                stream.write_all(whole.repeat(2).as_bytes()).await.ok()?;
            }
            Mood::Long => {
                world.borrow_mut().long += 1;
                let (code, _) = proper.split_at_checked(3)?;
                let line = format!("{code}-2.0.0 {}\r\n", "x".repeat(400));
                stream.write_all(line.repeat(150).as_bytes()).await.ok()?;
                stream.write_all(whole.as_bytes()).await.ok()?;
            }
            Mood::Half => {
                let half = whole.as_bytes().get(..whole.len() / 2)?;
                stream.write_all(half).await.ok()?;
                return None;
            }
            Mood::Endless(piece) => {
                let octets =
                    if std::mem::replace(&mut world.borrow_mut().endless, true) { 0 } else { ENDLESS };
                stream.write_all(piece.repeat(octets / piece.len()).as_bytes()).await.ok()?;
                return None;
            }
            Mood::Silence => {
                sleep(DAY / 2).await;
                return None;
            }
            Mood::Close => return None,
        }
        Some(class(proper))
    }
}

/// More than a tag and the end of a message.
const TAG: usize = 64;

/// The number in the line that stands last in a message.
fn tag(content: &[u8]) -> Option<usize> {
    let rest = content.get(find(content, b"tag ")? + 4..)?;
    std::str::from_utf8(rest.get(..find(rest, b";")?)?).ok()?.parse().ok()
}

/// The next command, without its CRLF. What is sent to a backend is a line, whole and clean.
async fn line(stream: &mut DuplexStream, input: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = find(input, b"\n") {
            let line: Vec<u8> = input.drain(..=end).collect();
            let line = line.strip_suffix(b"\r\n").expect("a command ends with CRLF");
            assert!(!line.contains(&b'\r') && !line.contains(&0), "CR or NUL in a command to a backend");
            return Some(String::from_utf8(line.to_vec()).expect("a command is text"));
        }
        read(stream, input).await?;
    }
}
