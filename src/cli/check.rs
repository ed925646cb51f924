//! `backstop check`: reads everything `run` would read.

use super::terminal::{print, say};
use super::{ConfigFile, Exit, load};
use crate::net::dial::Dialer;
use crate::server::assemble;

/// Prints the effective configuration, or every fault.
pub(super) fn check(file: &ConfigFile) -> Exit {
    let loaded = match load(&file.source()) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    // Recipient files are read by who uses them.
    if let Err(fault) = assemble(loaded.config.clone(), &Dialer::network()) {
        say(format_args!("fault: {fault}"));
        return Exit::Config;
    }
    print(loaded.effective());
    Exit::Done
}
