//! What is remembered about recipients.
//!
//! Rules (those of Postfix' verify(8) first):
//! 1. A failed or temporary probe never overwrites a good entry.
//! 2. Good, bad and temporary answers have lifetimes of their own.
//! 3. A good entry that ages is refreshed behind the scenes while it still serves.
//! 4. What could not be found out is not remembered at all.
//! 5. A live refusal of the recipient removes a good entry at once.
//! 6. A good entry serves past its lifetime while the store cannot be asked.
//!
//! Good, bad and temporary entries live in shares of their own, so a dictionary attack cannot push out good
//! ones. An entry is a hash and a few octets; lifetimes are judged when it is looked up, each with up to a
//! tenth taken off by its key, so that what was learnt together does not expire together.

mod adopt;
mod expire;
mod recall;
mod tallies;

use std::hash::Hasher as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quick_cache::sync::Cache as Share;
use quick_cache::{Lifecycle, UnitWeighter};
use siphasher::sip::SipHasher13;
use tokio::time::Instant;

use super::key::{AsIs, Key};
use super::texts::{Text, Texts};
use crate::config;
use crate::proto::reply::Reply;
use crate::proto::verdict::Cause;
use crate::store::{Fact, Journal, Shelf as ShelfName, Tier, Told};

pub use recall::bounds;
use tallies::Tallies;
pub use tallies::Tally;

/// Tenths of a second, [`BEGAN`] when the cache was made: 13 years in four octets, 3 of them in the past for
/// what was learnt before.
type Tick = u32;

/// The tick at which the cache was made.
const BEGAN: Tick = 1 << 30;

/// What is known of a recipient now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// It exists.
    Good(Freshness),
    /// It does not, in these words.
    Bad(Reply),
    /// It was asked a moment ago, in vain.
    Deferred(Cause),
    /// Nothing.
    Nothing,
}

/// How far a good entry can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As it is.
    Fresh,
    /// It serves, and is to be asked again.
    Aging,
    /// It serves only if the store cannot be asked.
    Stale,
}

/// An entry as an operator wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it says.
    pub known: Known,
    /// How old it is.
    pub age: Duration,
    /// How long it serves yet; zero when it is past its lifetime.
    pub remaining: Duration,
}

/// Entries by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Recipients that exist.
    pub good: usize,
    /// Recipients that do not.
    pub bad: usize,
    /// Questions without an answer.
    pub deferred: usize,
    /// Entries pushed out so far, for want of room.
    pub evictions: u64,
    /// Entries given up so far, past all use.
    pub expired: u64,
}

/// Who guards the backend against recipients that do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The delivery port does too: what is remembered may be old.
    Second,
    /// Nobody else does, for the delivery port takes anyone: good entries live for 15 minutes at most and are
    /// never served stale.
    Sole,
}

/// Octets of a temporary answer's words that are kept: a client is given one line.
const LONGEST_WORDS: usize = 500;

/// The longest lifetime of a good entry that is the only guard.
const SOLE_GUARD_TTL: Duration = Duration::from_secs(15 * 60);

/// The lifetimes of a good entry.
struct Lifetimes {
    ttl: Duration,
    refresh: Duration,
    stale: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Good {
    learnt: Tick,
    /// The tally it is counted in.
    of: u32,
}

#[derive(Debug, Clone, Copy)]
struct Bad {
    learnt: Tick,
    text: Text,
    /// How often the answer was the same before; each doubles the lifetime.
    confirmed: u8,
}

#[derive(Debug, Clone)]
struct Deferred {
    learnt: Tick,
    cause: Arc<Cause>,
}

/// Counts what is pushed out.
#[derive(Debug, Clone, Default)]
struct Evictions {
    /// Entries that made way: for want of room, or for a newer answer about the same recipient.
    total: Arc<AtomicU64>,
    /// Of them those that made way for a newer answer.
    replaced: Arc<AtomicU64>,
    /// Entries that were past all use.
    expired: Arc<AtomicU64>,
    tallies: Tallies,
}

/// What it means for an entry to be pushed out.
trait Evicted {
    fn evicted(self, evictions: &Evictions);
}

impl Evicted for Good {
    fn evicted(self, evictions: &Evictions) {
        evictions.tallies.one_less(self.of);
    }
}

impl Evicted for Bad {
    fn evicted(self, _: &Evictions) {}
}

impl Evicted for Deferred {
    fn evicted(self, _: &Evictions) {}
}

impl<V: Evicted> Lifecycle<Key, V> for Evictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: Key, entry: V) {
        self.total.fetch_add(1, Ordering::Relaxed);
        entry.evicted(self);
    }
}

