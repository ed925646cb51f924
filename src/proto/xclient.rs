//! XCLIENT: a front we trust says who its client is; we say so to a backend that trusts us.
//!
//! Attributes are parted by spaces, their values are xtext. A value is decoded before it is judged, and none
//! may hold a control character, so that nothing a client called itself can end a line here or further on.
//! LOGIN is read and goes nowhere: a name somebody authenticated as is not ours to vouch for.
//!
//! Postfix XCLIENT_README.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::Domain;
use super::client::{ClientFacts, ClientName, ClientProtocol};
use super::reply::Reply;
use super::xtext;

/// What EHLO offers to those who may use it.
pub const OFFER: &str = "XCLIENT NAME REVERSE_NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";
/// Longest value, in octets: decoded when it is read, as written when it is told, which is what Postfix counts.
const MAX_VALUE: usize = 255;
/// Longest command, CRLF included (XCLIENT_README).
const MAX_LINE: usize = 512;
/// How an unknown value is written.
const UNAVAILABLE: &str = "[UNAVAILABLE]";
const TEMPORARILY_UNAVAILABLE: &str = "[TEMPUNAVAIL]";

/// A value that may not be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<T> {
    /// It is this.
    Known(T),
    /// It is not known.
    Unavailable,
    /// It is not known for the moment.
    TemporarilyUnavailable,
}

impl From<Told<Box<str>>> for ClientName {
    fn from(told: Told<Box<str>>) -> Self {
        match told {
            Told::Known(name) => Self::Known(name),
            Told::Unavailable => Self::Unavailable,
            Told::TemporarilyUnavailable => Self::TemporarilyUnavailable,
        }
    }
}

/// What one XCLIENT says. An attribute that is not given stays what it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// NAME.
    pub name: Option<Told<Box<str>>>,
    /// REVERSE_NAME.
    pub reverse_name: Option<Told<Box<str>>>,
    /// ADDR. One that is not known is a fault: whose rights would that client have?
    pub address: Option<IpAddr>,
    /// PORT.
    pub port: Option<Told<u16>>,
    /// PROTO.
    pub protocol: Option<Told<ClientProtocol>>,
    /// HELO.
    pub helo: Option<Told<Box<str>>>,
    /// LOGIN.
    pub login: Option<Told<Box<str>>>,
    /// DESTADDR.
    pub destination: Option<Told<IpAddr>>,
    /// DESTPORT.
    pub destination_port: Option<Told<u16>>,
}

/// What is wrong with an XCLIENT command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XclientFault {
    /// Not attributes and values, or an attribute given twice or unknown.
    #[error("malformed attribute")]
    Attribute,
    /// A value that is not xtext, or not what its attribute may be.
    #[error("malformed value")]
    Value,
}

impl Attributes {
    /// Reads what follows the verb.
    ///
    /// # Errors
    /// The [`XclientFault`] of the first attribute that is wrong.
    pub fn parse(argument: &str) -> Result<Self, XclientFault> {
        let mut attributes = Self::default();
        let mut given = 0;
        for word in argument.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(XclientFault::Attribute)?;
            attributes.read(&name.to_ascii_uppercase(), value)?;
            given += 1;
        }
        if given == 0 { Err(XclientFault::Attribute) } else { Ok(attributes) }
    }

    fn read(&mut self, name: &str, value: &str) -> Result<(), XclientFault> {
        match name {
            "NAME" => put(&mut self.name, value, host_name),
            "REVERSE_NAME" => put(&mut self.reverse_name, value, host_name),
            "ADDR" => {
                let mut told = self.address.map(Told::Known);
                put(&mut told, value, address)?;
                let Some(Told::Known(address)) = told else { return Err(XclientFault::Value) };
                self.address = Some(address);
                Ok(())
            }
            "PORT" => put(&mut self.port, value, port),
            "PROTO" => put(&mut self.protocol, value, protocol),
            "HELO" => put(&mut self.helo, value, word),
            "LOGIN" => put(&mut self.login, value, word),
            "DESTADDR" => put(&mut self.destination, value, address),
            "DESTPORT" => put(&mut self.destination_port, value, port),
            _ => Err(XclientFault::Attribute),
        }
    }
}

