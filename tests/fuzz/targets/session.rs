//! Whole sessions in memory, on a paused clock: any client, any backend, any segmentation and timing.
//!
//! A client that heeds replies: each command has exactly one, each message exactly one. A client that does
//! not (its octets are the input as it is): all it hears are well-formed replies, and the session ends. For
//! both, whatever the backends do:
//!
//! - nobody is given to the delivery port whom no probe found good;
//! - DATA goes to the delivery port only behind a recipient it took;
//! - a message is acknowledged only if the backend's own whole 2yz followed its end;
//! - the run ends, within a day of the paused clock.
//!
//! Input: an octet of rules, then octets that each choose what the client and the backends do next.

#![no_main]

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backstop::config::{self, Config, Environment, Source};
use backstop::net::dial::Dialer;
use backstop::net::stream::Stream;
use backstop::proto::reply::ReplyReader;
use backstop::server;
use backstop::session;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

/// Longer than anything a session may wait for.
const DAY: Duration = Duration::from_secs(24 * 3600);

fuzz_target!(|input: &[u8]| {
    let [rules, choices @ ..] = input else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let run = async { timeout(DAY, run(*rules, choices)).await.expect("the session ends") };
    LocalSet::new().block_on(&runtime.expect("a runtime"), run);
});

async fn run(rules: u8, choices: &[u8]) {
    // The client has its own choices, so that what it does does not depend on how backends are scheduled.
    let (for_client, for_backends) = choices.split_at(choices.len() / 2);
    let (switchboard, mut dialled) = mpsc::unbounded_channel();
    let context =
        server::assemble(configuration().clone(), &Dialer::Memory(switchboard)).expect("it was checked");
    let context = Arc::new(context);
    let world =
        Rc::new(RefCell::new(World { choices: for_backends.to_vec().into_iter(), ..World::default() }));
    let backends = Rc::clone(&world);
    tokio::task::spawn_local(async move {
        while let Some((_, stream)) = dialled.recv().await {
            tokio::task::spawn_local(backend(stream, Rc::clone(&backends)));
        }
    });
    let (near, far) = tokio::io::duplex(if rules & 1 == 0 { 64 * 1024 } else { 7 });
    let listener = context.config.listeners.first().expect("the default").clone();
    let series = context.metrics.listener(&listener.name);
    let address = "192.0.2.1:1".parse().expect("an address");
    let client = async {
        let mut client = Client { stream: far, input: Vec::new(), replies: ReplyReader::default() };
        if rules & 2 == 0 {
            client.heed(for_client, &world).await
        } else {
            client.rave(for_client, rules).await
        }
    };
    tokio::join!(session::run(Stream::Memory(near), address, &listener, &series, context), client);
}

/// One route, whose backends never rest and whose unknown recipients never pass.
fn configuration() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let text = "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"store:25\"]\neject = \"0s\"\n\
             [route.verify]\non_unknown = \"tempfail\"\n[cache]\ntempfail_ttl = \"0s\"\nmax_entries = 100\n[admin]\naddress = \"\"\n";
        let file = std::env::temp_dir().join(format!("backstop-fuzz-{}.toml", std::process::id()));
        std::fs::write(&file, text).expect("a temporary file");
        let environment = Environment { host_name: "mx.example.org".to_owned(), ..Environment::default() };
        let loaded = config::load_in(&Source::File(file.clone()), &environment);
        let _ = std::fs::remove_file(file);
        loaded.unwrap_or_else(|faults| panic!("{faults}")).config
    })
}

/// What the backends did, all of them.
#[derive(Default)]
struct World {
    choices: std::vec::IntoIter<u8>,
    /// Recipients a probe found good.
    good: HashSet<String>,
    /// A backend said something twice: what answered what is anybody's guess, and the delivery port decides.
    out_of_step: bool,
    /// Messages whose end was followed by a whole 2yz.
    stored: usize,
    /// Messages the client was told are accepted.
    acknowledged: usize,
    /// The client has sent the end of its message: what a backend says from here on may have been said behind it.
    ended: bool,
}

impl World {
    fn choose(&mut self) -> u8 {
        self.choices.next().unwrap_or(0)
    }
}

/// What a backend does about a command.
enum Mood {
    Good,
    Reply(&'static str),
    Pieces,
    Late,
    Twice,
    Half,
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
        232..238 => Mood::Half,
        238..246 => Mood::Silence,
        _ => Mood::Close,
    }
}

/// One session of a backend: greets, then answers each command in the mood it is in.
async fn backend(mut stream: DuplexStream, world: Rc<RefCell<World>>) {
    let mut session = Backend { probe: true, accepted: 0, sender: false };
    let _ = session.converse(&mut stream, &world).await;
}

struct Backend {
    probe: bool,
    accepted: usize,
    sender: bool,
}

impl Backend {
    async fn converse(&mut self, stream: &mut DuplexStream, world: &RefCell<World>) -> Option<()> {
        self.answer(stream, world, "220 store.example.org").await?;
        let mut input = Vec::new();
        loop {
            let line = line(stream, &mut input).await?;
            let proper = self.proper(&line, world);
            let code = self.answer(stream, world, &proper).await?;
            let taken = code == Some(2);
            if line.starts_with("MAIL") {
                (self.sender, self.accepted) = (taken, 0);
            } else if line.starts_with("RCPT") && taken && self.sender {
                self.accepted += 1;
                if self.probe {
                    world.borrow_mut().good.insert(line);
                }
            } else if line == "DATA" && code == Some(3) {
                self.message(stream, &mut input, world).await?;
            } else if let Some(octets) = line.strip_prefix("BDAT ") {
                assert!(taken || code != Some(2));
                let octets: usize = octets.split(' ').next()?.parse().ok()?;
                while input.len() < octets {
                    read(stream, &mut input).await?;
                }
                input.drain(..octets);
            }
        }
    }

