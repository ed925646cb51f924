//! Plays a transcript: Backstop in the middle, the clients and the backends around it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backstop::config::{self, Endpoint, Environment, Source};
use backstop::net::dial::Dialer;
use backstop::net::stream::Stream;
use backstop::server;
use backstop::session::{self, Context};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::script::{Act, End, Event, Fault, Line, Script};
use crate::wire::{PATIENCE, Wire};

/// The route of transcripts that write none.
const ROUTE: &str = "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"mail.example.org:25\"]\n";
/// The network clients come from, each from the address of its number.
const CLIENTS: [u8; 3] = [192, 0, 2];
/// Octets a client may send before they are read.
const PIPE: usize = 64 * 1024;
/// A session whose client is gone ends, whatever it waits for.
const LONGEST_END: Duration = Duration::from_secs(3600);

/// Plays `script`. `name` keeps the files of transcripts apart.
pub(crate) async fn play(name: &str, script: Script) -> Result<(), Fault> {
    let mut stage = Stage::new(name, &script.settings);
    let last = script.lines.last().map_or(0, |line| line.number);
    for Line { number, event } in script.lines {
        stage.perform(event).await.map_err(|text| Fault { line: number, text })?;
    }
    stage.finish().await.map_err(|text| Fault { line: last, text: format!("after the last line: {text}") })
}

/// A certificate for this run, as the configuration names it.
fn certificate() -> &'static str {
    static WRITTEN: OnceLock<String> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
        let file = |end: &str| {
            let name = format!("transcripts-{}.{end}", std::process::id());
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
        };
        let (chain, key) = (file("crt"), file("key"));
        fs::write(&chain, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        format!("{{ chain = {chain:?}, key = {key:?} }}")
    })
}

/// What the transcript writes and, where it says nothing of them, one route, `stage = "rcpt"` and `tarpit = "0s"`: only the
/// transcripts about random names, and those about pauses, are to expect them. DNS is not in memory, so it is not asked.
fn settings_of(written: &str) -> String {
    let written = &match (written.contains("tarpit ="), written.split_once("[harvest]\n")) {
        (true, _) => written.to_owned(),
        (false, None) => format!("{written}\n[harvest]\ntarpit = \"0s\"\n"),
        (false, Some((before, after))) => format!("{before}[harvest]\ntarpit = \"0s\"\n{after}"),
    };
    let route = if written.contains("[[route]]") { "" } else { ROUTE };
    let whole = format!("{written}\n[dns]\nclient_names = false\n{route}");
    if written.contains("stage =") {
        return whole;
    }
    let mut parts = whole.split("[[route]]\n");
    let mut settings = parts.next().unwrap_or_default().to_owned();
    for route in parts {
        settings.push_str("[[route]]\n");
        match route.split_once("[route.verify]\n") {
            Some((before, after)) => {
                settings.push_str(&format!("{before}[route.verify]\nstage = \"rcpt\"\n{after}"));
            }
            None => settings.push_str(&format!("verify.stage = \"rcpt\"\n{route}")),
        }
    }
    settings
}

struct Stage {
    context: Arc<Context>,
    arriving: mpsc::UnboundedReceiver<(Endpoint, DuplexStream)>,
    wires: BTreeMap<End, Wire>,
    /// Connections that came from Backstop so far.
    accepted: usize,
    tasks: JoinSet<()>,
}

impl Stage {
    fn new(name: &str, settings: &str) -> Self {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("toml");
        let settings = settings.replace("CERTIFICATE", certificate());
        fs::write(&file, settings_of(&settings)).unwrap();
        let environment = Environment { host_name: "mx.example.org".to_owned(), ..Environment::default() };
        let loaded =
            config::load_in(&Source::File(file), &environment).unwrap_or_else(|faults| panic!("{faults}"));
        let (switchboard, arriving) = mpsc::unbounded_channel();
        let context = server::assemble(loaded.config, &Dialer::Memory(switchboard)).unwrap();
        Self {
            context: Arc::new(context),
            arriving,
            wires: BTreeMap::new(),
            accepted: 0,
            tasks: JoinSet::new(),
        }
    }

