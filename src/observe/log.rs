//! The log: standard error, as text for people or JSON for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// The level is no filter.
    #[error("log.level: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else has set one up.
    #[error("a log is already set up in this process")]
    Taken,
}

/// Sets up the log of this process; `level` is a `tracing` filter such as `info` or `backstop=debug,info`.
///
/// # Errors
/// [`LogFault`].
pub fn init(format: Format, level: &str) -> Result<(), LogFault> {
    let filter = EnvFilter::try_new(level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).with_target(false).try_init(),
    };
    set.map_err(|_| LogFault::Taken)
}
