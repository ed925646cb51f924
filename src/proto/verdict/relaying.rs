//! What a server says of mail that is not for it.

use super::words::{own_words, words_of};
use super::{Meaning, Stage, detail, meaning};
use crate::proto::reply::{Class, Reply};

/// What an answer to RCPT for a foreign domain says of relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relaying {
    /// It takes the mail.
    Takes,
    /// It does not relay for us.
    Denies,
    /// It refuses this recipient, and speaks of no reason but itself.
    RefusesIt,
    /// Something else is the reason, which another domain, or another sender, may not give.
    Unclear,
}

/// Reads an answer to RCPT for a foreign domain. A server that relays for us may yet refuse the domain for what DNS says of it (those of
/// RFC 2606 take no mail, RFC 7505), the sender, or us.
#[must_use]
pub fn relaying(reply: &Reply) -> Relaying {
    match reply.class() {
        Class::Positive => return Relaying::Takes,
        Class::Permanent if denies_relaying(reply) && !speaks_of_dns(reply) => return Relaying::Denies,
        // Postfix' defer_unauth_destination.
        Class::Transient if reply.code() == 454 && denies_relaying(reply) => return Relaying::Denies,
        _ => {}
    }
    match meaning(Stage::Recipient, reply) {
        Meaning::RouteFault => Relaying::Denies,
        Meaning::Bad | Meaning::Policy | Meaning::Refused
            if matches!(reply.code(), 550 | 551 | 553 | 554 | 571) && !speaks_of_another_reason(reply) =>
        {
            Relaying::RefusesIt
        }
        _ => Relaying::Unclear,
    }
}

/// What DNS says of the sender or the domain is the reason.
fn speaks_of_dns(reply: &Reply) -> bool {
    matches!(detail(reply), Some((1, 7 | 8 | 10) | (7, 20..=29)))
        || words_of(&own_words(reply)).any(|word| matches!(word, "nullmx" | "spf"))
}

fn speaks_of_another_reason(reply: &Reply) -> bool {
    const REASONS: &[&str] = &[
        "domain",
        "domains",
        "host",
        "mx",
        "dns",
        "sender",
        "from",
        "client",
        "undeliverable",
        "unverified",
        "unrouteable",
        "unroutable",
        "literal",
        "literals",
        "spam",
        "blocked",
        "listed",
        "blacklisted",
        "reputation",
        "policy",
    ];
    let about_something_else = matches!(detail(reply), Some((1, 2 | 3)));
    speaks_of_dns(reply)
        || about_something_else
        || words_of(&own_words(reply)).any(|word| REASONS.contains(&word))
}

/// Words that deny relaying, whatever the code.
pub(super) fn denies_relaying(reply: &Reply) -> bool {
    let text = own_words(reply);
    let words: Vec<&str> = words_of(&text).collect();
    let says = |any: &[&str]| words.iter().any(|word| any.contains(word));
    let row = |first: &[&str], then: &[&str]| {
        words.windows(2).any(|pair| matches!(pair, [a, b] if first.contains(a) && then.contains(b)))
    };
    let denies = says(&["denied", "rejected", "refused", "prohibited", "forbidden", "unable", "cannot"])
        || row(&["not"], &["allowed", "permitted", "relay"])
        || row(&["no"], &["relay", "relaying"])
        || row(&["do", "does", "can"], &["not"])
        || row(&["don", "won"], &["t"]);
    says(&["rcpthosts"]) || (says(&["relay", "relaying"]) && denies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_to_relay_or_of_the_mailbox_says_that_a_server_does_not_relay() {
        use Relaying::{Denies, RefusesIt, Takes, Unclear};
        for (code, text, expected) in [
            (250, "2.1.5 Ok", Takes),
            (252, "cannot verify", Takes),
            (554, "5.7.1 <x@example.net>: Relay access denied", Denies),
            (550, "relay not permitted", Denies),
            (530, "5.7.0 Authentication required", Denies),
            (550, "5.1.1 <x@example.net>: Recipient address rejected: User unknown", RefusesIt),
            (550, "Invalid recipient: <x@example.net>", RefusesIt),
            (
                550,
                "5.7.27 <x@example.com>: Sender address rejected: Domain example.com does not accept mail (nullMX)",
                Unclear,
            ),
            (
                556,
                "5.1.10 <x@example.net>: Recipient address rejected: Domain example.net does not accept mail (nullMX)",
                Unclear,
            ),
            (550, "5.1.2 <x@example.net>: bad destination", Unclear),
            (
                550,
                "5.1.1 <x@example.net>: Recipient address rejected: undeliverable address: no route",
                Unclear,
            ),
            (550, "Unrouteable address", Unclear),
            (550, "5.1.2 Relay not allowed.", Denies),
            (550, "Administrative prohibition", RefusesIt),
            (554, "5.7.1 Access denied", RefusesIt),
            (571, "not here", RefusesIt),
            (501, "5.1.3 bad address", Unclear),
            (550, "5.1.3 bad address", Unclear),
            (501, "<x@[192.0.2.1]>: domain literals not allowed", Unclear),
            (550, "5.7.23 SPF check failed", Unclear),
            (550, "5.7.1 relay-1.example.org is not allowed to send mail from example.com: SPF", Unclear),
            (554, "5.7.1 <x@example.net>: Relay access denied; contact <postmaster@example.org>", Denies),
            (454, "4.7.1 <x@example.net>: Relay access denied", Denies),
            (450, "4.7.1 Relay access denied", Unclear),
            (
                556,
                "5.1.10 <x@example.net>: Recipient address rejected: Domain example.net does not accept mail (nullMX). Example Ltd mail relay",
                Unclear,
            ),
            (550, "5.7.0 Relaying denied", Denies),
            (550, "5.7.1 Service unavailable; client host blocked", Unclear),
            (450, "4.1.2 <x@example.net>: Recipient address rejected: Domain not found", Unclear),
        ] {
            assert_eq!(relaying(&Reply::fixed(code, text)), expected, "{code} {text}");
        }
    }
}
