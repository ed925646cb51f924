//! What the cache gets back from the store at a start.
//!
//! Ages are by the wall clock then: what is past use is not taken, nor what was learnt at a time yet to come,
//! since the clock went back and nobody knows how old it is. Where good and bad are known of one recipient
//! the later counts.

use std::collections::HashSet;
use std::time::Duration;

use super::{Bad, Cache, Good, Guard, Shares, ShelfName, Tick};
use crate::config;
use crate::store::{Bounds, Fact, Journal, Opened, Recalled, Record, Stamp};
use crate::verify::key::Key;
use crate::verify::texts::Text;

/// What the store is to hold of good and of bad entries.
#[must_use]
pub fn bounds(lifetimes: &config::Cache) -> (Bounds, Bounds) {
    let Shares { good, bad, .. } = Shares::of(lifetimes);
    let keeps = lifetimes.positive_ttl.saturating_add(lifetimes.serve_stale);
    (Bounds { records: good, keeps }, Bounds { records: bad, keeps: lifetimes.negative_ttl_max })
}

impl Cache {
    /// Takes everything the store knows at `now`. Gives what is not the cache's.
    pub fn recall(&self, store: &mut Opened, now: Stamp) -> Recalled {
        let recalled = store.recall();
        for (number, template) in &recalled.texts {
            self.texts.restore(*number, template);
        }
        store.recall_each(|shelf, record| self.restore(shelf, record, now));
        let needed: HashSet<Text> = self.bad.iter().map(|(_, bad)| bad.text).collect();
        store.forget_texts(&self.texts.retain(|text| needed.contains(&text)));
        recalled
    }

    /// From now on `journal` is told what is learnt.
    pub fn keep_in(&self, journal: Journal) {
        let _ = self.journal.set(journal);
    }

    /// Takes one record. They come good ones first, each kind in the order in which it was learnt.
    fn restore(&self, shelf: ShelfName, record: Record, now: Stamp) {
        let key = Key::from_bits(record.key);
        let age = record.learnt.age(now);
        match (shelf, record.fact, age) {
            (ShelfName::Good, fact, age) => {
                self.remove_good(key);
                if let (Fact::Good { mark }, Some(age)) = (fact, age)
                    && self.freshness(key, age, Guard::Second).is_some()
                {
                    let tally = self.evictions.tallies.of(mark);
                    tally.one_more();
                    self.good.insert(key, Good { learnt: self.ago(age), of: tally.number });
                }
            }
            (ShelfName::Bad, Fact::Bad { text, confirmed }, Some(age)) => {
                let bad = Bad { learnt: self.ago(age), text: Text::of_number(text), confirmed };
                if self.good.peek(&key).is_some_and(|good| good.learnt > bad.learnt) {
                    return;
                }
                self.remove_good(key);
                if age < self.lifetime_of(bad) {
                    self.bad.insert(key, bad);
                } else {
                    self.bad.remove(&key);
                }
            }
            (ShelfName::Bad, _, _) => {
                self.bad.remove(&key);
            }
        }
    }

