//! PROXY headers as they are written to a backend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{V2_FIXED, V2_START, Version};
use crate::proto::tls::TlsFacts;

/// Longest unique identifier (§2.2.4), and longest text of ours in any extension.
const TEXT_MOST: usize = 128;

const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CIPHER: u8 = 0x23;
/// The client connected over TLS.
const CLIENT_SSL: u8 = 0x01;

/// For a connection that is made for no client (probes, health) between these two ends, where they are known.
///
/// Version 1 names its own ends, which says the same as UNKNOWN: that word Postfix refuses.
#[must_use]
pub fn local(version: Version, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match (version, ends) {
        (Version::One, Some((ours, theirs))) => v1(ours, Some(theirs)),
        (Version::One, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (Version::Two, _) => [V2_START, &[0x20, 0, 0, 0]].concat(),
    }
}

/// Version 1, for `client`, which connected to `destination` as far as that is known.
#[must_use]
pub fn v1(client: SocketAddr, destination: Option<SocketAddr>) -> Vec<u8> {
    let (from, to) = pair(client, destination);
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
}

/// Version 2, with the name of the session and what is known of its TLS.
#[must_use]
pub fn proxied(
    client: SocketAddr,
    destination: Option<SocketAddr>,
    session: &str,
    tls: Option<&TlsFacts>,
) -> Vec<u8> {
    let (from, to) = pair(client, destination);
    let mut block = Vec::with_capacity(128);
    for ip in [from.ip(), to.ip()] {
        match ip {
            IpAddr::V4(v4) => block.extend(v4.octets()),
            IpAddr::V6(v6) => block.extend(v6.octets()),
        }
    }
    block.extend(from.port().to_be_bytes());
    block.extend(to.port().to_be_bytes());
    extension(UNIQUE_ID, session.as_bytes(), &mut block);
    if let Some(tls) = tls {
        if let Some(name) = &tls.server_name {
            extension(AUTHORITY, name.as_bytes(), &mut block);
        }
        // No client certificate was verified: anything but zero says so.
        let mut ssl = vec![CLIENT_SSL, 0, 0, 0, 1];
        extension(SSL_VERSION, tls.version.as_str().as_bytes(), &mut ssl);
        extension(SSL_CIPHER, tls.openssl_cipher().as_bytes(), &mut ssl);
        extension(SSL, &ssl, &mut block);
    }
    let mut header = Vec::with_capacity(V2_FIXED + block.len());
    header.extend(V2_START);
    header.extend([0x21, if from.is_ipv4() { 0x11 } else { 0x21 }]);
    header.extend(u16::try_from(block.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(block);
    header
}

/// Kind, length, value; a value too long for its purpose is left out as a whole.
fn extension(kind: u8, value: &[u8], out: &mut Vec<u8>) {
    let most = if kind == SSL { usize::from(u16::MAX) } else { 2 * TEXT_MOST };
    if let Ok(len) = u16::try_from(value.len())
        && value.len() <= most
    {
        out.push(kind);
        out.extend(len.to_be_bytes());
        out.extend(value);
    }
}

/// Both ends in one family: that of the client where the other is not known, IPv6 where they differ.
fn pair(client: SocketAddr, destination: Option<SocketAddr>) -> (SocketAddr, SocketAddr) {
    let canonical = |socket: SocketAddr| SocketAddr::new(socket.ip().to_canonical(), socket.port());
    let client = canonical(client);
    let nowhere = match client.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let destination = destination.map_or_else(|| SocketAddr::new(nowhere, 0), canonical);
    let wide = |socket: SocketAddr| match socket.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), socket.port()),
        IpAddr::V6(_) => socket,
    };
    if client.is_ipv4() == destination.is_ipv4() {
        (client, destination)
    } else {
        (wide(client), wide(destination))
    }
}