/// Reads one value into its place, which must be empty.
fn put<T>(
    place: &mut Option<Told<T>>,
    value: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<(), XclientFault> {
    if place.is_some() {
        return Err(XclientFault::Attribute);
    }
    *place = Some(if value.eq_ignore_ascii_case(UNAVAILABLE) {
        Told::Unavailable
    } else if value.eq_ignore_ascii_case(TEMPORARILY_UNAVAILABLE) {
        Told::TemporarilyUnavailable
    } else {
        let text = xtext::decode(value).filter(|text| text.len() <= MAX_VALUE);
        Told::Known(text.as_deref().and_then(read).ok_or(XclientFault::Value)?)
    });
    Ok(())
}

fn host_name(text: &str) -> Option<Box<str>> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    plain.then(|| text.into())
}

/// Anything printable without spaces, as HELO takes it.
fn word(text: &str) -> Option<Box<str>> {
    let plain = !text.is_empty() && !text.contains(|c: char| c.is_control() || c == ' ');
    plain.then(|| text.into())
}

/// `192.0.2.1`, `IPV6:2001:db8::1`.
fn address(text: &str) -> Option<IpAddr> {
    match text.split_at_checked(5) {
        Some((prefix, v6)) if prefix.eq_ignore_ascii_case("IPV6:") => {
            v6.parse::<Ipv6Addr>().ok().map(|v6| IpAddr::V6(v6).to_canonical())
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn protocol(text: &str) -> Option<ClientProtocol> {
    match text.to_ascii_uppercase().as_str() {
        "SMTP" => Some(ClientProtocol::Smtp),
        "ESMTP" => Some(ClientProtocol::Esmtp),
        _ => None,
    }
}

/// The attributes a backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Announced(u8);

/// In the order they are written.
const ATTRIBUTES: [&str; 8] = ["ADDR", "PORT", "NAME", REVERSE_NAME, "PROTO", "DESTADDR", "DESTPORT", "HELO"];
/// Behind NAME: to Postfix a name that leads back is one that its address leads to, too.
const REVERSE_NAME: &str = "REVERSE_NAME";
/// What is left out first where there is no room: the greeting that follows tells HELO, too.
const DISPENSABLE: [&str; 3] = ["HELO", REVERSE_NAME, "NAME"];

impl Announced {
    /// Reads a backend's reply to EHLO; none when it does not offer XCLIENT with ADDR, without which nothing
    /// is told.
    #[must_use]
    pub fn of(reply: &Reply) -> Option<Self> {
        let lines = reply.lines().skip(1).filter_map(|line| std::str::from_utf8(line).ok());
        let mut offers = lines.filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|word| word.eq_ignore_ascii_case("XCLIENT")).map(|_| words)
        });
        let announced = offers.next()?.fold(Self::default(), |Self(set), word| {
            let place = ATTRIBUTES.iter().position(|name| name.eq_ignore_ascii_case(word));
            Self(place.map_or(set, |place| set | 1 << place))
        });
        announced.has("ADDR").then_some(announced)
    }

    fn has(self, name: &str) -> bool {
        ATTRIBUTES.iter().position(|known| *known == name).is_some_and(|place| self.0 & 1 << place != 0)
    }

    /// The command, with CRLF, that tells who the client is. Every attribute announced is given, so that
    /// nothing of an earlier client stays; what there is no room for is unavailable.
    #[must_use]
    pub fn command(self, client: &ClientFacts) -> String {
        let announced = ATTRIBUTES.into_iter().filter(|name| self.has(name));
        let mut told: Vec<_> = announced.map(|name| (name, xtext_of(name, client))).collect();
        let mut out_of_room = DISPENSABLE.into_iter();
        while length(&told) > MAX_LINE
            && let Some(dispensable) = out_of_room.next()
        {
            let value = told.iter_mut().find(|(name, _)| *name == dispensable).map(|(_, value)| value);
            value.into_iter().for_each(|value| UNAVAILABLE.clone_into(value));
        }
        let attributes = told.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("XCLIENT{}\r\n", attributes.collect::<String>())
    }
}

