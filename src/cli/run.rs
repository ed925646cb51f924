//! `backstop run`: the proxy, until it is told to end.

use tokio::signal::unix::{SignalKind, signal};

use super::supervisor;
use super::terminal::say;
use super::{ConfigFile, ConfigFlags, Exit, load};
use crate::config::LogFormat;
use crate::net::inherited::Inherited;
use crate::observe::log::{self, Format};
use crate::server::{Certificates, Drained, Server, StartFault};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Serves until SIGTERM or SIGINT, then drains; a second one ends at once.
pub(super) async fn run(arguments: &Arguments) -> Exit {
    let loaded = match load(&arguments.file.source_with(&arguments.flags)) {
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
    // Before anything listens: a signal from then on must not kill us.
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        say("cannot listen for signals");
        return Exit::Failed;
    };
    let mut server = match Server::bind_over(loaded.config, Inherited::of_process()) {
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
        _ = terminate.recv() => return Exit::Done,
        _ = interrupt.recv() => return Exit::Done,
    }
    supervisor::ready();
    let rereading = async {
        while hangup.recv().await.is_some() {
            match server.reread_certificates() {
                Certificates::AreReread => tracing::info!("SIGHUP: certificates are read again"),
                Certificates::AreAbsent => {
                    tracing::warn!(
                        "SIGHUP: there are no certificates to read again, and the configuration needs a restart"
                    );
                }
            }
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = rereading => {}
    }
    supervisor::stopping();
    tracing::info!("draining: no new clients, open transactions may finish");
    tokio::select! {
        drained = server.drain() => {
            if drained == Drained::Late {
                tracing::warn!("some sessions were not done in time");
            }
            Exit::Done
        }
        _ = terminate.recv() => Exit::Failed,
        _ = interrupt.recv() => Exit::Failed,
    }
}
