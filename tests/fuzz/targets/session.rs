//! Whole sessions in memory, on a paused clock: any client, any backend, any segmentation and timing.
//!
//! A client that heeds replies: each command has exactly one, each message exactly one, in order also where
//! commands go out together. A client that does not (its octets are the input as it is): all it hears are
//! well-formed replies, and the session ends. For both, whatever the backends do:
//!
//! - nobody is given to the delivery port whom no probe found good;
//! - a message goes to the delivery port only behind a recipient it took, and a BDAT, too;
//! - a message is acknowledged only if the backend's own whole 2yz followed its end, it is stored once, and for just those
//!   recipients that the client was told are accepted;
//! - what the session holds of memory stays under the bound that docs/wire.md states, also where a client or
//!   a backend sends without end;
//! - the run ends, within a day of the paused clock, and is counted as ended.
//!
//! Not here, for it needs real TLS: octets and state from before STARTTLS (the target `dialogue` has the state).
//!
//! Input: an octet of rules, then octets that each choose what the client and the backends do next.

#![no_main]

#[path = "session/backend.rs"]
mod backend;
#[path = "session/client.rs"]
mod client;
#[path = "session/held.rs"]
mod held;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backstop::config::{self, Config, Environment, Source};
use backstop::net::dial::Dialer;
use backstop::net::stream::Stream;
use backstop::observe::metrics::{Metrics, SessionState};
use backstop::server;
use backstop::session;
use client::Client;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::timeout;

/// Longer than anything a session may wait for.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// What a session may hold: 64 KiB read and twice that to be written, a command line, the envelope.
const BOUND: usize = 256 * 1024;
/// The two pipes of a connection to a backend, which are the kernel's where there are sockets.
const PIPES: usize = 2 * 64 * 1024;
/// What a reply as long as may be costs beyond that: its text, and what is written of it.
const LONG: usize = 2 * 64 * 1024;
/// More than all of that, for those who send without end, once in a run: it takes its time.
const ENDLESS: usize = 1024 * 1024;

#[global_allocator]
static ALLOCATOR: held::Counting = held::Counting;

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
    // The numbers are shared by all runs: naming them anew takes longer than many a session.
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let metrics = METRICS.get_or_init(Metrics::new).clone();
    let context = server::assemble_counting(configuration().clone(), &Dialer::Memory(switchboard), metrics);
    let context = Arc::new(context.expect("it was checked"));
    let world =
        Rc::new(RefCell::new(World { choices: for_backends.to_vec().into_iter(), ..World::default() }));
    let backends = Rc::clone(&world);
    tokio::task::spawn_local(async move {
        while let Some((_, stream)) = dialled.recv().await {
            backends.borrow_mut().connections += 1;
            tokio::task::spawn_local(backend::serve(stream, Rc::clone(&backends)));
        }
    });
    if rules & 8 != 0 {
        server::greet_backends(&context).await;
    }
    let (near, far) = tokio::io::duplex(if rules & 1 == 0 { 64 * 1024 } else { 7 });
    let listener = context.config.listeners.first().expect("the default").clone();
    let series = context.metrics.listener(&listener.name);
    let address = "192.0.2.1:1".parse().expect("an address");
    let client = async {
        let endless = if rules & 1 == 0 { ENDLESS } else { 256 };
        let mut client = Client::new(far, endless);
        if rules & 2 == 0 {
            client.heed(for_client, &world, rules & 4 != 0).await;
        } else {
            client.rave(for_client, rules).await;
        }
    };
    let session = held::Held::new(session::run(Stream::Memory(near), address, &listener, &series, context));
    tokio::join!(session, client);
    let most = BOUND + PIPES * world.borrow().connections + LONG * world.borrow().long;
    assert!(held::most() < most, "{} octets held, of {most}", held::most());
    assert_eq!(series.sessions(SessionState::Idle) + series.sessions(SessionState::Transaction), 0);
}

/// One route, whose backends never rest and whose unknown recipients never pass.
fn configuration() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let text = "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"store:25\"]\neject = \"0s\"\n\
             [route.verify]\non_unknown = \"tempfail\"\n[cache]\nsecret = \"the-same-in-every-run\"\ntempfail_ttl = \"0s\"\nmax_entries = 100\n[harvest]\nmax_clients = 1000\n[admin]\naddress = \"\"\n";
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
    /// Connections they took.
    connections: usize,
    /// Replies as long as may be.
    long: usize,
    /// One of them sent without end.
    endless: bool,
    /// Recipients a probe found good.
    good: HashSet<String>,
    /// A backend said something twice: what answered what is anybody's guess, and the delivery port decides.
    out_of_step: bool,
    /// A random name came as far as any other, at DATA too: the delivery port decides.
    blind: bool,
    /// Messages whose end was followed by a whole 2yz.
    stored: usize,
    /// For whom each message was taken, by its tag.
    taken_for: HashMap<usize, Vec<String>>,
    /// A backend spoke before the end of a message: what it is the answer to nobody can tell.
    early: bool,
    /// Messages that have a tag.
    tags: usize,
    /// Messages the client was told are accepted.
    acknowledged: usize,
    /// The client has sent the end of its message: what a backend says from here on may have been said behind it.
    ended: bool,
}

impl World {
    fn choose(&mut self) -> u8 {
        self.choices.next().unwrap_or(0)
    }

    /// The line that tells the next message from all others, and its number.
    fn tag(&mut self) -> (usize, String) {
        self.tags += 1;
        (self.tags, format!("tag {};\r\n", self.tags))
    }
}

async fn read(stream: &mut DuplexStream, input: &mut Vec<u8>) -> Option<()> {
    (stream.read_buf(input).await.ok()? > 0).then_some(())
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    input.windows(what.len()).position(|window| window == what)
}
