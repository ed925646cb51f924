//! Every reply of our own, by name. Texts live here and nowhere else, so they cannot drift.
//!
//! Rule: what is our fault or the backend connection's is 4yz, never 5yz. A 5yz of ours is about what the
//! client sent.

use super::reply::{Class, Reply};

/// 220: ready.
#[must_use]
pub fn greeting(hostname: &str) -> Reply {
    Reply::new(220, format!("{hostname} ESMTP"))
}

/// 250 to HELO.
#[must_use]
pub fn hello(hostname: &str) -> Reply {
    Reply::new(250, hostname)
}

/// 221: farewell.
pub const BYE: Reply = Reply::fixed(221, "2.0.0 Bye");
/// 220: TLS may begin.
pub const TLS_READY: Reply = Reply::fixed(220, "2.0.0 Ready to start TLS");
/// 250 to NOOP and RSET.
pub const OK: Reply = Reply::fixed(250, "2.0.0 Ok");
/// 250 to MAIL: the sender is taken note of; the backend hears of it with the first recipient.
pub const SENDER_OK: Reply = Reply::fixed(250, "2.1.0 Ok");
/// 214 to HELP.
pub const HELP: Reply =
    Reply::fixed(214, "2.0.0 Commands: EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY HELP; see RFC 5321");
/// 252 to VRFY: we do not tell (RFC 5321 §7.3).
pub const CANNOT_VERIFY: Reply = Reply::fixed(252, "2.1.5 Send some mail, I will try my best");
/// 354: the message may come.
pub const GO_AHEAD: Reply = Reply::fixed(354, "End data with <CR><LF>.<CR><LF>");

/// 500: no such command.
pub const UNRECOGNIZED: Reply = Reply::fixed(500, "5.5.2 Command not recognized");
/// 500: line above the limit.
pub const LINE_TOO_LONG: Reply = Reply::fixed(500, "5.5.2 Line too long");
/// 500: a CR or LF alone in a command.
pub const BARE_NEWLINE_IN_COMMAND: Reply = Reply::fixed(500, "5.5.2 Bare CR or LF in a command line");
/// 500: a NUL in a command.
pub const NUL_IN_COMMAND: Reply = Reply::fixed(500, "5.5.2 NUL in a command line");
/// 501: bad argument.
pub const BAD_ARGUMENT: Reply = Reply::fixed(501, "5.5.4 Syntax error in argument");
/// 501: a BDAT whose octets cannot be counted.
pub const BAD_CHUNK: Reply = Reply::fixed(501, "5.5.4 Syntax error in BDAT, closing connection");
/// 501: a bad sender path.
pub const BAD_SENDER: Reply = Reply::fixed(501, "5.1.7 Malformed sender address");
/// 501: a bad recipient path.
pub const BAD_RECIPIENT: Reply = Reply::fixed(501, "5.1.3 Malformed recipient address");
/// 501: a parameter with a value it cannot have.
pub const BAD_PARAMETER: Reply = Reply::fixed(501, "5.5.4 Bad parameter");
/// 555: a parameter of an extension that was not offered.
pub const PARAMETER_NOT_OFFERED: Reply = Reply::fixed(555, "5.5.4 Parameter not offered");
/// 553: a non-ASCII address without SMTPUTF8.
pub const NEEDS_SMTPUTF8: Reply = Reply::fixed(553, "5.6.7 Non-ASCII address without SMTPUTF8");
/// 502: known, not done.
pub const NOT_IMPLEMENTED: Reply = Reply::fixed(502, "5.5.1 Command not implemented");
/// 503: EHLO or HELO first.
pub const GREET_FIRST: Reply = Reply::fixed(503, "5.5.1 Send EHLO or HELO first");
/// 503: MAIL first.
pub const SENDER_FIRST: Reply = Reply::fixed(503, "5.5.1 Send MAIL first");
/// 503: XCLIENT within a transaction.
pub const TRANSACTION_OPEN: Reply = Reply::fixed(503, "5.5.1 Mail transaction in progress");
/// 503: a second MAIL in a transaction.
pub const NESTED_SENDER: Reply = Reply::fixed(503, "5.5.1 Sender already given");
/// 503: no recipient was accepted.
pub const NO_RECIPIENT: Reply = Reply::fixed(503, "5.5.1 No valid recipients");
/// 503: DATA and BDAT in one transaction, DATA for a binary body (RFC 3030 §2, §3).
pub const CHUNKS_ONLY: Reply = Reply::fixed(503, "5.5.1 This message must be sent with BDAT");
/// 503: STARTTLS inside TLS.
pub const TLS_ACTIVE: Reply = Reply::fixed(503, "5.5.1 TLS already active");
/// 530: TLS first (RFC 3207 §4).
pub const TLS_FIRST: Reply = Reply::fixed(530, "5.7.0 Must issue a STARTTLS command first");
/// 554: octets behind STARTTLS; they would survive the upgrade.
pub const BYTES_BEHIND_STARTTLS: Reply = Reply::fixed(554, "5.5.1 Pipelining after STARTTLS");

