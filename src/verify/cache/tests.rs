//! The rules of the cache, each by name, on a paused clock.

use std::time::Duration;

use tokio::time::advance;

use super::*;
use crate::verify::key::Keyring;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

pub(in crate::verify) fn lifetimes() -> config::Cache {
    config::Cache {
        max_entries: 1000,
        positive_ttl: 24 * HOUR,
        positive_refresh: 12 * HOUR,
        negative_ttl: 5 * MINUTE,
        negative_ttl_max: 2 * HOUR,
        tempfail_ttl: Duration::from_secs(5),
        blind_ttl: 6 * HOUR,
        serve_stale: 24 * HOUR,
    }
}

fn cache() -> Cache {
    Cache::new(lifetimes())
}

pub(super) fn tally(cache: &Cache) -> Tally {
    cache.tally_of("store", "example.org")
}

fn key(name: &str) -> Key {
    Keyring::random().key(&[name.as_bytes()])
}

fn refusal() -> Reply {
    Reply::fixed(550, "5.1.1 <ann@a.b>: User unknown")
}

fn greylisted() -> Cause {
    Cause::Deferred(Reply::fixed(450, "4.2.0 greylisted"))
}

#[tokio::test(start_paused = true)]
async fn good_entries_age_refresh_and_serve_stale() {
    let (cache, key) = (cache(), key("ann"));
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing);
    cache.learn_good(key, &tally(&cache));
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Fresh));
    advance(12 * HOUR).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Aging));
    advance(12 * HOUR).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Stale));
    advance(24 * HOUR).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_keeps_a_good_verdict() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_good(key, &tally(&cache));
    cache.learn_deferred(key, &greylisted());
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Fresh));
}

#[tokio::test(start_paused = true)]
async fn bad_entries_live_longer_each_time_they_are_confirmed() {
    let (cache, key) = (cache(), key("ann"));
    for lifetime in [5, 10, 20, 40, 80, 120, 120] {
        cache.learn_bad(key, &refusal(), "ann@a.b");
        advance(MINUTE * lifetime * 8 / 10).await;
        assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Bad(refusal()), "{lifetime} minutes");
        advance(MINUTE * lifetime * 2 / 10).await;
        assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing, "{lifetime} minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_mailbox_begins_without_a_past() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_bad(key, &refusal(), "ann@a.b");
    cache.learn_good(key, &tally(&cache));
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Fresh));
    cache.learn_bad(key, &refusal(), "ann@a.b");
    advance(5 * MINUTE).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing);
}

#[tokio::test(start_paused = true)]
async fn temporary_answers_damp_a_stampede_only() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_deferred(key, &greylisted());
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Deferred(greylisted()));
    advance(Duration::from_secs(5)).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_live_refusal_removes_a_good_entry() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_good(key, &tally(&cache));
    assert_eq!(cache.contradict(key), Contradicted::Good);
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Nothing);
    assert_eq!(cache.contradict(key), Contradicted::Nothing);
}

#[tokio::test(start_paused = true)]
async fn bad_entries_cannot_push_out_good_ones() {
    let cache = cache();
    let ring = Keyring::random();
    let good: Vec<_> = (0..200_u32).map(|n| ring.key(&[b"good", &n.to_le_bytes()])).collect();
    for key in &good {
        cache.learn_good(*key, &tally(&cache));
    }
    for n in 0..100_000_u32 {
        cache.learn_bad(ring.key(&[b"bad", &n.to_le_bytes()]), &refusal(), "ann@a.b");
    }
    assert!(good.iter().all(|key| cache.known(*key, "", Guard::Second).eq(&Known::Good(Freshness::Fresh))));
    let sizes = cache.sizes();
    assert!(sizes.good + sizes.bad <= 1000 && sizes.evictions > 90_000, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn forgetting_forgets() {
    let (cache, one, two) = (cache(), key("ann"), key("bob"));
    cache.learn_good(one, &tally(&cache));
    cache.learn_bad(two, &refusal(), "ann@a.b");
    cache.forget(one);
    assert_eq!(cache.known(one, "", Guard::Second), Known::Nothing);
    cache.clear();
    assert_eq!(cache.known(two, "", Guard::Second), Known::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_good_entry_that_is_the_only_guard_lives_for_minutes_and_is_never_stale() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_good(key, &tally(&cache));
    advance(8 * MINUTE).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Sole), Known::Good(Freshness::Aging));
    advance(7 * MINUTE).await;
    assert_eq!(cache.known(key, "ann@a.b", Guard::Sole), Known::Nothing);
    assert_eq!(cache.known(key, "ann@a.b", Guard::Second), Known::Good(Freshness::Fresh));
}

#[tokio::test(start_paused = true)]
async fn good_entries_are_counted_by_tally_whatever_becomes_of_them() {
    let cache = cache();
    let ring = Keyring::random();
    let (few, many) = (cache.tally_of("store", "few"), cache.tally_of("store", "many"));
    let keys: Vec<_> = (0..3_u8).map(|n| ring.key(&[&[n]])).collect();
    for key in keys.iter().chain(&keys) {
        cache.learn_good(*key, &few);
    }
    assert_eq!(few.count(), 3, "an entry is counted once");
    cache.contradict(keys[0]);
    cache.learn_bad(keys[1], &refusal(), "ann@a.b");
    assert_eq!(few.count(), 1);
    for n in 0..5000_u32 {
        cache.learn_good(ring.key(&[b"many", &n.to_le_bytes()]), &many);
    }
    let counted = usize::try_from(few.count() + many.count()).unwrap();
    assert_eq!(counted, cache.sizes().good, "what is pushed out is not counted any more");
    cache.clear();
    assert_eq!(few.count() + many.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_lifetime_hides_no_temporary_answer() {
    let cache = cache();
    let (ann, bob) = (key("ann"), key("bob"));
    cache.learn_good(ann, &tally(&cache));
    cache.learn_bad(bob, &refusal(), "bob@a.b");
    advance(25 * HOUR).await;
    assert_eq!(cache.known(ann, "ann@a.b", Guard::Second), Known::Good(Freshness::Stale));
    for key in [ann, bob] {
        cache.learn_deferred(key, &greylisted());
        assert_eq!(cache.known(key, "x@a.b", Guard::Second), Known::Deferred(greylisted()));
    }
    advance(Duration::from_secs(5)).await;
    assert_eq!(
        cache.known(ann, "ann@a.b", Guard::Second),
        Known::Good(Freshness::Stale),
        "and it is not lost"
    );
    assert_eq!(cache.known(bob, "bob@a.b", Guard::Second), Known::Nothing);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_answer_is_kept_with_few_of_its_words() {
    let (cache, key) = (cache(), key("ann"));
    cache.learn_deferred(key, &Cause::Deferred(Reply::new(450, vec![b'x'; 60_000])));
    let Known::Deferred(Cause::Deferred(reply)) = cache.known(key, "ann@a.b", Guard::Second) else {
        panic!("it is not there")
    };
    assert_eq!((reply.code(), reply.text().len()), (450, LONGEST_WORDS));
}

#[tokio::test(start_paused = true)]
async fn a_tally_begun_anew_does_not_count_what_was_good_before() {
    let (cache, ann, bob) = (cache(), key("ann"), key("bob"));
    cache.learn_good(ann, &tally(&cache));
    let anew = cache.tally_anew("store", "example.org");
    cache.learn_good(bob, &anew);
    assert_eq!(tally(&cache).count(), 1);
    cache.forget(ann);
    assert_eq!(anew.count(), 1, "what goes was counted elsewhere");
}
