//! The demo's client: says lines, shows what is said.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::terminal::print_line;
use crate::net::stream::{Stream, read_some};
use crate::proto::reply::ReplyReader;

/// How long the demo waits for any reply.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Caller {
    stream: Stream,
    input: Vec<u8>,
    replies: ReplyReader,
}

impl Caller {
    pub(super) async fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|fault| fault.to_string())?;
        Ok(Self { stream: Stream::Tcp(stream), input: Vec::new(), replies: ReplyReader::default() })
    }

    /// Says `lines` and expects a reply with `code`.
    pub(super) async fn say(&mut self, lines: &str, code: u16) -> Result<(), String> {
        lines.lines().for_each(|line| print_line(format_args!("  C: {line}")));
        let sent = self.stream.write_all(format!("{lines}\r\n").as_bytes()).await;
        sent.map_err(|fault| fault.to_string())?;
        self.expect(code).await
    }

    /// Expects a reply with `code`.
    pub(super) async fn expect(&mut self, code: u16) -> Result<(), String> {
        loop {
            let (taken, reply) = self.replies.take(&self.input).map_err(|fault| fault.to_string())?;
            self.input.drain(..taken);
            if let Some(reply) = reply {
                print_line(format_args!("  S: {reply}"));
                return if reply.code() == code {
                    Ok(())
                } else {
                    Err(format!("expected {code}, got {reply}"))
                };
            }
            let read = timeout(PATIENCE, read_some(&mut self.stream, &mut self.input)).await;
            let read = read.map_err(|_| "no reply in time")?.map_err(|fault| fault.to_string())?;
            if read == 0 {
                return Err("the connection was closed".to_owned());
            }
        }
    }
}
