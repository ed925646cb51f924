//! What is told about a session when it is over, and about a recipient when it is refused.
//!
//! Each is one `info` line; the names of its fields are part of the contract with operators. A field without
//! a value (no HELO was said, no backend needed) is left out. Everything a peer said is [`Escaped`], and is
//! given to the log as text and not as something to display: the text format puts quotes round it, so that
//! no HELO can pretend to be the fields behind it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tracing::info;

use super::event::{RecipientCounts, RecipientRefused, SessionEnded};
use super::live::Place;
use super::metrics::{Children, RecipientResult, RecipientSource, RefusalCause, SessionState};
use super::{Escaped, Events, Live, SessionId, redact};
use crate::proto::reply::Reply;
use crate::proto::tls::TlsFacts;

/// A session, told as it goes and logged when it is over.
#[derive(Debug)]
pub struct SessionRecord {
    /// Its name, which our own replies carry.
    pub session: SessionId,
    messages: u32,
    bytes: u64,
    tls: Option<TlsFacts>,
    listener: Arc<str>,
    /// The true client, from a proxy header where one was sent.
    client: SocketAddr,
    /// The other end of the socket, where that is a front.
    via: Option<SocketAddr>,
    /// As it was said, like `from`: it is noted again with every command, and escaped once.
    helo: Option<String>,
    from: Option<String>,
    backend: Option<String>,
    /// Atomic, because the recipients of a batch are judged at once.
    recipients: Children<RecipientResult, AtomicU32>,
    /// Where it is shown while it lasts, unless too many are.
    place: Option<Place>,
}

impl SessionRecord {
    /// Of a session in which nothing has happened yet.
    #[must_use]
    pub fn new(listener: Arc<str>, client: SocketAddr, live: &Live) -> Self {
        let session = SessionId::new();
        Self {
            place: live.enter(&session, &listener, client),
            session,
            messages: 0,
            bytes: 0,
            listener,
            client,
            via: None,
            helo: None,
            tls: None,
            from: None,
            backend: None,
            recipients: Children::new(|_| AtomicU32::new(0)),
        }
    }

    /// The client is this one, and `peer` the other end of the socket.
    pub fn client(&mut self, client: SocketAddr, peer: SocketAddr) {
        self.client = client;
        self.via = Some(peer).filter(|peer| *peer != client);
        self.show(|facts| facts.client = client);
    }

    /// The client called itself so in HELO or EHLO; the last one counts.
    pub fn helo(&mut self, name: &str) {
        if note(&mut self.helo, name) == Noted::News {
            self.show(|facts| facts.helo = Some(Escaped(name).to_string()));
        }
    }

    /// The session is encrypted from here on.
    pub fn encrypted(&mut self, tls: TlsFacts) {
        self.show(|facts| facts.tls = Some(tls.to_string()));
        self.tls = Some(tls);
    }

    /// What was agreed on, on an encrypted session.
    #[must_use]
    pub const fn tls(&self) -> Option<&TlsFacts> {
        self.tls.as_ref()
    }

    /// A transaction began with this envelope sender, without brackets; the last one counts.
    pub fn from(&mut self, sender: &str) {
        if note(&mut self.from, sender) == Noted::News {
            self.show(|facts| facts.from = Some(bracketed(sender)));
        }
    }

    /// The client does something else now.
    pub fn state(&self, state: SessionState) {
        self.show(|facts| facts.state = state);
    }

    /// A backend was attached; the last one counts.
    pub fn backend(&mut self, backend: &impl fmt::Display) {
        let backend = backend.to_string();
        self.show(|facts| facts.backend = Some(backend.clone()));
        self.backend = Some(backend);
    }

    /// A recipient was answered.
    pub fn recipient(&self, result: RecipientResult) {
        self.recipients.get(result).fetch_add(1, Ordering::Relaxed);
        self.show(|facts| facts.recipients.add(result));
    }

    /// The client was told that a message is accepted.
    pub fn message(&mut self) {
        self.messages += 1;
        self.show(|facts| facts.messages += 1);
    }

