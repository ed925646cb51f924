//! What a person reads: results on standard output, everything else on standard error.
//!
//! A reader that went away (`| head`) is no fault of the command's.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};

/// A line on standard error.
pub(super) fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// A line on standard error that goes away: how far a command is. Nothing where nobody looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passing {
    shown: bool,
}

impl Passing {
    /// Shown where standard error is a terminal, unless `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { shown: !quiet && std::io::stderr().is_terminal() }
    }

    /// Puts `text` in place of what the line says.
    pub(super) fn show(self, text: impl fmt::Display) {
        if self.shown {
            let mut out = std::io::stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}");
            let _ = out.flush();
        }
    }
}

/// A result on standard output.
pub(super) fn print(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "{text}");
    let _ = out.flush();
}

/// A line of a result on standard output.
pub(super) fn print_line(line: impl fmt::Display) {
    print(format_args!("{line}\n"));
}
