//! Who may ask for what.

use std::net::IpAddr;

use hyper::header::{self, HeaderName};
use hyper::{HeaderMap, Method, StatusCode};

use super::Panel;
use super::answer::{Answer, error};

/// Refuses a call that may not be made; `path` is one of the API's.
pub(super) fn refuse(panel: &Panel, peer: IpAddr, method: &Method, headers: &HeaderMap) -> Option<Answer> {
    if let Some(answer) = refuse_lured_browser(panel, headers) {
        return Some(answer);
    }
    let local = peer.to_canonical().is_loopback();
    let changing = *method != Method::GET && *method != Method::HEAD;
    match &panel.token {
        Some(token) if !local || changing => {
            let given = value(headers, &header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
            let fits = given.is_some_and(|given| alike(given.as_bytes(), token.reveal().as_bytes()));
            (!fits)
                .then(|| error(StatusCode::UNAUTHORIZED, "this needs the header Authorization: Bearer TOKEN"))
        }
        None if !local => {
            let remedy = "only loopback may ask this while admin.token is not set";
            Some(error(StatusCode::FORBIDDEN, remedy))
        }
        _ => None,
    }
}

/// A page from elsewhere can make a browser ask us, but not under our name (DNS rebinding), nor without
/// saying where it comes from.
fn refuse_lured_browser(panel: &Panel, headers: &HeaderMap) -> Option<Answer> {
    let host = value(headers, &header::HOST).unwrap_or_default();
    let name = host_name(host);
    let ours = name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || name.eq_ignore_ascii_case(&panel.config.hostname);
    if !ours {
        return Some(error(
            StatusCode::FORBIDDEN,
            "the Host header must be an address, localhost or our hostname",
        ));
    }
    let origin = value(headers, &header::ORIGIN)?;
    let same = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) == Some(host);
    (!same).then(|| error(StatusCode::FORBIDDEN, "calls from other sites are refused"))
}

/// The host of `host`, `host:port` or `[v6]:port`.
fn host_name(host: &str) -> &str {
    if let Some((v6, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return v6;
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Takes as long wherever the first difference stands.
fn alike(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found_in_every_form() {
        for (host, name) in
            [("[::1]:9525", "::1"), ("127.0.0.1:9525", "127.0.0.1"), ("localhost", "localhost")]
        {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn tokens_are_alike_only_as_a_whole() {
        assert!(alike(b"secret", b"secret"));
        assert!(!alike(b"secre", b"secret") && !alike(b"secreT", b"secret") && !alike(b"", b"secret"));
    }
}
