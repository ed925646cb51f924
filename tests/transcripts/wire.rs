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
        let line = self.line(expected).await?;
        let fits = match expected.strip_suffix('*') {
            Some(start) => line.starts_with(start.as_bytes()),
            None => line == expected.as_bytes(),
        };
        if fits { Ok(()) } else { Err(format!("expected {expected:?}, came {}", shown(&line))) }
    }

    async fn line(&mut self, expected: &str) -> Result<Vec<u8>, String> {
        let end = loop {
            match self.unread.windows(2).position(|pair| pair == b"\r\n") {
                Some(end) => break end,
                None => self.read(PATIENCE).await.map_err(|came| format!("expected {expected:?}, {came}"))?,
            }
        };
        Ok(self.unread.drain(..end + 2).take(end).collect())
    }

    /// One whole `Received:` line of ours comes, with `text` in it; with a `chunk` (what the client wrote behind BDAT) the
    /// command comes first, and counts the line in.
    pub(crate) async fn hear_trace(&mut self, chunk: Option<&str>, text: &str) -> Result<(), String> {
        let command = match chunk {
            Some(_) => Some(self.line("BDAT").await?),
            None => None,
        };
        let mut field = Vec::new();
        while !field.ends_with(b" +0000\r\n") {
            let line = self.line("a Received line").await?;
            let start: &[u8] = if field.is_empty() { b"Received: from " } else { b"\t" };
            if !line.starts_with(start) {
                return Err(format!("expected a Received line, came {}", shown(&line)));
            }
            field.extend_from_slice(&line);
            field.extend_from_slice(b"\r\n");
        }
        if let (Some(command), Some(chunk)) = (command, chunk) {
            let (size, last) = chunk.split_once(' ').map_or((chunk, ""), |(size, _)| (size, " LAST"));
            let size = size.parse::<usize>().map_err(|_| "what size?")? + field.len();
            if command != format!("BDAT {size}{last}").as_bytes() {
                return Err(format!("expected BDAT {size}{last}, came {}", shown(&command)));
            }
        }
        let unfolded = String::from_utf8_lossy(&field).replace("\r\n\t", " ");
        let fits = unfolded.contains(") by mx.example.org with ") && unfolded.contains(text);
        if fits { Ok(()) } else { Err(format!("expected {text:?} in {unfolded:?}")) }
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
