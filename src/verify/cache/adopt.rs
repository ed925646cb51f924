//! What the cache takes from other instances, and gives them.
//!
//! What comes from there is no older than it was there: an entry begins its life with the age it had. It never replaces what was
//! learnt here later.

use std::time::Duration;

use super::{Bad, Cache, Good, Guard, ShelfName, Tally};
use crate::store::{Ages, Fact, Tier, Told};
use crate::verify::key::Key;

impl Cache {
    /// From now on what is learnt is shared with `tier`.
    pub fn share_with(&self, tier: Tier) {
        let _ = self.tier.set(tier);
    }

    /// With whom it is shared.
    pub fn tier(&self) -> Option<&Tier> {
        self.tier.get()
    }

    /// How long a good entry may be of use.
    pub(super) fn good_keeps(&self) -> Duration {
        self.lifetimes.positive_ttl.saturating_add(self.lifetimes.serve_stale)
    }

    /// How old what others know may be to serve whoever knows nothing.
    #[must_use]
    pub fn ages_to_serve(&self, guard: Guard) -> Ages {
        Ages { good: self.good_lifetimes(guard).ttl.mul_f64(0.9), bad: self.lifetimes.negative_ttl_max }
    }

    /// How old it may be to spare us asking again about what we know.
    #[must_use]
    pub fn ages_to_confirm(&self, guard: Guard) -> Ages {
        Ages { good: self.good_lifetimes(guard).refresh.mul_f64(0.9), bad: CONFIRMED }
    }

    /// Takes what another instance learnt so long ago.
    pub fn adopt(&self, key: Key, told: Told, age: Duration, tally: &Tally) {
        let learnt = self.ago(age);
        let newer = self.good.peek(&key).is_some_and(|good| good.learnt > learnt)
            || self.bad.peek(&key).is_some_and(|bad| bad.learnt > learnt);
        if newer {
            return;
        }
        match told {
            Told::Good if !self.lifetimes.positive_ttl.is_zero() => {
                self.remove_good(key);
                tally.one_more();
                self.put(&self.good, key, Good { learnt, of: tally.number });
                self.tell(|journal| {
                    journal.heard(ShelfName::Good, key.to_bits(), Fact::Good { mark: tally.mark }, age);
                });
                if self.bad.remove(&key).is_some() {
                    self.tell(|journal| journal.gone(ShelfName::Bad, key.to_bits()));
                }
                self.deferred.remove(&key);
            }
            Told::Bad { template, confirmed } if !self.lifetimes.negative_ttl.is_zero() => {
                if self.remove_good(key) {
                    self.tell(|journal| journal.gone(ShelfName::Good, key.to_bits()));
                }
                self.deferred.remove(&key);
                let (text, news) = self.texts.adopt(template);
                self.put(&self.bad, key, Bad { learnt, text, confirmed });
                self.tell(|journal| {
                    news.into_iter().for_each(|news| journal.text(news.number, news.template));
                    let fact = Fact::Bad { text: text.number(), confirmed };
                    journal.heard(ShelfName::Bad, key.to_bits(), fact, age);
                });
            }
            Told::Good | Told::Bad { .. } | Told::Gone => {}
        }
    }

    /// Tells the others what was learnt, and how long that is of use.
    pub(super) fn share(&self, key: Key, what: impl FnOnce() -> (Told, Duration)) {
        if let Some(tier) = self.tier.get() {
            let (told, lives) = what();
            tier.learnt(key.to_bits(), told, lives);
        }
    }
}

/// A refusal another instance got within this need not be asked for again.
const CONFIRMED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::super::tests::{lifetimes, tally};
    use super::*;
    use crate::proto::reply::Reply;
    use crate::store::{HashKey, Template};
    use crate::verify::cache::{Freshness, Known};
    use crate::verify::key::Keyring;

    const MINUTE: Duration = Duration::from_secs(60);

    fn bad() -> Told {
        Told::Bad { template: Template { code: 550, text: b"5.1.1 <\0>: unknown"[..].into() }, confirmed: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_learnt_serves_for_what_remains_of_its_life() {
        let cache = Cache::new(lifetimes());
        let ring = Keyring::of(HashKey::of("salt"));
        let (ann, bob) = (ring.key(&[b"ann"]), ring.key(&[b"bob"]));
        cache.adopt(ann, Told::Good, MINUTE * 60 * 13, &tally(&cache));
        cache.adopt(bob, bad(), MINUTE, &tally(&cache));
        assert_eq!(cache.known(ann, "ann@a.b", Guard::Second), Known::Good(Freshness::Aging));
        let refusal = Reply::new(550, "5.1.1 <bob@a.b>: unknown".to_owned());
        assert_eq!(cache.known(bob, "bob@a.b", Guard::Second), Known::Bad(refusal));
        assert_eq!(tally(&cache).count(), 1);
        tokio::time::advance(MINUTE * 4).await;
        assert_eq!(cache.known(bob, "bob@a.b", Guard::Second), Known::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_learnt_before_us_changes_nothing() {
        let cache = Cache::new(lifetimes());
        let key = Keyring::of(HashKey::of("salt")).key(&[b"ann"]);
        tokio::time::advance(MINUTE * 10).await;
        cache.learn_good(key, &tally(&cache));
        cache.adopt(key, bad(), MINUTE, &tally(&cache));
        assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Fresh));
        tokio::time::advance(MINUTE * 10).await;
        cache.adopt(key, bad(), MINUTE, &tally(&cache));
        assert!(matches!(cache.known(key, "ann@a.b", Guard::Second), Known::Bad(_)));
        cache.adopt(key, Told::Gone, Duration::ZERO, &tally(&cache));
        assert!(matches!(cache.known(key, "ann@a.b", Guard::Second), Known::Bad(_)));
    }
}