/// Octets of the command that tells this.
fn length(told: &[(&str, String)]) -> usize {
    let attributes: usize = told.iter().map(|(name, value)| " =".len() + name.len() + value.len()).sum();
    "XCLIENT\r\n".len() + attributes
}

fn xtext_of(name: &str, client: &ClientFacts) -> String {
    let value = match name {
        "NAME" => name_of(&client.names.verified),
        REVERSE_NAME => name_of(&client.names.reverse),
        "ADDR" => ip(client.address),
        "PORT" => port_of(client.address),
        "PROTO" => match client.protocol {
            ClientProtocol::Smtp => "SMTP".to_owned(),
            ClientProtocol::Esmtp => "ESMTP".to_owned(),
        },
        "HELO" => xtext::encode(&client.helo),
        "DESTADDR" => client.destination.map_or_else(unavailable, ip),
        "DESTPORT" => client.destination.map_or_else(unavailable, port_of),
        _ => unavailable(),
    };
    if value.len() > MAX_VALUE { unavailable() } else { value }
}

fn unavailable() -> String {
    UNAVAILABLE.to_owned()
}

/// A name that a front told us need not be one of a host, and Postfix refuses the client then.
fn name_of(name: &ClientName) -> String {
    match name {
        ClientName::Known(name) if Domain::parse(name).is_ok() => xtext::encode(name),
        ClientName::Known(_) | ClientName::Unavailable => unavailable(),
        ClientName::TemporarilyUnavailable => TEMPORARILY_UNAVAILABLE.to_owned(),
    }
}

fn ip(socket: SocketAddr) -> String {
    match socket.ip().to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("IPV6:{v6}"),
    }
}

