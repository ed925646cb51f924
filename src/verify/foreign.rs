//! Mail that is nobody's: whether a server takes it from us says whether it relays for us.
//!
//! Domains that are nobody's (RFC 2606) take no mail, and say so in DNS (RFC 7505): a server that relays for us may yet refuse
//! them for that. So a refusal counts where it is for relaying, or where no mailbox is known at an address of nobody's (RFC 5737)
//! either, which no server looks up.

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

/// What answers about recipients, each with what it says, come to.
pub(super) fn outcome<'a>(answers: impl Iterator<Item = (&'a str, Relaying)> + Clone) -> Outcome {
    let says = |what| answers.clone().any(|(_, said)| said == what);
    let mut unknown = answers.clone().filter(|(_, said)| *said == Relaying::NoSuchMailbox).map(|(to, _)| to);
    let first = unknown.next();
    if says(Relaying::Takes) {
        Outcome::Relays
    } else if says(Relaying::Denies) || unknown.any(|to| Some(to) != first) {
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
        use Relaying::{Denies, NoSuchMailbox, Takes, Unclear};
        for (answers, expected) in [
            (&[][..], Outcome::Untested),
            (&[("a", Unclear), ("b", Unclear)], Outcome::Untested),
            (&[("a", Denies)], Outcome::Refuses),
            (&[("a", Denies), ("a", Takes)], Outcome::Relays),
            (&[("a", NoSuchMailbox), ("a", NoSuchMailbox)], Outcome::Untested),
            (&[("a", NoSuchMailbox), ("b", Unclear)], Outcome::Untested),
            (&[("a", NoSuchMailbox), ("b", NoSuchMailbox)], Outcome::Refuses),
            (&[("a", NoSuchMailbox), ("b", Takes)], Outcome::Relays),
        ] {
            assert_eq!(outcome(answers.iter().copied()), expected, "{answers:?}");
        }
    }

    #[test]
    fn nobody_is_at_a_domain_and_at_an_address() {
        let [domain, address] = recipients(&Domain::parse("example.net").unwrap()).unwrap();
        assert!(domain.written().ends_with("@example.net"), "{}", domain.written());
        assert!(address.written().ends_with("@[192.0.2.1]"), "{}", address.written());
    }
}
