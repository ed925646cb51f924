//! The verifier as an instance of a tier: what others forget is forgotten here, what they find out about domains is known.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::key::Key;
use super::{MAX_GENERATIONS, Verifier};
use crate::store::{News, Tier, TierAccount};

impl Verifier {
    /// The same, sharing what is learnt with `tier`. The keys of all its instances must be made with one secret.
    #[must_use]
    pub fn with_tier(self, tier: Tier) -> Self {
        tier.epoch_is(self.epoch.load(Ordering::Relaxed));
        let sights = &self.shared.sights;
        sights.share_with(tier.clone());
        self.callouts().for_each(|callout| callout.scopes.each(|scope| sights.met(scope)));
        self.shared.cache.share_with(tier);
        self
    }

    /// How the tier is doing; none where this instance is alone.
    #[must_use]
    pub fn tier(&self) -> Option<TierAccount> {
        self.shared.cache.tier().map(Tier::account)
    }

    /// Another instance did something.
    pub fn heard(self: &Arc<Self>, news: News) {
        match news {
            News::Key(key) => self.forget_here(Key::from_bits(key)),
            // Of another epoch than ours it says nothing: we hear of the generations again when we know it.
            News::Domain(hash, generation, epoch) if epoch == self.epoch.load(Ordering::Relaxed) => {
                self.domain_is_of(hash, generation);
            }
            News::Domain(..) => {}
            News::Epoch(epoch) => {
                if epoch > self.epoch.fetch_max(epoch, Ordering::Relaxed) {
                    self.begin_epoch(epoch);
                }
            }
            News::Marked(hash) => self.look_up_marks(hash),
            News::Lost => {
                let tier = self.shared.cache.tier();
                for (tier, entry) in
                    tier.into_iter().flat_map(|t| self.generations.iter().map(move |g| (t, g)))
                {
                    tier.generation_is(*entry.key(), *entry.value());
                }
            }
            // About clients: the harvest's affair.
            News::Banned { .. } | News::Pardoned(_) => {}
        }
    }

    /// A recipient is forgotten on all other instances too, whichever way it was asked about there.
    pub(super) fn forget_elsewhere(&self, key: Key) {
        if let Some(tier) = self.shared.cache.tier() {
            tier.forget_key(key.to_bits(), key.in_every_generation().map(Key::to_bits));
        }
    }

    fn forget_here(&self, key: Key) {
        key.in_every_generation().for_each(|key| self.shared.cache.forget(key));
        for callout in self.callouts() {
            callout.prober.forget(key);
        }
    }

    /// A domain was forgotten elsewhere.
    fn domain_is_of(&self, hash: u128, generation: u32) {
        if self.generations.len() >= MAX_GENERATIONS && !self.generations.contains_key(&hash) {
            return self.forget_all();
        }
        let mut known = self.generations.entry(hash).or_insert(0);
        if *known >= generation {
            return;
        }
        *known = generation;
        drop(known);
        if let Some(store) = &self.store {
            store.journal().forgot_domain(hash, generation);
        }
        // Its name is not known here, only its hash.
        self.apart.forget_if(|domain| self.hash_of(domain) == hash);
    }

    fn look_up_marks(self: &Arc<Self>, hash: u128) {
        let Some(tier) = self.shared.cache.tier().cloned() else { return };
        let Some(scope) = self.shared.sights.find(hash) else { return };
        tokio::spawn(async move {
            if let Some(marks) = tier.marks(hash).await {
                scope.recall(&marks);
            }
        });
    }
}
