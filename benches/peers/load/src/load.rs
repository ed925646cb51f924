//! The clients: so many of them, each doing the same over and over until the time is up.
//!
//! A unit of work is what the rate counts: a message, a refused recipient, a connection. Work that was begun
//! is finished, and the rate is taken over the whole time. Every reply is checked: a front that answers
//! wrongly has no rate.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use crate::arguments::{By, Kind, Names, Order};
use crate::connection::Connection;
use crate::tls::Hands;

/// Recipients named in one transaction, below everybody's limit.
const PER_TRANSACTION: usize = 96;
/// Transactions in one session of refusals. A front may end a session that moves no mail (Backstop does after
/// a thousand commands, whatever its settings). Who harvests comes back then, and so does this load, before
/// every front alike.
const PER_SESSION: usize = 10;
/// How long after its time a load may take to end; the slowest front verifies a recipient within seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many names are repeated.
const REPEATED: u64 = 1000;
const SENDER: &[u8] = b"MAIL FROM:<sender@load.example>\r\n";
const DOMAIN: &str = "mail.example";

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Done {
    units: u64,
    length: Duration,
    /// How long sessions took: the median, and the one that 99 of 100 were faster than.
    sessions: [Duration; 2],
}

/// `UNITS SECONDS P50 P99`, the latter in microseconds.
impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99] = self.sessions;
        let seconds = self.length.as_secs_f64();
        write!(f, "{} {seconds:.4} {} {}", self.units, p50.as_micros(), p99.as_micros())
    }
}

/// What all clients of a load share.
struct Shared {
    order: Order,
    until: Instant,
    units: Cell<u64>,
    names: Cell<u64>,
    /// Makes names new that an earlier load used as well.
    stamp: u128,
    message: Vec<u8>,
    hands: Hands,
    sessions: RefCell<Vec<Duration>>,
}

/// Runs a load.
pub(crate) async fn run(order: Order) -> io::Result<Done> {
    let began = Instant::now();
    let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shared = Rc::new(Shared {
        until: began + order.length,
        units: Cell::new(0),
        names: Cell::new(0),
        stamp: stamp.as_micros(),
        message: message(&order.kind),
        hands: Hands::new().map_err(io::Error::other)?,
        sessions: RefCell::default(),
        order,
    });
    let clients = LocalSet::new();
    let all = clients.run_until(async {
        let mut clients = JoinSet::new();
        let tasks = if shared.order.kind == Kind::Idle { 1 } else { shared.order.clients };
        for _ in 0..tasks {
            let shared = Rc::clone(&shared);
            clients.spawn_local(async move { shared.client().await });
        }
        while let Some(client) = clients.join_next().await {
            client.map_err(io::Error::other)??;
        }
        io::Result::Ok(())
    });
    timeout(shared.order.length + PATIENCE, all).await??;
    let mut sessions = shared.sessions.take();
    sessions.sort_unstable();
    let at = |percent: usize| sessions.get(sessions.len() * percent / 100).copied().unwrap_or_default();
    Ok(Done { units: shared.units.get(), length: began.elapsed(), sessions: [at(50), at(99)] })
}

impl Shared {
    async fn client(&self) -> io::Result<()> {
        match self.order.kind {
            Kind::Deliver { messages, size: _, by } => self.again(|| self.deliver(messages, by)).await,
            Kind::Connect => self.again(|| self.connect()).await,
            Kind::Refuse { names, together } => self.again(|| self.refuse(names, together)).await,
            Kind::Idle => self.idle(self.order.clients).await,
        }
    }

    /// Sessions one after the other.
    async fn again<F: Future<Output = io::Result<()>>>(&self, session: impl Fn() -> F) -> io::Result<()> {
        while self.goes_on() {
            let began = Instant::now();
            session().await?;
            self.sessions.borrow_mut().push(began.elapsed());
        }
        Ok(())
    }

    async fn deliver(&self, messages: usize, by: By) -> io::Result<()> {
        let mut connection = Connection::greeted(self.order.to).await?;
        connection.hello().await?;
        let recipient = format!("RCPT TO:<user@{DOMAIN}>\r\n");
        let (data, codes): (&[u8], &[u16]) = match by {
            By::Data => (b"DATA\r\n", &[250, 250, 354]),
            By::Bdat => (b"", &[250, 250]),
        };
        let envelope = [SENDER, recipient.as_bytes(), data].concat();
        for _ in 0..messages {
            connection.say_together(&envelope, codes).await?;
            connection.send(&self.message).await?;
            connection.expect(250).await?;
            self.count();
        }
        connection.say(b"QUIT\r\n", 221).await
    }

    async fn connection(&self) -> io::Result<Connection<'static>> {
        Connection::inside(self.order.tls, &self.hands, self.order.to).await
    }

    async fn connect(&self) -> io::Result<()> {
        self.connection().await?.say(b"QUIT\r\n", 221).await?;
        self.count();
        Ok(())
    }

    async fn refuse(&self, names: Names, together: usize) -> io::Result<()> {
        let mut connection = Connection::greeted(self.order.to).await?;
        connection.hello().await?;
        let mut commands = Vec::new();
        let codes = vec![550; together];
        for _ in 0..PER_SESSION {
            connection.say(SENDER, 250).await?;
            for _ in 0..PER_TRANSACTION.div_ceil(together) {
                if !self.goes_on() {
                    break;
                }
                commands.clear();
                (0..together).for_each(|_| self.name(names, &mut commands));
                connection.say_together(&commands, &codes).await?;
                codes.iter().for_each(|_| self.count());
            }
            connection.say(b"RSET\r\n", 250).await?;
            if !self.goes_on() {
                break;
            }
        }
        connection.say(b"QUIT\r\n", 221).await
    }

    /// Opens connections one after the other, each greeted, and holds them all until the time is up.
    async fn idle(&self, clients: usize) -> io::Result<()> {
        let mut held = Vec::with_capacity(clients);
        for _ in 0..clients {
            held.push(self.connection().await?);
            self.count();
        }
        println!("held");
        tokio::time::sleep_until(self.until).await;
        Ok(())
    }

    /// A command that names the next unknown recipient.
    fn name(&self, names: Names, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let number = self.names.replace(self.names.get() + 1);
        let written = match names {
            Names::Repeated => write!(out, "RCPT TO:<nobody{:04}@{DOMAIN}>\r\n", number % REPEATED),
            Names::New => write!(out, "RCPT TO:<no{:x}.{number:x}@{DOMAIN}>\r\n", self.stamp),
        };
        debug_assert!(written.is_ok(), "memory takes everything");
    }

    fn goes_on(&self) -> bool {
        self.units.get() < self.order.units && Instant::now() < self.until
    }

    fn count(&self) {
        self.units.set(self.units.get() + 1);
    }
}

/// What goes out once the envelope is accepted: lines of 72 octets behind a short header.
fn message(kind: &Kind) -> Vec<u8> {
    let Kind::Deliver { size, by, .. } = kind else { return Vec::new() };
    let header = b"From: sender@load.example\r\nTo: user@mail.example\r\nSubject: load\r\n\r\n";
    let line = [&[b'x'; 70], b"\r\n".as_slice()].concat();
    let mut text = header.to_vec();
    while text.len() + line.len() <= *size {
        text.extend_from_slice(&line);
    }
    match by {
        By::Data => [&text, b".\r\n".as_slice()].concat(),
        By::Bdat => [format!("BDAT {} LAST\r\n", text.len()).as_bytes(), &text].concat(),
    }
}
