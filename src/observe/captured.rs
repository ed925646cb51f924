//! For tests of this layer: what a log would have said.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::log::{Format, subscriber};

/// Runs `told` under a log of its own and returns what it wrote.
pub(super) fn captured(format: Format, filter: &str, told: impl FnOnce()) -> String {
    let written = Buffer::default();
    let sink = written.clone();
    let subscriber = subscriber(format, filter, move || sink.clone(), false).expect("a good filter");
    tracing::dispatcher::with_default(&subscriber, told);
    written.text()
}

/// What was written; clones share it.
#[derive(Clone, Default)]
pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    pub(super) fn text(&self) -> String {
        let octets = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(octets).expect("logs are UTF-8")
    }
}

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