fn port_of(socket: SocketAddr) -> String {
    match socket.port() {
        0 => unavailable(),
        port => port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::ClientNames;

    fn facts() -> ClientFacts {
        ClientFacts {
            address: "192.0.2.1:40000".parse().unwrap(),
            destination: Some("[2001:db8::25]:25".parse().unwrap()),
            names: ClientNames::default(),
            helo: "client.example.net".into(),
            protocol: ClientProtocol::Esmtp,
            tls: None,
        }
    }

    #[test]
    fn attributes_are_read_and_decoded() {
        let all = Attributes::parse(
            "name=spike.example ADDR=IPV6:2001:db8::1 PORT=25 PROTO=smtp HELO=a+2Bb LOGIN=[UNAVAILABLE] \
             DESTADDR=192.0.2.9 DESTPORT=[TEMPUNAVAIL]",
        );
        let expected = Attributes {
            name: Some(Told::Known("spike.example".into())),
            reverse_name: None,
            address: Some("2001:db8::1".parse().unwrap()),
            port: Some(Told::Known(25)),
            protocol: Some(Told::Known(ClientProtocol::Smtp)),
            helo: Some(Told::Known("a+b".into())),
            login: Some(Told::Unavailable),
            destination: Some(Told::Known("192.0.2.9".parse().unwrap())),
            destination_port: Some(Told::TemporarilyUnavailable),
        };
        assert_eq!(all, Ok(expected));
        let mapped = Attributes::parse("ADDR=IPV6:::ffff:192.0.2.1").unwrap();
        assert_eq!(mapped.address, Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn attributes_that_are_none_are_refused() {
        use XclientFault::{Attribute, Value};
        let long = format!("HELO={}", "x".repeat(256));
        for (argument, fault) in [
            ("", Attribute),
            ("ADDR", Attribute),
            ("ADDR=192.0.2.1 ADDR=192.0.2.2", Attribute),
            ("HOST=x", Attribute),
            ("ADDR=", Value),
            ("ADDR=2001:db8::1", Value),
            ("ADDR=IPV6:192.0.2.1", Value),
            ("ADDR=192.0.2.1+0D+0A", Value),
            ("HELO=x+0D+0AMAIL", Value),
            ("NAME=a+0Ab", Value),
            ("NAME=a+00b", Value),
            ("LOGIN=a+20b", Value),
            ("HELO=x+0", Value),
            ("HELO=x=y", Value),
            ("PORT=65536", Value),
            ("PORT=+2B5", Value),
            ("PROTO=LMTP", Value),
            (&long, Value),
        ] {
            assert_eq!(Attributes::parse(argument), Err(fault), "{argument:?}");
        }
    }

    #[test]
    fn only_what_is_announced_is_told() {
        let announced = |keywords: &str| Announced::of(&Reply::new(250, format!("mail.example\n{keywords}")));
        assert_eq!(announced("PIPELINING"), None);
        assert_eq!(announced("XCLIENT NAME HELO"), None, "nothing without ADDR");
        let some = announced("SIZE\nxclient ADDR HELO").unwrap();
        assert_eq!(some.command(&facts()), "XCLIENT ADDR=192.0.2.1 HELO=client.example.net\r\n");
        let all = announced(OFFER).unwrap();
        assert_eq!(
            all.command(&facts()),
            "XCLIENT ADDR=192.0.2.1 PORT=40000 NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] PROTO=ESMTP DESTADDR=IPV6:2001:db8::25 \
             DESTPORT=25 HELO=client.example.net\r\n"
        );
    }

    #[test]
    fn what_a_client_calls_itself_never_makes_the_line_or_a_value_too_long_or_two() {
        let all = Announced::of(&Reply::new(250, format!("x\n{OFFER}"))).unwrap();
        let long = format!("{0}.{0}.{0}.{0}.test", "n".repeat(60));
        let called = |verified: &str, reverse: &str| ClientNames {
            verified: ClientName::Known(verified.into()),
            reverse: ClientName::Known(reverse.into()),
        };
        let line = |names, helo: &str| {
            let line = all.command(&ClientFacts { names, helo: helo.into(), ..facts() });
            assert!(line.len() <= MAX_LINE && line.ends_with("\r\n"), "{line}");
            line
        };
        // HELO goes first, for EHLO follows; then the name that proves nothing.
        let both = line(called(&long, "short.test"), &"h".repeat(255));
        assert!(both.contains(&format!(" NAME={long} REVERSE_NAME=short.test ")), "{both}");
        assert!(both.ends_with(" HELO=[UNAVAILABLE]\r\n"), "{both}");
        let verified = line(called(&long, &long), &"h".repeat(255));
        assert!(verified.contains(&format!(" NAME={long} REVERSE_NAME=[UNAVAILABLE] ")), "{verified}");
        // Postfix takes no value that is longer than 255 octets as it is written.
        let escaped = line(ClientNames::default(), &"=".repeat(86));
        assert!(escaped.ends_with(" HELO=[UNAVAILABLE]\r\n"), "{escaped}");
        assert!(line(ClientNames::default(), &"=".repeat(85)).contains(" HELO=+3D+3D"));
        // Nor a name that no host can have.
        let odd = line(called("not-a-host!", "a..b"), "x");
        assert!(odd.contains(" NAME=[UNAVAILABLE] REVERSE_NAME=[UNAVAILABLE] "), "{odd}");
        let open = ClientNames::both(ClientName::TemporarilyUnavailable);
        assert!(line(open, "x").contains(" NAME=[TEMPUNAVAIL] REVERSE_NAME=[TEMPUNAVAIL] "));
        assert!(line(ClientNames::default(), "a\r\nQUIT").ends_with(" HELO=a+0D+0AQUIT\r\n"));
    }

    #[test]
    fn what_is_told_is_read_again() {
        let all = Announced::of(&Reply::new(250, format!("x\n{OFFER}"))).unwrap();
        let command = all.command(&facts());
        let argument = command.trim_end().strip_prefix("XCLIENT ").unwrap();
        let read = Attributes::parse(argument).unwrap();
        assert_eq!(read.address, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(read.helo, Some(Told::Known("client.example.net".into())));
        assert_eq!(read.login, None, "never invented");
    }
}
