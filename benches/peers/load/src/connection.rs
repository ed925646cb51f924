//! A client's connection: commands out, reply codes in. It checks codes and reads no texts.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection to the front.
pub(crate) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    /// Octets of `input` that are done with.
    done: usize,
}

impl Connection {
    /// Connects and hears the greeting.
    pub(crate) async fn greeted(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let mut connection = Self { stream, input: Vec::new(), done: 0 };
        connection.expect(220).await?;
        Ok(connection)
    }

    /// Writes `octets`.
    pub(crate) async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await
    }

    /// Sends a command and expects this answer.
    pub(crate) async fn say(&mut self, command: &[u8], code: u16) -> io::Result<()> {
        self.send(command).await?;
        self.expect(code).await
    }

    /// Reads one reply, of one line or several, which must have this code.
    pub(crate) async fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            match (number(&line), line.get(3)) {
                (Some(_), Some(b'-')) => {}
                (Some(got), _) if got == code => return Ok(()),
                _ => {
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    return Err(io::Error::other(format!("expected {code}, got: {line}")));
                }
            }
        }
    }

    /// The text of a one-line reply.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let unread = self.input.get(self.done..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', unread) {
                let line = unread.get(..=at).unwrap_or_default().to_vec();
                self.done += at + 1;
                return Ok(line);
            }
            self.input.drain(..self.done);
            self.done = 0;
            self.input.reserve(1024);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
    }
}

fn number(line: &[u8]) -> Option<u16> {
    std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}

/// Asks the sink at `address` what it has seen since it was last asked.
pub(crate) async fn counts(address: SocketAddr) -> io::Result<String> {
    let mut connection = Connection::greeted(address).await?;
    connection.send(b"XCOUNTS\r\n").await?;
    let line = connection.line().await?;
    Ok(String::from_utf8_lossy(line.get(4..).unwrap_or_default()).trim_end().to_owned())
}