    /// What a backend in its right mind says; also where what arrives is judged.
    fn proper(&mut self, line: &str, world: &RefCell<World>) -> String {
        if line.starts_with("EHLO") {
            let pipelining = if world.borrow_mut().choose() & 1 == 0 { "250-PIPELINING\r\n" } else { "" };
            return format!("250-store.example.org\r\n{pipelining}250 8BITMIME");
        }
        if let Some(path) = line.strip_prefix("MAIL FROM:") {
            // The null sender, or the one used where that is refused.
            self.probe = path.starts_with("<>") || path.starts_with("<postmaster@mx.example.org>");
        } else if line.starts_with("RCPT") && !self.probe {
            let world = world.borrow();
            assert!(world.good.contains(line) || world.out_of_step, "{line} was given unasked");
        } else if line == "DATA" {
            assert!(self.accepted > 0 && !self.probe, "DATA without a recipient that was taken");
            return "354 Go ahead".to_owned();
        }
        "250 2.0.0 Ok".to_owned()
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
            world.borrow_mut().stored += usize::from(on_its_way);
            stream.write_all(b"250 2.0.0 Early\r\n").await.ok()?;
        }
        loop {
            let end = if input.starts_with(b".\r\n") {
                Some(3)
            } else {
                find(input, b"\r\n.\r\n").map(|at| at + 5)
            };
            if let Some(end) = end {
                input.drain(..end);
                break;
            }
            read(stream, input).await?;
        }
        if self.answer_stored(stream, world).await? == Some(2) {
            self.accepted = 0;
        }
        Some(())
    }

    async fn answer_stored(
        &mut self,
        stream: &mut DuplexStream,
        world: &RefCell<World>,
    ) -> Option<Option<u8>> {
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
                for octet in whole.as_bytes() {
                    stream.write_all(&[*octet]).await.ok()?;
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Mood::Late => {
                sleep(Duration::from_secs(20)).await;
                stream.write_all(whole.as_bytes()).await.ok()?;
            }
            Mood::Twice => {
                world.borrow_mut().out_of_step = true;
                stream.write_all(whole.repeat(2).as_bytes()).await.ok()?;
            }
            Mood::Half => {
                let half = whole.as_bytes().get(..whole.len() / 2)?;
                stream.write_all(half).await.ok()?;
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

async fn read(stream: &mut DuplexStream, input: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(input).await.ok()? > 0).then_some(())
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    input.windows(what.len()).position(|window| window == what)
}

const LINES: [&str; 16] = [
    "EHLO client.example.net",
    "HELO client.example.net",
    "MAIL FROM:<bob@example.net>",
    "MAIL FROM:<bob@example.net> BODY=8BITMIME",
    "RCPT TO:<ann@example.org>",
    "RCPT TO:<cid@example.org>",
    "RCPT TO:<dee@example.org>",
    "RCPT TO:<eve@elsewhere.example>",
    "DATA",
    "RSET",
    "NOOP",
    "VRFY ann",
    "XYZZY",
    "RCPT TO:<>",
    "STARTTLS",
    "NOOP\0",
];
const BODIES: [&str; 6] = ["", "text\r\n", "..dot\r\n", "a\nb\r\n", "\r\n.\r.\r\n", "x\r\n.\n\r\n"];

struct Client {
    stream: DuplexStream,
    input: Vec<u8>,
    replies: ReplyReader,
}

impl Client {
    /// Says a command, hears its reply, says the next.
    async fn heed(&mut self, choices: &[u8], world: &RefCell<World>) {
        let Some(220) = self.reply().await else { return };
        for choice in choices.iter().take(48) {
            if choice & 0xf0 == 0xf0 {
                sleep(Duration::from_secs(u64::from(choice & 15))).await;
            }
            let line = LINES[usize::from(choice % 16)];
            if self.say(format!("{line}\r\n").as_bytes()).await.is_none() {
                return;
            }
            let Some(code) = self.reply().await else { return };
            if line == "DATA" && code == 354 {
                world.borrow_mut().ended = true;
                let body = BODIES[usize::from(choice >> 4) % BODIES.len()];
                if self.say(format!("{body}.\r\n").as_bytes()).await.is_none() {
                    return;
                }
                let Some(code) = self.reply().await else { return };
                world.borrow_mut().ended = false;
                if code / 100 == 2 {
                    let mut world = world.borrow_mut();
                    world.acknowledged += 1;
                    assert!(world.acknowledged <= world.stored, "acknowledged what was not stored");
                    assert!(!body.replace("\r\n", "").contains(['\r', '\n']), "took bare newlines");
                }
            }
            assert!(self.input.is_empty(), "a reply too many");
        }
    }

    /// Says the input as it is, in segments, and hears what comes of it.
    async fn rave(&mut self, octets: &[u8], rules: u8) {
        let size = usize::from(rules >> 2).max(1);
        for (number, segment) in octets.chunks(size).enumerate() {
            if self.say(segment).await.is_none() {
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

    async fn say(&mut self, octets: &[u8]) -> Option<()> {
        // A session that says much and reads little is heard first: the pipe is small.
        let mut rest = octets;
        while !rest.is_empty() {
            tokio::select! {
                written = self.stream.write(rest) => rest = rest.get(written.ok()?..)?,
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
