//! A dictionary attack: distinct names that nobody has, over many connections at once, and what each of them heard.
//!
//! Every connection asks for one name at a time, as fast as it is answered or with a pause between them. A connection that the server ends is
//! opened again and goes on with the name that got no answer; a name that got one is never asked for again. Beside it
//! run deliveries, timed each from the first octet of the connection to the acknowledgement.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Reply};
use super::eventually;
use super::postfix::Postfix;

/// The domain that is attacked.
pub const DOMAIN: &str = "example.org";
/// Addresses the attack comes from: 127.0.0.2 and the following.
const SOURCES: usize = 8;
/// Connections one name may see end without an answer before it counts as given up.
const TRIES: u32 = 20;

/// A mailbox.
pub const KNOWN: &str = "anna@example.org";
/// Mailboxes without end, all of them one maildir.
const MAILBOXES: &str =
    "regexp:{ {/^anna@example\\.org$$/ anna/} {/^new\\.[0-9a-z.]+@example\\.org$$/ new/} }";
/// Its refusals are in its log without that, and writing every command down would slow it.
const DEFAULTS: [(&str, &str); 6] = [
    ("virtual_mailbox_maps", MAILBOXES),
    ("debug_peer_list", ""),
    ("smtpd_soft_error_limit", "10"),
    ("smtpd_hard_error_limit", "20"),
    ("smtpd_error_sleep_time", "1s"),
    ("smtpd_junk_command_limit", "100"),
];
/// Names of our own looks into its log.
const MARK: &str = "look.";

/// The mail store that is attacked: a real Postfix that knows [`KNOWN`] and every `new.…@`, with the error limits it
/// has by default.
pub async fn store() -> Postfix {
    Postfix::start_with(&[KNOWN], &DEFAULTS).await
}

/// The extent of an attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Distinct names.
    pub names: usize,
    /// Connections at once.
    pub connections: usize,
    /// How long each is silent after an answer: the way through the network, which loopback does not have.
    pub pause: Duration,
    /// When it ends at the latest, whatever is left.
    pub within: Duration,
}

/// What all of it came to.
#[derive(Debug, Default)]
pub struct Heard {
    /// Final answers by code, "451" and the like.
    pub codes: BTreeMap<u16, usize>,
    /// Answers that were no refusal in the expected words.
    pub others: Vec<String>,
    /// Connections that were ended by the server.
    pub ended: usize,
    /// Names that never got an answer.
    pub unanswered: usize,
    /// How long it took.
    pub took: Duration,
    /// How long each answer took, sorted.
    pub waits: Vec<Duration>,
}

impl Attack {
    /// The nth name of an attack.
    pub fn name(n: usize) -> String {
        format!("guess.{n:05}@{DOMAIN}")
    }

    /// Runs it. `expected` makes the one reply a name should hear.
    pub async fn run(self, address: SocketAddr, expected: fn(&str) -> String) -> Heard {
        let began = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let over = CancellationToken::new();
        let mut attackers = JoinSet::new();
        for number in 0..self.connections {
            let attacker = Attacker {
                source: Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 2)) + small(number % SOURCES)),
                address,
                next: Arc::clone(&next),
                names: self.names,
                pause: self.pause,
                expected,
                heard: Heard::default(),
            };
            attackers.spawn(attacker.run(over.clone()));
        }
        let mut heard = Heard::default();
        let deadline = async {
            sleep(self.within).await;
            over.cancel();
            std::future::pending::<()>().await;
        };
        let all = async {
            while let Some(one) = attackers.join_next().await {
                heard.add(one.expect("an attacker does not panic"));
            }
        };
        tokio::select! {
            () = all => {}
            () = deadline => {}
        }
        heard.took = began.elapsed();
        heard.waits.sort_unstable();
        heard.unanswered = self.names - heard.waits.len();
        heard
    }
}

impl Heard {
    fn add(&mut self, other: Self) {
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.others.extend(other.others);
        self.ended += other.ended;
        self.waits.extend(other.waits);
    }
}