    /// So long ago, at most the time before the cache was made that ticks can tell.
    pub(super) fn ago(&self, age: Duration) -> Tick {
        let now = self.now();
        now.saturating_sub(Tick::try_from(age.as_millis() / 100).unwrap_or(Tick::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::tests::{lifetimes, tally};
    use super::*;
    use crate::proto::reply::Reply;
    use crate::verify::cache::{Freshness, Known};
    use crate::verify::key::Keyring;

    const MINUTE: u32 = 60;
    const HOUR: u32 = 60 * MINUTE;

    /// A store that goes away with the test.
    struct Stored(PathBuf);

    impl Stored {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            Self(std::env::temp_dir().join(format!("backstop-recall-{}-{number}", std::process::id())))
        }

        fn open(&self) -> Opened {
            let (good, bad) = bounds(&lifetimes());
            Opened::open(&self.0, Some("salt"), good, bad).unwrap()
        }

        /// Learns with a cache that keeps it here.
        async fn learn(&self, learn: impl FnOnce(&Cache)) {
            let mut opened = self.open();
            let cache = Cache::new(lifetimes());
            cache.recall(&mut opened, Stamp::now());
            let store = opened.start();
            cache.keep_in(store.journal());
            learn(&cache);
            store.close(Duration::from_secs(30)).await;
            assert_eq!(store.account().fault, None);
        }

        /// A cache that begins so many seconds from now.
        fn later(&self, seconds: i64) -> Cache {
            let now = Stamp(u32::try_from(i64::from(Stamp::now().0) + seconds).unwrap());
            let cache = Cache::new(lifetimes());
            cache.recall(&mut self.open(), now);
            cache
        }
    }

    impl Drop for Stored {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn key(name: &str) -> Key {
        Keyring::of(crate::store::HashKey::of("salt")).key(&[name.as_bytes()])
    }

    fn known(cache: &Cache, name: &str) -> Known {
        cache.known(key(name), &format!("{name}@a.b"), Guard::Second)
    }

    fn refusal(name: &str) -> Reply {
        Reply::new(550, format!("5.1.1 <{name}@a.b>: User unknown"))
    }

    fn learn_bad(cache: &Cache, name: &str) {
        cache.learn_bad(key(name), &refusal(name), &format!("{name}@a.b"));
    }

    #[tokio::test]
    async fn entries_go_on_aging_while_nobody_runs() {
        let stored = Stored::new();
        stored
            .learn(|cache| {
                cache.learn_good(key("ann"), &tally(cache));
                learn_bad(cache, "bob");
            })
            .await;
        let cache = stored.later(i64::from(4 * MINUTE));
        assert_eq!(known(&cache, "bob"), Known::Bad(refusal("bob")));
        assert_eq!(known(&cache, "cid"), Known::Nothing);
        for (hours, good) in [
            (1, Known::Good(Freshness::Fresh)),
            (13, Known::Good(Freshness::Aging)),
            (25, Known::Good(Freshness::Stale)),
            (49, Known::Nothing),
        ] {
            let cache = stored.later(hours * i64::from(HOUR));
            assert_eq!((known(&cache, "ann"), known(&cache, "bob")), (good, Known::Nothing), "{hours} h");
        }
    }

    #[tokio::test]
    async fn what_was_learnt_in_the_future_is_not_taken() {
        let stored = Stored::new();
        stored
            .learn(|cache| {
                cache.learn_good(key("ann"), &tally(cache));
                learn_bad(cache, "bob");
            })
            .await;
        let cache = stored.later(-i64::from(HOUR));
        assert_eq!((known(&cache, "ann"), known(&cache, "bob")), (Known::Nothing, Known::Nothing));
        let cache = stored.later(-10);
        assert_eq!(known(&cache, "ann"), Known::Good(Freshness::Fresh), "a clock that was set right");
    }

    #[tokio::test]
    async fn of_good_and_bad_the_later_counts() {
        let stored = Stored::new();
        stored
            .learn(|cache| {
                learn_bad(cache, "ann");
                cache.learn_good(key("ann"), &tally(cache));
                cache.learn_good(key("bob"), &tally(cache));
                learn_bad(cache, "bob");
                cache.learn_good(key("cid"), &tally(cache));
                cache.contradict(key("cid"));
                learn_bad(cache, "dan");
                cache.forget(key("dan"));
            })
            .await;
        let cache = stored.later(0);
        assert_eq!(known(&cache, "ann"), Known::Good(Freshness::Fresh));
        assert_eq!(known(&cache, "bob"), Known::Bad(refusal("bob")));
        assert_eq!((known(&cache, "cid"), known(&cache, "dan")), (Known::Nothing, Known::Nothing));
        assert_eq!(tally(&cache).count(), 1, "what comes back is counted where it was");
    }

    #[tokio::test]
    async fn a_refusal_that_came_when_the_good_entry_had_no_room_any_more_counts() {
        let stored = Stored::new();
        stored.learn(|cache| cache.learn_good(key("ann"), &tally(cache))).await;
        // A cache that forgot it and whose store did not.
        let store = stored.open().start();
        let cache = Cache::new(lifetimes());
        cache.keep_in(store.journal());
        learn_bad(&cache, "ann");
        store.close(Duration::from_secs(30)).await;
        assert_eq!(known(&stored.later(0), "ann"), Known::Bad(refusal("ann")));
    }

    #[tokio::test]
    async fn confirmations_and_words_come_back() {
        let stored = Stored::new();
        for _ in 0..4 {
            stored.learn(|cache| learn_bad(cache, "bob")).await;
        }
        // Five minutes, doubled three times.
        let cache = stored.later(i64::from(30 * MINUTE));
        assert_eq!(known(&cache, "bob"), Known::Bad(refusal("bob")));
        assert_eq!(known(&stored.later(i64::from(41 * MINUTE)), "bob"), Known::Nothing);
        let words = |store: &mut Opened| store.recall().texts.len();
        assert_eq!(words(&mut stored.open()), 0, "words nobody needs any more are let go");
    }
}
