//! One client of the simulated world: it says what clients say, in pieces or all at once, waits, drips, leaves, and
//! knows what may answer what it said.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use backstop::proto::reply::{Reply, ReplyReader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::letter::Letter;
use crate::world::World;

/// Longer than any answer may take: a backend has ten minutes for its word on a message.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Recipients a client may name in vain in a session, and then none.
const GUESSES: u32 = 10;

/// A command, and what may answer it.
struct Said {
    line: String,
    may: Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    Exactly(u16),
    Recipient,
    /// To a recipient whose domain nobody serves; in a broken transaction it is not looked at.
    NoRoute,
    /// To DATA: the go-ahead, if anybody was accepted.
    GoAhead,
    /// To a chunk that is not the last.
    Chunk,
    /// To a message.
    Final,
}

/// How a client goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Each command behind the reply to the one before.
    Polite,
    /// What may go out together does.
    Together,
    /// Octet by octet.
    Drips,
}

pub(crate) struct Client {
    stream: DuplexStream,
    input: Vec<u8>,
    replies: ReplyReader,
    world: Rc<RefCell<World>>,
    chance: Chance,
    number: u64,
    manner: Manner,
    chunking: bool,
    accepted: Vec<String>,
    /// Recipients it named in vain; not counted any more once one was accepted.
    guesses: Option<u32>,
    /// Recipients of the transaction, whose replies are still to come first come first.
    named: std::collections::VecDeque<String>,
    /// The message whose answer is still to come.
    letter: Option<Letter>,
    log: Vec<String>,
}

impl Client {
    pub(crate) fn new(
        stream: DuplexStream,
        number: u64,
        mut chance: Chance,
        world: Rc<RefCell<World>>,
    ) -> Self {
        let manner = match chance.below(10) {
            0..5 => Manner::Polite,
            5..9 => Manner::Together,
            _ => Manner::Drips,
        };
        Self {
            stream,
            input: Vec::new(),
            replies: ReplyReader::default(),
            world,
            chance,
            number,
            manner,
            chunking: false,
            accepted: Vec::new(),
            guesses: Some(0),
            named: std::collections::VecDeque::new(),
            letter: None,
            log: Vec::new(),
        }
    }

    /// From the greeting to the end, whoever makes it. None of what it does is told to the caller: the world knows.
    pub(crate) async fn run(mut self) {
        let _ = self.converse().await;
        if let Some(letter) = &self.letter {
            self.world.borrow_mut().leaves(&letter.id);
        }
    }

    async fn converse(&mut self) -> Option<()> {
        self.answer(Answers::Exactly(220)).await?;
        let verb = if self.chance.one_in(8) { "HELO" } else { "EHLO" };
        self.say(format!("{verb} client{}.example\r\n", self.number).as_bytes()).await?;
        let hello = self.answer(Answers::Exactly(250)).await?;
        self.chunking = hello.lines().any(|line| line == b"CHUNKING");
        for number in 0..1 + self.chance.below(3) {
            self.whim().await?;
            self.transaction(number).await?;
        }
        match self.chance.below(8) {
            0 => {
                self.stream.shutdown().await.ok()?;
                self.sees_the_end().await
            }
            1 => None,
            _ => {
                self.say(b"QUIT\r\n").await?;
                self.answer(Answers::Exactly(221)).await?;
                self.sees_the_end().await
            }
        }
    }

    async fn transaction(&mut self, number: u64) -> Option<()> {
        let mut commands = self.envelope();
        let letter = Letter::new(&mut self.chance, format!("m{}-{number}", self.number));
        let in_chunks = self.chunking && self.chance.one_in(2);
        let normalize = self.world.borrow().weather.normalize;
        if self.chance.one_in(20) {
            commands.push(Said { line: "RSET\r\n".into(), may: Answers::Exactly(250) });
            return self.exchange(commands).await;
        }
        self.world.borrow_mut().begins(&letter.id, letter.as_stored(in_chunks, normalize));
        if in_chunks {
            // Whether they are taken the replies to the envelope tell; here they are sent like that at times.
            if self.manner != Manner::Together {
                self.exchange(std::mem::take(&mut commands)).await?;
                if self.accepted.is_empty() {
                    return self.reset().await;
                }
            }
            return self.chunks(commands, letter).await;
        }
        commands.push(Said { line: "DATA\r\n".into(), may: Answers::GoAhead });
        self.letter = Some(letter);
        self.exchange(commands).await
    }

