//! `backstop check`: reads everything `run` would read.

use super::terminal::{print, say};
use super::{ConfigFile, Exit, load};
use crate::net::dial::Dialer;
use crate::server::assemble;
use crate::store::examine;

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
    if let Some(fault) = loaded.config.store.path.as_deref().and_then(|path| examine(path).err()) {
        say(format_args!(
            "fault: cache.path: {fault}; write a directory that Backstop may write, or leave it out"
        ));
        return Exit::Config;
    }
    print(loaded.effective());
    Exit::Done
}
