//! Where a backend listens: host and port, and what is spoken there first. The host stays a name here.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::leaf::{Form, Leaf, Misread};
use crate::proto::address::Domain;

/// A backend's host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// A host name in A-labels, or an IP address without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Whether TLS comes first there.
    pub tls: EndpointTls,
}

/// When TLS begins, if it does (RFC 8314 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointTls {
    /// After the greetings, with STARTTLS.
    Negotiated,
    /// With the first octet.
    Implicit,
}

/// What stands before an endpoint with TLS from the beginning.
const SMTPS: &str = "smtps://";

impl Endpoint {
    /// The host when it is an address and not a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, tls } = self;
        if *tls == EndpointTls::Implicit {
            f.write_str(SMTPS)?;
        }
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl Leaf for Endpoint {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"10.0.0.5:25\"";
    const KIND: &'static str = "host:port";

    fn parse(text: &str) -> Result<Self, Misread> {
        if let Some(rest) = text.strip_prefix(SMTPS) {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let within = Self::parse_smtp(rest, 465).map_err(|misread| {
                let remedy = misread.remedy.replace("write \"", "write \"smtps://");
                Misread::new(misread.reason, remedy)
            })?;
            return Ok(Self { tls: EndpointTls::Implicit, ..within });
        }
        Self::parse_smtp(text, 25)
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Endpoint {
    /// Reads `host:port`; `usual` is the port that remedies suggest.
    fn parse_smtp(text: &str, usual: u16) -> Result<Self, Misread> {
        if let Some(scheme) = scheme(text) {
            let reason = format!("{scheme} is not supported");
            let remedy =
                "write host:port, such as \"mail.example.org:25\", or \"smtps://mail.example.org:465\"";
            return Err(Misread::new(reason, remedy));
        }
        if let Ok(v6) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            return Err(Misread::new(
                "an IPv6 address with a port needs brackets",
                format!("write \"[{v6}]:{usual}\""),
            ));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(Misread::new("the port is missing", format!("write \"{text}:{usual}\"")));
        };
        let port = port.parse().ok().filter(|&port| port > 0);
        let port = port.ok_or_else(|| {
            Misread::new("the port is not a number from 1 to 65535", format!("write \"{host}:{usual}\""))
        })?;
        Ok(Self { host: parse_host(host)?, port, tls: EndpointTls::Negotiated })
    }
}

/// What stands before `://`, or one of the schemes that do without.
fn scheme(text: &str) -> Option<&str> {
    let known = ["lmtp:", "unix:", "inet:"];
    match text.find("://") {
        Some(end) => text.get(..end + 3),
        None => known.into_iter().find(|scheme| text.starts_with(scheme)),
    }
}

/// `[v6]`, an IPv4 address or a host name.
fn parse_host(host: &str) -> Result<String, Misread> {
    if let Some(inner) = host.strip_prefix('[') {
        let v6 = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        let remedy = "write \"[2001:db8::5]:25\"";
        return v6
            .map(|v6| v6.to_string())
            .ok_or_else(|| Misread::new("not an IPv6 address in brackets", remedy));
    }
    // All digits and dots but no address: a mistyped one, never a name.
    let mistyped = host.bytes().all(|b| b.is_ascii_digit() || b == b'.') && host.parse::<IpAddr>().is_err();
    let name = Domain::parse(host).ok().filter(|_| !mistyped);
    let remedy = "write host:port, such as \"10.0.0.5:25\" or \"mail.example.org:25\"";
    name.map(|name| name.to_string()).ok_or_else(|| Misread::new("not a host name or address", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_back_as_they_are_displayed() {
        for (text, host, port) in [
            ("10.0.0.5:25", "10.0.0.5", 25),
            ("[2001:DB8::5]:2525", "2001:db8::5", 2525),
            ("mail:25", "mail", 25),
            ("smtps://mail:465", "mail", 465),
            ("smtps://[2001:db8::5]:465/", "2001:db8::5", 465),
            ("Bücher.example:25", "xn--bcher-kva.example", 25),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{text}");
            assert_eq!(Endpoint::parse(&endpoint.to_string()).unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_not_an_endpoint_says_what_to_write() {
        for (text, reason, remedy) in [
            ("10.0.0.5", "port is missing", "\"10.0.0.5:25\""),
            ("10.0.0.5:0", "port is not", "\"10.0.0.5:25\""),
            ("10.0.0.5:smtp", "port is not", "\"10.0.0.5:25\""),
            ("10.0.0.500:25", "not a host name", "\"10.0.0.5:25\""),
            ("2001:db8::5", "needs brackets", "\"[2001:db8::5]:25\""),
            ("[2001:db8::5]", "needs brackets", "\"[2001:db8::5]:25\""),
            ("[zz]:25", "IPv6 address in brackets", "\"[2001:db8::5]:25\""),
            ("a b:25", "not a host name", "\"mail.example.org:25\""),
            (":25", "not a host name", "\"mail.example.org:25\""),
            ("", "port is missing", "write"),
            ("smtp://mail:25", "smtp:// is not supported", "\"mail.example.org:25\""),
            ("smtps://mail", "port is missing", "\"smtps://mail:465\""),
            ("smtps://lmtp:mail:24", "lmtp: is not supported", "\"smtps://mail.example.org:465\""),
        ] {
            let misread = Endpoint::parse(text).unwrap_err();
            assert!(misread.reason.contains(reason), "{text}: {misread:?}");
            assert!(misread.remedy.contains(remedy), "{text}: {misread:?}");
        }
    }
}
