//! Mail that is nobody's: whether a server takes it from us says whether it relays for us.
//!
//! Domains that are nobody's (RFC 2606) take no mail, and say so in DNS (RFC 7505): a server that relays for us may yet refuse
//! them for that, or a foreign sender, or the null sender. So a refusal counts where it is for relaying; or where two recipients are
//! refused in words that give no other reason, to a sender the server takes: at such a domain, at an address (RFC 5737), which no
//! server looks up, or, for those that take no address, at a domain that does not exist.

use super::names;
use crate::proto::address::{Domain, Mailbox};
use crate::proto::verdict::Relaying;

/// A host that is nobody's, and a domain that does not exist (RFC 6761).
const NOWHERE: [&str; 2] = ["[192.0.2.1]", "relay-test.invalid"];

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

/// Recipients to ask about: nobody at `domain`, nobody at a host that is nobody's, nobody nowhere.
pub(super) fn recipients(domain: &Domain) -> Option<[Mailbox; 3]> {
    let [host, nowhere] = NOWHERE.map(Domain::parse);
    Some([names::nobody_at(domain)?, names::nobody_at(&host.ok()?)?, names::nobody_at(&nowhere.ok()?)?])
}

/// An answer about a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said<'a> {
    pub(super) recipient: &'a str,
    pub(super) sender: Sender,
    pub(super) what: Relaying,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The null sender, or one of ours: the server has nothing against it.
    Ours,
    /// One at a domain that is nobody's.
    Foreign,
}

/// What answers come to.
pub(super) fn outcome(answers: &[Said<'_>]) -> Outcome {
    let says = |what| answers.iter().any(|said| said.what == what);
    let refused = |said: &&Said<'_>| said.what == Relaying::RefusesIt && said.sender == Sender::Ours;
    let mut refused = answers.iter().filter(refused).map(|said| said.recipient);
    let first = refused.next();
    if says(Relaying::Takes) {
        Outcome::Relays
    } else if says(Relaying::Denies) || refused.any(|recipient| Some(recipient) != first) {
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
        use Sender::{Foreign, Ours};
        for (answers, expected) in [
            (&[][..], Outcome::Untested),
            (&[("a", Ours, Unclear), ("b", Ours, Unclear)], Outcome::Untested),
            (&[("a", Foreign, Denies)], Outcome::Refuses),
            (&[("a", Ours, Denies), ("a", Ours, Takes)], Outcome::Relays),
            (&[("a", Ours, RefusesIt), ("a", Ours, RefusesIt)], Outcome::Untested),
            (&[("a", Ours, RefusesIt), ("b", Ours, Unclear)], Outcome::Untested),
            (&[("a", Ours, RefusesIt), ("b", Ours, RefusesIt)], Outcome::Refuses),
            (&[("a", Foreign, RefusesIt), ("b", Foreign, RefusesIt)], Outcome::Untested),
            (&[("a", Foreign, RefusesIt), ("b", Ours, RefusesIt)], Outcome::Untested),
            (&[("a", Ours, RefusesIt), ("b", Ours, Takes)], Outcome::Relays),
        ] {
            let said = |(recipient, sender, what): &(&'static str, _, _)| Said {
                recipient,
                sender: *sender,
                what: *what,
            };
            let said: Vec<_> = answers.iter().map(said).collect();
            assert_eq!(outcome(&said), expected, "{answers:?}");
        }
    }

    #[test]
    fn nobody_is_at_a_domain_an_address_and_nowhere() {
        let all = recipients(&Domain::parse("example.net").unwrap()).unwrap();
        for (nobody, at) in all.iter().zip(["@example.net", "@[192.0.2.1]", "@relay-test.invalid"]) {
            assert!(nobody.written().ends_with(at), "{}", nobody.written());
        }
    }
}