/// One connection, opened again as often as it is ended.
struct Attacker {
    source: Ipv4Addr,
    address: SocketAddr,
    next: Arc<AtomicUsize>,
    names: usize,
    pause: Duration,
    expected: fn(&str) -> String,
    heard: Heard,
}

impl Attacker {
    async fn run(mut self, over: CancellationToken) -> Heard {
        let attack = async {
            let mut client = None;
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                if number >= self.names {
                    break;
                }
                self.ask(&mut client, &Attack::name(number)).await;
                if !self.pause.is_zero() {
                    sleep(self.pause).await;
                }
            }
            if let Some(mut client) = client {
                let _ = client.try_send("QUIT\r\n").await;
                client.try_reply().await;
            }
        };
        over.run_until_cancelled(attack).await;
        self.heard
    }

    /// Asks for a name until it is answered.
    async fn ask(&mut self, client: &mut Option<Client>, name: &str) {
        let began = Instant::now();
        for _ in 0..TRIES {
            if client.is_none() {
                *client = self.open().await;
            }
            let reply = match client {
                Some(open) => say(open, &format!("RCPT TO:<{name}>")).await,
                None => None,
            };
            match reply {
                Some(reply) if reply.code != 421 => {
                    let text = reply.to_string();
                    if text != (self.expected)(name) {
                        self.heard.others.push(format!("{name}: {text}"));
                    }
                    *self.heard.codes.entry(reply.code).or_default() += 1;
                    self.heard.waits.push(began.elapsed());
                    return;
                }
                _ => {
                    self.heard.ended += usize::from(client.is_some());
                    *client = None;
                }
            }
        }
    }

    async fn open(&self) -> Option<Client> {
        let mut client = Client::try_connect_from(self.source, self.address).await.ok()?;
        client.try_reply().await.filter(|greeting| greeting.code == 220)?;
        say(&mut client, "EHLO client.test").await.filter(|reply| reply.code == 250)?;
        say(&mut client, "MAIL FROM:<spam@client.test>").await.filter(|reply| reply.code == 250)?;
        Some(client)
    }
}

async fn say(client: &mut Client, command: &str) -> Option<Reply> {
    client.try_send(format!("{command}\r\n")).await.ok()?;
    client.try_reply().await
}

/// Deliveries, one after the other, each by a client never seen before.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// How long each took, sorted.
    pub took: Vec<Duration>,
    /// What was no acknowledgement.
    pub refused: Vec<String>,
}

impl Deliveries {
    /// For people.
    pub fn figures(&self) -> String {
        let took = &self.took;
        let [half, most, all] = [50, 99, 100].map(|percent| percentile(took, percent).as_secs_f64() * 1000.0);
        format!("{} deliveries, median {half:.1} ms, p99 {most:.1} ms, longest {all:.1} ms", took.len())
    }
}

/// What went on beside something.
#[derive(Debug, Default)]
pub struct Beside {
    pub known: Deliveries,
    pub new: Deliveries,
}

impl Beside {
    /// With what went on another time.
    pub fn add(&mut self, other: Self) {
        for (all, more) in [(&mut self.known, other.known), (&mut self.new, other.new)] {
            all.took.extend(more.took);
            all.took.sort_unstable();
            all.refused.extend(more.refused);
        }
    }
}

/// Delivers to known mailboxes and to new ones for as long as `busy` takes, on a thread that nobody else is on. `open` connects
/// somebody never seen before.
pub async fn beside<O>(open: O, label: &str, busy: impl Future<Output = ()>) -> Beside
where
    O: AsyncFn(usize) -> Client + Copy + Send + 'static,
{
    const PAUSE: Duration = Duration::from_millis(30);
    let over = CancellationToken::new();
    let (until, label) = (over.clone(), label.to_owned());
    let delivering = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let known = deliver(open, PAUSE, until.clone(), |_| KNOWN.to_owned());
            let new = deliver(open, PAUSE, until.clone(), |n| format!("new.{label}.{n}@example.org"));
            let (known, new) = tokio::join!(known, new);
            Beside { known, new }
        })
    });
    busy.await;
    over.cancel();
    delivering.await.expect("no panic")
}