/// 550: a domain nobody here serves.
pub const NO_ROUTE: Reply = Reply::fixed(550, "5.7.1 Relaying denied");
/// 550: refused by a list, or by a store that gave no words of its own.
pub const UNKNOWN_RECIPIENT: Reply = Reply::fixed(550, "5.1.1 Recipient address rejected: User unknown");
/// 553: `user%other@domain` and its kin.
pub const ROUTED_RECIPIENT: Reply = Reply::fixed(553, "5.1.3 Routed recipient addresses are not accepted");
/// 451: the mail store could not be asked, or did not answer about the recipient.
pub const UNDETERMINED: Reply = Reply::fixed(451, "4.4.3 Recipient verification is temporarily unavailable");
/// 452: this recipient belongs to another backend than the ones before it.
pub const OTHER_ROUTE: Reply = Reply::fixed(452, "4.5.3 Send this recipient in another transaction");
/// 451: the backend refused the whole message for one of its recipients.
pub const REFUSED_FOR_ONE: Reply =
    Reply::fixed(451, "4.5.3 One of the recipients was refused, send to each in another transaction");
/// 452: recipients of this domain are to come alone.
pub const ONE_RECIPIENT: Reply = Reply::fixed(452, "4.5.3 One recipient per transaction for this domain");
/// 452: above the limit of recipients.
pub const TOO_MANY_RECIPIENTS: Reply = Reply::fixed(452, "4.5.3 Too many recipients");
/// 552: larger than allowed.
pub const TOO_LARGE: Reply = Reply::fixed(552, "5.3.4 Message too large");
/// 550: a CR or LF alone in a message.
pub const BARE_NEWLINE: Reply = Reply::fixed(550, "5.6.11 Message contains bare CR or LF");
/// 451: the backend was lost, or disagreed with what it had taken before.
pub const BACKEND_LOST: Reply = Reply::fixed(451, "4.4.2 Connection to the mail server was lost");
/// 451: no backend could be reached.
pub const BACKEND_UNREACHABLE: Reply = Reply::fixed(451, "4.4.1 The mail server is not reachable");
/// 451: the backend's reply made no sense.
pub const BACKEND_CONFUSED: Reply = Reply::fixed(451, "4.3.0 Unexpected reply from the mail server");
/// 451: the backend lost an extension that was offered in this session.
pub const EXTENSION_LOST: Reply = Reply::fixed(451, "4.3.0 The mail server cannot take this message now");
/// 421: no room for another client.
pub const TOO_MANY_CONNECTIONS: Reply = Reply::fixed(421, "4.3.2 Too many connections, try again later");
/// 421: shutting down.
pub const DRAINING: Reply = Reply::fixed(421, "4.3.2 Service shutting down, try again");
/// 421: too many unknown recipients, in this session or from this client.
pub const HARVEST: Reply = Reply::fixed(421, "4.7.0 Too many unknown recipients, closing connection");
/// 554: it spoke before the greeting.
pub const EARLY_TALKER: Reply = Reply::fixed(554, "5.5.1 You spoke before you were greeted");
/// 421: too many wrong commands.
pub const TOO_MANY_ERRORS: Reply = Reply::fixed(421, "4.7.0 Too many errors");
/// 421: idle for too long, or too slow.
pub const IDLE: Reply = Reply::fixed(421, "4.4.2 Timeout, closing connection");
/// 421: a PROXY header from someone who is not believed, behind another one, or inside TLS.
pub const STRAY_PROXY_HEADER: Reply = Reply::fixed(421, "4.7.0 A PROXY header is not taken here");
/// 451: the route's configuration and the backend's do not fit.
pub const ROUTE_FAULT: Reply = Reply::fixed(451, "4.3.5 The mail server cannot be told who you are");
/// 421: an HTTP request.
pub const NOT_HTTP: Reply = Reply::fixed(421, "4.7.0 This is not an HTTP server");

