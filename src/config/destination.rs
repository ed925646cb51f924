//! Where backends are: an endpoint, or a name under which DNS lists them. Names stay names here; `net::resolve`
//! looks them up, and again as their answers end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::endpoint::{Endpoint, EndpointTls};
use super::leaf::{Form, Leaf, Misread};
use crate::proto::address::Domain;

/// One entry of `backends`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A host and its port; each address of its name is a backend.
    Host(Endpoint),
    /// The servers an SRV record set lists (RFC 2782), in A-labels.
    Srv(String),
    /// The servers that take the mail of this domain (RFC 5321 §5.1), on port 25.
    Mx(String),
}

/// What stands before the name of an SRV record set.
const SRV: &str = "srv:";
/// What stands before a mail domain.
const MX: &str = "mx:";

impl Destination {
    /// The endpoint, where it is one.
    #[must_use]
    pub const fn endpoint(&self) -> Option<&Endpoint> {
        match self {
            Self::Host(endpoint) => Some(endpoint),
            Self::Srv(_) | Self::Mx(_) => None,
        }
    }

    /// The address, where it is one and not a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.endpoint().and_then(Endpoint::ip)
    }

    /// The host, or the name that is looked up.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Host(endpoint) => &endpoint.host,
            Self::Srv(name) | Self::Mx(name) => name,
        }
    }

    /// When TLS begins there.
    #[must_use]
    pub const fn tls(&self) -> EndpointTls {
        match self {
            Self::Host(endpoint) => endpoint.tls,
            Self::Srv(_) | Self::Mx(_) => EndpointTls::Negotiated,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(endpoint) => endpoint.fmt(f),
            Self::Srv(name) => write!(f, "{SRV}{name}"),
            Self::Mx(domain) => write!(f, "{MX}{domain}"),
        }
    }
}

impl Leaf for Destination {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = Endpoint::EXAMPLE;
    const KIND: &'static str = "host:port, srv:NAME or mx:DOMAIN";

    fn parse(text: &str) -> Result<Self, Misread> {
        if let Some(name) = text.strip_prefix(SRV) {
            let remedy = "write the name of the record set, such as \"srv:_smtp._tcp.mail.example.org\"";
            if name.contains(':') {
                return Err(Misread::new("an SRV record set names the ports itself", remedy));
            }
            let service = name.starts_with('_') && name.split('.').nth(1).is_some_and(|l| l.starts_with('_'));
            let name = host_name(name).filter(|_| service);
            return name
                .map(Self::Srv)
                .ok_or_else(|| Misread::new("not the name of an SRV record set", remedy));
        }
        if let Some(domain) = text.strip_prefix(MX) {
            let remedy = "write the domain alone, such as \"mx:example.org\"; the port is 25";
            return host_name(domain).map(Self::Mx).ok_or_else(|| Misread::new("not a mail domain", remedy));
        }
        Endpoint::parse(text).map(Self::Host)
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// A name that DNS can be asked for.
fn host_name(text: &str) -> Option<String> {
    let name = Domain::parse(text).ok()?.to_string();
    (!name.starts_with('[') && name.parse::<IpAddr>().is_err()).then_some(name)
}

/// A name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl Leaf for NameServer {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"10.0.0.53\"";
    const KIND: &'static str = "address or address:port";

    fn parse(text: &str) -> Result<Self, Misread> {
        let bare = text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53));
        let address = bare.or_else(|| text.parse().ok()).filter(|address| address.port() > 0);
        let remedy = "write its address, such as \"10.0.0.53\", \"10.0.0.53:5353\" or \"[2001:db8::53]:53\"";
        address.map(Self).ok_or_else(|| Misread::new("not the address of a name server", remedy))
    }

    fn text(&self) -> String {
        if self.0.port() == 53 { self.0.ip().to_string() } else { self.0.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_read_back_as_they_are_displayed() {
        for (text, destination) in [
            ("srv:_smtp._tcp.mail.example.org", Destination::Srv("_smtp._tcp.mail.example.org".into())),
            ("srv:_SMTP._tcp.mail", Destination::Srv("_smtp._tcp.mail".into())),
            ("mx:Example.org.", Destination::Mx("example.org".into())),
        ] {
            let read = Destination::parse(text).unwrap();
            assert_eq!(read, destination, "{text}");
            assert_eq!(Destination::parse(&read.to_string()).unwrap(), destination);
        }
        assert_eq!(Destination::parse("mail:25").unwrap().name(), "mail");
        assert_eq!(Destination::parse("smtps://10.0.0.5:465").unwrap().ip(), "10.0.0.5".parse().ok());
    }

    #[test]
    fn what_is_no_destination_says_what_to_write() {
        for (text, reason, remedy) in [
            ("srv:", "SRV record set", "\"srv:_smtp._tcp.mail.example.org\""),
            ("srv:mail.example.org", "SRV record set", "\"srv:_smtp._tcp.mail.example.org\""),
            ("srv:_smtp.mail.example.org", "SRV record set", "\"srv:_smtp._tcp.mail.example.org\""),
            ("srv:_smtp._tcp.mail:25", "names the ports itself", "srv:"),
            ("mx:example.org:25", "not a mail domain", "\"mx:example.org\""),
            ("mx:[192.0.2.1]", "not a mail domain", "\"mx:example.org\""),
            ("mx:192.0.2.1", "not a mail domain", "\"mx:example.org\""),
            ("mx:", "not a mail domain", "\"mx:example.org\""),
            ("lmtp:mail:24", "lmtp: is not supported", "\"mail.example.org:25\""),
        ] {
            let misread = Destination::parse(text).unwrap_err();
            assert!(misread.reason.contains(reason), "{text}: {misread:?}");
            assert!(misread.remedy.contains(remedy), "{text}: {misread:?}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_with_or_without_a_port() {
        for (text, address) in [
            ("10.0.0.53", "10.0.0.53:53"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
        ] {
            let server = NameServer::parse(text).unwrap();
            assert_eq!(server.0.to_string(), address);
            assert_eq!(NameServer::parse(&server.text()).unwrap(), server);
        }
        assert!(NameServer::parse("ns.example.org").is_err() && NameServer::parse("10.0.0.53:0").is_err());
    }
}