    /// So many octets of message data were taken from the client.
    pub fn octets(&mut self, octets: u64) {
        self.bytes += octets;
        self.show(|facts| facts.bytes += octets);
    }

    /// The true client.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.client
    }

    fn show(&self, change: impl FnOnce(&mut super::live::Facts)) {
        if let Some(place) = &self.place {
            place.show(change);
        }
    }

    /// The server name the client asked for.
    fn sni(&self) -> Option<String> {
        self.tls.as_ref()?.server_name.as_deref().map(|name| Escaped(name).to_string())
    }

    /// Writes the session's line. `duration` is that from accept to close.
    pub fn log(&self, end: End, duration: Duration) {
        let recipients = |result| self.recipients.get(result).load(Ordering::Relaxed);
        info!(
            target: TARGET,
            session = %self.session,
            listener = %self.listener,
            client = %self.client,
            via = self.via.map(tracing::field::display),
            helo = self.helo.as_deref().map(|name| Escaped(name).to_string()),
            tls = self.tls.as_ref().map(ToString::to_string),
            sni = self.sni(),
            from = self.from.as_deref().map(bracketed),
            recipients.accepted = recipients(RecipientResult::Accepted),
            recipients.unknown = recipients(RecipientResult::Unknown),
            recipients.undetermined = recipients(RecipientResult::Undetermined),
            recipients.relay_denied = recipients(RecipientResult::RelayDenied),
            recipients.limited = recipients(RecipientResult::Limited),
            recipients.refused = recipients(RecipientResult::Refused),
            messages = self.messages,
            bytes = self.bytes,
            backend = self.backend,
            duration = duration.as_secs_f64(),
            end = end.as_str(),
            "session"
        );
    }

    /// Tells those who listen that it is over.
    pub fn tell(&self, end: End, duration: Duration, events: &Events) {
        events.session(|time| SessionEnded {
            time,
            session: self.session.to_string(),
            listener: self.listener.to_string(),
            client: self.client.to_string(),
            via: self.via.map(|front| front.to_string()),
            helo: self.helo.as_deref().map(|name| Escaped(name).to_string()),
            tls: self.tls.as_ref().map(ToString::to_string),
            from: self.from.as_deref().map(bracketed),
            recipients: self.counts(),
            messages: self.messages,
            bytes: self.bytes,
            backend: self.backend.clone(),
            duration_seconds: duration.as_secs_f64(),
            end: end.as_str(),
        });
    }

    fn counts(&self) -> RecipientCounts {
        let count = |result| self.recipients.get(result).load(Ordering::Relaxed);
        RecipientCounts {
            accepted: count(RecipientResult::Accepted),
            unknown: count(RecipientResult::Unknown),
            undetermined: count(RecipientResult::Undetermined),
            relay_denied: count(RecipientResult::RelayDenied),
            limited: count(RecipientResult::Limited),
            refused: count(RecipientResult::Refused),
        }
    }
}

/// Whether what was said is something else than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    News,
    Known,
}

/// Most often what is noted is what was noted before.
fn note(noted: &mut Option<String>, said: &str) -> Noted {
    if noted.as_deref() == Some(said) {
        return Noted::Known;
    }
    *noted = Some(said.to_owned());
    Noted::News
}

/// An address as it is shown.
fn bracketed(address: &str) -> String {
    let address = redact::address(address);
    ["<", &address, ">"].concat()
}

/// Why a session ended. All of these are expected: none is an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said QUIT.
    Quit,
    /// The client said nothing for too long between commands.
    Idle,
    /// We are shutting down.
    Drained,
    /// The client closed or lost the connection without QUIT.
    ClientLost,
    /// No backend could go on where the client could not be told so in a reply.
    BackendLost,
    /// Too many wrong commands.
    Errors,
    /// Too many connections, of this client or in total.
    Connections,
    /// Too many unknown recipients, in this session or within an hour.
    Harvest,
    /// The client is banned.
    Banned,
    /// It spoke before it was greeted.
    EarlyTalker,
    /// Framing that no mail server sends: a bare CR or LF in a command, octets behind STARTTLS.
    Protocol,
    /// A web browser, or whoever made one send a form here.
    Http,
    /// The TLS handshake failed.
    Tls,
    /// The proxy header was missing, malformed or not allowed.
    ProxyHeader,
    /// Too slow within a command or message, or the whole session took too long.
    Timeout,
}

