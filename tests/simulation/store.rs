//! One session of a backend in the simulated world: it speaks SMTP, knows its mailboxes, and fails as the weather
//! wants.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::world::{BACKENDS, Knows, World};

/// What goes wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Close,
    Silence,
    Bye,
    Late,
    Garbage,
    Cut,
    Pieces,
    Twice,
    Defers,
    Surprise,
}

const FAULTS: [Fault; 10] = [
    Fault::Close,
    Fault::Silence,
    Fault::Bye,
    Fault::Late,
    Fault::Garbage,
    Fault::Cut,
    Fault::Pieces,
    Fault::Twice,
    Fault::Defers,
    Fault::Surprise,
];
const GARBAGE: [&str; 4] = ["25 ok\r\n", "250-a\r\n550 b\r\n", "2500 ok\r\n", "\x00\u{ff}\r\n"];

/// A connection to a backend.
pub(crate) struct Session {
    stream: DuplexStream,
    input: Vec<u8>,
    world: Rc<RefCell<World>>,
    chance: Chance,
    backend: usize,
    probe: bool,
    sender: bool,
    recipients: Vec<String>,
    refusals: u32,
    /// The recipient a probe waits to hear of.
    asked: Option<String>,
    /// What came of a message in chunks.
    chunks: Vec<u8>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.transaction_ends();
        self.world.borrow_mut().disconnected(self.backend);
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(stream: DuplexStream, backend: usize, chance: Chance, world: Rc<RefCell<World>>) {
    let open = world.borrow_mut().connected(backend);
    let mut session = Session {
        stream,
        input: Vec::new(),
        world,
        chance,
        backend,
        probe: true,
        sender: false,
        recipients: Vec::new(),
        refusals: 0,
        asked: None,
        chunks: Vec::new(),
    };
    let _ = session.converse(open).await;
}

impl Session {
    async fn converse(&mut self, open: usize) -> Option<()> {
        let (is_down, most) = {
            let world = self.world.borrow();
            (world.is_down(self.backend), world.weather.connections)
        };
        if is_down {
            if self.chance.one_in(2) {
                self.silence().await;
            }
            return None;
        }
        if open > most {
            self.write(b"421 4.3.2 Too many connections\r\n").await?;
            return None;
        }
        self.say("220 store.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            self.command(&line).await?;
            if self.refusals >= self.world.borrow().weather.refusals {
                self.write(b"421 4.7.0 Too many errors\r\n").await?;
                return None;
            }
        }
    }

    async fn command(&mut self, line: &str) -> Option<()> {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        match verb {
            "EHLO" => self.hello().await,
            "MAIL" => self.mail(line).await,
            "RCPT" => self.rcpt(line).await,
            "DATA" => self.data().await,
            "BDAT" => self.chunk(line).await,
            "RSET" => {
                let code = self.say("250 2.0.0 Ok").await?;
                if code == 250 {
                    self.transaction_ends();
                }
                Some(())
            }
            "QUIT" => {
                self.write(b"221 2.0.0 Bye\r\n").await?;
                None
            }
            "HELO" => self.say("250 store.example").await.map(drop),
            _ => {
                self.broken(&format!("is told {line:?}"));
                None
            }
        }
    }

    async fn hello(&mut self) -> Option<()> {
        let (pipelining, chunking, helo_only) = {
            let weather = &self.world.borrow().weather;
            (weather.pipelining[self.backend], weather.chunking, weather.helo_only[self.backend])
        };
        if helo_only {
            return self.say("500 5.5.1 Command unrecognized").await.map(drop);
        }
        let pipelining = if pipelining { "250-PIPELINING\r\n" } else { "" };
        let chunking = if chunking { "250-CHUNKING\r\n" } else { "" };
        self.say(&format!("250-store.example\r\n{pipelining}{chunking}250 8BITMIME")).await.map(drop)
    }