    async fn reset(&mut self) -> Option<()> {
        self.exchange(vec![Said { line: "RSET\r\n".into(), may: Answers::Exactly(250) }]).await
    }

    /// Sender and recipients, with this and that between them.
    fn envelope(&mut self) -> Vec<Said> {
        let own = format!("MAIL FROM:<bob{}@client.example>\r\n", self.number);
        let mut commands = vec![Said { line: own, may: Answers::Exactly(250) }];
        let home = self.chance.pick(&["a.example", "a.example", "b.example", "c.example"]);
        // More than are looked up at once, at times: of a client that is not exempt ten, then sixteen.
        let many = self.chance.one_in(10);
        for _ in 0..if many { 11 + self.chance.below(30) } else { 1 + self.chance.below(5) } {
            let kind =
                self.chance.pick(&["good", "good", "good", "good", "gone", "gone", "grey", "new", "full"]);
            let domain = if self.chance.one_in(12) {
                self.chance.pick(&["a.example", "b.example", "nowhere.example"])
            } else {
                home
            };
            let recipient = format!("{kind}{}@{domain}", self.chance.below(12));
            let may = if domain == "nowhere.example" { Answers::NoRoute } else { Answers::Recipient };
            if may == Answers::Recipient {
                self.named.push_back(recipient.clone());
            }
            commands.push(Said { line: format!("RCPT TO:<{recipient}>\r\n"), may });
            if !many && self.chance.one_in(10) {
                let (line, code) = self.chance.pick(&[
                    ("NOOP\r\n", 250),
                    ("VRFY ann\r\n", 252),
                    ("XYZZY\r\n", 500),
                    ("EXPN staff\r\n", 502),
                    ("RCPT TO:<>\r\n", 501),
                ]);
                commands.push(Said { line: line.into(), may: Answers::Exactly(code) });
            }
        }
        self.accepted.clear();
        commands
    }

    /// Says commands as the manner is, and hears what answers them.
    async fn exchange(&mut self, commands: Vec<Said>) -> Option<()> {
        if self.manner == Manner::Together {
            let lines: Vec<&str> = commands.iter().map(|said| said.line.as_str()).collect();
            self.say_in_segments(lines.concat().as_bytes()).await?;
            for said in commands {
                self.follow(said.may).await?;
            }
        } else {
            for said in commands {
                self.whim().await?;
                self.say(said.line.as_bytes()).await?;
                self.follow(said.may).await?;
            }
        }
        Some(())
    }

    /// Hears an answer, and does what follows from it.
    async fn follow(&mut self, may: Answers) -> Option<()> {
        let reply = self.answer(may).await?;
        match may {
            Answers::Recipient => {
                let recipient = self.named.pop_front().unwrap();
                match reply.code() / 100 {
                    2 => {
                        self.accepted.push(recipient);
                        self.guesses = None;
                    }
                    5 => self.guesses = self.guesses.map(|guesses| guesses + 1),
                    _ => {}
                }
            }
            Answers::GoAhead if reply.code() == 354 => return self.message().await,
            Answers::GoAhead => {
                let letter = self.letter.take();
                self.world.borrow_mut().leaves(&letter.unwrap().id);
            }
            Answers::Final => self.told(reply.code()),
            Answers::Exactly(_) | Answers::NoRoute | Answers::Chunk => {}
        }
        // A transaction that came to nothing is left before the next.
        if may == Answers::GoAhead { Box::pin(self.reset()).await } else { Some(()) }
    }

    fn told(&mut self, code: u16) {
        let letter = self.letter.take().unwrap();
        let mut world = self.world.borrow_mut();
        world.told(&letter.id, &self.accepted, code);
        let must_succeed =
            world.weather.is_calm() && !self.accepted.is_empty() && !letter.has_bare_newlines();
        if must_succeed && code / 100 != 2 {
            world.broken(&format!("{} was told {code} in a calm world: {:?}", letter.id, self.log));
        }
    }