    async fn perform(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Passes(time) => sleep(time).await,
            Event::Start => {
                let context = Arc::clone(&self.context);
                self.tasks.spawn(async move { server::greet_backends(&context).await });
            }
            Event::Drain => self.context.drain.end_idle(),
            Event::DrainEnds => self.context.drain.end_all(),
            Event::At(End::Backend(number), Act::Accepts(endpoint)) => {
                self.accept(number, endpoint.as_deref()).await?;
            }
            Event::At(end, act) => {
                let fault = self.act(end, act).await;
                fault.map_err(|fault| format!("at {end}: {fault}"))?;
            }
        }
        Ok(())
    }

    async fn act(&mut self, end: End, act: Act) -> Result<(), String> {
        let wire = self.wire(end)?;
        match act {
            Act::Accepts(_) => Err("only backends accept".to_owned()),
            Act::Sends(octets) => wire.send(&octets).await,
            Act::HalfCloses => wire.half_close().await,
            Act::Hears(line) => wire.hear(&line).await,
            Act::HearsOctets(octets) => wire.hear_octets(&octets).await,
            Act::HearsTrace { chunk, text } => wire.hear_trace(chunk.as_deref(), &text).await,
            Act::HearsNothing => wire.hear_nothing().await,
            Act::SeesClosed => wire.see_closed().await,
            Act::Leaves => {
                self.wires.remove(&end);
                Ok(())
            }
        }
    }

    /// The connection of `end`. A client connects when it is first spoken of.
    fn wire(&mut self, end: End) -> Result<&mut Wire, String> {
        match (self.wires.entry(end), end) {
            (Entry::Occupied(wire), _) => Ok(wire.into_mut()),
            (Entry::Vacant(_), End::Backend(_)) => Err("it is not connected".to_owned()),
            (Entry::Vacant(place), End::Client(number)) => {
                let (near, far) = tokio::io::duplex(PIPE);
                let context = Arc::clone(&self.context);
                let [a, b, c] = CLIENTS;
                let client = SocketAddr::from(([a, b, c, u8::try_from(number).unwrap()], 40_000));
                self.tasks.spawn(async move {
                    let listener = context.config.listeners.first().unwrap().clone();
                    let series = context.metrics.listener(&listener.name);
                    session::run(Stream::Memory(near), client, &listener, &series, context).await;
                });
                Ok(place.insert(Wire::new(far)))
            }
        }
    }

    async fn accept(&mut self, number: usize, expected: Option<&str>) -> Result<(), String> {
        self.accepted += 1;
        if number != self.accepted {
            return Err(format!("the next connection is B{}", self.accepted));
        }
        match timeout(PATIENCE, self.arriving.recv()).await {
            Ok(Some((endpoint, _))) if expected.is_some_and(|expected| expected != endpoint.to_string()) => {
                Err(format!("the connection is to {endpoint}"))
            }
            Ok(Some((_, stream))) => {
                self.wires.insert(End::Backend(number), Wire::new(stream));
                Ok(())
            }
            _ => Err("expected a new connection to a backend, none came".to_owned()),
        }
    }

    /// Nothing was said that no line expected, and everything ends once the clients are gone.
    async fn finish(mut self) -> Result<(), String> {
        for (end, wire) in &mut self.wires {
            wire.hear_nothing().await.map_err(|fault| format!("at {end}: {fault}"))?;
        }
        if self.arriving.try_recv().is_ok() {
            return Err("a backend was connected to, and no line expected it".to_owned());
        }
        self.wires.retain(|end, _| matches!(end, End::Backend(_)));
        let tasks = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        timeout(LONGEST_END, tasks).await.map_err(|_| "a session did not end".to_owned())
    }
}
