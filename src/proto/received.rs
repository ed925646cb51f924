//! The `Received:` line put before a message, where nothing else tells the backend who its client is.
//!
//! RFC 5321 §4.4; RFC 3848 and RFC 6531 §4.3 for the protocol; the TLS session as a comment. What the client
//! called itself is held to the characters of host names and literals, and the line never exceeds [`MOST`]
//! octets, which is how much room is kept below the backend's SIZE.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::client::{ClientFacts, ClientProtocol};

/// Octets of the longest line, CRLFs included.
pub const MOST: u64 = 1024;
/// Octets that most lines do not exceed.
const USUAL: usize = 384;
/// Longest name written.
const MAX_NAME: usize = 255;
/// Longest recipient written.
const MAX_RECIPIENT: usize = 254;

/// What a line tells besides the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace<'t> {
    /// Our name.
    pub by: &'t str,
    /// The session's name.
    pub session: &'t str,
    /// The sender asked for SMTPUTF8.
    pub utf8: bool,
    /// The recipient, where there is only one: to name one of several would tell the others of it.
    pub recipient: Option<&'t str>,
    /// When the message began to arrive, in seconds since the beginning of 1970.
    pub at: u64,
}

impl Trace<'_> {
    /// The whole line, folded, each part of it ended by CRLF.
    #[must_use]
    pub fn line(&self, client: &ClientFacts) -> String {
        let mut line = String::with_capacity(USUAL);
        line.push_str("Received: from ");
        plain(&client.helo, &mut line);
        line.push_str(" (");
        literal(client.address, &mut line);
        line.push_str(")\r\n\tby ");
        plain(self.by, &mut line);
        for part in [" with ", self.protocol(client), " id ", self.session] {
            line.push_str(part);
        }
        if let Some(tls) = &client.tls {
            let _ = write!(line, "\r\n\t({tls})");
        }
        if let Some(recipient) = self.recipient.filter(|recipient| is_writable(recipient)) {
            let _ = write!(line, "\r\n\tfor <{recipient}>");
        }
        line.push_str(";\r\n\t");
        date(self.at, &mut line);
        line.push_str("\r\n");
        line
    }

    fn protocol(&self, client: &ClientFacts) -> &'static str {
        match (client.protocol, client.tls.is_some(), self.utf8) {
            // There is no word for HELO inside TLS; the comment tells it.
            (ClientProtocol::Smtp, _, _) => "SMTP",
            (ClientProtocol::Esmtp, false, false) => "ESMTP",
            (ClientProtocol::Esmtp, true, false) => "ESMTPS",
            (ClientProtocol::Esmtp, false, true) => "UTF8SMTP",
            (ClientProtocol::Esmtp, true, true) => "UTF8SMTPS",
        }
    }
}

/// Only the characters of host names and address literals, so that no name ends its place in the line.
fn plain(name: &str, out: &mut String) {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if name.len() <= MAX_NAME && name.bytes().all(|octet| known(octet.into())) {
        return out.push_str(name);
    }
    out.extend(name.chars().take(MAX_NAME).map(|c| if known(c) { c } else { '?' }));
}