    /// A message in lines.
    async fn message(&mut self) -> Option<()> {
        let (id, wire) = self.letter.as_ref().map(|letter| (letter.id.clone(), letter.in_lines())).unwrap();
        if self.chance.one_in(40) {
            // It vanishes in the middle.
            let part = self.chance.place(wire.len());
            self.say_in_segments(&wire[..part]).await?;
            self.world.borrow_mut().tally.vanished += 1;
            return None;
        }
        let (end, rest) = (b".\r\n", &wire[..wire.len() - 3]);
        self.say_in_segments(rest).await?;
        self.world.borrow_mut().ends(&id);
        self.say(end).await?;
        if self.chance.one_in(40) {
            self.world.borrow_mut().tally.vanished += 1;
            return None;
        }
        Box::pin(self.follow(Answers::Final)).await
    }

    /// A message in chunks, behind commands that are still to be said.
    async fn chunks(&mut self, mut commands: Vec<Said>, letter: Letter) -> Option<()> {
        let chunks = letter.in_chunks(&mut self.chance);
        let id = letter.id.clone();
        let last = chunks.len() - 1;
        let together = self.manner == Manner::Together && self.chance.one_in(2);
        self.letter = Some(letter);
        let mut wire: Vec<u8> = commands.iter().flat_map(|said| said.line.bytes()).collect();
        for (at, chunk) in chunks.iter().enumerate() {
            let place = if at == last { " LAST" } else { "" };
            wire.extend_from_slice(format!("BDAT {}{place}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            let may = if at == last { Answers::Final } else { Answers::Chunk };
            commands.push(Said { line: String::new(), may });
            if at == last {
                self.world.borrow_mut().ends(&id);
            }
            if !together || at == last {
                self.say_in_segments(&std::mem::take(&mut wire)).await?;
                for said in commands.drain(..) {
                    if self.follow_chunk(said.may).await? == Chunks::Over {
                        return self.reset().await;
                    }
                }
            }
        }
        self.reset().await
    }

    /// The same for what a chunk may be behind: what is refused once is refused to its end.
    async fn follow_chunk(&mut self, may: Answers) -> Option<Chunks> {
        if may != Answers::Chunk {
            self.follow(may).await?;
            return Some(Chunks::GoOn);
        }
        let reply = self.answer(may).await?;
        if reply.code() / 100 == 2 || self.manner == Manner::Together {
            return Some(Chunks::GoOn);
        }
        let letter = self.letter.take().unwrap();
        self.world.borrow_mut().leaves(&letter.id);
        Some(Chunks::Over)
    }

    /// What clients do besides: wait, fall silent, go.
    async fn whim(&mut self) -> Option<()> {
        match self.chance.below(400) {
            0..60 => {
                let pause = self.chance.below(3_000);
                sleep(Duration::from_millis(pause)).await;
            }
            60..64 => sleep(Duration::from_secs(self.chance.below(120))).await,
            64..66 => {
                self.world.borrow_mut().tally.vanished += 1;
                return None;
            }
            66 => {
                // It falls silent, and is left.
                self.answer(Answers::Exactly(421)).await?;
                return None;
            }
            _ => {}
        }
        Some(())
    }

    async fn say_in_segments(&mut self, octets: &[u8]) -> Option<()> {
        let mut rest = octets;
        while !rest.is_empty() {
            let most = if self.manner == Manner::Drips { 2_000 } else { 20_000 };
            let length = match self.chance.below(4) {
                0 => 1 + self.chance.place(7),
                1 => 1 + self.chance.place(100),
                _ => 1 + self.chance.place(most),
            };
            let (now, later) = rest.split_at(length.min(rest.len()));
            self.write(now).await?;
            rest = later;
            match self.chance.below(8) {
                0 => sleep(Duration::from_millis(self.chance.below(50))).await,
                1 => tokio::task::yield_now().await,
                _ => {}
            }
        }
        Some(())
    }

    async fn say(&mut self, octets: &[u8]) -> Option<()> {
        if self.manner != Manner::Drips {
            return self.write(octets).await;
        }
        for octet in octets {
            self.write(&[*octet]).await?;
            sleep(Duration::from_millis(20)).await;
        }
        Some(())
    }

    /// None when the session is over, and what it said last is heard no more.
    async fn write(&mut self, octets: &[u8]) -> Option<()> {
        if self.log.len() < 200 {
            let shown = &octets[..octets.len().min(120)];
            self.log.push(format!("{:?} C: {}", self.world.borrow().now(), shown.escape_ascii()));
        }
        match timeout(PATIENCE, self.write_listening(octets)).await {
            Ok(Ok(())) => Some(()),
            // It was left before: the last words say why.
            Ok(Err(_)) => {
                self.answer(Answers::Exactly(421)).await?;
                None
            }
            Err(_) => {
                self.broken("nobody reads what it says");
                None
            }
        }
    }

    /// Who sends many commands together must take replies meanwhile (RFC 2920 §3.1).
    async fn write_listening(&mut self, octets: &[u8]) -> std::io::Result<()> {
        let (mut hears, mut says) = tokio::io::split(&mut self.stream);
        let mut rest = octets;
        while !rest.is_empty() {
            tokio::select! {
                biased;
                written = says.write(rest) => rest = &rest[written?..],
                heard = hears.read_buf(&mut self.input) => if heard? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                },
            }
        }
        Ok(())
    }

    /// The next reply, which may answer the command. None when the session ends with it.
    async fn answer(&mut self, may: Answers) -> Option<Reply> {
        let Some(reply) = self.reply().await else {
            self.broken(&format!("closed without a word instead of {may:?}"));
            return None;
        };
        if reply.code() == 421 {
            let guesses = may == Answers::Recipient && self.guesses >= Some(GUESSES);
            if self.world.borrow().weather.is_calm() && may != Answers::Exactly(421) && !guesses {
                self.broken("left in a calm world");
            }
            self.sees_the_end().await?;
            return None;
        }
        let code = reply.code();
        self.world.borrow_mut().happens(&format!("C{} {code}", self.number));
        let (class, calm) = (code / 100, self.world.borrow().weather.is_calm());
        let fits = match may {
            Answers::Exactly(expected) => code == expected,
            Answers::Recipient => self.fits_recipient(&reply, calm),
            Answers::NoRoute => code == 550 || code == 451 && !calm,
            Answers::GoAhead if self.accepted.is_empty() => class == 5 || class == 4 && !calm,
            Answers::GoAhead => code == 354 || matches!(class, 4 | 5) && !calm,
            Answers::Chunk | Answers::Final if self.accepted.is_empty() => matches!(class, 4 | 5),
            Answers::Chunk | Answers::Final => matches!(class, 2 | 4 | 5),
        };
        if !fits {
            self.broken(&format!("{reply} instead of {may:?}"));
        }
        Some(reply)
    }

    fn fits_recipient(&mut self, reply: &Reply, calm: bool) -> bool {
        let recipient = self.named.front().cloned().unwrap_or_default();
        let mut world = self.world.borrow_mut();
        let code = reply.code();
        match code / 100 {
            2 => world.tally.accepted += 1,
            5 => world.tally.unknown += 1,
            _ => world.tally.undetermined += 1,
        }
        let domain = recipient.rsplit('@').next().unwrap_or_default();
        let lied = world.lied.iter().any(|liar| *liar == domain);
        let exists = world.exists(&recipient);
        match code / 100 {
            4 => !calm || recipient.starts_with("grey") || code == 452,
            2 => exists || !world.must_know(domain) || recipient.starts_with("new"),
            5 => !exists || lied || recipient.starts_with("new"),
            _ => false,
        }
    }

    /// The next reply; none at the end of the session.
    async fn reply(&mut self) -> Option<Reply> {
        loop {
            let Ok((taken, reply)) = self.replies.take(&self.input) else {
                self.broken(&format!("no reply: {}", self.input.escape_ascii()));
                return None;
            };
            let long = self.input[..taken].split(|octet| *octet == b'\n').any(|line| line.len() >= 512);
            self.input.drain(..taken);
            if long {
                self.broken("a line too long");
            }
            if let Some(reply) = reply {
                self.log.push(format!("{:?} S: {reply}", self.world.borrow().now()));
                return Some(reply);
            }
            match timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await {
                Err(_) => {
                    self.broken("no answer");
                    return None;
                }
                Ok(Ok(0) | Err(_)) => return None,
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Nothing comes any more.
    async fn sees_the_end(&mut self) -> Option<()> {
        if let Some(reply) = self.reply().await {
            // A drain may say its word to a client that has half closed.
            if reply.code() != 421 {
                self.broken(&format!("a word behind the last: {reply}"));
            }
        }
        None
    }

    fn broken(&mut self, what: &str) {
        let log = self.log.join("\n    ");
        self.world.borrow_mut().broken(&format!("client {}: {what}\n    {log}", self.number));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunks {
    GoOn,
    Over,
}
