//! Whether the backend can be reached, and what it announces.

use super::{Judgement, Local, Role, Severity, TlsWanted};
use crate::proto::ehlo::{Extensions, Keyword};
use crate::proto::reply::Class;
use crate::proto::tls::TlsFacts;
use crate::proto::verdict::{Meaning, Stage, meaning};
use crate::verify::examine::facts::Shut;

/// A largest message below this refuses what people send every day.
const SMALL: u64 = 10_000_000;

pub(super) fn shut(shut: &Shut, role: &Role, out: &mut Judgement) {
    let (address, host) = (&role.address, &role.host);
    let down =
        "Mail and questions for its routes are answered 451: senders try again for some days, then give up";
    let mut fault = |id, what: String, remedy: String| out.found(Severity::Fault, id, what, down, remedy);
    match shut {
        Shut::Name => fault(
            "unresolvable",
            format!("{host} has no address"),
            format!("mend the name in DNS or /etc/hosts (getent hosts {host}), or write the address in backends"),
        ),
        Shut::Connection(why) => fault(
            "connection-refused",
            format!("no connection: {why}"),
            format!("start the server, or let its firewall and its listener (Exchange: the receive connector's bindings) take us at {address}"),
        ),
        Shut::Timeout => fault(
            "connect-timeout",
            format!("nobody answers at {address}: the connection attempt took too long"),
            "look for a firewall that drops packets, a wrong address, or a host that is down; timeouts.backend_connect is how long we wait".to_owned(),
        ),
        Shut::Silent(why) => fault(
            "no-greeting",
            format!("it takes the connection and then {why}"),
            "look whether an SMTP server listens there (not a submission port with implicit TLS, a web server, a balancer without servers behind it)".to_owned(),
        ),
        Shut::Tls(why) => fault(
            "tls-refused",
            format!("no session in TLS: {why}"),
            "look at its certificate, and at tls, tls_pins, tls_ca and tls_name of the route; it must speak TLS 1.2 or 1.3 (older Exchange: switch 1.2 on, or write tls = \"off\" on a network you trust)".to_owned(),
        ),
        Shut::Ourselves => out.found(
            Severity::Fault,
            "loop",
            format!("{address} greets with our own name, {}", role.hostname),
            "It would give us our own mail for ever, so it is refused, and mail is answered 451",
            "write the address of the mail server in backends; if it is the right one, give Backstop a name of its own: hostname = \"mx.example.org\"",
        ),
        Shut::Greeting(reply) if meaning(Stage::Greeting, reply) == Meaning::TooManyConnections => fault(
            "busy",
            format!("it has too many connections of ours already: {reply}"),
            "lower max_connections of the route, or raise the server's limit per source (Exchange: Set-ReceiveConnector -MaxInboundConnectionPerSource)".to_owned(),
        ),
        Shut::Greeting(reply) if reply.class() == Class::Permanent => fault(
            "greeting-refused",
            format!("it sends us away in its greeting: {reply}"),
            "allow our address there (Exchange: Set-ReceiveConnector -RemoteIPRanges; Postfix: postscreen_access_list; Exim: host_reject_connection, acl_smtp_connect)".to_owned(),
        ),
        Shut::Greeting(reply) => fault(
            "greeting-deferred",
            format!("it does not serve us now: {reply}"),
            "look at its log: short of disk or memory, too many clients, or shutting down".to_owned(),
        ),
        Shut::Hello(reply) => fault(
            "name-refused",
            format!("it refuses our name {} in EHLO and HELO: {reply}", role.hostname),
            "write hostname = the name our address resolves to, or exempt us from its check (Postfix: smtpd_helo_restrictions = permit_mynetworks, …)".to_owned(),
        ),
    }
}

pub(super) fn announced(announced: &Extensions, out: &mut Judgement) {
    for (keyword, severity, means, remedy) in missing() {
        if !announced.has(keyword) {
            out.found(
                severity,
                id_of(keyword),
                format!("does not announce {}", keyword.as_str()),
                means,
                remedy,
            );
        }
    }
    if let Some(size) = announced.max_size.filter(|size| *size < SMALL) {
        out.found(
            Severity::Warning,
            "small-messages",
            format!("takes messages of {size} octets at most"),
            "Larger ones are refused with 552 at MAIL; the smallest limit of all backends is what clients are offered",
            "raise it (Exchange: Set-ReceiveConnector -MaxMessageSize; Postfix: message_size_limit; Exim: message_size_limit)",
        );
    }
}

