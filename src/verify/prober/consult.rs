//! Before a probe is spent: what do other instances know, and is one of them asking already?
//!
//! Whoever holds the lease of a recipient asks, and renews it while that lasts; the others wait for the answer, looking again and
//! again. When the lease ends without an answer the next one takes it. With Redis gone, slow or full everybody asks for itself at
//! once. Nothing here outlasts `verify.timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::queue::Full;
use super::{Answer, Asker, Prober, Subject, Urgency, Why};
use crate::observe::metrics::RecipientSource;
use crate::proto::verdict::{Cause, Verdict};
use crate::store::{Ages, Consulted, RENEW_AFTER, Tier, Told, Turn};
use crate::verify::conversation::Conversation;
use crate::verify::key::Key;

/// The first wait for an answer another instance gets; each is twice as long as the one before, for messages may be lost.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(640);

/// What an answer of another instance must be to serve all who wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Somebody wants what is known confirmed since then.
    since: Option<Instant>,
    /// How old a refusal may be.
    recheck: Duration,
}

impl Wanted {
    pub(super) fn of(subject: &Subject, asker: Asker, why: Why) -> Self {
        let since = (why == Why::Confirm).then(Instant::now);
        // A new mailbox works within a minute, whichever instance was asked about it too early.
        let recheck = if asker.urgency == Urgency::Clean { subject.recheck } else { Duration::MAX };
        Self { since, recheck }
    }

    /// It is to serve another one, too.
    pub(super) fn and(&mut self, other: Self) {
        self.since = self.since.max(other.since);
        self.recheck = self.recheck.min(other.recheck);
    }
}

/// What was found out without asking the store.
enum Found {
    /// The cache knows it now.
    Known(Verdict),
    /// We are to ask, and hold the lease.
    Leased,
    /// We are to ask, and others may, too.
    Alone,
}

impl Prober {
    /// The tier to consult before `subject` is asked about, if that is of use.
    pub(super) fn tier(&self, subject: &Subject, asker: Asker, why: Why) -> Option<Tier> {
        let tier = self.shared.cache.tier()?;
        // An operator wants the store's own word, and while its refusals are not believed only the store can say that it is well.
        let own_word = (why == Why::Confirm && asker == Asker::OPERATOR) || subject.scope.is_braked();
        (tier.is_up() && !own_word).then(|| tier.clone())
    }

    /// Consults the tier, then asks the store if need be. The question is pending meanwhile.
    pub(super) async fn consult(self: Arc<Self>, tier: Tier, subject: Subject, why: Why) {
        let key = subject.key;
        let mut pending = Abandoned { prober: &self, key: Some(key) };
        let found = self.find(&tier, &subject, why).await;
        pending.key = None;
        let found = match found {
            Some(found) => found,
            // Nobody waits for it any more, unless somebody came just now.
            None if self.pending.remove_if(&key, |_, pending| pending.is_deserted()).is_some() => return,
            None => Found::Alone,
        };
        match found {
            Found::Known(verdict) => self.answer(key, verdict, RecipientSource::Shared),
            Found::Alone => self.ask_store(subject, None),
            Found::Leased => {
                self.ask_store(subject.clone(), Some(tier.clone()));
                self.keep_lease(&tier, &subject).await;
            }
        }
    }