/// A recipient that is left out rather than changed.
fn is_writable(recipient: &str) -> bool {
    recipient.len() <= MAX_RECIPIENT && recipient.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// RFC 5321 §4.1.3.
fn literal(client: SocketAddr, out: &mut String) {
    let _ = match client.ip().to_canonical() {
        IpAddr::V4(v4) => write!(out, "[{v4}]"),
        IpAddr::V6(v6) => write!(out, "[IPv6:{v6}]"),
    };
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// RFC 5322 §3.3, in UTC; always of the same length, so that what was said of a message's size stays true.
fn date(seconds: u64, out: &mut String) {
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let word = |words: &'static [&'static str], at: u64| {
        usize::try_from(at).ok().and_then(|at| words.get(at)).copied().unwrap_or_default()
    };
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let (weekday, month) = (word(&DAYS, days % 7), word(&MONTHS, month));
    let _ = write!(out, "{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} +0000");
}

/// The date so many days after the beginning of 1970: year, month from 0, day from 1.
///
/// Years are counted from March, so that the odd day is the last of a year, and in eras of 400 of them, which all have
/// the same number of days.
pub(crate) const fn civil(days: u64) -> (u64, u64, u64) {
    // The first of March of the year 0 was so many days earlier.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + if from_march >= 10 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::client::ClientNames;
    use crate::proto::tls::{TlsFacts, TlsVersion};

    const TLS: TlsFacts =
        TlsFacts { version: TlsVersion::Tls13, cipher: "TLS_CHACHA20_POLY1305_SHA256", server_name: None };

    fn client() -> ClientFacts {
        ClientFacts {
            address: "192.0.2.1:40000".parse().unwrap(),
            destination: None,
            names: ClientNames::default(),
            helo: "client.example.net".into(),
            protocol: ClientProtocol::Esmtp,
            tls: None,
        }
    }

    fn trace() -> Trace<'static> {
        let (by, session) = ("mx.example.org", "0123456789ab");
        Trace { by, session, utf8: false, recipient: None, at: 1_000_000_000 }
    }

    #[test]
    fn a_line_tells_who_by_whom_how_and_when() {
        assert_eq!(
            trace().line(&client()),
            "Received: from client.example.net ([192.0.2.1])\r\n\
             \tby mx.example.org with ESMTP id 0123456789ab;\r\n\
             \tSun, 09 Sep 2001 01:46:40 +0000\r\n"
        );
        let client = ClientFacts { address: "[2001:db8::1]:4".parse().unwrap(), tls: Some(TLS), ..client() };
        assert_eq!(
            Trace { recipient: Some("ann@example.org"), ..trace() }.line(&client),
            "Received: from client.example.net ([IPv6:2001:db8::1])\r\n\
             \tby mx.example.org with ESMTPS id 0123456789ab\r\n\
             \t(TLSv1.3 TLS_CHACHA20_POLY1305_SHA256)\r\n\
             \tfor <ann@example.org>;\r\n\
             \tSun, 09 Sep 2001 01:46:40 +0000\r\n"
        );
    }

    #[test]
    fn nothing_a_client_says_makes_another_line_or_too_long_a_one() {
        let helo = "x\r\nTo: (me);<>\"\\\u{202e}ü".to_owned() + &"y".repeat(500);
        let client = ClientFacts { helo: helo.into(), tls: Some(TLS), ..client() };
        let long = "a".repeat(MAX_RECIPIENT);
        let by = "b".repeat(300);
        let line = Trace { recipient: Some(&long), by: &by, utf8: true, ..trace() }.line(&client);
        assert!(line.starts_with("Received: from x??To:??me????????yyy"), "{line}");
        assert!(line.len() as u64 <= MOST, "{}", line.len());
        let parts: Vec<&str> = line.split_terminator("\r\n").collect();
        assert!(parts.iter().skip(1).all(|part| part.starts_with('\t')), "{line}");
        for recipient in ["a".repeat(MAX_RECIPIENT + 1), "ü@x".to_owned(), "a\r\n@x".to_owned()] {
            assert!(!Trace { recipient: Some(&recipient), ..trace() }.line(&client).contains("\tfor"));
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 +0000"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 +0000"),
            (1_735_689_600, "Wed, 01 Jan 2025 00:00:00 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
        ] {
            let mut written = String::new();
            super::date(seconds, &mut written);
            assert_eq!(written, date);
        }
    }

    #[test]
    fn the_protocol_is_named_as_registered() {
        for (protocol, utf8, name) in [
            (ClientProtocol::Smtp, false, "SMTP"),
            (ClientProtocol::Esmtp, false, "ESMTP"),
            (ClientProtocol::Esmtp, true, "UTF8SMTP"),
        ] {
            let line = Trace { utf8, ..trace() }.line(&ClientFacts { protocol, ..client() });
            assert!(line.contains(&format!(" with {name} id ")), "{line}");
        }
    }
}