impl End {
    /// The value of the field `end`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::ClientLost => "client_lost",
            Self::BackendLost => "backend_lost",
            Self::Errors => "errors",
            Self::Connections => "connections",
            Self::Harvest => "harvest",
            Self::Banned => "banned",
            Self::EarlyTalker => "early_talker",
            Self::Protocol => "protocol",
            Self::Http => "http",
            Self::Tls => "tls",
            Self::ProxyHeader => "proxy_header",
            Self::Timeout => "timeout",
        }
    }
}

/// A recipient that was not accepted, borrowed from where it was refused.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'r> {
    /// The session it happened in.
    pub session: &'r SessionId,
    /// The route's name; empty for a domain without one.
    pub route: &'r str,
    /// The recipient as written, without brackets.
    pub recipient: &'r str,
    /// What the client was told.
    pub reply: &'r Reply,
    /// Why.
    pub grounds: Grounds,
}

/// Why a recipient is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grounds {
    /// What it is counted as.
    pub result: RecipientResult,
    /// Where the answer came from.
    pub source: RecipientSource,
    /// Why.
    pub cause: RefusalCause,
}

/// Whether a refusal was said, or only would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// The client was told.
    Aloud,
    /// The route only watches.
    InShadow,
}

impl Refusal<'_> {
    /// Tells those who listen, and whoever looks for the latest.
    pub fn tell(&self, client: SocketAddr, said: Said, events: &Events) {
        events.refusal(|time| RecipientRefused {
            time,
            session: self.session.to_string(),
            client: client.ip().to_string(),
            route: self.route.to_owned(),
            recipient: bracketed(self.recipient),
            redacted: redact::is_in_force(),
            reply: redact::words(&self.reply.to_string(), self.recipient),
            result: self.grounds.result.as_str(),
            source: self.grounds.source.as_str(),
            cause: self.grounds.cause.as_str(),
            shadow: said == Said::InShadow,
        });
    }

    /// Writes the recipient's line.
    pub fn log(&self) {
        let recipient = bracketed(self.recipient);
        let reply = redact::words(&self.reply.to_string(), self.recipient);
        info!(
            target: TARGET,
            session = %self.session,
            route = self.route,
            recipient,
            reply,
            source = self.grounds.source.as_str(),
            "recipient refused"
        );
    }
}

