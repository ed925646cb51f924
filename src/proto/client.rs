//! What is known of a client: from its connection, or from whoever stands before us and is believed.

use std::net::SocketAddr;

use super::tls::TlsFacts;

/// A client's name in the DNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClientName {
    /// This one.
    Known(Box<str>),
    /// It has none, or nobody looked it up.
    #[default]
    Unavailable,
    /// It could not be looked up for the moment.
    TemporarilyUnavailable,
}

/// What a client is called in the DNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientNames {
    /// The name its address leads to that leads back to it (RFC 8601 §2.7.3).
    pub verified: ClientName,
    /// A name its address leads to, whether or not that leads back.
    pub reverse: ClientName,
}

impl ClientNames {
    /// A name that leads both ways, or why there is none of either kind.
    #[must_use]
    pub fn both(name: ClientName) -> Self {
        Self { reverse: name.clone(), verified: name }
    }
}

/// Whether the client speaks ESMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientProtocol {
    /// It said HELO.
    Smtp,
    /// It said EHLO.
    Esmtp,
}

/// Who a client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFacts {
    /// Its address; port 0 where that is not known.
    pub address: SocketAddr,
    /// Where it connected to, if that is known.
    pub destination: Option<SocketAddr>,
    /// Its names in the DNS.
    pub names: ClientNames,
    /// What it called itself in HELO or EHLO.
    pub helo: Box<str>,
    /// How it greeted.
    pub protocol: ClientProtocol,
    /// The TLS session it is in, with us.
    pub tls: Option<TlsFacts>,
}