    async fn find(&self, tier: &Tier, subject: &Subject, why: Why) -> Option<Found> {
        let patience = Instant::now() + self.store.patience / 2;
        let mut wait = FIRST_WAIT;
        loop {
            let pending =
                self.pending.get(&subject.key).filter(|pending| !pending.is_deserted()).map(|p| p.wanted);
            let wanted = pending?;
            let Some(scope) = subject.scope.hash() else { return Some(Found::Alone) };
            let entry = subject.entry();
            let guard = subject.scope.guard();
            let ages = self.ages(subject, why, wanted);
            let Ok(Consulted { turn, told, marks }) = tier.consult(entry.to_bits(), scope, ages).await else {
                // It may have come too late and given us the lease all the same: others must not wait for us.
                tier.release(entry.to_bits());
                return Some(Found::Alone);
            };
            subject.scope.recall(&marks);
            let joined = turn == Turn::Nobodys
                && self.pending.get(&subject.key).is_none_or(|pending| pending.wanted != wanted);
            if subject.entry() != entry || subject.scope.guard() != guard || joined {
                // The store, or the delivery port, is not what we took it for, or somebody came whom what was found does not
                // serve: it is not what we look for.
                if turn == Turn::Ours {
                    tier.release(entry.to_bits());
                }
                if Instant::now() >= patience {
                    return Some(Found::Alone);
                }
                continue;
            }
            let refused = matches!(told, Some((Told::Bad { .. }, _)));
            if let Some((told, age)) = told {
                self.take_over(subject, told, age, turn);
            }
            match turn {
                Turn::Nobodys => {
                    // What serves there may not serve here: then we ask.
                    let known = self.meanwhile(subject);
                    let known = known.filter(|known| !refused || *known != Verdict::Deliverable);
                    return Some(known.map_or(Found::Alone, Found::Known));
                }
                Turn::Ours => return Some(Found::Leased),
                Turn::Anothers if Instant::now() >= patience => return Some(Found::Alone),
                Turn::Anothers => tier.answered(entry.to_bits(), wait).await,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// How old what other instances know may be.
    fn ages(&self, subject: &Subject, why: Why, wanted: Wanted) -> Ages {
        let (cache, guard) = (&self.shared.cache, subject.scope.guard());
        let known = match why {
            Why::Unknown => cache.ages_to_serve(guard),
            Why::Refresh | Why::Confirm => cache.ages_to_confirm(guard),
        };
        let Ages { good, bad } = known;
        let bad = bad.min(wanted.recheck);
        match wanted.since {
            // The good entry there may be the very one that is in doubt.
            Some(since) => {
                Ages { good: good.min(since.elapsed()), bad: bad.min(cache.ages_to_confirm(guard).bad) }
            }
            None => Ages { good, bad },
        }
    }

    /// Puts into the cache what another instance knows.
    fn take_over(&self, subject: &Subject, told: Told, age: Duration, turn: Turn) {
        let entry = subject.entry();
        let (cache, guard) = (&self.shared.cache, subject.scope.guard());
        let forget = self.pending.get(&subject.key).is_some_and(|pending| pending.forget);
        // What is too old to spare us the question may serve if the store cannot be asked, and nothing better is known.
        let serves = turn == Turn::Nobodys || !cache.held_good(entry, guard);
        if forget || !serves {
            return;
        }
        if matches!(told, Told::Bad { .. }) && cache.held_good(entry, guard) {
            subject.scope.turned(&subject.mailbox);
            if subject.scope.is_braked() {
                return;
            }
        }
        cache.adopt(entry, told, age, &subject.scope.tally());
    }

    /// Puts the question in the queue; where that is full everybody hears so.
    fn ask_store(self: &Arc<Self>, subject: Subject, lease: Option<Tier>) {
        let key = subject.key;
        let entry = subject.entry();
        let asker = self.pending.get_mut(&key).map(|mut pending| {
            pending.leased = lease.is_some();
            pending.asker
        });
        let Some(asker) = asker else {
            lease.into_iter().for_each(|tier| tier.release(entry.to_bits()));
            return;
        };
        if let Err(Full) = self.wait(subject, asker) {
            if let Some(tier) = lease {
                tier.release(entry.to_bits());
            }
            return self.answer(key, Verdict::Unknown(Cause::NoCapacity), RecipientSource::Probe);
        }
        self.catch_up(key);
        self.man(&mut self.work());
    }

    /// Renews the lease for as long as the question is pending.
    async fn keep_lease(&self, tier: &Tier, subject: &Subject) {
        let end = Instant::now() + self.store.patience;
        loop {
            sleep(RENEW_AFTER).await;
            let pending = self.pending.get(&subject.key).is_some_and(|pending| pending.leased);
            if !pending || Instant::now() >= end {
                return;
            }
            tier.renew(subject.entry().to_bits()).await;
        }
    }

    /// The lease of a question, if it has one, ends.
    pub(super) fn release(&self, key: Key, entry: Key) {
        let leased = self.pending.get(&key).is_some_and(|pending| pending.leased);
        if leased && let Some(tier) = self.shared.cache.tier() {
            tier.release(entry.to_bits());
        }
    }

    /// Tells all who wait for `key`.
    fn answer(&self, key: Key, verdict: Verdict, source: RecipientSource) {
        if let Some((_, pending)) = self.pending.remove(&key) {
            let answer = Answer { verdict, conversation: Conversation::default(), source };
            for subscriber in pending.subscribers {
                let _ = subscriber.send(answer.clone());
            }
        }
    }
}

/// A consultation that ends unexpectedly leaves nobody waiting.
struct Abandoned<'p> {
    prober: &'p Prober,
    key: Option<Key>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.prober.pending.remove(&key);
        }
    }
}
