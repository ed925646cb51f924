//! Who the client is: at first whoever is at the other end of the socket, then whom a front we trust says it speaks for.
//!
//! Everything that looks at the client (limits, standings, logs, backends) asks here. A header or XCLIENT is believed only from the
//! listener's `trusted`: XCLIENT only where the client that a header names is trusted, too, or anybody behind a balancer could
//! name whom they like. How many connections one client may have is judged when the true one is known.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Session;
use super::client::Heading;
use crate::config::{BareNewline, Listener, ListenerTls, Networks, ProxyProtocol};
use crate::guard::Told;
use crate::net::client_key::ClientKey;
use crate::observe::metrics::ConnectionResult;
use crate::observe::record::End;
use crate::proto::body::BareNewlines;
use crate::proto::client::{ClientFacts, ClientNames, ClientProtocol};
use crate::proto::dialogue::{Hello, HelloKind, Input, Step, Xclient};
use crate::proto::proxy_header::Source;
use crate::proto::replies;
use crate::proto::tls::TlsFacts;
use crate::proto::xclient;
use crate::proto::xclient::Attributes;

/// What is known of the client without its own words.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The other end of the socket.
    peer: SocketAddr,
    front: Front,
    header: ProxyProtocol,
    /// From whom XCLIENT is taken; none where it is from nobody.
    xclient: Option<Networks>,
    client: Described,
    /// Who the client was before XCLIENT said otherwise, outside of TLS.
    before_xclient: Option<Box<Described>>,
}

/// A client, as the socket and those in front of us describe it.
#[derive(Debug, Clone)]
struct Described {
    address: SocketAddr,
    destination: Option<SocketAddr>,
    /// None until somebody says it, or it was looked up.
    names: Option<ClientNames>,
    /// What a front says the client called itself.
    helo: Option<Box<str>>,
    protocol: Option<ClientProtocol>,
    /// The session in TLS is not the client's own: somebody speaks for it.
    spoken_for: bool,
}

/// What the other end of the socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// Somebody: it speaks for itself.
    Stranger,
    /// It is believed when it says for whom it speaks.
    Trusted,
}

impl Arrival {
    /// Of a connection that has said nothing yet.
    pub(super) fn new(peer: SocketAddr, destination: Option<SocketAddr>, listener: &Listener) -> Self {
        let canonical = |socket: SocketAddr| SocketAddr::new(socket.ip().to_canonical(), socket.port());
        let peer = canonical(peer);
        let believes = listener.xclient || listener.proxy_protocol != ProxyProtocol::Off;
        let trusted = believes && listener.trusted.contains(peer.ip());
        Self {
            peer,
            client: Described {
                address: peer,
                destination: destination.map(canonical),
                names: None,
                helo: None,
                protocol: None,
                spoken_for: false,
            },
            before_xclient: None,
            xclient: listener.xclient.then(|| listener.trusted.clone()),
            front: if trusted { Front::Trusted } else { Front::Stranger },
            header: match (listener.proxy_protocol, listener.tls) {
                // Inside TLS the client speaks first: nothing is held back.
                (ProxyProtocol::Late, ListenerTls::Implicit) => ProxyProtocol::Optional,
                (header, _) => header,
            },
        }
    }

    /// The true client, as far as it was told.
    pub(super) const fn address(&self) -> SocketAddr {
        self.client.address
    }

    /// What a front says the client called itself.
    pub(super) fn helo(&self) -> Option<&str> {
        self.client.helo.as_deref()
    }

    /// Whether the client, as it is known by now, may say for whom it speaks.
    pub(super) fn xclient(&self) -> Xclient {
        match &self.xclient {
            Some(trusted) if trusted.contains(self.client.address.ip()) => Xclient::Taken,
            _ => Xclient::Refused,
        }
    }

    /// Whether it is a front whose header is still to come.
    pub(super) fn is_unknown(&self) -> bool {
        (self.header, self.front) == (ProxyProtocol::Late, Front::Trusted) && self.told() == Told::ByTheSocket
    }

    /// Whether a front was believed.
    fn told(&self) -> Told {
        if self.client.address == self.peer { Told::ByTheSocket } else { Told::ByAFront }
    }

    /// A header said so.
    fn is(&mut self, source: Source) {
        if let Source::Client { address, destination } = source {
            self.client.address = address;
            self.client.destination = Some(destination);
        }
    }

    /// XCLIENT said so, inside TLS or not. What it does not name stays.
    fn tell(&mut self, attributes: Attributes, inside_tls: bool) {
        if !inside_tls && self.before_xclient.is_none() {
            self.before_xclient = Some(Box::new(self.client.clone()));
        }
        self.client.tell(attributes);
    }

