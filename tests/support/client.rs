//! A raw SMTP client: it sends exactly what it is told, in the pieces it is told, and reads replies.
//!
//! Over TCP every wait ends after [`PATIENCE`]. Over other streams it waits without limit, as a limit of ours would be
//! the first thing a paused clock jumps to.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{PATIENCE, until_connections};

/// One connection to a server.
pub struct Client<S = TcpStream> {
    stream: BufReader<S>,
    patience: Option<Duration>,
}

/// A reply, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its code.
    pub code: u16,
    /// The text of each line, behind code and separator.
    pub lines: Vec<String>,
}

impl Reply {
    /// The text of the last line.
    pub fn text(&self) -> &str {
        self.lines.last().map_or("", String::as_str)
    }

    /// Fails the test unless the reply begins so, e.g. "550 5.1.1".
    #[track_caller]
    pub fn is(&self, start: &str) -> &Self {
        assert!(self.to_string().starts_with(start), "expected {start:?}, got {self}");
        self
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join("\n"))
    }
}

impl Client {
    /// Connects over TCP; the greeting is not read yet.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        Self::connected(stream)
    }

    /// The same from an address of our own choice: everything in 127.0.0.0/8 is loopback's.
    pub async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        Self::try_connect_from(source, address).await.expect("the server listens")
    }

    /// The same where a server that takes no connection is no fault of the test.
    pub async fn try_connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((source, 0)))?;
        socket.connect(address).await.map(Self::connected)
    }

    fn connected(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an open socket");
        Self { patience: Some(PATIENCE), ..Self::over(stream) }
    }

    /// Connects, reads the greeting and says EHLO.
    pub async fn greeted(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.reply().await.is("220");
        client.command("EHLO client.test").await.is("250");
        client
    }

    /// Waits until the server has read all that was sent, or has closed: what is sent next is another segment to it.
    pub async fn until_read(&self) {
        let stream = self.stream.get_ref();
        let (Ok(ours), Ok(theirs)) = (stream.local_addr(), stream.peer_addr()) else { return };
        until_connections("the server to read", |ends| {
            let end = |local, remote| ends.iter().find(|end| end.local == local && end.remote == remote);
            let arrived = end(ours, theirs).is_none_or(|end| end.unsent == 0);
            let read = end(theirs, ours).is_none_or(|end| end.unread == 0);
            arrived && read
        })
        .await;
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.stream.get_ref().set_zero_linger().expect("an open socket");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on any stream.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream), patience: None }
    }

    /// The same, whose waits end as those over TCP do.
    pub fn patient(stream: S) -> Self {
        Self { patience: Some(PATIENCE), ..Self::over(stream) }
    }

    /// What carries it.
    pub fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// What carries it, for a handshake.
    ///
    /// # Panics
    /// When the server said more than was read.
    pub fn into_stream(self) -> S {
        assert_eq!(self.stream.buffer(), b"", "said and not asked for");
        self.stream.into_inner()
    }

    /// Reads one whole reply.
    ///
    /// # Panics
    /// When there is none, or it is not one [RFC 5321 §4.2].
    pub async fn reply(&mut self) -> Reply {
        self.try_reply().await.expect("a reply before the connection ended")
    }

    /// Reads one whole reply, or nothing if the connection ends (or is reset) before its first octet.
    pub async fn try_reply(&mut self) -> Option<Reply> {
        match self.patience {
            Some(patience) => timeout(patience, self.read_reply()).await.expect("a reply in time"),
            None => self.read_reply().await,
        }
    }

    /// Sends octets as they are.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).await.expect("the server takes what we send");
        self.stream.flush().await.expect("the server takes what we send");
    }

    /// Sends octets where a server that has gone is no fault of the test. Tells whether they went.
    pub async fn try_send(&mut self, octets: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(octets.as_ref()).await?;
        self.stream.flush().await
    }

    /// Sends each segment with a write of its own, and lets other tasks run between them.
    pub async fn send_segments<'a>(&mut self, segments: impl IntoIterator<Item = &'a [u8]>) {
        for segment in segments {
            self.send(segment).await;
            yield_now().await;
        }
    }

    /// Sends a line.
    pub async fn send_line(&mut self, line: &str) {
        self.send(format!("{line}\r\n")).await;
    }

    /// Sends a command and reads its reply.
    pub async fn command(&mut self, line: &str) -> Reply {
        self.send_line(line).await;
        self.reply().await
    }

    /// Sends the commands in one write and reads a reply for each.
    pub async fn pipeline(&mut self, lines: &[&str]) -> Vec<Reply> {
        self.send(lines.iter().map(|line| format!("{line}\r\n")).collect::<String>()).await;
        let mut replies = Vec::new();
        for _ in lines {
            replies.push(self.reply().await);
        }
        replies
    }

    /// MAIL and one RCPT; the reply is that to RCPT.
    pub async fn envelope(&mut self, sender: &str, recipient: &str) -> Reply {
        self.command(&format!("MAIL FROM:<{sender}>")).await.is("250");
        self.command(&format!("RCPT TO:<{recipient}>")).await
    }

    /// DATA and the octets of a message, which must be dot-stuffed already and end with a line end, and the final dot.
    pub async fn data(&mut self, stuffed: impl AsRef<[u8]>) -> Reply {
        self.command("DATA").await.is("354");
        self.send(stuffed).await;
        self.command(".").await
    }

    /// Says that we send no more; replies may still come.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("an open connection");
    }

    /// Fails the test unless the server ends the connection now, without another word.
    pub async fn is_closed(&mut self) {
        if let Some(reply) = self.try_reply().await {
            panic!("expected the end of the connection, got {reply}");
        }
    }

    /// QUIT and the server's end of it.
    pub async fn quit(mut self) {
        self.command("QUIT").await.is("221");
        self.is_closed().await;
    }

    /// Everything that comes until the connection ends.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        let _ = self.stream.read_to_end(&mut octets).await;
        octets
    }

    async fn read_reply(&mut self) -> Option<Reply> {
        let mut reply: Option<Reply> = None;
        loop {
            let mut line = Vec::new();
            // A reset is an end as good as any other; what came before it counts.
            let _ = self.stream.read_until(b'\n', &mut line).await;
            if line.is_empty() && reply.is_none() {
                return None;
            }
            let (code, last, text) = parse(&line).unwrap_or_else(|| panic!("no reply line: {line:?}"));
            let reply = reply.get_or_insert_with(|| Reply { code, lines: Vec::new() });
            assert_eq!(reply.code, code, "one code in all lines of a reply");
            reply.lines.push(text);
            if last {
                return Some(reply.clone());
            }
        }
    }
}

/// Code, whether it is the last line, and text.
fn parse(line: &[u8]) -> Option<(u16, bool, String)> {
    let line = str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let code = line.get(..3)?.parse().ok()?;
    match line.as_bytes().get(3) {
        None => Some((code, true, String::new())),
        Some(b' ') => Some((code, true, line[4..].to_owned())),
        Some(b'-') => Some((code, false, line[4..].to_owned())),
        Some(_) => None,
    }
}
