//! Where log lines go: standard error, as text for people or as JSON for collectors.
//!
//! What is logged is decided where it happens (see [`record`](super::record)); this file only chooses form
//! and level. Colours appear on a terminal alone, and not where `NO_COLOR` is set (no-color.org).
//!
//! Invariant: a log that cannot be written (a closed pipe, a full disk) or stalls (a collector that hangs) never
//! harms a session. Lines wait in a bounded queue for a thread that writes many of them at once; what finds the queue full is
//! lost, and counted.

use std::io::{self, BufWriter, IsTerminal};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use super::text::{Clock, Fields};

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time level target: message key=value …`
    Text,
    /// One object a line, fields at its top.
    Json,
}

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    /// Not a list of levels and `target=level`.
    #[error("the log filter `{filter}` is not valid: {reason}")]
    Filter {
        /// As written.
        filter: String,
        /// What is wrong with it.
        reason: ParseError,
    },
    /// The process logs already.
    #[error("logging was set up twice")]
    Twice,
}

/// Lines that wait to be written at most. One is rarely longer than half a kilobyte.
const WAITING: usize = 16_384;
/// Octets written at once at most.
const AT_ONCE: usize = 64 * 1024;
/// A line that comes within this time of the last write waits for others, so that a busy process neither writes nor wakes
/// the thread that does for each. A process that is killed loses these.
const GATHERING: Duration = Duration::from_millis(10);

/// Lines that were lost since the process began.
static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Keeps the log going; what waits is written when this is dropped.
#[derive(Debug)]
#[must_use = "dropped, it ends the log"]
pub struct Log(#[expect(dead_code, reason = "held for its end")] WorkerGuard);

/// Begins to log to standard error.
///
/// # Errors
/// [`LogFault::Filter`] when the filter is malformed, [`LogFault::Twice`] the second time.
pub fn init(format: Format, filter: &str) -> Result<Log, LogFault> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = io::stderr().is_terminal() && !plain;
    let (writer, guard) = queue(Gathering(BufWriter::with_capacity(AT_ONCE, io::stderr())), WAITING);
    let lost = writer.error_counter();
    let subscriber = subscriber(format, filter, writer, colours)?;
    tracing::dispatcher::set_global_default(subscriber).map_err(|_| LogFault::Twice)?;
    let _ = LOST.set(lost);
    Ok(Log(guard))
}

/// Lines that found the queue full since the process began.
#[must_use]
pub fn lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// A writer that never waits, and the thread behind it.
fn queue(to: impl io::Write + Send + 'static, waiting: usize) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(waiting).thread_name("log").finish(to)
}

/// Writes what waits, then lets more come: the thread flushes when nothing waits any more.
#[derive(Debug)]
struct Gathering<W>(W);

impl<W: io::Write> io::Write for Gathering<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Where it cannot be written there is nobody to tell, and the thread would miss that it is to end.
        let _ = self.0.flush();
        thread::sleep(GATHERING);
        Ok(())
    }
}

/// The subscriber behind [`init`], for any writer.
pub(super) fn subscriber<W>(
    format: Format,
    filter: &str,
    writer: W,
    colours: bool,
) -> Result<Dispatch, LogFault>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parse(filter)?)
        .with_writer(writer)
        .with_ansi(colours)
        // Otherwise a failed write is reported with `eprintln!`, which panics when that fails as well.
        .log_internal_errors(false);
    Ok(match format {
        Format::Text => lines.fmt_fields(Fields).with_timer(Clock).into(),
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).into()
        }
    })
}

fn parse(filter: &str) -> Result<EnvFilter, LogFault> {
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|reason| LogFault::Filter { filter: filter.to_owned(), reason })
}

/// Libraries that report at `info` and `warn` what is ours to judge. A filter that names one wins.
const QUIET: &str = "hickory_resolver=error,hickory_net=error,hickory_proto=error,hyper=warn,rustls=error";

#[cfg(test)]
mod tests {
    use super::super::captured::captured;
    use super::*;

    #[test]
    fn text_is_one_plain_line() {
        let line = captured(Format::Text, "info", || tracing::info!(helo = "a\" b=c", "session"));
        assert!(line.ends_with("session helo=\"a\\\" b=c\"\n"), "{line}");
        assert!(!line.contains('\u{1b}'));
    }

    #[test]
    fn json_has_its_fields_at_the_top() {
        let line =
            captured(Format::Json, "info", || tracing::info!(helo = "a\" b", count = 2_u64, "session"));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&object["helo"], &object["count"]), (&"a\" b".into(), &2.into()));
        assert_eq!(object["message"], "session");
    }

    #[test]
    fn libraries_are_quiet_until_they_are_named() {
        let noise = || tracing::info!(target: "hickory_resolver", "resolved");
        assert_eq!(captured(Format::Text, "info", noise), "");
        assert_ne!(captured(Format::Text, "warn,hickory_resolver=debug", noise), "");
    }

    #[test]
    fn a_malformed_filter_is_a_fault() {
        for (filter, good) in
            [("info", true), ("backstop=debug,info", true), ("", true), ("backstop=loud", false)]
        {
            assert_eq!(parse(filter).is_ok(), good, "{filter}");
        }
    }

    #[test]
    fn a_broken_pipe_harms_nobody() {
        struct Broken;
        impl io::Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let subscriber = subscriber(Format::Text, "info", || Broken, false).unwrap();
        tracing::dispatcher::with_default(&subscriber, || tracing::info!("lost"));
    }

    #[test]
    fn lines_that_come_together_are_written_together() {
        struct Counting(std::sync::mpsc::Sender<usize>);
        impl io::Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(bytes.iter().filter(|octet| **octet == b'\n').count());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (written, heard) = std::sync::mpsc::channel();
        let (writer, guard) = queue(Gathering(BufWriter::with_capacity(AT_ONCE, Counting(written))), WAITING);
        let subscriber = subscriber(Format::Text, "info", writer, false).unwrap();
        tracing::dispatcher::with_default(&subscriber, || (0..1000).for_each(|n| tracing::info!(n, "line")));
        drop(guard);
        let writes: Vec<usize> = heard.iter().collect();
        assert_eq!(writes.iter().sum::<usize>(), 1000);
        assert!(writes.len() < 100, "{writes:?}");
    }

    #[test]
    fn a_log_that_stalls_delays_nobody_and_its_losses_are_counted() {
        /// Takes nothing until the test lets go of the other end.
        struct Stalled(std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<usize>);
        impl io::Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                let _ = self.1.send(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stalled) = std::sync::mpsc::channel();
        let (written, heard) = std::sync::mpsc::channel();
        let (writer, guard) = queue(Stalled(stalled, written), 10);
        let lost = writer.error_counter();
        let subscriber = subscriber(Format::Text, "info", writer, false).unwrap();
        tracing::dispatcher::with_default(&subscriber, || (0..100).for_each(|n| tracing::info!(n, "line")));
        // One may be with the thread, ten wait.
        assert!((89..=90).contains(&lost.dropped_lines()), "{}", lost.dropped_lines());
        drop(release);
        drop(guard);
        assert_eq!(heard.iter().count() + lost.dropped_lines(), 100);
    }
}