    async fn mail(&mut self, line: &str) -> Option<()> {
        if self.probe || self.recipients.is_empty() {
            self.transaction_ends();
        }
        // Else it has not heard of any RSET, and goes on with what it has: nobody may come to that.
        let path = line.strip_prefix("MAIL FROM:").unwrap_or_default();
        self.probe = path.starts_with("<>") || path.starts_with("<postmaster@mx.example>");
        self.sender = self.say("250 2.1.0 Ok").await? == 250;
        Some(())
    }

    async fn rcpt(&mut self, line: &str) -> Option<()> {
        let path = line.strip_prefix("RCPT TO:<").and_then(|path| path.split('>').next()).unwrap_or_default();
        let recipient = path.to_owned();
        if self.probe {
            self.world.borrow_mut().asked(self.backend, &recipient);
            if let Some(before) = self.asked.replace(recipient.clone()) {
                // What it heard of that one was no reply.
                self.world.borrow_mut().answered(&before, None);
            }
        } else {
            self.world.borrow_mut().forwarded(self.backend, &recipient);
        }
        let (proper, tarpit) = self.opinion(&recipient);
        if proper.starts_with('5') {
            self.pause(tarpit).await?;
        }
        let fault = self.fault();
        let code = self.say_so(&proper, fault, Witness::Recipient).await?;
        match code / 100 {
            2 if self.sender => self.recipients.push(recipient),
            4 | 5 => self.refusals += 1,
            _ => {}
        }
        Some(())
    }

    /// What is to be said of a recipient, and how long that takes.
    fn opinion(&mut self, recipient: &str) -> (String, Duration) {
        let mut world = self.world.borrow_mut();
        let tarpit = world.weather.tarpit;
        let greylisted = world.is_greylisted(self.probe, recipient);
        let takes_all = BACKENDS[self.backend].knows == Knows::Nobody;
        let opinion = if !self.sender {
            "503 5.5.1 Sender first".to_owned()
        } else if self.recipients.len() >= world.weather.recipients {
            "452 4.5.3 Too many recipients".to_owned()
        } else if takes_all || recipient.starts_with("postmaster") {
            "250 2.1.5 Ok".to_owned()
        } else if greylisted {
            "450 4.2.0 Greylisted".to_owned()
        } else if recipient.starts_with("full") {
            "452 4.2.2 Mailbox full".to_owned()
        } else if world.exists(recipient) {
            "250 2.1.5 Ok".to_owned()
        } else {
            format!("550 5.1.1 <{recipient}>: no such mailbox here")
        };
        (opinion, tarpit)
    }

    async fn data(&mut self) -> Option<()> {
        if self.recipients.is_empty() {
            return self.data_for_nobody().await;
        }
        let code = self.say("354 Go ahead").await?;
        if code != 354 {
            return Some(());
        }
        if self.probe {
            return self.probe_ends().await;
        }
        let content = self.lines().await?;
        self.whole(content).await
    }

    /// DATA that came along with recipients of whom none was taken (RFC 2920 §3.1). Whatever it is told, there is no message.
    async fn data_for_nobody(&mut self) -> Option<()> {
        if self.probe {
            self.broken("is told DATA for nobody by a probe");
        }
        let words = [
            "503 5.5.1 No valid recipients",
            "554 5.5.1 Nobody",
            "354 Go ahead",
            "421 4.7.0 That was too much",
        ];
        let word = self.chance.pick(&words);
        let code = self.say(word).await?;
        if self.chance.one_in(2) {
            // Some forget the sender with that.
            self.transaction_ends();
        }
        match code {
            354 => self.hung_up("is sent a message for nobody").await,
            421 => None,
            _ => Some(()),
        }
    }

    /// A probe that was told to go ahead hangs up.
    async fn probe_ends(&mut self) -> Option<()> {
        self.hung_up("is sent a message by a probe").await
    }