/// What a client hears of a backend's reply in a transaction: itself, but never one that would mean something else to
/// the client (RFC 5321 §4.2), and never a 220, 221 or 421, which would speak of *our* connection.
#[must_use]
pub fn passed_on(reply: Reply) -> Reply {
    match reply.class() {
        Class::Positive if !reply.is_done() => BACKEND_CONFUSED,
        Class::Intermediate => BACKEND_CONFUSED,
        Class::Transient if reply.code() == 421 => BACKEND_LOST,
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enhanced_codes_are_of_the_class_of_their_code() {
        for reply in [
            BYE,
            TLS_READY,
            OK,
            SENDER_OK,
            HELP,
            CANNOT_VERIFY,
            UNRECOGNIZED,
            LINE_TOO_LONG,
            BAD_ARGUMENT,
            BARE_NEWLINE_IN_COMMAND,
            NUL_IN_COMMAND,
            BAD_CHUNK,
            BAD_SENDER,
            BAD_RECIPIENT,
            BAD_PARAMETER,
            PARAMETER_NOT_OFFERED,
            NEEDS_SMTPUTF8,
            NOT_IMPLEMENTED,
            GREET_FIRST,
            SENDER_FIRST,
            NESTED_SENDER,
            TRANSACTION_OPEN,
            STRAY_PROXY_HEADER,
            ROUTE_FAULT,
            NO_RECIPIENT,
            CHUNKS_ONLY,
            TLS_ACTIVE,
            TLS_FIRST,
            BYTES_BEHIND_STARTTLS,
            NO_ROUTE,
            UNKNOWN_RECIPIENT,
            ROUTED_RECIPIENT,
            UNDETERMINED,
            OTHER_ROUTE,
            REFUSED_FOR_ONE,
            ONE_RECIPIENT,
            TOO_MANY_RECIPIENTS,
            TOO_LARGE,
            BARE_NEWLINE,
            BACKEND_LOST,
            BACKEND_UNREACHABLE,
            BACKEND_CONFUSED,
            EXTENSION_LOST,
            TOO_MANY_CONNECTIONS,
            DRAINING,
            HARVEST,
            EARLY_TALKER,
            TOO_MANY_ERRORS,
            IDLE,
            NOT_HTTP,
        ] {
            assert!(reply.enhanced().is_some(), "{reply}");
        }
    }

    #[test]
    fn a_client_never_hears_a_backends_220_421_or_3yz() {
        assert_eq!(passed_on(Reply::fixed(421, "bye")), BACKEND_LOST);
        assert_eq!(passed_on(Reply::fixed(354, "go")), BACKEND_CONFUSED);
        for code in [200, 214, 220, 221, 249, 253, 299] {
            assert_eq!(passed_on(Reply::fixed(code, "2.0.0 yes")), BACKEND_CONFUSED, "{code}");
        }
        let full = Reply::fixed(452, "4.2.2 full");
        assert_eq!(passed_on(full.clone()), full);
    }
}
