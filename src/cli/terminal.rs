//! What a person reads: results on standard output, everything else on standard error.
//!
//! A reader that went away (`| head`) is no fault of the command's.

use std::fmt;
use std::io::Write as _;

/// A line on standard error.
pub(super) fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
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
