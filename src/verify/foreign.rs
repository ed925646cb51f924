//! Mail that is nobody's: whether a server takes it from us says whether it relays for us.
//!
//! Domains that are nobody's (RFC 2606) take no mail, and say so in DNS (RFC 7505): a server that relays for us may yet refuse
//! them for that; or a foreign sender for what DNS says of it; or the null sender. So senders of ours are asked with, too, and a
//! refusal counts where it is for relaying, or where the server refuses in the same silence an address (RFC 5737), which no
//! server looks up. Several servers trust a sender more than an address: each sender is asked with to its end.

use super::names;
use crate::proto::address::{Domain, Mailbox};
use crate::proto::verdict::Relaying;

/// A host that is nobody's.
const NOWHERE: &str = "[192.0.2.1]";

/// What a server does about mail that is not for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It refuses it.
    Refuses,
    /// It takes it.
    Relays,
    /// It could not be asked, or did not say.
    Untested,
}

/// Recipients to ask about: nobody at `domain`, and nobody at a host that is nobody's.
pub(super) fn recipients(domain: &Domain) -> Option<[Mailbox; 2]> {
    let nowhere = Domain::parse(NOWHERE).ok()?;
    Some([names::nobody_at(domain)?, names::nobody_at(&nowhere)?])
}

/// An answer about a recipient, to a sender the server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    pub(super) sender: &'a str,
    pub(super) whose: Whose,
    pub(super) recipient: &'a str,
    pub(super) what: Relaying,
}

/// Whose address a sender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The null sender, or one of ours.
    Ours,
    /// One at a domain that is nobody's.
    Nobodys,
}

/// What answers come to.
pub(super) fn outcome(answers: &[Said<'_>]) -> Outcome {
    let ours = || answers.iter().filter(|said| said.whose == Whose::Ours);
    // By this sender both recipients were refused, and not a word about why.
    let in_silence = |sender: &str| {
        let refused = |said: &&Said<'_>| said.sender == sender && said.what == Relaying::RefusesIt;
        let at_a_host = |said: &Said<'_>| said.recipient.ends_with(NOWHERE);
        ours().filter(refused).any(at_a_host) && ours().filter(refused).any(|said| !at_a_host(said))
    };
    if answers.iter().any(|said| said.what == Relaying::Takes) {
        Outcome::Relays
    } else if ours().any(|said| said.what == Relaying::Denies)
        || (ours().next().is_some() && ours().all(|said| in_silence(said.sender)))
    {
        Outcome::Refuses
    } else {
        Outcome::Untested
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_may_have_another_reason_proves_nothing() {
        use Relaying::{Denies, RefusesIt, Takes, Unclear};
        const DOMAIN: &str = "x@example.net";
        const HOST: &str = "x@[192.0.2.1]";
        for (answers, expected) in [
            (&[][..], Outcome::Untested),
            (&[("", DOMAIN, Unclear), ("", HOST, Unclear)], Outcome::Untested),
            (&[("", DOMAIN, Denies)], Outcome::Refuses),
            (&[("", DOMAIN, Unclear), ("us", DOMAIN, Denies)], Outcome::Refuses),
            (&[("", DOMAIN, Denies), ("us", DOMAIN, Takes)], Outcome::Relays),
            (&[("", DOMAIN, RefusesIt), ("", DOMAIN, RefusesIt)], Outcome::Untested),
            (&[("", DOMAIN, RefusesIt), ("", HOST, Unclear)], Outcome::Untested),
            (&[("", DOMAIN, RefusesIt), ("us", HOST, RefusesIt)], Outcome::Untested),
            (&[("", DOMAIN, RefusesIt), ("", HOST, RefusesIt)], Outcome::Refuses),
            (&[("", DOMAIN, RefusesIt), ("", HOST, RefusesIt), ("us", DOMAIN, Unclear)], Outcome::Untested),
            (&[("foreign", DOMAIN, Denies)], Outcome::Untested),
            (&[("foreign", DOMAIN, RefusesIt), ("foreign", HOST, RefusesIt)], Outcome::Untested),
            (&[("foreign", DOMAIN, Takes), ("", DOMAIN, Denies)], Outcome::Relays),
        ] {
            let said = |(sender, recipient, what): &(&'static str, &'static str, _)| Said {
                sender,
                whose: if *sender == "foreign" { Whose::Nobodys } else { Whose::Ours },
                recipient,
                what: *what,
            };
            let said: Vec<_> = answers.iter().map(said).collect();
            assert_eq!(outcome(&said), expected, "{answers:?}");
        }
    }

    #[test]
    fn nobody_is_at_a_domain_and_at_an_address() {
        let all = recipients(&Domain::parse("example.net").unwrap()).unwrap();
        for (nobody, at) in all.iter().zip(["@example.net", "@[192.0.2.1]"]) {
            assert!(nobody.written().ends_with(at), "{}", nobody.written());
        }
    }
}
