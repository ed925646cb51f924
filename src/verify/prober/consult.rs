//! Before a probe is spent: what do other instances know, and is one of them asking already?
//!
//! Whoever holds the lease of a recipient asks, and renews it while that lasts; the others wait for the answer, looking again and
//! again. When the lease ends without an answer the next one takes it. With Redis gone, slow or full everybody asks for itself at
//! once. Nothing here outlasts `verify.timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::queue::Full;
use super::{Answer, Asker, Prober, Subject, Why};
use crate::observe::metrics::RecipientSource;
use crate::proto::verdict::{Cause, Verdict};
use crate::store::{Consulted, RENEW_AFTER, Tier, Told, Turn};
use crate::verify::conversation::Conversation;
use crate::verify::key::Key;

/// The first wait for an answer another instance gets; each is twice as long as the one before, for messages may be lost.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(640);

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
            if self.is_deserted(subject.key) {
                return None;
            }
            let Some(scope) = subject.scope.hash() else { return Some(Found::Alone) };
            let entry = subject.entry();
            let guard = subject.scope.guard();
            let cache = &self.shared.cache;
            let ages = match why {
                Why::Unknown => cache.ages_to_serve(guard),
                Why::Confirm => cache.ages_to_confirm(guard),
            };
            let Ok(Consulted { turn, told, marks }) = tier.consult(entry.to_bits(), scope, ages).await else {
                return Some(Found::Alone);
            };
            subject.scope.recall(&marks);
            if subject.entry() != entry || subject.scope.guard() != guard {
                // The store, or the delivery port, is not what we took it for: what was found is not what we look for.
                if turn == Turn::Ours {
                    tier.release(entry.to_bits());
                }
                continue;
            }
            if let Some((told, age)) = told {
                self.take_over(subject, told, age, turn);
            }
            match turn {
                Turn::Nobodys => {
                    // What serves there may not serve here: then we ask.
                    return Some(self.meanwhile(subject).map_or(Found::Alone, Found::Known));
                }
                Turn::Ours => return Some(Found::Leased),
                Turn::Anothers if Instant::now() >= patience => return Some(Found::Alone),
                Turn::Anothers => tier.answered(entry.to_bits(), wait).await,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Puts into the cache what another instance knows.
    fn take_over(&self, subject: &Subject, told: Told, age: Duration, turn: Turn) {
        let entry = subject.entry();
        let (cache, guard) = (&self.shared.cache, subject.scope.guard());
        let forget = self.pending.get(&subject.key).is_some_and(|pending| pending.forget);
        // What is too old to spare us the question may serve if the store cannot be asked; a refusal never does.
        let serves = turn == Turn::Nobodys || (told == Told::Good && !cache.held_good(entry, guard));
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
        let asker = match self.pending.get_mut(&key) {
            Some(mut pending) => {
                pending.leased = lease.is_some();
                pending.asker
            }
            None => return,
        };
        let entry = subject.entry();
        if let Err(Full) = self.wait(subject, asker) {
            if let Some(tier) = lease {
                tier.release(entry.to_bits());
            }
            self.answer(key, Verdict::Unknown(Cause::NoCapacity), RecipientSource::Probe);
        }
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

    fn is_deserted(&self, key: Key) -> bool {
        self.pending.get(&key).is_none_or(|pending| pending.is_deserted())
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
