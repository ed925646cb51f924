//! For whom a session with a backend is, and how the backend is told.
//!
//! A session that was introduced as one client's misleads the backend about any other, so it is used again for
//! another only where it can be introduced anew, which is with XCLIENT. A PROXY header and the address a connection comes
//! from hold for the whole connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::ClientAddress;
use crate::net::dial;
use crate::proto::client::ClientFacts;
use crate::proto::proxy_header::{self, Version};

/// Whom a backend session is introduced as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Introduction {
    /// Us, whoever it serves.
    Ourselves,
    /// This client of ours.
    Client {
        /// How the backend is told.
        means: Means,
        /// What it is told.
        client: Arc<ClientFacts>,
        /// The name of the client's session.
        session: Box<str>,
    },
}

/// How a backend is told who the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// A command, once greeted.
    Xclient,
    /// The first octets of the connection.
    Proxy(Version),
    /// The address the connection comes from.
    Transparent,
}

/// Whether a session introduced before will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// As it is.
    AsItIs,
    /// Once it is introduced anew.
    Anew,
    /// It will not.
    Never,
}

impl Introduction {
    /// As a route with this key introduces `client`.
    #[must_use]
    pub fn of(key: ClientAddress, session: &str, client: impl FnOnce() -> ClientFacts) -> Self {
        let means = match key {
            ClientAddress::None => return Self::Ourselves,
            ClientAddress::Xclient => Means::Xclient,
            ClientAddress::ProxyV1 => Means::Proxy(Version::One),
            ClientAddress::ProxyV2 => Means::Proxy(Version::Two),
            ClientAddress::Transparent => Means::Transparent,
        };
        Self::Client { means, client: Arc::new(client()), session: session.into() }
    }

    /// How, if as a client.
    #[must_use]
    pub const fn means(&self) -> Option<Means> {
        match self {
            Self::Ourselves => None,
            Self::Client { means, .. } => Some(*means),
        }
    }

    /// The session it holds for, where it holds for a whole connection and so for no other.
    #[must_use]
    pub fn bound_to(&self) -> Option<&str> {
        match self {
            Self::Client { means: Means::Proxy(_) | Means::Transparent, session, .. } => Some(session),
            Self::Client { means: Means::Xclient, .. } | Self::Ourselves => None,
        }
    }

    /// The session of the client it is of.
    pub(super) fn session(&self) -> Option<&str> {
        match self {
            Self::Client { session, .. } => Some(session),
            Self::Ourselves => None,
        }
    }

    /// Whether a session introduced as `earlier` will do for this.
    pub(super) fn fit(&self, earlier: &Self) -> Fit {
        match (self.means(), earlier.means()) {
            _ if self == earlier => Fit::AsItIs,
            (Some(Means::Xclient), Some(Means::Xclient)) => Fit::Anew,
            _ => Fit::Never,
        }
    }

    /// From where the connection is to come.
    pub(super) fn origin(&self) -> dial::Origin {
        match self {
            Self::Client { means: Means::Transparent, client, .. } => dial::Origin::Client(client.address),
            _ => dial::Origin::Ours,
        }
    }

    /// The first octets of a connection between these `ends`, if a server behind PROXY headers is to have them; `expected`
    /// says that it wants one on every connection.
    pub(super) fn header(
        &self,
        expected: Option<Version>,
        ends: Option<(SocketAddr, SocketAddr)>,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Client { means: Means::Proxy(version), client, session } => {
                let (address, destination): (SocketAddr, _) = (client.address, client.destination);
                Some(match version {
                    Version::One => proxy_header::v1(address, destination),
                    Version::Two => proxy_header::proxied(address, destination, session, client.tls.as_ref()),
                })
            }
            _ => expected.map(|version| proxy_header::local(version, ends)),
        }
    }

    /// The name to greet with; XCLIENT comes behind a greeting of our own.
    pub(super) fn greets_as<'n>(&'n self, ours: &'n str) -> &'n str {
        match self {
            Self::Client { means: Means::Proxy(_) | Means::Transparent, client, .. } => &client.helo,
            Self::Client { means: Means::Xclient, .. } | Self::Ourselves => ours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::{ClientNames, ClientProtocol};

    fn client(key: ClientAddress, session: &str, helo: &str) -> Introduction {
        Introduction::of(key, session, || ClientFacts {
            address: "192.0.2.1:40000".parse().unwrap(),
            destination: None,
            names: ClientNames::default(),
            helo: helo.into(),
            protocol: ClientProtocol::Esmtp,
            tls: None,
        })
    }

    #[test]
    fn a_session_is_never_used_where_it_would_mislead_the_backend() {
        use ClientAddress::{None, ProxyV1, ProxyV2, Transparent, Xclient};
        for (earlier, wanted, reuse) in [
            ((None, "a", "x"), (None, "b", "y"), Fit::AsItIs),
            ((Xclient, "a", "x"), (Xclient, "a", "x"), Fit::AsItIs),
            ((Xclient, "a", "x"), (Xclient, "b", "x"), Fit::Anew),
            ((Xclient, "a", "x"), (Xclient, "a", "y"), Fit::Anew),
            ((Xclient, "a", "x"), (None, "a", "x"), Fit::Never),
            ((None, "a", "x"), (Xclient, "a", "x"), Fit::Never),
            ((ProxyV1, "a", "x"), (ProxyV1, "a", "x"), Fit::AsItIs),
            ((ProxyV1, "a", "x"), (ProxyV1, "b", "x"), Fit::Never),
            ((ProxyV2, "a", "x"), (ProxyV2, "a", "y"), Fit::Never),
            ((ProxyV1, "a", "x"), (ProxyV2, "a", "x"), Fit::Never),
            ((Transparent, "a", "x"), (Transparent, "a", "x"), Fit::AsItIs),
            ((Transparent, "a", "x"), (Transparent, "b", "x"), Fit::Never),
            ((Transparent, "a", "x"), (None, "a", "x"), Fit::Never),
        ] {
            let of = |(key, session, helo)| client(key, session, helo);
            assert_eq!(of(wanted).fit(&of(earlier)), reuse, "{wanted:?} after {earlier:?}");
        }
    }

    #[test]
    fn a_server_that_wants_headers_gets_one_for_nobody_too() {
        let expected = Some(Version::One);
        assert_eq!(Introduction::Ourselves.header(expected, None).unwrap(), b"PROXY UNKNOWN\r\n");
        assert_eq!(Introduction::Ourselves.header(None, None), None);
        let told = client(ClientAddress::ProxyV1, "a", "x").header(expected, None).unwrap();
        assert_eq!(told, b"PROXY TCP4 192.0.2.1 0.0.0.0 40000 0\r\n");
    }
}