type Shelf<V> = Share<Key, V, UnitWeighter, AsIs, Evictions>;

/// Entries of each kind there is room for.
struct Shares {
    good: usize,
    bad: usize,
    deferred: usize,
}

impl Shares {
    fn of(lifetimes: &config::Cache) -> Self {
        let all = lifetimes.max_entries.max(8);
        // Temporary entries live for seconds; a sixteenth holds thousands of recipients per second.
        let (deferred, bad) = (all / 16, all / 3);
        Self { good: all - bad - deferred, bad, deferred }
    }
}

/// The cache. All methods are quick and may be called from anywhere.
#[derive(Debug)]
pub struct Cache {
    lifetimes: config::Cache,
    since: Instant,
    good: Shelf<Good>,
    bad: Shelf<Bad>,
    deferred: Shelf<Deferred>,
    texts: Texts,
    evictions: Evictions,
    /// Who keeps what is learnt, if anybody does.
    journal: OnceLock<Journal>,
    /// With whom what is learnt is shared, if anybody.
    tier: OnceLock<Tier>,
}

impl Cache {
    /// An empty cache with these bounds and lifetimes.
    #[must_use]
    pub fn new(lifetimes: config::Cache) -> Self {
        let evictions = Evictions::default();
        let Shares { good, bad, deferred } = Shares::of(&lifetimes);
        Self {
            since: Instant::now(),
            good: shelf(good, &evictions),
            bad: shelf(bad, &evictions),
            deferred: shelf(deferred, &evictions),
            texts: Texts::default(),
            evictions,
            journal: OnceLock::new(),
            tier: OnceLock::new(),
            lifetimes,
        }
    }

    /// The tally of good entries of `name` in `route`; it begins with those that came from the store.
    #[must_use]
    pub fn tally_of(&self, route: &str, name: &str) -> Tally {
        self.evictions.tallies.of(mark(route, name))
    }

    /// The same, begun anew: what was counted so far is forgotten.
    #[must_use]
    pub fn tally_anew(&self, route: &str, name: &str) -> Tally {
        self.evictions.tallies.anew(mark(route, name))
    }

    /// What is known under `key`. `address` is put into the words of a refusal.
    #[must_use]
    pub fn known(&self, key: Key, address: &str, guard: Guard) -> Known {
        let now = self.now();
        let good = self.good.get(&key).and_then(|good| self.freshness(key, since(now, good.learnt), guard));
        if let Some(freshness @ (Freshness::Fresh | Freshness::Aging)) = good {
            return Known::Good(freshness);
        }
        let lives = |bad: &Bad| since(now, bad.learnt) < jittered(self.lifetime_of(*bad), key);
        if let Some(bad) = self.bad.get(&key).filter(lives) {
            return Known::Bad(self.texts.reply(bad.text, address));
        }
        // What is past its lifetime would be asked again; that was in vain a moment ago.
        match self.deferred.get(&key) {
            Some(entry) if since(now, entry.learnt) < self.lifetimes.tempfail_ttl => {
                Known::Deferred(entry.cause.as_ref().clone())
            }
            _ => good.map_or(Known::Nothing, Known::Good),
        }
    }

    /// How long ago a bad entry was learnt; none without one.
    #[must_use]
    pub fn bad_since(&self, key: Key) -> Option<Duration> {
        self.bad.get(&key).map(|bad| since(self.now(), bad.learnt))
    }

