//! The real servers, and what each makes of the octets it is given.

use crate::model::{Chunking, Framing, Message};
use crate::support::aiosmtpd::Aiosmtpd;
use crate::support::exim::Exim;
use crate::support::postfix::Postfix;
use std::net::SocketAddr;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postfix,
    Exim,
    Aiosmtpd,
}

/// A running server.
pub enum Store {
    Postfix(Postfix),
    Exim(Exim),
    Aiosmtpd(Aiosmtpd),
}

/// Header fields that a server, or Backstop, puts before a message.
const TRACE: [&str; 6] =
    ["return-path", "x-original-to", "delivered-to", "received", "envelope-to", "delivery-date"];

impl Store {
    /// Starts one with these mailboxes; none where there is no such server.
    pub async fn start(kind: Kind, mailboxes: &[&str]) -> Option<Self> {
        match kind {
            // Its log of every conversation would be most of the work.
            Kind::Postfix => {
                Some(Self::Postfix(Postfix::start_with(mailboxes, &[("debug_peer_list", "")]).await))
            }
            Kind::Exim => Exim::start(mailboxes).await.map(Self::Exim),
            Kind::Aiosmtpd => Some(Self::Aiosmtpd(Aiosmtpd::start(mailboxes))),
        }
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Postfix(postfix) => postfix.address(),
            Self::Exim(exim) => exim.address(),
            Self::Aiosmtpd(aiosmtpd) => aiosmtpd.address(),
        }
    }

    /// Whether it takes chunks.
    pub fn chunking(&self) -> Chunking {
        match self {
            Self::Postfix(_) | Self::Exim(_) => Chunking::Offered,
            Self::Aiosmtpd(_) => Chunking::Missing,
        }
    }

    /// Waits until it holds all that it will ever hold. To be called when nobody talks to it any more.
    pub async fn settled(&mut self) {
        match self {
            Self::Postfix(postfix) => postfix.settled().await,
            Self::Exim(exim) => exim.settled().await,
            Self::Aiosmtpd(aiosmtpd) => aiosmtpd.settled().await,
        }
    }

    /// The messages in a mailbox without the header fields put before them, in no particular order.
    pub fn messages(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let stored = match self {
            Self::Postfix(postfix) => postfix.messages(mailbox),
            Self::Exim(exim) => exim.messages(mailbox),
            Self::Aiosmtpd(aiosmtpd) => aiosmtpd.messages(mailbox),
        };
        stored.iter().map(|message| untraced(message).to_vec()).collect()
    }

    /// The message as this server stores it.
    pub fn as_stored(&self, message: &Message) -> Vec<u8> {
        match (self, message.framing) {
            (Self::Aiosmtpd(_), _) => message.content.clone(),
            (_, Framing::Lines) => unix(&message.content),
            (Self::Postfix(_), Framing::Chunks) => postfix_chunks(&message.content),
            (Self::Exim(_), Framing::Chunks) => exim_chunks(&message.content),
        }
    }
}

/// What stands behind the trace fields.
fn untraced(message: &[u8]) -> &[u8] {
    let mut rest = message;
    loop {
        let line = &rest[..memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1)];
        let name = line.split(|&octet| octet == b':').next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        // Behind the first field that is none of them nothing is skipped: continuation lines follow a field.
        let continues = line.starts_with(b"\t") || line.starts_with(b" ");
        if line.is_empty() || !(continues || TRACE.contains(&name.as_str())) {
            return rest;
        }
        rest = &rest[line.len()..];
    }
}

/// With LF for CRLF.
fn unix(content: &[u8]) -> Vec<u8> {
    let mut octets = content.to_vec();
    octets.retain(|&octet| octet != b'\r');
    octets
}

/// Postfix ends a line of a chunk at LF and drops the CRs before it; a CR elsewhere becomes a space. It ends the last
/// line.
fn postfix_chunks(content: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        let text = line.strip_suffix(b"\n").map_or(line, |text| {
            let end = text.iter().rposition(|&octet| octet != b'\r').map_or(0, |last| last + 1);
            &text[..end]
        });
        stored.extend(text.iter().map(|&octet| if octet == b'\r' { b' ' } else { octet }));
        stored.push(b'\n');
    }
    stored
}

/// Exim takes CRLF, CR and LF in a chunk for newlines, but not a CR that is the very last octet. It ends the last line.
fn exim_chunks(content: &[u8]) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut octets = content.strip_suffix(b"\r").unwrap_or(content).iter().peekable();
    while let Some(&octet) = octets.next() {
        match octet {
            b'\r' => {
                octets.next_if(|&&next| next == b'\n');
                stored.push(b'\n');
            }
            octet => stored.push(octet),
        }
    }
    if !stored.ends_with(b"\n") {
        stored.push(b'\n');
    }
    stored
}