    /// TLS begins: what XCLIENT said before it was said by whoever wrote on the wire (RFC 3207 §4.2). Gives whether
    /// that makes the client another one.
    pub(super) fn forget_xclient(&mut self) -> bool {
        let before = self.before_xclient.take();
        let told = before.is_some();
        if let Some(before) = before {
            self.client = *before;
        }
        told
    }

    /// All that is known of the client, which greeted so and is in that TLS session.
    pub(super) fn facts(&self, hello: Option<&Hello>, tls: Option<TlsFacts>) -> ClientFacts {
        let said = hello.map_or(ClientProtocol::Esmtp, |hello| match hello.kind {
            HelloKind::Helo => ClientProtocol::Smtp,
            HelloKind::Ehlo => ClientProtocol::Esmtp,
        });
        let Described { address, destination, names, helo, protocol, spoken_for: _ } = &self.client;
        ClientFacts {
            address: *address,
            destination: *destination,
            names: names.clone().unwrap_or_default(),
            // A front greets for itself, perhaps in its own name.
            helo: helo.clone().or_else(|| Some(hello?.name.clone())).unwrap_or_else(|| "unknown".into()),
            protocol: protocol.unwrap_or(said),
            tls,
        }
    }
}

impl Described {
    fn tell(&mut self, attributes: Attributes) {
        use xclient::Told::Known;
        self.spoken_for = true;
        let Attributes {
            name,
            reverse_name,
            address,
            port,
            protocol,
            helo,
            login: _,
            destination,
            destination_port,
        } = attributes;
        if let Some(address) = address {
            self.address = SocketAddr::new(address, 0);
            // Names and a greeting belong to the client they were told of.
            (self.names, self.helo, self.protocol) = (None, None, None);
        }
        if let Some(Known(port)) = port {
            self.address.set_port(port);
        }
        if let Some(name) = name {
            self.names = Some(ClientNames::both(name.into()));
        }
        if let Some(name) = reverse_name {
            self.names.get_or_insert_default().reverse = name.into();
        }
        if let Some(helo) = helo {
            self.helo = if let Known(helo) = helo { Some(helo) } else { None };
        }
        if let Some(Known(protocol)) = protocol {
            self.protocol = Some(protocol);
        }
        if let Some(ip) = destination {
            self.destination = if let Known(ip) = ip { Some(SocketAddr::new(ip, 0)) } else { None };
        }
        if let (Some(Known(port)), Some(destination)) = (destination_port, &mut self.destination) {
            destination.set_port(port);
        }
    }
}

impl Session {
    /// Reads the header a front sends before anything is said, and lets the client in. Gives how the session ended, if it
    /// did.
    pub(super) async fn arrive(&mut self) -> Option<End> {
        match (self.arrival.header, self.arrival.front) {
            (ProxyProtocol::Required, Front::Stranger) => return self.counted(Some(End::ProxyHeader)),
            (ProxyProtocol::Required | ProxyProtocol::Optional, Front::Trusted) => {
                let patience = self.context.config.timeouts.proxy_header;
                if let Some(end) = self.read_header(patience).await {
                    return self.counted(Some(end));
                }
            }
            // Judged when it is there.
            (ProxyProtocol::Late, Front::Trusted) => return None,
            _ => {}
        }
        let end = self.admit();
        self.counted(end)
    }

    /// Reads the header that comes behind our greeting, from fronts that send none before the client speaks.
    pub(super) async fn arrive_late(&mut self) -> Option<End> {
        if (self.arrival.header, self.arrival.front) != (ProxyProtocol::Late, Front::Trusted) {
            return None;
        }
        let patience = self.context.config.timeouts.command;
        let end = match self.read_header(patience).await {
            None => self.admit(),
            end => end,
        };
        self.counted(end)
    }

