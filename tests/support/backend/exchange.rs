//! Microsoft Exchange, as far as a front can see it: reply texts, tarpit, limits, and when it judges a recipient.
//!
//! - 2010 with the recipient filter: unknown recipients are refused at RCPT, each after a tarpit of 5 s.
//! - 2013 and later on port 25 (Frontend Transport): every recipient of its domains is taken, and the whole message
//!   refused after its end when one of them is unknown.
//! - 2013 and later on 2525 (the hub transport, with the recipient filter): refused at RCPT.
//! - Exchange Online with directory based edge blocking: refused at RCPT, in words that speak of access.
//!
//! Each closes a session after a few errors, after 5 idle minutes and after 10 in all, and takes so many connections
//! from one source. STARTTLS is for who wants it ([`Script::with_starttls`]).

use std::time::Duration;

use super::manners::{Judges, Limits, Words};
use super::script::Script;

/// Which Exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// 2010, with the recipient filter.
    V2010,
    /// 2013 and later, port 25.
    Frontend,
    /// 2013 and later, port 2525, with the recipient filter.
    Hub,
    /// Exchange Online.
    Online,
}

const TARPIT: Duration = Duration::from_secs(5);

impl Exchange {
    /// One that knows these mailboxes, serves their domains and relays for nobody.
    pub fn knowing<'a>(self, mailboxes: impl IntoIterator<Item = &'a str>) -> Script {
        let keywords: &[&str] = match self {
            Self::V2010 => &[
                "SIZE 10485760",
                "PIPELINING",
                "DSN",
                "ENHANCEDSTATUSCODES",
                "X-ANONYMOUSTLS",
                "AUTH NTLM",
                "X-EXPS GSSAPI NTLM",
                "8BITMIME",
                "BINARYMIME",
                "CHUNKING",
                "XEXCH50",
                "XRDST",
                "XSHADOW",
            ],
            Self::Frontend | Self::Hub => &[
                "SIZE 37748736",
                "PIPELINING",
                "DSN",
                "ENHANCEDSTATUSCODES",
                "X-ANONYMOUSTLS",
                "AUTH NTLM",
                "X-EXPS GSSAPI NTLM",
                "8BITMIME",
                "BINARYMIME",
                "CHUNKING",
                "SMTPUTF8",
                "XRDST",
            ],
            Self::Online => &[
                "SIZE 157286400",
                "PIPELINING",
                "DSN",
                "ENHANCEDSTATUSCODES",
                "8BITMIME",
                "BINARYMIME",
                "CHUNKING",
                "SMTPUTF8",
            ],
        };
        let mut script = Script::knowing(mailboxes).serving_only_their_domains().offering_only(keywords);
        script.host = "ex.corp.test".to_owned();
        script.words = self.words();
        script.judges = if self == Self::Frontend { Judges::AfterTheMessage } else { Judges::AtRcpt };
        script.limits = Limits {
            tarpit: if self == Self::Online { Duration::ZERO } else { TARPIT },
            errors: Some(5),
            connections: Some(20),
            idle: Some(Duration::from_secs(5 * 60)),
            lifetime: Some(Duration::from_secs(10 * 60)),
        };
        script
    }

    fn words(self) -> Words {
        Words {
            greeting: "Microsoft ESMTP MAIL Service ready at Tue, 24 Nov 2026 09:00:00 +0000",
            hello: " Hello [127.0.0.1]",
            sender: "250 2.1.0 Sender OK",
            recipient: "250 2.1.5 Recipient OK",
            unknown: match self {
                Self::V2010 => "550 5.1.1 User unknown",
                Self::Frontend | Self::Hub => {
                    "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"
                }
                Self::Online => {
                    "550 5.4.1 Recipient address rejected: Access denied. For more information see https://aka.ms/EXOSmtpErrors"
                }
            },
            foreign: match self {
                Self::V2010 => "550 5.7.1 Unable to relay",
                Self::Frontend | Self::Hub => {
                    "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain"
                }
                Self::Online => "550 5.7.64 TenantAttribution; Relay Access Denied",
            },
            go_ahead: "354 Start mail input; end with <CRLF>.<CRLF>",
            queued: "250 2.6.0 <1@ex.corp.test> [InternalId=1, Hostname=ex.corp.test] Queued mail for delivery",
            reset: "250 2.0.0 Resetting",
            bye: "221 2.0.0 Service closing transmission channel",
            too_many_errors: "421 4.7.0 Too many errors on this connection, closing transmission channel",
            too_many_connections: "421 4.3.2 The maximum number of concurrent connections has exceeded a per-source limit, closing transmission channel",
            too_long: "421 4.4.1 Connection timed out",
        }
    }
}
