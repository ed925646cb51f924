//! One byte stream, whatever carries it.
//!
//! An enum rather than a generic parameter: the session's code is written once and says what it can meet.
//! The in-memory form carries the conversations of tests and simulations, where the clock is paused.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
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
