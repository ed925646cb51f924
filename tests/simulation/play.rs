//! One world from its beginning to its end: clients come, backends fail, and at last nothing may be left.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use backstop::config::{self, Config, Endpoint, Environment, Source};
use backstop::net::dial::Dialer;
use backstop::net::stream::Stream;
use backstop::observe::metrics::SessionState;
use backstop::server;
use backstop::session::{self, Context};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::chance::Chance;
use crate::client::Client;
use crate::store;
use crate::world::{BACKENDS, Tally, Weather, World};

/// Longer than anything lasts here: a session that has not ended by then never will.
const FOR_EVER: Duration = Duration::from_secs(6 * 3600);
/// How long clients keep coming.
const BUSY: Duration = Duration::from_secs(400);

/// What came of a world.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) faults: Vec<String>,
    /// Two runs of one seed have the same.
    pub(crate) trace: u64,
    pub(crate) tally: Tally,
}

/// Plays the world of `seed` with so many clients.
pub(crate) fn play(seed: u64, clients: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), run(seed, clients))
}

async fn run(seed: u64, clients: u64) -> Outcome {
    let weather = Weather::of(seed);
    let (switchboard, dialled) = mpsc::unbounded_channel();
    let dialer = Dialer::Memory(switchboard);
    let config = configuration(seed, &weather);
    let context = Arc::new(server::assemble(config, &dialer).unwrap());
    let world = Rc::new(RefCell::new(World::new(weather)));
    let connections = tokio::task::spawn_local(answer(dialled, seed, Rc::clone(&world)));
    server::greet_backends(&context).await;
    let mut others = JoinSet::new();
    others.spawn_local(trouble(seed, Rc::clone(&world)));
    others.spawn_local(tidy(Arc::clone(&context)));
    if world.borrow().weather.drain {
        let drain = context.drain.clone();
        others.spawn_local(async move {
            sleep(BUSY).await;
            drain.end_idle();
            sleep(Duration::from_secs(30)).await;
            drain.end_all();
        });
    }
    let mut sessions = JoinSet::new();
    for number in 0..clients {
        sessions.spawn_local(visit(seed, number, Arc::clone(&context), Rc::clone(&world)));
    }
    while let Ok(Some(ended)) = timeout(FOR_EVER, sessions.join_next()).await {
        if let Err(fault) = ended {
            world.borrow_mut().broken(&format!("a session panicked: {fault}"));
        }
    }
    let left = sessions.len();
    if left > 0 {
        world.borrow_mut().broken(&format!("{left} sessions do not end"));
    }
    others.shutdown().await;
    nothing_is_left(&context, &world).await;
    drop((context, dialer));
    if timeout(FOR_EVER, connections).await.is_err() {
        world.borrow_mut().broken("connections to backends are left open");
    }
    world.borrow_mut().is_over();
    let world = world.borrow();
    Outcome { faults: world.faults.clone(), trace: world.trace(), tally: world.tally }
}

/// What drains: probers and kept sessions take leave, and then nobody holds anything.
async fn nothing_is_left(context: &Context, world: &RefCell<World>) {
    context.verifier.leave();
    context.backends.leave(FOR_EVER).await;
    // What nobody waits for any more may still be asked: a silent backend takes its time.
    sleep(Duration::from_secs(1200)).await;
    let series = context.metrics.listener(&context.config.listeners[0].name);
    let mut faults = Vec::new();
    for backend in context.backends.iter() {
        let holders = backend.budget().holders();
        if holders > 0 || !backend.budget().is_unused() || backend.kept() > 0 {
            faults.push(format!("{}: {holders} hold slots, {} kept", backend.endpoint(), backend.kept()));
        }
    }
    for route in context.config.routes.iter() {
        let Some(progress) = context.verifier.progress(route) else { continue };
        if progress.sessions > 0 || progress.waiting > 0 {
            faults.push(format!(
                "{}: {} probe sessions, {} wait",
                route.name, progress.sessions, progress.waiting
            ));
        }
    }
    let sessions = series.sessions(SessionState::Idle) + series.sessions(SessionState::Transaction);
    if sessions > 0 {
        faults.push(format!("{sessions} sessions are counted"));
    }
    faults.into_iter().for_each(|fault| world.borrow_mut().broken(&format!("left at the end: {fault}")));
}

