//! A client's connection: commands out, reply codes in. Of the texts only PIPELINING matters to it.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tls::{Hands, Tls};

trait Wire: AsyncRead + AsyncWrite + Unpin {}
impl<W: AsyncRead + AsyncWrite + Unpin> Wire for W {}

/// A connection to the front.
pub(crate) struct Connection<'w> {
    stream: Box<dyn Wire + 'w>,
    input: Vec<u8>,
    /// Octets of `input` that are done with.
    done: usize,
    /// It takes several commands together.
    pipelining: bool,
}

impl<'w> Connection<'w> {
    /// Connects and hears the greeting.
    pub(crate) async fn greeted(to: SocketAddr) -> io::Result<Self> {
        let mut connection = Self::over(Box::new(connected(to).await?));
        connection.expect(220).await?;
        Ok(connection)
    }

    /// The same, and all that is said from then on inside TLS.
    pub(crate) async fn inside(tls: Tls, hands: &Hands, to: SocketAddr) -> io::Result<Self> {
        match tls {
            Tls::None => Self::greeted(to).await,
            Tls::Implicit => {
                let mut connection = Self::over(Box::new(hands.shake(connected(to).await?).await?));
                connection.expect(220).await?;
                Ok(connection)
            }
            Tls::Starttls => {
                let mut stream = connected(to).await?;
                for (command, code) in [("", 220), ("EHLO load.example\r\n", 250), ("STARTTLS\r\n", 220)] {
                    let mut clear = Connection::over(Box::new(&mut stream));
                    clear.say(command.as_bytes(), code).await?;
                }
                Ok(Self::over(Box::new(hands.shake(stream).await?)))
            }
        }
    }

    fn over(stream: Box<dyn Wire + 'w>) -> Self {
        Self { stream, input: Vec::new(), done: 0, pipelining: false }
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

    /// Says EHLO, and heeds what the server can do.
    pub(crate) async fn hello(&mut self) -> io::Result<()> {
        self.send(b"EHLO load.example\r\n").await?;
        self.expect(250).await
    }

    /// Sends commands that may go together (RFC 2920), and expects these answers. A server that does not
    /// offer to take them together gets one after the other.
    pub(crate) async fn say_together(&mut self, commands: &[u8], codes: &[u16]) -> io::Result<()> {
        if self.pipelining {
            self.send(commands).await?;
            for code in codes {
                self.expect(*code).await?;
            }
            return Ok(());
        }
        for (command, code) in commands.split_inclusive(|octet| *octet == b'\n').zip(codes) {
            self.say(command, *code).await?;
        }
        Ok(())
    }

    /// Reads one reply, of one line or several, which must have this code.
    pub(crate) async fn expect(&mut self, code: u16) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            self.pipelining |= line.get(4..).is_some_and(|text| text.starts_with(b"PIPELINING"));
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

    /// One line of a reply.
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

async fn connected(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
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