    /// Reads one header, whose first octet may take as long as `first`.
    async fn read_header(&mut self, first: Duration) -> Option<End> {
        let Ok(unread) = self.context.connections.await_header() else {
            self.client.say(&replies::TOO_MANY_CONNECTIONS);
            return Some(End::Connections);
        };
        let rest = self.context.config.timeouts.proxy_header;
        if self.client.flush(rest).await.is_err() {
            return Some(End::ClientLost);
        }
        let due = Instant::now() + rest;
        let silence = async {
            tokio::select! {
                () = sleep(first) => {}
                () = unread.make_way(due) => {}
            }
        };
        let heading = tokio::select! {
            heading = self.client.heading(silence, rest) => heading,
            () = self.context.drain.idle_ends() => {
                self.client.say(&replies::DRAINING);
                return Some(End::Drained);
            }
        };
        drop(unread);
        let required = self.arrival.header == ProxyProtocol::Required;
        match heading {
            Heading::Says(source) => {
                self.arrival.is(source);
                self.dialogue.set_xclient(self.arrival.xclient());
            }
            Heading::Silence if self.arrival.header == ProxyProtocol::Late => {
                self.client.say(&replies::IDLE);
                return Some(End::Idle);
            }
            Heading::Missing | Heading::Silence if !required => {}
            Heading::Gone => return Some(End::ClientLost),
            Heading::Missing | Heading::Silence | Heading::Late => return Some(End::ProxyHeader),
            Heading::Bad(fault) => {
                tracing::debug!(session = %self.record.session, %fault, "PROXY header refused");
                return Some(End::ProxyHeader);
            }
        }
        None
    }

    /// Lets the client in, now that it is known who it is: what depends on that is set, and how many connections it has
    /// is judged.
    fn admit(&mut self) -> Option<End> {
        let address = self.arrival.address();
        let limits = &self.context.config.limits;
        self.key = ClientKey::of(address.ip());
        self.bypass = limits.bypass.contains(address.ip());
        self.bare_newlines =
            bare_newlines(limits.bare_newline, limits.bare_newline_exempt.contains(address.ip()));
        self.record.client(address, self.arrival.peer);
        // The place of the client before is not counted against this one.
        self.admission = None;
        // One that speaks for many has as many connections as they.
        let front = self.arrival.front == Front::Trusted && self.arrival.told() == Told::ByTheSocket;
        let connections = &self.context.connections;
        let admission = if front { connections.admit_front() } else { connections.admit(address.ip()) };
        match admission {
            Ok(admission) => self.admission = Some(admission),
            Err(_) if self.bypass => {}
            Err(_) => {
                self.client.say(&replies::TOO_MANY_CONNECTIONS);
                return Some(End::Connections);
            }
        }
        // Health checks of a balancer all come from itself.
        if !front && !self.bypass {
            self.note_source(address.ip());
        }
        self.judge_client()
    }

    /// Says so once when every client seems to be one and the same.
    fn note_source(&self, address: IpAddr) {
        if self.context.sources.note(address, self.arrival.told()) {
            tracing::warn!(
                client = %address,
                "every client so far has one of a few private addresses: something in front hides who they are (source NAT), so \
                 limits hold for all of them together; see docs/client-address.md"
            );
        }
    }

    /// Looks the client's names up, unless they are known already, what a front said of them included.
    pub(super) async fn name_client(&mut self) {
        if self.context.config.dns.client_names && self.arrival.client.names.is_none() {
            let address = self.arrival.address().ip();
            self.arrival.client.names = Some(self.context.backends.resolver().client_names(address).await);
        }
    }

    /// All that is known of the client; a TLS session with a front that speaks for it is not its own.
    pub(super) fn facts(&self) -> ClientFacts {
        let tls = self.record.tls().cloned().filter(|_| !self.arrival.client.spoken_for);
        self.arrival.facts(self.dialogue.hello(), tls)
    }

    /// XCLIENT: the session is another client's from now on.
    pub(super) fn become_client(&mut self, attributes: Attributes) -> Result<Step, End> {
        self.arrival.tell(attributes, self.record.tls().is_some());
        // The one it names now may speak for others only if it is a front of ours, too: who passes on what its own clients
        // say (nginx does) would let each of them be anybody.
        self.dialogue.set_xclient(self.arrival.xclient());
        match self.admit() {
            None => Ok(self.dialogue.step(Input::ClientKnown)),
            Some(end) => Err(end),
        }
    }

    /// TLS has begun: whoever XCLIENT named before is named again, or not at all.
    pub(super) fn be_oneself_again(&mut self) -> Result<(), End> {
        if !self.arrival.forget_xclient() {
            return Ok(());
        }
        self.dialogue.set_xclient(self.arrival.xclient());
        self.admit().map_or(Ok(()), Err)
    }

    /// Counts the connection, now that it is known what becomes of it.
    fn counted(&self, end: Option<End>) -> Option<End> {
        self.series.connection(match end {
            None => ConnectionResult::Accepted,
            Some(_) => ConnectionResult::Refused,
        });
        end
    }
}

/// What happens to them in this client's messages.
const fn bare_newlines(key: BareNewline, exempt: bool) -> BareNewlines {
    match key {
        BareNewline::Normalize => BareNewlines::Normalize,
        BareNewline::Reject if exempt => BareNewlines::Normalize,
        BareNewline::Reject => BareNewlines::Reject,
    }
}
