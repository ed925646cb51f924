//! One byte stream, whatever carries it.
//!
//! An enum rather than a generic parameter: the session's code is written once and says what it can meet.
//! The in-memory form carries the conversations of tests and simulations, where the clock is paused.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use super::tls::TlsStream;

/// A connection to a client or a backend.
#[derive(Debug)]
pub enum Stream {
    /// A plain socket.
    Tcp(TcpStream),
    /// A pipe within this process.
    Memory(DuplexStream),
    /// One of the others inside TLS. Boxed, for plain connections are many and it is large.
    Tls(Box<TlsStream>),
    /// None any more: a handshake took it and came to nothing. Reads as ended.
    Gone,
}

/// What a look at the receiving side found, without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Nothing has arrived.
    Nothing,
    /// Octets.
    Octets,
    /// The end of the stream, or an error.
    End,
}

/// How much of what has arrived is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// All of it, and more.
    Open,
    /// So many octets.
    Until(usize),
}

impl Stream {
    /// Whether something has arrived that was not read yet. Asks the system itself, since the runtime
    /// learns of arrivals late. Inside TLS only application data counts. What cannot be seen without taking it out is appended to `buffer`.
    pub fn pending(&mut self, buffer: &mut Vec<u8>) -> Pending {
        match self {
            Self::Tcp(stream) => {
                let mut octet = [MaybeUninit::uninit()];
                match socket2::SockRef::from(&*stream).peek(&mut octet) {
                    Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Pending::Nothing,
                    Ok(1..) => Pending::Octets,
                    _ => Pending::End,
                }
            }
            Self::Memory(stream) => {
                // A pipe of our own has no way to look without taking.
                let mut octet = [0];
                let mut taken = ReadBuf::new(&mut octet);
                let mut context = Context::from_waker(std::task::Waker::noop());
                match Pin::new(stream).poll_read(&mut context, &mut taken) {
                    Poll::Pending => Pending::Nothing,
                    Poll::Ready(_) if taken.filled().is_empty() => Pending::End,
                    Poll::Ready(_) => {
                        buffer.extend_from_slice(taken.filled());
                        Pending::Octets
                    }
                }
            }
            Self::Tls(stream) => stream.pending(),
            Self::Gone => Pending::End,
        }
    }

    /// Takes the connection out, for a handshake.
    #[must_use]
    pub const fn hand_over(&mut self) -> Self {
        std::mem::replace(self, Self::Gone)
    }

    /// Our own end of a socket: where a client connected to, which TPROXY may have redirected here.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.carrier().local_address(),
            Self::Memory(_) | Self::Gone => None,
        }
    }

    /// The other end of a socket.
    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.carrier().peer_address(),
            Self::Memory(_) | Self::Gone => None,
        }
    }

    /// Reads no more of what arrives than `whole` wants: at the start of a connection nobody knows yet who is to read
    /// what follows. `whole` is shown `seen`, which was taken before, and what arrives behind it; [`Prefix::Open`]
    /// takes all of that and waits for more.
    ///
    /// Gives what was taken: beyond what `whole` wants only what it had wanted before.
    ///
    /// # Errors
    /// Those of the stream, its end among them.
    pub async fn read_prefix(
        &mut self,
        mut seen: Vec<u8>,
        mut whole: impl FnMut(&[u8]) -> Prefix,
    ) -> io::Result<Vec<u8>> {
        let mut shown = 0;
        loop {
            let taken = seen.len() - shown;
            match whole(&seen) {
                Prefix::Open => self.skip(shown).await?,
                Prefix::Until(end) => {
                    seen.truncate(end.max(taken));
                    self.skip(seen.len() - taken).await?;
                    return Ok(seen);
                }
            }
            shown = self.peek(&mut seen).await?;
        }
    }

    /// Appends octets that have arrived. Gives how many of them were not taken; a pipe shows nothing, so one is taken.
    async fn peek(&mut self, seen: &mut Vec<u8>) -> io::Result<usize> {
        let mut space = [0; 1024];
        let (octets, shown) = if let Self::Tcp(stream) = self {
            let shown = stream.peek(&mut space).await?;
            (shown, shown)
        } else {
            (self.read(space.get_mut(..1).unwrap_or_default()).await?, 0)
        };
        if octets == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(space.get(..octets).unwrap_or_default());
        Ok(shown)
    }

    /// Takes octets that were peeked at.
    async fn skip(&mut self, mut octets: usize) -> io::Result<()> {
        if let Self::Tcp(stream) = self {
            let mut space = [0; 1024];
            while octets > 0 {
                let here = space.get_mut(..octets.min(1024)).unwrap_or_default();
                match stream.read(here).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => octets -= read,
                }
            }
        }
        Ok(())
    }

    /// Ends the connection with a reset instead of a farewell, so that a peer in the middle of a message
    /// cannot take what it has for the whole.
    pub fn abort(self) {
        let carrier = match &self {
            // Dropped without close_notify: inside TLS, too, the end is not a clean one.
            Self::Tls(stream) => stream.carrier(),
            plain => plain,
        };
        if let Self::Tcp(stream) = carrier {
            // Without it the kernel would still deliver what is buffered, then a clean end.
            let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Ok(())),
        }
    }
}

