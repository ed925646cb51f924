//! The commands, their arguments, their exit statuses.
//!
//! Exit statuses follow sysexits(3) where one fits: 67 no such user, 69 unavailable, 71 operating system, 75
//! try later, 78 configuration.

mod admin_client;
mod cache;
mod check;
mod demo;
mod doctor;
mod manual;
mod report;
mod run;
mod supervisor;
mod terminal;
mod verify;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flags, Loaded, Source};
use terminal::say;

/// How long the names of backends may take for a command that ends.
const LOOKED_UP: std::time::Duration = std::time::Duration::from_secs(5);

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// All went as it should.
    Done,
    /// Something did not.
    Failed,
    /// `EX_NOUSER`: a recipient is unknown.
    NoUser,
    /// `EX_UNAVAILABLE`: the admin endpoint does not answer.
    Unavailable,
    /// `EX_OSERR`: an address cannot be listened on.
    CannotBind,
    /// `EX_TEMPFAIL`: a recipient could not be verified.
    TempFail,
    /// `EX_CONFIG`.
    Config,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::NoUser => 67,
            Exit::Unavailable => 69,
            Exit::CannotBind => 71,
            Exit::TempFail => 75,
            Exit::Config => 78,
        })
    }
}

/// A transparent SMTP front proxy that refuses unknown recipients during the session.
#[derive(Debug, Parser)]
#[command(name = "backstop", version, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  backstop demo\n  \
    backstop run --listen 0.0.0.0:25 --domain example.org --backend 10.0.0.5:25\n  \
    backstop config default > /etc/backstop/backstop.toml\n  backstop check\n  \
    backstop verify ann@example.org nobody-at-all@example.org")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in the foreground.
    #[command(after_help = "Examples:\n  backstop run --config /etc/backstop/backstop.toml\n  \
        backstop run --listen 0.0.0.0:2525 --domain example.org --backend 10.0.0.5:25")]
    Run(run::Arguments),
    /// Read everything `run` would read; print every fault, or the effective configuration.
    #[command(after_help = "Exit status: 0 it can be used, 78 faults.\n\
        Examples:\n  backstop check\n  backstop check --config new.toml && mv new.toml /etc/backstop/backstop.toml")]
    Check(ConfigFile),
    /// Ask the mail store about addresses, now.
    #[command(after_help = "Exit status: 0 all deliverable, 67 some unknown, 75 some undetermined.\n\
        Examples:\n  backstop verify --verbose ann@example.org\n  \
        backstop verify --json - < addresses.txt")]
    Verify(verify::Arguments),
    /// Examine each backend and say what would go wrong with mail, and what to do about it.
    #[command(
        after_help = "No message is ever sent. Exit status: 0 nothing wrong, 1 findings, 78 configuration.\n\
        Examples:\n  backstop doctor --known ann@example.org\n  \
        backstop doctor --domain example.org --backend 10.0.0.5:25"
    )]
    Doctor(doctor::Arguments),
    /// Look into, and clear, what a running proxy remembers.
    #[command(after_help = "Exit status: 0 done, 1 refused, 69 the proxy does not answer.\n\
        Examples:\n  backstop cache stats\n  backstop cache get ann@example.org\n  \
        backstop cache forget ann@example.org bob@example.org\n  \
        backstop cache forget --domain example.org --admin http://10.0.2.5:9525")]
    Cache(cache::Arguments),
    /// Tell what a running proxy refused, or in shadow mode would have refused, by route and cause.
    #[command(after_help = "Exit status: 0 told, 69 the proxy does not answer.\n\
        Examples:\n  backstop report\n  backstop report --json --admin http://127.0.0.1:9525")]
    Report(report::Arguments),
    /// Show it at work: an embedded mail store, the proxy before it, one delivery, one refusal.
    #[command(after_help = "Exit status: 0 both went as they should, else 1.\n\
        Examples:\n  backstop demo\n  backstop demo --once")]
    Demo(demo::Arguments),
    /// Configuration help.
    #[command(after_help = "Examples:\n  backstop config default > backstop.toml\n  \
        backstop config schema > backstop.schema.json")]
    Config {
        #[command(subcommand)]
        what: ConfigHelp,
    },
    /// Ask the admin endpoint whether the proxy is ready; for containers.
    #[command(after_help = "Exit status: 0 ready, 1 not.\n\
        Examples:\n  backstop healthcheck\n  backstop healthcheck --admin http://127.0.0.1:9525")]
    Healthcheck(admin_client::AdminEndpoint),
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  backstop completions bash > /etc/bash_completion.d/backstop")]
    Completions(manual::Completions),
    /// Print the manual page.
    #[command(after_help = "Example:\n  backstop man | man -l -")]
    Man,
}