/// What filters call these lines, wherever this file moves.
const TARGET: &str = "backstop::session";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::captured::captured;
    use super::super::log::Format;
    use super::*;
    use crate::proto::replies;
    use crate::proto::tls::TlsVersion;

    fn record() -> SessionRecord {
        SessionRecord::new("mx".into(), ([192, 0, 2, 7], 2525).into(), &Live::default())
    }

    fn logged(told: impl FnOnce()) -> Value {
        let line = captured(Format::Json, "info", told);
        let mut object: Value = serde_json::from_str(&line).expect("one JSON line");
        for common in ["timestamp", "level", "target"] {
            object.as_object_mut().expect("an object").remove(common).expect(common);
        }
        object
    }

    #[test]
    fn a_session_is_one_line_with_the_fields_of_the_contract() {
        let mut record = record();
        record.helo("mail\x1b.example");
        record.encrypted(TlsFacts {
            version: TlsVersion::Tls13,
            cipher: "TLS_AES_256_GCM_SHA384",
            server_name: Some("mx.example.org".into()),
        });
        record.from("ann@example.com");
        record.backend(&"10.0.0.5:25");
        record.recipient(RecipientResult::Accepted);
        record.recipient(RecipientResult::Unknown);
        record.recipient(RecipientResult::Unknown);
        record.message();
        record.octets(1234);
        let expected = json!({
            "message": "session",
            "session": record.session.to_string(),
            "listener": "mx",
            "client": "192.0.2.7:2525",
            "helo": r"mail\u{1b}.example",
            "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384",
            "sni": "mx.example.org",
            "from": "<ann@example.com>",
            "recipients.accepted": 1,
            "recipients.unknown": 2,
            "recipients.undetermined": 0,
            "recipients.relay_denied": 0,
            "recipients.limited": 0,
            "recipients.refused": 0,
            "messages": 1,
            "bytes": 1234,
            "backend": "10.0.0.5:25",
            "duration": 1.5,
            "end": "quit",
        });
        assert_eq!(logged(|| record.log(End::Quit, Duration::from_millis(1500))), expected);
    }

    #[test]
    fn what_was_never_said_is_left_out() {
        let mut record = record();
        let object = logged(|| record.log(End::ClientLost, Duration::ZERO));
        for absent in ["via", "helo", "tls", "sni", "from", "backend"] {
            assert_eq!(object.get(absent), None, "{absent}");
        }
        record.client(([198, 51, 100, 1], 4).into(), ([10, 0, 0, 1], 5).into());
        let object = logged(|| record.log(End::ClientLost, Duration::ZERO));
        assert_eq!((&object["client"], &object["via"]), (&"198.51.100.1:4".into(), &"10.0.0.1:5".into()));
        record.from("");
        assert_eq!(logged(|| record.log(End::ClientLost, Duration::ZERO))["from"], "<>");
    }

    #[test]
    fn a_refused_recipient_is_one_line() {
        let session = SessionId::new();
        let refusal = Refusal {
            session: &session,
            route: "exchange",
            recipient: "no\u{202e}body@example.org",
            reply: &replies::NO_ROUTE,
            grounds: Grounds {
                result: RecipientResult::RelayDenied,
                source: RecipientSource::Policy,
                cause: RefusalCause::NoRoute,
            },
        };
        let expected = json!({
            "message": "recipient refused",
            "session": session.to_string(),
            "route": "exchange",
            "recipient": r"<no\u{202e}body@example.org>",
            "reply": replies::NO_ROUTE.to_string(),
            "source": "policy",
        });
        assert_eq!(logged(|| refusal.log()), expected);
    }

    /// Whoever follows the runbook need not know which format is set.
    #[test]
    fn the_patterns_of_the_runbook_find_a_refusal_in_either_format() {
        let session = SessionId::new();
        let grounds = Grounds {
            result: RecipientResult::RelayDenied,
            source: RecipientSource::Policy,
            cause: RefusalCause::NoRoute,
        };
        let runbook = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbook.md");
        let runbook = std::fs::read_to_string(runbook).unwrap();
        let patterns: Vec<_> =
            runbook.split("--grep '").skip(1).filter_map(|p| p.split('\'').next()).collect();
        assert!(patterns.iter().any(|pattern| pattern.starts_with("recipient refused")), "{patterns:?}");
        for reply in [&replies::NO_ROUTE, &replies::UNDETERMINED] {
            let refusal = Refusal { session: &session, route: "x", recipient: "a@b.example", reply, grounds };
            let class = reply.to_string().chars().next().unwrap();
            for format in [Format::Text, Format::Json] {
                let line = captured(format, "info", || refusal.log());
                let mut found = patterns.iter().filter(|pattern| matches(pattern, &line));
                assert!(found.next().is_some_and(|pattern| pattern.ends_with(class)), "{line}");
                assert_eq!(found.next(), None, "{line}");
            }
        }
    }

    /// As `journalctl --grep` and `grep -E` take these patterns.
    fn matches(pattern: &str, line: &str) -> bool {
        let mut grep = std::process::Command::new("grep");
        let grep = grep.args(["-E", "-q", "-e", pattern]).stdin(std::process::Stdio::piped());
        let mut running = grep.spawn().unwrap();
        std::io::Write::write_all(&mut running.stdin.take().unwrap(), line.as_bytes()).unwrap();
        running.wait().unwrap().success()
    }

    #[test]
    fn a_client_cannot_forge_a_field_of_a_text_line() {
        let mut record = record();
        record.helo("x\" end=\"quit");
        let line = captured(Format::Text, "info", || record.log(End::Protocol, Duration::ZERO));
        assert!(line.contains(r#" helo="x\" end=\"quit" "#), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }
}
