//! The far end of one in-memory connection: what was sent to it, and what it was expected to be.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::timeout;

/// How long something expected may take, on the paused clock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// After so long without any work all tasks wait for something that is not at hand.
const SETTLED: Duration = Duration::from_millis(1);
/// The most that is shown of octets nobody expected.
const SHOWN: usize = 300;

/// One end of a pipe.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: DuplexStream,
    /// What came and was not expected yet.
    unread: Vec<u8>,
    ended: bool,
}

impl Wire {
    pub(crate) fn new(stream: DuplexStream) -> Self {
        Self { stream, unread: Vec::new(), ended: false }
    }

    pub(crate) async fn send(&mut self, octets: &[u8]) -> Result<(), String> {
        match timeout(PATIENCE, self.stream.write_all(octets)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(fault)) => Err(format!("cannot send: {fault}")),
            Err(_) => Err("cannot send: nobody reads".to_owned()),
        }
    }

    pub(crate) async fn half_close(&mut self) -> Result<(), String> {
        self.stream.shutdown().await.map_err(|fault| fault.to_string())
    }

    /// A line ended by CRLF comes: exactly `expected`, or one that begins so where a `*` ends it.
    pub(crate) async fn hear(&mut self, expected: &str) -> Result<(), String> {
        let end = loop {
            match self.unread.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => break end,
                None => self.read(PATIENCE).await.map_err(|came| format!("expected {expected:?}, {came}"))?,
            }
        };
        let line: Vec<u8> = self.unread.drain(..end + 2).take(end).collect();
        let fits = match expected.strip_suffix('*') {
            Some(start) => line.starts_with(start.as_bytes()),
            None => line == expected.as_bytes(),
        };
        if fits { Ok(()) } else { Err(format!("expected {expected:?}, came {}", shown(&line))) }
    }

    /// Exactly these octets come.
    pub(crate) async fn hear_octets(&mut self, expected: &[u8]) -> Result<(), String> {
        while self.unread.len() < expected.len() {
            self.read(PATIENCE).await.map_err(|came| format!("expected {}, {came}", shown(expected)))?;
        }
        let came: Vec<u8> = self.unread.drain(..expected.len()).collect();
        if came == expected {
            Ok(())
        } else {
            Err(format!("expected {}, came {}", shown(expected), shown(&came)))
        }
    }

    /// Nothing more comes, and the connection stays open.
    pub(crate) async fn hear_nothing(&mut self) -> Result<(), String> {
        // Once the end was expected there is nothing more to come.
        if self.ended && self.unread.is_empty() {
            return Ok(());
        }
        match self.read(SETTLED).await {
            Err(_) if !self.ended && self.unread.is_empty() => Ok(()),
            _ if !self.unread.is_empty() => Err(format!("expected nothing, came {}", shown(&self.unread))),
            _ => Err("expected nothing, but the connection was closed".to_owned()),
        }
    }

    /// The connection is closed, and nothing came before.
    pub(crate) async fn see_closed(&mut self) -> Result<(), String> {
        while !self.ended && self.unread.is_empty() {
            let _ = self.read(PATIENCE).await;
            if !self.ended && self.unread.is_empty() {
                return Err("expected the connection to be closed, but it stayed open".to_owned());
            }
        }
        if self.unread.is_empty() {
            Ok(())
        } else {
            Err(format!("expected the connection to be closed, came {}", shown(&self.unread)))
        }
    }

    /// Reads once; else says what happened instead.
    async fn read(&mut self, patience: Duration) -> Result<(), String> {
        if self.ended {
            return Err(self.instead("the connection was closed"));
        }
        match timeout(patience, self.stream.read_buf(&mut self.unread)).await {
            Err(_) => Err(self.instead("nothing came")),
            Ok(Ok(0) | Err(_)) => {
                self.ended = true;
                Err(self.instead("the connection was closed"))
            }
            Ok(Ok(_)) => Ok(()),
        }
    }

    fn instead(&self, what: &str) -> String {
        if self.unread.is_empty() {
            what.to_owned()
        } else {
            format!("{what} behind {}", shown(&self.unread))
        }
    }
}

fn shown(octets: &[u8]) -> String {
    let start = octets.get(..SHOWN).unwrap_or(octets);
    let more = if octets.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", start.escape_ascii())
}
