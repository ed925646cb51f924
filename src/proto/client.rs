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
    /// Its name in the DNS.
    pub name: ClientName,
    /// What it called itself in HELO or EHLO.
    pub helo: Box<str>,
    /// How it greeted.
    pub protocol: ClientProtocol,
    /// The TLS session it is in, with us.
    pub tls: Option<TlsFacts>,
}
