//! Who may ask what.
//!
//! Health and metrics are for everybody who can connect. The rest tells which recipients exist, and can make
//! the proxy forget, so a caller off loopback needs the token for all of it, and one on loopback for what
//! changes something. Where no token is set, loopback is trusted and everybody else turned away.
//!
//! On loopback is who comes from 127.0.0.1 or ::1 with a request that no proxy says it passed on. The kernel gives a
//! caller on this machine one of these two whichever loopback address it asks; others are those of meshes, which
//! bring strangers (Istio from 127.0.0.6). A proxy that says nothing of itself cannot be told from a caller here.
//!
//! A browser on this machine is on loopback too, whoever wrote the page it shows. A page that had its own
//! name resolve to us (DNS rebinding) gives that name as Host; one that sends requests across sites gives
//! its Origin (RFC 6454). Both are refused.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Method;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;

use super::Panel;
use super::answer::Refusal;

/// Lets `caller` in, for what only operators may.
pub(super) fn admit(panel: &Panel, caller: IpAddr, request: &Parts) -> Result<(), Refusal> {
    // Whoever has the token is no page from elsewhere, whatever name it knows us by (a Kubernetes Service).
    let token = panel.token.as_ref().map(|token| token.reveal().as_bytes());
    let presented =
        bearer(&request.headers).filter(|given| token.is_some_and(|t| are_equal(given.as_bytes(), t)));
    if presented.is_some() {
        return Ok(());
    }
    let host = host(&request.headers).filter(|host| is_ours(host, &panel.config.hostname));
    let host = host.ok_or_else(|| Refusal::Host(shown(&request.headers, header::HOST)))?;
    if !request.headers.get_all(header::ORIGIN).iter().all(|origin| is_origin(origin.as_bytes(), host)) {
        return Err(Refusal::Origin(shown(&request.headers, header::ORIGIN)));
    }
    let is_here = is_loopback(caller) && !is_passed_on(&request.headers);
    let reads = matches!(request.method, Method::GET | Method::HEAD);
    match &panel.token {
        None if is_here => Ok(()),
        None => Err(Refusal::Remote),
        Some(_) if is_here && reads => Ok(()),
        Some(_) => Err(Refusal::Token),
    }
}

/// Whether a caller with this address is on this machine.
fn is_loopback(caller: IpAddr) -> bool {
    caller == Ipv4Addr::LOCALHOST || caller == Ipv6Addr::LOCALHOST
}

/// Whether a proxy says of a request that it is another's (RFC 7239, RFC 9110 §7.6.3, and what is usual).
fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().map(header::HeaderName::as_str).any(|name| {
        matches!(name, "forwarded" | "via" | "x-real-ip")
            || ["x-forwarded-", "x-envoy-"].iter().any(|usual| name.starts_with(usual))
    })
}

/// The one Host of a request (RFC 9112 §3.2).
fn host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

/// Whether `host`, with or without a port, can only mean us.
fn is_ours(host: &str, hostname: &str) -> bool {
    if let Some(literal) = host.strip_prefix('[') {
        let address = literal.split_once(']').filter(|(_, port)| port.is_empty() || port.starts_with(':'));
        return address.is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let is = |ours: &str| name.eq_ignore_ascii_case(ours);
    is("localhost") || is(hostname) || name.parse::<Ipv4Addr>().is_ok()
}

/// Whether a page from `origin` is a page from `host`.
fn is_origin(origin: &[u8], host: &str) -> bool {
    let site = [b"http://".as_slice(), b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
    site.is_some_and(|site| site.eq_ignore_ascii_case(host.as_bytes()))
}

/// The token a caller presents (RFC 6750 §2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Compares in a time that tells nothing but the length.
fn are_equal(given: &[u8], expected: &[u8]) -> bool {
    let differing = given.iter().zip(expected).fold(0, |seen, (a, b)| black_box(seen | (a ^ b)));
    given.len() == expected.len() && differing == 0
}

/// A header as it is named in a refusal.
fn shown(headers: &HeaderMap, name: header::HeaderName) -> String {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
    if values.is_empty() { "(none)".to_owned() } else { values.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_ours_when_no_stranger_can_have_it() {
        for host in
            ["127.0.0.1", "192.0.2.1:9525", "[::1]", "[2001:db8::1]:9525", "LocalHost:1", "MX.example.org"]
        {
            assert!(is_ours(host, "mx.example.org"), "{host}");
        }
        for host in [
            "",
            "evil.test",
            "127.0.0.1.evil.test",
            "[::1",
            "[::1]evil.test",
            "[evil]",
            "::1",
            "localhost@evil.test",
        ] {
            assert!(!is_ours(host, "mx.example.org"), "{host}");
        }
    }

    #[test]
    fn an_origin_is_scheme_and_host() {
        assert!(is_origin(b"http://127.0.0.1:9525", "127.0.0.1:9525"));
        assert!(is_origin(b"https://MX.example.org", "mx.example.org"));
        for origin in
            ["null", "http://127.0.0.1:80", "127.0.0.1:9525", "http://evil.test", "ftp://127.0.0.1:9525"]
        {
            assert!(!is_origin(origin.as_bytes(), "127.0.0.1:9525"), "{origin}");
        }
    }

    #[test]
    fn loopback_is_who_can_be_no_stranger() {
        for (caller, expected) in [
            ("127.0.0.1", true),
            ("::1", true),
            ("127.0.0.6", false),
            ("127.1.1.1", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(caller.parse().unwrap()), expected, "{caller}");
        }
        for name in
            ["Forwarded", "X-Forwarded-For", "x-forwarded-proto", "Via", "X-Real-IP", "x-envoy-internal"]
        {
            let name = header::HeaderName::try_from(name).unwrap();
            let headers = HeaderMap::from_iter([(name.clone(), header::HeaderValue::from_static("x"))]);
            assert!(is_passed_on(&headers), "{name}");
        }
        let plain = HeaderMap::from_iter([(header::HOST, header::HeaderValue::from_static("localhost"))]);
        assert!(!is_passed_on(&plain));
    }

    #[test]
    fn secrets_are_equal_as_a_whole() {
        assert!(are_equal(b"abc", b"abc"));
        for given in ["", "ab", "abcd", "abd", "xbc"] {
            assert!(!are_equal(given.as_bytes(), b"abc"), "{given}");
        }
    }
}