/// Whether it was spoken to in TLS, given what is wanted and what it offers.
pub(super) fn tls(announced: &Extensions, agreed: Option<&TlsFacts>, role: &Role, out: &mut Judgement) {
    let severity = if role.local == Local::Here { Severity::Note } else { Severity::Warning };
    let in_the_clear = "Mail goes to it in the clear: whoever is on the way can read and change it";
    match (agreed, announced.has(Keyword::StartTls), role.tls) {
        (Some(agreed), _, TlsWanted::Proved) => {
            out.well(format!("is spoken to in {agreed}, and proves to be the right one"));
        }
        (Some(agreed), ..) => {
            out.well(format!("is spoken to in {agreed}; nothing is asked of its certificate"));
        }
        (None, true, TlsWanted::Off) => out.found(
            severity,
            "tls-unused",
            "offers STARTTLS, and tls = \"off\" does without",
            in_the_clear,
            "write tls = \"opportunistic\", or \"verify\" or \"pin\", unless the network is to be trusted",
        ),
        (None, true, _) => out.found(
            severity,
            "tls-failed",
            "offers STARTTLS, but no handshake came about",
            format!("{in_the_clear}, though it could be otherwise"),
            "look at its certificate and protocols: it must speak TLS 1.2 or 1.3 (older Exchange: switch 1.2 on, or write tls = \"off\" on a network you trust)",
        ),
        (None, false, _) => out.found(
            severity,
            "no-tls",
            "does not offer STARTTLS",
            in_the_clear,
            "give it a certificate (Postfix: smtpd_tls_security_level = may, smtpd_tls_chain_files; Exim: tls_certificate; Exchange: Enable-ExchangeCertificate -Services SMTP), or keep the way there to a network you trust",
        ),
    }
}

/// Extensions worth having, with what their lack costs.
fn missing() -> [(Keyword, Severity, &'static str, &'static str); 7] {
    use Severity::{Note, Warning};
    let nothing = "";
    [
        (
            Keyword::Pipelining,
            Warning,
            "Each question costs three round trips instead of a share of one: verification is slow under load",
            "switch it on (Postfix: smtpd_discard_ehlo_keywords; Exchange: Set-ReceiveConnector -PipeliningEnabled $true), or remove the filter in between that hides it (Cisco ASA: no inspect esmtp)",
        ),
        (
            Keyword::EnhancedStatusCodes,
            Note,
            "A refusal is understood by its basic code alone: 550 means unknown, whatever its words say",
            "switch it on where the server can (Exchange: Set-ReceiveConnector -EnhancedStatusCodesEnabled $true)",
        ),
        (
            Keyword::Size,
            Note,
            "A message that is too large is refused only after it was sent",
            "write limits.max_message_size: it is then refused at MAIL",
        ),
        (
            Keyword::EightBitMime,
            Note,
            "Clients are not offered 8BITMIME: those that can convert messages first, others send them as they are",
            nothing,
        ),
        (Keyword::SmtpUtf8, Note, "Mail to and from non-ASCII addresses is refused", nothing),
        (
            Keyword::Dsn,
            Note,
            "Senders cannot ask for delivery notices; that also keeps forgers from asking for them",
            nothing,
        ),
        (Keyword::Chunking, Note, "Clients send messages with DATA, not in chunks", nothing),
    ]
}

const fn id_of(keyword: Keyword) -> &'static str {
    match keyword {
        Keyword::Pipelining => "no-pipelining",
        Keyword::EnhancedStatusCodes => "no-enhancedstatuscodes",
        Keyword::Size => "no-size",
        Keyword::EightBitMime => "no-8bitmime",
        Keyword::SmtpUtf8 => "no-smtputf8",
        Keyword::Dsn => "no-dsn",
        _ => "no-chunking",
    }
}