/// Delivers to `recipient` of 0, 1, 2 … by a client that `open` connects, with `pause` between two deliveries, until `over`.
pub async fn deliver(
    open: impl AsyncFn(usize) -> Client,
    pause: Duration,
    over: CancellationToken,
    recipient: impl Fn(usize) -> String,
) -> Deliveries {
    let mut deliveries = Deliveries { took: Vec::new(), refused: Vec::new() };
    for number in 0.. {
        let recipient = recipient(number);
        let began = Instant::now();
        let mut client = open(number).await;
        match deliver_one(&mut client, &recipient).await {
            Ok(()) => deliveries.took.push(began.elapsed()),
            Err(reply) => deliveries.refused.push(format!("{recipient}: {reply:?}")),
        }
        client.quit().await;
        if over.run_until_cancelled(sleep(pause)).await.is_none() {
            break;
        }
    }
    deliveries.took.sort_unstable();
    deliveries
}

async fn deliver_one(client: &mut Client, recipient: &str) -> Result<(), Option<Reply>> {
    let expect = async |reply: Option<Reply>, code| match reply {
        Some(reply) if reply.code == code => Ok(()),
        other => Err(other),
    };
    expect(client.try_reply().await, 220).await?;
    expect(say(client, "EHLO client.test").await, 250).await?;
    expect(say(client, "MAIL FROM:<friend@client.test>").await, 250).await?;
    expect(say(client, &format!("RCPT TO:<{recipient}>")).await, 250).await?;
    expect(say(client, "DATA").await, 354).await?;
    expect(say(client, "Subject: hello\r\n\r\ntext\r\n.").await, 250).await
}

/// An address on loopback that no other client of this process has.
pub fn clean_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + NEXT.fetch_add(1, Ordering::Relaxed) % 0xff_0000)
}

/// What Postfix wrote down until now, our own looks at it left out.
pub struct Seen {
    pub sessions: usize,
    pub cut_off: usize,
    /// How often it refused each name.
    pub refused: HashMap<String, usize>,
}

impl Seen {
    /// Everything until now.
    pub async fn of(postfix: &Postfix) -> Self {
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        // Its log is written by a process of its own, in the order of what happened.
        let look = LOOKS.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = format!("{MARK}{look}@example.org");
        Client::greeted(postfix.address()).await.envelope("", &mark).await.is("550");
        let log = eventually("its log to catch up", || {
            Some(postfix.log()).filter(|log| log.contains(&format!("<{mark}>")))
        })
        .await;
        let mut refused: HashMap<String, usize> = HashMap::new();
        for name in log.lines().filter_map(refused_name).filter(|name| !name.starts_with(MARK)) {
            *refused.entry(name.to_owned()).or_default() += 1;
        }
        Self {
            sessions: log.matches("]: connect from ").count() - look,
            cut_off: log.matches("too many errors after").count(),
            refused,
        }
    }

    /// RCPTs it refused.
    pub fn refusals(&self) -> usize {
        self.refused.values().sum()
    }

    /// Of these, the names of an attack.
    pub fn guesses(&self) -> Vec<(&String, &usize)> {
        self.refused.iter().filter(|(name, _)| name.starts_with("guess.")).collect()
    }
}

/// The recipient that a line of the log says was refused.
fn refused_name(line: &str) -> Option<&str> {
    let (_, reply) = line.split_once("reject: RCPT from ")?;
    let (_, name) = reply.split_once(" 5.1.1 <")?;
    name.split_once(">: ").map(|(name, _)| name)
}

/// What it says of a name it does not know.
pub fn words(name: &str) -> String {
    format!("550 5.1.1 <{name}>: Recipient address rejected: User unknown in virtual mailbox table")
}

/// The value that so many percent of the sorted are not above.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a small number")
}