    /// Nothing is said any more, or a promise is broken like this.
    async fn hung_up(&mut self, how: &str) -> Option<()> {
        while self.input.is_empty() {
            self.read().await?;
        }
        self.broken(how);
        None
    }

    /// A message in lines, its dots no longer doubled; sometimes something is said too early.
    async fn lines(&mut self) -> Option<Vec<u8>> {
        let early = self.fault();
        let mut content = Vec::new();
        loop {
            while let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..end + 2).collect();
                match line.strip_prefix(b".") {
                    Some(b"\r\n") => return Some(content),
                    Some(rest) => content.extend_from_slice(rest),
                    None => content.extend_from_slice(&line),
                }
            }
            // What is said once all has been sent would be the answer.
            let early = early != Fault::None && self.chance.one_in(2);
            if early && !content.is_empty() && !self.world.borrow().is_whole(&content) {
                let word = self.chance.pick(&[&b"250 2.0.0 Stored\r\n"[..], b"554 5.7.1 Spam\r\n", b"25"]);
                self.write(word).await?;
                self.silence().await;
                return None;
            }
            self.read().await?;
        }
    }

    async fn chunk(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
        let last = words.next() == Some("LAST");
        if self.recipients.is_empty() || self.probe {
            self.broken("is told BDAT for nobody");
        }
        let mut content = std::mem::take(&mut self.chunks);
        while self.input.len() < size {
            self.read().await?;
        }
        content.extend(self.input.drain(..size));
        if last {
            return self.whole(content).await;
        }
        self.chunks = content;
        self.say("250 2.0.0 Ok").await.map(drop)
    }

    /// A message is there to its end.
    async fn whole(&mut self, content: Vec<u8>) -> Option<()> {
        let fault = self.fault();
        if self.chance.in_thousand(if fault == Fault::None { 0 } else { 300 }) {
            // Refused, or lost on the way to the disk.
            self.transaction_ends();
            let word = self.chance.pick(&["554 5.7.1 Spam", "452 4.3.1 No space"]);
            self.world.borrow_mut().turned_away(&content, word);
            return self.say_so(word, Fault::None, Witness::None).await.map(drop);
        }
        let copy = self.world.borrow_mut().stored(&self.recipients, content);
        self.transaction_ends();
        self.say_so("250 2.0.0 Stored", fault, Witness::Copy(copy)).await.map(drop)
    }

    fn transaction_ends(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.world.borrow_mut().answered(&asked, None);
        }
        self.sender = false;
        self.recipients.clear();
        self.chunks.clear();
    }

    fn broken(&self, what: &str) {
        let name = BACKENDS[self.backend].name;
        self.world.borrow_mut().broken(&format!("{name} {what}"));
    }

    fn fault(&mut self) -> Fault {
        let (often, twice) = {
            let weather = &self.world.borrow().weather;
            (weather.faults, weather.twice)
        };
        match self.chance.in_thousand(often) {
            true => match self.chance.pick(&FAULTS) {
                Fault::Twice if !twice => Fault::Pieces,
                fault => fault,
            },
            false => Fault::None,
        }
    }

    async fn say(&mut self, proper: &str) -> Option<u16> {
        let fault = self.fault();
        self.say_so(proper, fault, Witness::None).await
    }

    /// Says something, more or less. Gives the code of what was said, 0 for what is no reply, none at the end.
    async fn say_so(&mut self, proper: &str, fault: Fault, witness: Witness) -> Option<u16> {
        let whole = format!("{proper}\r\n");
        let code = proper.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0);
        self.world.borrow_mut().happens(&format!("{} {code} {fault:?}", self.backend));
        match fault {
            Fault::None => self.speak(whole.as_bytes(), code, witness).await,
            Fault::Close => None,
            Fault::Silence => {
                self.silence().await;
                None
            }
            Fault::Bye => {
                self.speak(b"421 4.3.2 Going down\r\n", 421, witness).await?;
                None
            }
            Fault::Late => {
                let late = Duration::from_secs(1 + self.chance.below(100));
                self.pause(late).await?;
                self.speak(whole.as_bytes(), code, witness).await
            }
            Fault::Garbage => {
                let garbage = self.chance.pick(&GARBAGE);
                self.speak(garbage.as_bytes(), 0, Witness::None).await
            }
            Fault::Cut => {
                let half = 1 + self.chance.place(whole.len() - 2);
                self.write(&whole.as_bytes()[..half]).await?;
                None
            }
            Fault::Pieces => {
                let (last, first) = whole.as_bytes().split_last()?;
                for octet in first {
                    self.write(&[*octet]).await?;
                    self.pause(Duration::from_millis(10)).await?;
                }
                self.speak(&[*last], code, witness).await
            }
            Fault::Twice => {
                self.world.borrow_mut().lied.insert(BACKENDS[self.backend].domain);
                self.speak(whole.repeat(2).as_bytes(), code, witness).await
            }
            Fault::Defers => self.speak(b"451 4.3.0 Later\r\n", 451, witness).await,
            Fault::Surprise => self.speak(b"354 Surprise\r\n", 354, witness).await,
        }
    }

    /// Says the last of a reply; whom it concerns knows before the peer can hear it.
    async fn speak(&mut self, octets: &[u8], code: u16, witness: Witness) -> Option<u16> {
        match &witness {
            Witness::None => {}
            Witness::Recipient => {
                if let Some(asked) = self.asked.take() {
                    self.world.borrow_mut().answered(&asked, Some(code));
                }
            }
            Witness::Copy(copy) => self.world.borrow_mut().says(copy, Some(code)),
        }
        let written = self.write(octets).await;
        if let (None, Witness::Copy(copy)) = (written, &witness) {
            self.world.borrow_mut().says(copy, None);
        }
        written.map(|()| code)
    }

    async fn write(&mut self, octets: &[u8]) -> Option<()> {
        self.stream.write_all(octets).await.ok()
    }

    /// Says no more, until the peer has had enough.
    async fn silence(&mut self) {
        while self.read().await.is_some() {}
    }

    /// Lets time pass. None when the peer goes meanwhile, or the backend restarts.
    async fn pause(&mut self, time: Duration) -> Option<()> {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                read = Self::more(&mut self.stream, &mut self.input, &self.world, self.backend) => read?,
                () = sleep_until(until) => return Some(()),
            }
        }
    }

    async fn read(&mut self) -> Option<()> {
        Self::more(&mut self.stream, &mut self.input, &self.world, self.backend).await
    }

    async fn more(
        stream: &mut DuplexStream,
        input: &mut Vec<u8>,
        world: &Rc<RefCell<World>>,
        backend: usize,
    ) -> Option<()> {
        let restarts = Rc::clone(&world.borrow().restarts[backend]);
        tokio::select! {
            biased;
            () = restarts.notified() => None,
            read = stream.read_buf(input) => (read.ok()? > 0).then_some(()),
        }
    }

    /// The next command, which is a clean line. Sometimes it is not waited for in silence.
    async fn line(&mut self) -> Option<String> {
        if self.input.is_empty() && self.fault() != Fault::None {
            let until = Duration::from_secs(self.chance.below(20));
            self.pause(until).await?;
            if self.input.is_empty() {
                let unasked =
                    self.chance.pick(&["250 2.0.0 Ok\r\n", "421 4.4.2 Idle\r\n", "550 5.1.1 No\r\n", "25"]);
                self.write(unasked.as_bytes()).await?;
            }
        }
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let clean =
                    line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r') && !line.contains(&0));
                let text = clean.and_then(|line| String::from_utf8(line.to_vec()).ok());
                if text.is_none() {
                    self.broken(&format!("is told {}", line.escape_ascii()));
                }
                return text;
            }
            self.read().await?;
        }
    }
}

/// Whom a reply concerns.
enum Witness {
    None,
    Recipient,
    Copy((String, usize)),
}
