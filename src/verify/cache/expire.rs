//! Entries past all use leave: what is counted is what serves.
//!
//! A good entry is of use for as long as it may be served stale, a bad one while it tells how steady the store's answer is, a
//! temporary one while it damps.

use std::sync::atomic::Ordering;

use super::{Bad, Cache, Deferred, Good, Guard, Key, Lifetimes, jittered, since};

impl Cache {
    /// Gives up what is past all use. It looks at every entry, an eighth of them at a time under one lock: a few tens of
    /// milliseconds for ten million, and nothing for a caller that can wait to do on the runtime's threads.
    pub fn sweep(&self) {
        let now = self.now();
        let expires = |lives: bool| {
            self.evictions.expired.fetch_add(u64::from(!lives), Ordering::Relaxed);
            lives
        };
        let Lifetimes { ttl, stale, .. } = self.good_lifetimes(Guard::Second);
        self.good.retain(|key: &Key, good: &Good| {
            let lives = expires(since(now, good.learnt) < jittered(ttl, *key) + stale);
            if !lives {
                self.evictions.tallies.one_less(good.of);
            }
            lives
        });
        self.bad.retain(|_, bad: &Bad| {
            expires(since(now, bad.learnt) < self.lifetime_of(*bad).saturating_mul(2))
        });
        self.deferred
            .retain(|_, entry: &Deferred| expires(since(now, entry.learnt) < self.lifetimes.tempfail_ttl));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::lifetimes;
    use super::*;
    use crate::proto::reply::Reply;
    use crate::proto::verdict::Cause;

    #[tokio::test(start_paused = true)]
    async fn what_is_past_all_use_leaves_and_is_counted_and_a_newer_answer_is_no_eviction() {
        let cache = Cache::new(lifetimes());
        let tally = cache.tally_of("route", "example.org");
        let gone = Reply::new(550, "5.1.1 unknown".to_owned());
        let keys = [1, 2, 3].map(Key::anonymous);
        let [good, bad, deferred] = keys;
        for _ in 0..3 {
            cache.learn_good(good, &tally);
            cache.learn_bad(bad, &gone, "ann@example.org");
            cache.learn_deferred(deferred, &Cause::Timeout);
        }
        cache.sweep();
        let sizes = cache.sizes();
        assert_eq!((sizes.good, sizes.bad, sizes.deferred), (1, 1, 1));
        assert_eq!((sizes.evictions, sizes.expired, tally.count()), (0, 0, 1));
        tokio::time::advance(cache.lifetimes.tempfail_ttl + Duration::from_secs(1)).await;
        cache.sweep();
        assert_eq!((cache.sizes().deferred, cache.sizes().expired), (0, 1));
        let Lifetimes { ttl, stale, .. } = cache.good_lifetimes(Guard::Second);
        tokio::time::advance(ttl * 2 + stale + cache.lifetimes.negative_ttl_max * 2).await;
        cache.sweep();
        let sizes = cache.sizes();
        assert_eq!((sizes.good, sizes.bad, sizes.deferred), (0, 0, 0));
        assert_eq!((sizes.evictions, sizes.expired, tally.count()), (0, 3, 0));
    }
}
