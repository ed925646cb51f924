//! What a verdict leads to. The only place where an unknown one is decided.
//!
//! Deviation: a policy that our probe meets (5.7.x) is about its sender and our address, so with `on_unknown = "live"` the
//! client's own RCPT is decided by the delivery port, which refuses it in the same words where the policy is about
//! everybody. To refuse at once would refuse good recipients wherever a store does not like the null sender.

use crate::config::OnUnknown;
use crate::observe::metrics::{RecipientResult, RecipientSource, RefusalCause};
use crate::proto::replies;
use crate::proto::reply::{Class, Reply};
use crate::proto::verdict::{Cause, StoreAnswered, Verdict};

/// What to do about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Give it to the delivery port.
    Forward,
    /// Refuse it with this reply.
    Refuse(Reply),
}

/// A decision, with who made it and what it is called.
#[derive(Debug)]
pub struct Judgement {
    /// What to do.
    pub decision: Decision,
    /// Who decided.
    pub source: RecipientSource,
    /// What a refusal is counted as.
    pub about: RecipientResult,
    /// Why it would be refused; meaningless where it is not.
    pub cause: RefusalCause,
}

/// Why a recipient with this verdict is refused, where it is.
pub(super) const fn refusal_cause(verdict: &Verdict, source: RecipientSource) -> RefusalCause {
    let cause = match (verdict, source) {
        (Verdict::Deliverable | Verdict::Undeliverable(_), RecipientSource::Policy) => {
            return RefusalCause::Denied;
        }
        (Verdict::Deliverable | Verdict::Undeliverable(_), _) => return RefusalCause::Unknown,
        (Verdict::Unknown(cause), _) => cause,
    };
    match cause {
        Cause::Deferred(_) => RefusalCause::Deferred,
        Cause::Policy(_) => RefusalCause::Policy,
        Cause::SenderRefused(_) => RefusalCause::SenderRefused,
        Cause::Unverified => RefusalCause::Unverified,
        Cause::RouteFault(_) => RefusalCause::RouteFault,
        Cause::NotServed(_) => RefusalCause::NoRoute,
        Cause::Blind => RefusalCause::Blind,
        Cause::StoreIll(_) => RefusalCause::StoreIll,
        Cause::Unreachable => RefusalCause::Unreachable,
        Cause::Timeout => RefusalCause::Timeout,
        Cause::NoCapacity => RefusalCause::NoCapacity,
    }
}

/// What `verdict` leads to.
#[must_use]
pub fn decide(verdict: Verdict, on_unknown: OnUnknown) -> (Decision, RecipientResult) {
    let cause = match verdict {
        Verdict::Deliverable => return (Decision::Forward, RecipientResult::Accepted),
        Verdict::Undeliverable(reply) => return (Decision::Refuse(reply), RecipientResult::Unknown),
        Verdict::Unknown(cause) => cause,
    };
    // As if no route had named it: its mail would not be taken by anybody here.
    if let Cause::NotServed(reply) = cause {
        return (Decision::Refuse(replies::passed_on(reply)), RecipientResult::RelayDenied);
    }
    let decision = match (on_unknown, cause.store_answered()) {
        // Nobody could ever say more: to ask the sender to come again would be to lose its mail.
        (_, _) if cause == Cause::Blind => Decision::Forward,
        (OnUnknown::Accept, _) | (OnUnknown::Live, StoreAnswered::NotAboutTheRecipient) => Decision::Forward,
        (OnUnknown::Live | OnUnknown::Tempfail, _) => Decision::Refuse(undetermined(&cause)),
    };
    (decision, RecipientResult::Undetermined)
}

/// The store's own words where they are temporary, or a policy it states for good; else ours.
fn undetermined(cause: &Cause) -> Reply {
    match cause {
        Cause::Policy(reply) => replies::passed_on(reply.clone()),
        Cause::Deferred(reply) if reply.class() == Class::Transient => replies::passed_on(reply.clone()),
        _ => replies::UNDETERMINED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_verdict_is_decided_by_its_cause() {
        use OnUnknown::{Accept, Live, Tempfail};
        let greylisted = Reply::fixed(450, "4.2.0 greylisted");
        let policy = Reply::fixed(550, "5.7.1 blocked");
        let fault = Reply::fixed(554, "5.7.1 relay access denied");
        let gone = Reply::fixed(550, "5.1.1 unknown");
        let refuse = |reply: &Reply| Decision::Refuse(reply.clone());
        for (cause, on_unknown, decision) in [
            (Cause::Deferred(greylisted.clone()), Live, Decision::Forward),
            (Cause::Deferred(greylisted.clone()), Tempfail, refuse(&greylisted)),
            (Cause::Deferred(greylisted.clone()), Accept, Decision::Forward),
            (Cause::Policy(policy.clone()), Live, Decision::Forward),
            (Cause::Policy(policy.clone()), Tempfail, refuse(&policy)),
            (Cause::Unverified, Live, Decision::Forward),
            (Cause::Unverified, Tempfail, refuse(&replies::UNDETERMINED)),
            (Cause::RouteFault(fault), Live, refuse(&replies::UNDETERMINED)),
            (Cause::Unreachable, Live, refuse(&replies::UNDETERMINED)),
            (Cause::Timeout, Live, refuse(&replies::UNDETERMINED)),
            (Cause::Unreachable, Accept, Decision::Forward),
            (Cause::Blind, Tempfail, Decision::Forward),
            (Cause::StoreIll(gone.clone()), Live, refuse(&replies::UNDETERMINED)),
            (Cause::NotServed(policy.clone()), Live, refuse(&policy)),
            (Cause::NotServed(policy.clone()), Accept, refuse(&policy)),
        ] {
            let name = format!("{cause:?} {on_unknown:?}");
            assert_eq!(decide(Verdict::Unknown(cause), on_unknown).0, decision, "{name}");
        }
    }
}
