//! The PROXY protocol, versions 1 and 2: who the client of a connection is, said before its first octet.
//!
//! Reading is strict, for whoever can make a header be read as another than was sent can be any client: one
//! grammar, ports without leading zeros, no address block shorter than its family's, TLVs that fill their
//! room exactly, a CRC32C that is right where one is given, and no header above [`MOST`] octets. Whether a
//! header may come at all is not decided here.
//!
//! Known limits: only TCP over IPv4 and IPv6 says who the client is. UNIX sockets and datagrams are refused.
//!
//! Specification: proxy-protocol.txt of HAProxy, §2.1 (version 1), §2.2 (version 2).

mod crc32c;
mod write;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use write::{local, proxied, v1};

/// Longest header taken, in octets. Those of this world have a few hundred, client certificates included.
pub const MOST: usize = V2_FIXED + 2048;
/// Longest header of version 1, CRLF included (§2.1).
const V1_MOST: usize = 107;
/// How one of version 1 begins.
const V1_START: &[u8] = b"PROXY ";
/// How one of version 2 begins.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The part of version 2 that every header has.
const V2_FIXED: usize = 16;

/// Which form a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// Who a header says the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The sender of the header itself, or someone it does not know: LOCAL, UNKNOWN.
    Sender,
    /// This client.
    Client {
        /// Its address.
        address: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// What the octets at the start of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Not to be told yet: more must come.
    Open,
    /// No header.
    Other,
    /// A header.
    Header {
        /// Its octets.
        len: usize,
        /// What it says.
        source: Source,
    },
}

/// What is wrong with something that began as a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Longer than any header may be.
    #[error("longer than a header may be")]
    TooLong,
    /// Not the line that version 1 is.
    #[error("not a PROXY line")]
    Line,
    /// Not a version or command of version 2.
    #[error("an unknown version or command")]
    Command,
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("neither TCP over IPv4 nor over IPv6")]
    Family,
    /// The addresses of its family do not fit.
    #[error("shorter than the addresses of its family")]
    TooShort,
    /// TLVs that do not fill their room.
    #[error("malformed extensions")]
    Extensions,
    /// A checksum that is wrong.
    #[error("a wrong checksum")]
    Checksum,
}

/// Looks at the first octets of a connection.
///
/// # Errors
/// The [`HeaderFault`] of what began as a header and is none.
pub fn read(input: &[u8]) -> Result<Start, HeaderFault> {
    if begins(input, V2_START) {
        version_2(input)
    } else if begins(input, V1_START) {
        version_1(input)
    } else {
        Ok(Start::Other)
    }
}

/// Whether `input` is, as far as it goes, what begins with `start`.
fn begins(input: &[u8], start: &[u8]) -> bool {
    input.iter().zip(start).all(|(a, b)| a == b)
}

fn version_1(input: &[u8]) -> Result<Start, HeaderFault> {
    let line = input.get(..V1_MOST).unwrap_or(input);
    let Some(end) = line.iter().position(|b| matches!(b, b'\r' | b'\n')) else {
        return if line.len() < V1_MOST { Ok(Start::Open) } else { Err(HeaderFault::TooLong) };
    };
    match line.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        Some([b'\r']) if line.len() < V1_MOST => return Ok(Start::Open),
        _ => return Err(HeaderFault::Line),
    }
    let words = line.get(V1_START.len()..end).and_then(|words| std::str::from_utf8(words).ok());
    let source = words.and_then(words_of_version_1).ok_or(HeaderFault::Line)?;
    Ok(Start::Header { len: end + 2, source })
}

/// `TCP4 source destination port port`, or `UNKNOWN` and anything behind it.
fn words_of_version_1(words: &str) -> Option<Source> {
    let mut words = words.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Source::Sender);
    }
    let ip = |word: &str| match family {
        "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => None,
    };
    let (from, to) = (ip(words.next()?)?, ip(words.next()?)?);
    let (from_port, to_port) = (port(words.next()?)?, port(words.next()?)?);
    let source = Source::client(SocketAddr::new(from, from_port), SocketAddr::new(to, to_port));
    words.next().is_none().then_some(source)
}

/// A decimal number without sign and leading zeros: two headers that say the same are the same.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

fn version_2(input: &[u8]) -> Result<Start, HeaderFault> {
    let Some(([.., command, family, high, low], _)) = input.split_first_chunk::<V2_FIXED>() else {
        return Ok(Start::Open);
    };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MOST {
        return Err(HeaderFault::TooLong);
    }
    if !matches!(command, 0x20 | 0x21) {
        return Err(HeaderFault::Command);
    }
    let Some(header) = input.get(..len) else { return Ok(Start::Open) };
    let block = header.get(V2_FIXED..).unwrap_or_default();
    let (source, extensions) = match family {
        // What stands behind them is to be passed over, whatever it is (§2.2).
        _ if *command == 0x20 => (Source::Sender, None),
        0x00 => (Source::Sender, None),
        0x11 => {
            let (from, to, from_port, to_port, rest) = addresses::<4>(block).ok_or(HeaderFault::TooShort)?;
            let socket = |ip: [u8; 4], port| SocketAddr::new(Ipv4Addr::from(ip).into(), port);
            (Source::client(socket(from, from_port), socket(to, to_port)), Some(rest))
        }
        0x21 => {
            let (from, to, from_port, to_port, rest) = addresses::<16>(block).ok_or(HeaderFault::TooShort)?;
            let socket = |ip: [u8; 16], port| SocketAddr::new(Ipv6Addr::from(ip).into(), port);
            (Source::client(socket(from, from_port), socket(to, to_port)), Some(rest))
        }
        _ => return Err(HeaderFault::Family),
    };
    if let Some(extensions) = extensions {
        check_extensions(header, extensions)?;
    }
    Ok(Start::Header { len, source })
}

/// Two addresses of `N` octets, two ports, and what stands behind them.
type Addresses<'b, const N: usize> = ([u8; N], [u8; N], u16, u16, &'b [u8]);

fn addresses<const N: usize>(block: &[u8]) -> Option<Addresses<'_, N>> {
    let (from, rest) = block.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, rest) = rest.split_first_chunk::<2>()?;
    Some((*from, *to, u16::from_be_bytes(*from_port), u16::from_be_bytes(*to_port), rest))
}

/// The kind of the extension that holds a checksum (§2.2.3).
const CRC32C: u8 = 0x03;

/// Extensions fill what the addresses left, and a checksum among them is right.
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), HeaderFault> {
    while !rest.is_empty() {
        let ([kind, high, low], behind) = rest.split_first_chunk::<3>().ok_or(HeaderFault::Extensions)?;
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, behind) = behind.split_at_checked(len).ok_or(HeaderFault::Extensions)?;
        if *kind == CRC32C {
            let sum = <[u8; 4]>::try_from(value).map_err(|_| HeaderFault::Extensions)?;
            // It is computed over the whole header with zeros in its own place.
            let at = header.len() - behind.len() - len;
            let parts = [header.get(..at).unwrap_or_default(), &[0; 4], behind];
            if crc32c::sum(&parts) != u32::from_be_bytes(sum) {
                return Err(HeaderFault::Checksum);
            }
        }
        rest = behind;
    }
    Ok(())
}

impl Source {
    /// A client that came over IPv4 to a dual-stack socket is one of IPv4.
    fn client(address: SocketAddr, destination: SocketAddr) -> Self {
        let canonical = |socket: SocketAddr| SocketAddr::new(socket.ip().to_canonical(), socket.port());
        Self::Client { address: canonical(address), destination: canonical(destination) }
    }
}

#[cfg(test)]
mod tests;