    /// The entry under `key` with its ages, also when it is past its lifetime; none when it serves no more
    /// even where the store cannot be asked.
    #[must_use]
    pub fn entry(&self, key: Key, address: &str, guard: Guard) -> Option<Entry> {
        let (learnt, lifetime, known) = if let Some(Good { learnt, .. }) = self.good.get(&key) {
            let freshness = self.freshness(key, since(self.now(), learnt), guard)?;
            (learnt, jittered(self.good_lifetimes(guard).ttl, key), Known::Good(freshness))
        } else if let Some(bad) = self.bad.get(&key) {
            let reply = self.texts.reply(bad.text, address);
            (bad.learnt, jittered(self.lifetime_of(bad), key), Known::Bad(reply))
        } else {
            let entry = self.deferred.get(&key)?;
            (entry.learnt, self.lifetimes.tempfail_ttl, Known::Deferred(entry.cause.as_ref().clone()))
        };
        let age = since(self.now(), learnt);
        Some(Entry { known, age, remaining: lifetime.saturating_sub(age) })
    }

    /// The recipient exists.
    pub fn learn_good(&self, key: Key, tally: &Tally) {
        if self.lifetimes.positive_ttl.is_zero() {
            return;
        }
        self.remove_good(key);
        tally.one_more();
        self.good.insert(key, Good { learnt: self.now(), of: tally.number });
        self.tell(|journal| {
            journal.learnt(ShelfName::Good, key.to_bits(), Fact::Good { mark: tally.mark });
        });
        self.share(key, || (Told::Good, self.good_keeps()));
        if self.bad.remove(&key).is_some() {
            self.tell(|journal| journal.gone(ShelfName::Bad, key.to_bits()));
        }
        self.deferred.remove(&key);
    }

    /// The recipient does not exist.
    pub fn learn_bad(&self, key: Key, reply: &Reply, address: &str) {
        if self.remove_good(key) {
            self.tell(|journal| journal.gone(ShelfName::Good, key.to_bits()));
        }
        self.deferred.remove(&key);
        if self.lifetimes.negative_ttl.is_zero() {
            // It is not remembered, and what was said before holds no longer.
            self.share(key, || (Told::Gone, self.good_keeps()));
            return;
        }
        // An answer of long ago says nothing about how steady this one is.
        let confirmed = self
            .bad
            .get(&key)
            .filter(|before| since(self.now(), before.learnt) < self.lifetime_of(*before).saturating_mul(2));
        let confirmed = confirmed.map_or(0, |before| before.confirmed.saturating_add(1));
        let (text, news) = self.texts.keep(reply, address);
        self.put(&self.bad, key, Bad { learnt: self.now(), text, confirmed });
        self.tell(|journal| {
            news.into_iter().for_each(|news| journal.text(news.number, news.template));
            let fact = Fact::Bad { text: text.number(), confirmed };
            journal.learnt(ShelfName::Bad, key.to_bits(), fact);
        });
        let lives = self.lifetime_of(Bad { learnt: self.now(), text, confirmed });
        self.share(key, || (Told::Bad { template: self.texts.template(text), confirmed }, lives));
    }

    /// The store answered, but not about the recipient. Good and bad entries stay.
    pub fn learn_deferred(&self, key: Key, cause: &Cause) {
        if !self.lifetimes.tempfail_ttl.is_zero() {
            let cause = Arc::new(cause.clone().shortened(LONGEST_WORDS));
            self.put(&self.deferred, key, Deferred { learnt: self.now(), cause });
        }
    }

    /// The delivery port refused the recipient itself. Gives whether that contradicts a good entry.
    pub fn contradict(&self, key: Key) -> Contradicted {
        let known = self.remove_good(key);
        // The store may know it also where there was no room for it here.
        self.tell(|journal| journal.gone(ShelfName::Good, key.to_bits()));
        self.share(key, || (Told::Gone, self.good_keeps()));
        if known { Contradicted::Good } else { Contradicted::Nothing }
    }

    /// Whether a good entry is there that still serves, if only where the store cannot be asked.
    #[must_use]
    pub fn held_good(&self, key: Key, guard: Guard) -> bool {
        let age = self.good.peek(&key).map(|good| since(self.now(), good.learnt));
        age.is_some_and(|age| self.freshness(key, age, guard).is_some())
    }

    /// Nothing is known of it any more.
    pub fn forget(&self, key: Key) {
        self.remove_good(key);
        self.bad.remove(&key);
        self.deferred.remove(&key);
        self.tell(|journal| {
            journal.gone(ShelfName::Good, key.to_bits());
            journal.gone(ShelfName::Bad, key.to_bits());
        });
    }