/// One client and its session. Some come together, most do not.
async fn visit(seed: u64, number: u64, context: Arc<Context>, world: Rc<RefCell<World>>) {
    let mut chance = Chance::of_part(seed, 2, number);
    let slots = BUSY.as_secs() / 4;
    let arrives = if chance.one_in(3) { chance.below(4) * slots } else { chance.below(BUSY.as_secs()) };
    sleep(Duration::from_secs(arrives)).await;
    world.borrow_mut().tally.sessions += 1;
    let pipe = chance.pick(&[64 * 1024, 64 * 1024, 512]);
    let (near, far) = tokio::io::duplex(pipe);
    let address = SocketAddr::from(([192, 0, 2, u8::try_from(chance.below(20)).unwrap()], 40_000));
    let client = Client::new(far, number, chance, Rc::clone(&world));
    let listener = context.config.listeners[0].clone();
    let series = context.metrics.listener(&listener.name);
    let session = tokio::spawn(async move {
        session::run(Stream::Memory(near), address, &listener, &series, context).await;
    });
    client.run().await;
    match timeout(FOR_EVER, session).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => world.borrow_mut().broken(&format!("session {number} panicked: {fault}")),
        Err(_) => world.borrow_mut().broken(&format!("session {number} does not end")),
    }
}

/// Gives every connection to its backend.
async fn answer(
    mut dialled: mpsc::UnboundedReceiver<(Endpoint, DuplexStream)>,
    seed: u64,
    world: Rc<RefCell<World>>,
) {
    let mut numbers = [0_u64; BACKENDS.len()];
    let mut connections = JoinSet::new();
    while let Some((endpoint, stream)) = dialled.recv().await {
        // Who has closed a connection in this very moment is to be found out first.
        for _ in 0..3 {
            yield_now().await;
        }
        let backend = BACKENDS.iter().position(|backend| backend.name == endpoint.host).unwrap();
        numbers[backend] += 1;
        let chance = Chance::of_part(seed, 3 + backend as u64, numbers[backend]);
        connections.spawn_local(store::serve(stream, backend, chance, Rc::clone(&world)));
        while connections.try_join_next().is_some() {}
    }
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
}

/// What happens to whole backends: they go down for a while, or restart.
async fn trouble(seed: u64, world: Rc<RefCell<World>>) {
    let mut chance = Chance::of_part(seed, 20, 0);
    loop {
        sleep(Duration::from_secs(10 + chance.below(60))).await;
        if world.borrow().weather.is_calm() {
            return;
        }
        let backend = chance.place(BACKENDS.len());
        let mut world = world.borrow_mut();
        world.happens(&format!("{backend} fails"));
        world.restarts[backend].notify_waiters();
        if chance.one_in(2) {
            world.goes_down(backend, Duration::from_secs(1 + chance.below(40)));
        }
    }
}

/// What the server does besides.
async fn tidy(context: Arc<Context>) {
    loop {
        sleep(Duration::from_secs(5)).await;
        context.backends.iter().for_each(|backend| backend.sweep());
    }
}

fn configuration(seed: u64, weather: &Weather) -> Config {
    let mut chance = Chance::of_part(seed, 4, 1);
    let newlines = if weather.normalize { "normalize" } else { "reject" };
    let unknown = if weather.live { "live" } else { "tempfail" };
    let received = if weather.received { "always" } else { "never" };
    let eject = chance.pick(&["0s", "5s"]);
    let stage = chance.pick(&["rcpt", "auto"]);
    let positive = chance.pick(&["1m", "24h"]);
    let route = |domain: &str, backends: &str, asked: &str| {
        format!(
            "[[route]]\ndomains = [\"{domain}\"]\nbackends = [{backends}]\nmax_connections = {}\nreceived = \"{received}\"\neject = \"{eject}\"\n\
             [route.verify]\non_unknown = \"{unknown}\"\nstage = \"{stage}\"\nrecheck = \"20s\"\n{asked}\n",
            weather.quota
        )
    };
    let text = format!(
        "[limits]\nbare_newline = \"{newlines}\"\n[admin]\naddress = \"\"\n\
         [cache]\nsecret = \"what-is-remembered-ages-alike-{seed}\"\nnegative_ttl = \"30s\"\nnegative_ttl_max = \"2m\"\ntempfail_ttl = \"{}\"\n\
         positive_ttl = \"{positive}\"\npositive_refresh = \"40s\"\n{}{}{}",
        chance.pick(&["0s", "5s"]),
        route("a.example", "\"a1:25\", \"a2:25\"", ""),
        route("b.example", "\"b1:25\"", "backends = [\"b2:25\"]"),
        route("c.example", "\"c1:25\"", ""),
    );
    let file =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{}-{seed}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let environment = Environment { host_name: "mx.example".to_owned(), ..Environment::default() };
    let loaded = config::load_in(&Source::File(file.clone()), &environment);
    let _ = std::fs::remove_file(file);
    loaded.unwrap_or_else(|faults| panic!("{faults}")).config
}