/// Reads once and appends what came to `buffer`; 0 is the end of the stream.
///
/// The octets pass through a buffer on the stack that exists only while the read runs, so that a connection
/// that waits holds no memory for it.
///
/// # Errors
/// Those of the stream.
pub async fn read_some(stream: &mut Stream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut space = [MaybeUninit::<u8>::uninit(); 8192];
        let mut chunk = ReadBuf::uninit(&mut space);
        std::task::ready!(Pin::new(&mut *stream).poll_read(cx, &mut chunk))?;
        buffer.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    })
    .await
}

/// Writes all of `octets`, down to the system: inside TLS what was taken is not yet on its way.
///
/// # Errors
/// Those of the stream.
pub async fn write_through(stream: &mut Stream, octets: &[u8]) -> io::Result<()> {
    stream.write_all(octets).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_plain_stream_does_not_pay_for_tls() {
        assert!(size_of::<Stream>() <= 48, "{}", size_of::<Stream>());
    }

    use super::*;

    #[tokio::test]
    async fn a_prefix_takes_no_octet_too_many() {
        let line = |seen: &[u8]| {
            seen.iter().position(|b| *b == b'\n').map_or(Prefix::Open, |at| Prefix::Until(at + 1))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Stream::Tcp(listener.accept().await.unwrap().0);
        let (piped, mut pipe) = tokio::io::duplex(64);
        let mut piped = Stream::Memory(piped);
        for part in ["fir", "st\nsecond\n\x16\x03"] {
            far.write_all(part.as_bytes()).await.unwrap();
            pipe.write_all(part.as_bytes()).await.unwrap();
        }
        for stream in [&mut near, &mut piped] {
            assert_eq!(stream.read_prefix(Vec::new(), line).await.unwrap(), b"first\n");
            assert_eq!(stream.read_prefix(Vec::new(), line).await.unwrap(), b"second\n");
            let mut rest = [0; 2];
            stream.read_exact(&mut rest).await.unwrap();
            assert_eq!(rest, [0x16, 0x03]);
        }
        drop((far, pipe));
        assert!(
            near.read_prefix(Vec::new(), line).await.is_err()
                && piped.read_prefix(Vec::new(), line).await.is_err()
        );
    }

    #[tokio::test]
    async fn pending_sees_what_was_not_read() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Stream::Memory(near);
        let mut buffer = Vec::new();
        assert_eq!(near.pending(&mut buffer), Pending::Nothing);
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.pending(&mut buffer), Pending::Octets);
        assert_eq!(buffer, b"x", "what was taken is not lost");

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Stream::Tcp(listener.accept().await.unwrap().0);
        buffer.clear();
        assert_eq!(near.pending(&mut buffer), Pending::Nothing);
        far.write_all(b"xy").await.unwrap();
        assert!(read_some(&mut near, &mut buffer).await.unwrap() > 0);
        drop(far);
        assert_eq!(read_some(&mut near, &mut Vec::new()).await.unwrap(), 0);
        assert_eq!(near.pending(&mut buffer), Pending::End);
    }
}
