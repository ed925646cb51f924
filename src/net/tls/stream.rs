//! A stream inside TLS, and what may be known of it without waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustls::{ConnectionCommon, SideData};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::stream::{Pending, Stream};

/// A connection to a client or a backend, encrypted.
#[derive(Debug)]
pub struct TlsStream(pub(super) tokio_rustls::TlsStream<Records>);

impl TlsStream {
    pub(super) fn new(stream: impl Into<tokio_rustls::TlsStream<Records>>) -> Self {
        Self(stream.into())
    }

    /// What carries it.
    pub(in crate::net) fn carrier(&self) -> &Stream {
        &self.0.get_ref().0.stream
    }

    /// Whether application data has arrived that was not read yet, decrypted or not. Whatever else a peer may
    /// send at any time (tickets, key updates: RFC 8446 §4.6) is dealt with and does not count.
    pub(in crate::net) fn pending(&mut self) -> Pending {
        match &mut self.0 {
            tokio_rustls::TlsStream::Client(stream) => {
                let (records, connection) = stream.get_mut();
                pending(records, connection)
            }
            tokio_rustls::TlsStream::Server(stream) => {
                let (records, connection) = stream.get_mut();
                pending(records, connection)
            }
        }
    }
}

/// Reads of a look at most: a peer that sends records without data faster than we read them is up to no good.
const READS: usize = 64;

fn pending<S: SideData>(records: &mut Records, connection: &mut ConnectionCommon<S>) -> Pending {
    for _ in 0..READS {
        match connection.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() > 0 => return Pending::Octets,
            Ok(state) if state.peer_has_closed() => return Pending::End,
            Ok(_) => {}
            Err(_) => return Pending::End,
        }
        match connection.read_tls(&mut Now(records)) {
            Ok(1..) => {}
            // Half a record cannot be read, and may be the beginning of what nobody asked for.
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                let begun = records.framing.may_be_amid_data();
                return if begun { Pending::Octets } else { Pending::Nothing };
            }
            Ok(0) | Err(_) => return Pending::End,
        }
    }
    Pending::Octets
}

/// The records of a connection on their way to who decrypts them, counted.
#[derive(Debug)]
pub(super) struct Records {
    pub(super) stream: Stream,
    framing: Framing,
}

impl Records {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, framing: Framing::default() }
    }
}

/// How far a record has arrived (RFC 8446 §5.1).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Framing {
    header: [u8; 5],
    /// Octets of the header that are there.
    begun: usize,
    /// Octets still to come behind a whole header.
    missing: usize,
}

impl Framing {
    fn advance(&mut self, mut octets: &[u8]) {
        while let Some((&first, rest)) = octets.split_first() {
            if let Some(place) = self.header.get_mut(self.begun) {
                *place = first;
                self.begun += 1;
                octets = rest;
                if let [_, _, _, high, low] = self.header
                    && self.begun == self.header.len()
                {
                    self.missing = usize::from(u16::from_be_bytes([high, low]));
                }
            } else {
                let here = self.missing.min(octets.len());
                self.missing -= here;
                octets = octets.get(here..).unwrap_or_default();
            }
            if self.begun == self.header.len() && self.missing == 0 {
                *self = Self::default();
            }
        }
    }

    /// Whether a record has begun that may hold application data. In TLS 1.3 all look as if they did.
    const fn may_be_amid_data(&self) -> bool {
        const APPLICATION_DATA: u8 = 23;
        self.begun > 0 && self.header[0] == APPLICATION_DATA
    }
}

impl AsyncRead for Records {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, framing } = self.get_mut();
        let before = buf.filled().len();
        std::task::ready!(Pin::new(stream).poll_read(cx, buf))?;
        framing.advance(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Reads what is there at this moment.
struct Now<'r>(&'r mut Records);

impl io::Read for Now<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Records { stream, framing } = &mut *self.0;
        let read = match stream {
            // Asks the system itself: the runtime learns of arrivals late.
            Stream::Tcp(stream) => (&*socket2::SockRef::from(&*stream)).read(buf)?,
            stream => {
                let mut taken = ReadBuf::new(buf);
                let mut context = Context::from_waker(Waker::noop());
                match Pin::new(stream).poll_read(&mut context, &mut taken) {
                    Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
                    Poll::Ready(read) => read?,
                }
                taken.filled().len()
            }
        };
        framing.advance(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_followed_in_any_pieces() {
        let two = [&[22, 3, 3, 0, 3, 1, 2, 3][..], &[23, 3, 3, 1, 0], &[0; 256], &[23, 3, 3, 0, 0]].concat();
        for cut in 1..two.len() {
            let mut framing = Framing::default();
            for piece in two.chunks(cut) {
                framing.advance(piece);
            }
            assert_eq!(framing, Framing::default(), "in pieces of {cut}");
        }
        let mut framing = Framing::default();
        let mut rest = two.as_slice();
        for (octets, amid) in [(8, false), (1, true), (4, true), (255, true), (1, false), (5, false)] {
            let (piece, behind) = rest.split_at(octets);
            framing.advance(piece);
            rest = behind;
            assert_eq!(framing.may_be_amid_data(), amid, "with {} to come", rest.len());
        }
    }
}