    /// Nothing is known of anything. What is stored is the affair of whoever counts the epochs.
    pub fn clear(&self) {
        self.good.clear();
        self.bad.clear();
        self.deferred.clear();
        self.evictions.tallies.clear();
    }

    fn remove_good(&self, key: Key) -> bool {
        let removed = self.good.remove(&key);
        if let Some((_, good)) = removed {
            self.evictions.tallies.one_less(good.of);
        }
        removed.is_some()
    }

    /// How much is known.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            good: self.good.len(),
            bad: self.bad.len(),
            deferred: self.deferred.len(),
            evictions: {
                let evictions = &self.evictions;
                let replaced = evictions.replaced.load(Ordering::Relaxed);
                evictions.total.load(Ordering::Relaxed).saturating_sub(replaced)
            },
            expired: self.evictions.expired.load(Ordering::Relaxed),
        }
    }

    fn freshness(&self, key: Key, age: Duration, guard: Guard) -> Option<Freshness> {
        let Lifetimes { ttl, refresh, stale } = self.good_lifetimes(guard);
        let lifetime = jittered(ttl, key);
        if age < lifetime {
            let aging = age >= jittered(refresh, key);
            Some(if aging { Freshness::Aging } else { Freshness::Fresh })
        } else {
            (age < lifetime + stale).then_some(Freshness::Stale)
        }
    }

    fn good_lifetimes(&self, guard: Guard) -> Lifetimes {
        let config::Cache { positive_ttl, positive_refresh, serve_stale, .. } = self.lifetimes;
        match guard {
            Guard::Second => Lifetimes { ttl: positive_ttl, refresh: positive_refresh, stale: serve_stale },
            Guard::Sole => {
                let ttl = positive_ttl.min(SOLE_GUARD_TTL);
                Lifetimes { ttl, refresh: positive_refresh.min(ttl / 2), stale: Duration::ZERO }
            }
        }
    }

    fn lifetime_of(&self, bad: Bad) -> Duration {
        let doubled = self.lifetimes.negative_ttl.saturating_mul(1 << bad.confirmed.min(16));
        doubled.min(self.lifetimes.negative_ttl_max)
    }

    /// Puts an entry in the place of what is known under its key, if anything is.
    fn put<V: Clone + Evicted>(&self, shelf: &Shelf<V>, key: Key, entry: V) {
        if shelf.peek(&key).is_some() {
            self.evictions.replaced.fetch_add(1, Ordering::Relaxed);
        }
        shelf.insert(key, entry);
    }

    fn now(&self) -> Tick {
        let elapsed = Tick::try_from(self.since.elapsed().as_millis() / 100).unwrap_or(Tick::MAX);
        BEGAN.saturating_add(elapsed)
    }

    /// Tells who keeps it what was learnt.
    fn tell(&self, news: impl FnOnce(&Journal)) {
        if let Some(journal) = self.journal.get() {
            news(journal);
        }
    }
}

/// What a live refusal contradicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradicted {
    /// A good entry, which is gone now.
    Good,
    /// Nothing that is believed: the store refuses in numbers what it knew.
    StoreIll,
    /// Nothing.
    Nothing,
}

fn shelf<V: Clone + Evicted>(entries: usize, evictions: &Evictions) -> Shelf<V> {
    let entries = entries.max(1);
    Share::with(entries, entries as u64, UnitWeighter, AsIs, evictions.clone())
}

/// What a tally is called in the store.
fn mark(route: &str, name: &str) -> u32 {
    let mut hasher = SipHasher13::new();
    [route, "\0", name].iter().for_each(|part| hasher.write(part.as_bytes()));
    let [a, b, c, d, ..] = hasher.finish().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn since(now: Tick, learnt: Tick) -> Duration {
    Duration::from_millis(u64::from(now.saturating_sub(learnt)) * 100)
}

/// Up to a tenth less, by key.
fn jittered(lifetime: Duration, key: Key) -> Duration {
    lifetime - lifetime.mul_f64(f64::from(key.scatter()) / 2560.0)
}

#[cfg(test)]
pub(super) mod tests;
