//! `backstop run`: the proxy, until it is told to end.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::supervisor;
use super::terminal::say;
use super::watch::Watched;
use super::{ConfigFile, ConfigFlags, Exit, load};
use crate::admin::{Order, Orders, Reloaded};
use crate::config::{Config, LogFormat, Redact, Source};
use crate::net::inherited::Inherited;
use crate::observe::log::{self, Format};
use crate::observe::metrics::ReloadResult;
use crate::observe::redact::{self, Redaction};
use crate::server::{Drained, Server, StartFault};
use crate::store::HashKey;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    flags: ConfigFlags,
    /// Reload the configuration when its file changes, as SIGHUP does.
    #[arg(long)]
    watch: bool,
}

/// Serves until SIGTERM or SIGINT, then drains; a second one ends at once.
pub(super) async fn run(arguments: &Arguments) -> Exit {
    let source = arguments.file.source_with(&arguments.flags);
    let loaded = match load(&source) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let format = match loaded.config.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let _log = match log::init(format, &loaded.config.log.level) {
        Ok(log) => log,
        Err(fault) => {
            say(fault);
            return Exit::Config;
        }
    };
    redact::begin(redaction(&loaded.config));
    // Before anything listens: a signal from then on must not kill us.
    let Ok(mut signals) = Signals::catch() else {
        say("cannot listen for signals");
        return Exit::Failed;
    };
    let (orders, arriving) = Orders::new();
    let watched = match loaded.file.clone().filter(|_| arguments.watch) {
        Some(file) => Some(Watched::from_now(file).await),
        None => None,
    };
    let mut server = match Server::bind_over(loaded.config, Inherited::of_process(), orders) {
        Ok(server) => server,
        Err(fault @ StartFault::Bind(..)) => {
            say(fault);
            return Exit::CannotBind;
        }
        Err(fault @ StartFault::List(_)) => {
            say(fault);
            return Exit::Config;
        }
    };
    for bound in server.bound() {
        say(format_args!("listening on {} ({})", bound.address, bound.name));
    }
    tokio::select! {
        () = server.serve() => {}
        () = signals.end() => return Exit::Done,
    }
    supervisor::ready();
    serve(&mut server, &source, &mut signals, arriving, watched).await;
    supervisor::stopping();
    tracing::info!("draining: no new clients, open transactions may finish");
    tokio::select! {
        drained = server.drain() => {
            if drained == Drained::Late {
                tracing::warn!("some sessions were not done in time");
            }
            Exit::Done
        }
        () = signals.end() => Exit::Failed,
    }
}

/// How much of addresses is told. Instances of one secret tell the same hashes.
fn redaction(config: &Config) -> Redaction {
    match config.log.redact {
        Redact::None => Redaction::None,
        Redact::LocalPart => Redaction::LocalPart,
        Redact::Hash => {
            let secret = config.store.secret.as_ref();
            let key = secret.map_or_else(HashKey::random, |secret| HashKey::of(secret.reveal()));
            // Not that of the cache: who reads the log is not to find anything there.
            Redaction::Hash(key.hash(&[b"log"]).to_le_bytes())
        }
    }
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// We are to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Takes over new configurations until told to end.
async fn serve(
    server: &mut Server,
    source: &Source,
    signals: &mut Signals,
    mut orders: mpsc::Receiver<Order>,
    mut watched: Option<Watched>,
) {
    loop {
        let (why, answer) = tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => ("SIGHUP", None),
            () = changed(&mut watched) => ("its file changed", None),
            order = orders.recv() => match order {
                Some(Order::Reload(answer)) => ("the admin endpoint asks", Some(answer)),
                Some(Order::Drain) | None => return,
            },
        };
        // Whoever wants us to end does not wait until backends were greeted.
        let reloaded = tokio::select! {
            reloaded = reload(server, source, why) => reloaded,
            () = signals.end() => return,
        };
        answered(answer, reloaded);
    }
}

async fn changed(watched: &mut Option<Watched>) {
    match watched {
        Some(watched) => watched.changed().await,
        None => std::future::pending().await,
    }
}

fn answered(answer: Option<oneshot::Sender<Result<Reloaded, String>>>, reloaded: Result<Reloaded, String>) {
    if let Some(answer) = answer {
        // Who asked may have gone.
        let _ = answer.send(reloaded);
    }
}

/// Reads the configuration again, and puts it in force if nothing is wrong with it. Else all its faults are told.
async fn reload(server: &mut Server, source: &Source, why: &str) -> Result<Reloaded, String> {
    let outcome = try_reload(server, source, why).await;
    let result = if outcome.is_ok() { ReloadResult::Done } else { ReloadResult::Failed };
    server.context().metrics.reloaded(result);
    if let Err(faults) = &outcome {
        for fault in faults.lines() {
            tracing::error!(why, fault, "the configuration in force stays");
        }
    }
    outcome
}

async fn try_reload(server: &mut Server, source: &Source, why: &str) -> Result<Reloaded, String> {
    let source = source.clone();
    let read = tokio::task::spawn_blocking(move || crate::config::load(&source)).await;
    let loaded = read.map_err(|fault| fault.to_string())?.map_err(|faults| faults.to_string())?;
    loaded.warnings.iter().for_each(|warning| tracing::warn!(%warning, "configuration"));
    let taken = server.reload(loaded.config).await.map_err(|fault| fault.to_string())?;
    for bound in &taken.opened {
        say(format_args!("listening on {} ({})", bound.address, bound.name));
    }
    for bound in &taken.closed {
        say(format_args!("no longer listening on {} ({})", bound.address, bound.name));
    }
    if !taken.late.is_empty() {
        tracing::warn!(keys = taken.late.join(", "), "these changes take effect with a restart");
    }
    tracing::info!(
        why,
        generation = taken.generation,
        changed = taken.changed,
        "a new configuration is in force"
    );
    Ok(Reloaded { generation: taken.generation, changed: taken.changed, restart_needed: taken.late })
}