#[derive(Debug, Subcommand)]
enum ConfigHelp {
    /// Print the default file, with a comment for every key.
    Default,
    /// Print the JSON schema of the file, for editors and pipelines.
    Schema,
}

/// Which configuration.
#[derive(Debug, Clone, clap::Args)]
struct ConfigFile {
    /// The configuration file [default: ./backstop.toml, else /etc/backstop/backstop.toml].
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// A configuration without a file.
#[derive(Debug, Clone, clap::Args)]
struct ConfigFlags {
    /// Listen here (may repeat).
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    listen: Vec<SocketAddr>,
    /// Take mail for this domain (may repeat).
    #[arg(long, value_name = "DOMAIN", conflicts_with = "config", requires = "backend")]
    domain: Vec<String>,
    /// Give it to this server (may repeat).
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config", requires = "domain")]
    backend: Vec<String>,
}

impl ConfigFile {
    fn source(&self) -> Source {
        self.config.clone().map_or(Source::Search, Source::File)
    }

    fn source_with(&self, flags: &ConfigFlags) -> Source {
        if flags.backend.is_empty() && flags.listen.is_empty() {
            return self.source();
        }
        Source::Flags(Flags {
            listen: flags.listen.iter().map(ToString::to_string).collect(),
            domain: flags.domain.clone(),
            backend: flags.backend.clone(),
        })
    }
}

/// Loads, or says everything that is wrong.
fn load(source: &Source) -> Result<Loaded, Exit> {
    match crate::config::load(source) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|warning| say(format_args!("warning: {warning}")));
            Ok(loaded)
        }
        Err(faults) => {
            faults.warnings.iter().for_each(|warning| say(format_args!("warning: {warning}")));
            faults.faults.iter().for_each(|fault| say(format_args!("fault: {fault}")));
            Err(Exit::Config)
        }
    }
}

/// Runs the command this process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => {
            say(format_args!("cannot start: {fault}"));
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(async {
        match arguments.command {
            Command::Run(arguments) => run::run(&arguments).await,
            Command::Check(file) => check::check(&file),
            Command::Verify(arguments) => verify::verify(arguments).await,
            Command::Doctor(arguments) => doctor::doctor(&arguments).await,
            Command::Cache(arguments) => cache::cache(arguments).await,
            Command::Report(arguments) => report::report(&arguments).await,
            Command::Demo(arguments) => demo::demo(&arguments).await,
            Command::Config { what: ConfigHelp::Default } => {
                terminal::print(crate::config::DEFAULT_FILE);
                Exit::Done
            }
            Command::Config { what: ConfigHelp::Schema } => {
                terminal::print(crate::config::schema());
                Exit::Done
            }
            Command::Completions(arguments) => manual::completions(&arguments),
            Command::Man => manual::man(),
            Command::Healthcheck(arguments) => admin_client::healthcheck(&arguments).await,
        }
    });
    // What is still running is not waited for: whoever wanted to wait has done so.
    runtime.shutdown_background();
    exit.into()
}

#[cfg(test)]
mod tests;
