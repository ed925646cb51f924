//! The table of clients that asked for recipients: bounded, whatever comes.
//!
//! A client belongs to one of many small sets, by a keyed hash nobody outside can aim at. Each set has a lock of its own and
//! holds [`WAYS`] clients at most; a newcomer to a full one takes the place of whom we need least: first the harmless one
//! heard of longest ago, then who named least unknown recipients, one that is banned last. So nothing ever walks or locks
//! the whole table, and one lookup is one lock and a glance at a few neighbours.
//!
//! Alternative not taken: one map with a list by age. It costs as much again for the list, and every client would wait for
//! the lock of all others.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::hour::{Hour, Second, Tally};
use crate::net::client_key::ClientKey;

/// Clients of a set.
const WAYS: usize = 32;
/// How long an unknown recipient is held against a client.
pub(super) const HELD: Duration = Duration::from_secs(24 * 3600);

/// What is known of one client.
#[derive(Debug)]
pub(super) struct Record {
    client: ClientKey,
    ban: Option<Sentence>,
    hour: Hour,
    /// One more than when it was, so that none takes no room.
    last_unknown: Option<NonZero<Second>>,
    /// Recipients it asked for and has no answer to yet.
    pub(super) pending: u16,
}

/// Why a client is banned, and until when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sentence {
    until: NonZero<Second>,
    /// What it had asked for within an hour.
    unknown: u16,
    known: u16,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Ledger {
    sets: Box<[Mutex<Vec<Record>>]>,
    hashes: RandomState,
    began: Instant,
    clients: AtomicUsize,
}

impl Ledger {
    /// Room for `most` clients, rounded up to whole sets.
    pub(super) fn new(most: usize) -> Self {
        Self {
            sets: (0..most.div_ceil(WAYS).max(1)).map(|_| Mutex::default()).collect(),
            hashes: RandomState::new(),
            began: Instant::now(),
            clients: AtomicUsize::new(0),
        }
    }

    /// Clients it has room for.
    pub(super) fn room(&self) -> usize {
        self.sets.len() * WAYS
    }

    /// Clients it holds.
    pub(super) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Now, as records have it.
    pub(super) fn now(&self) -> Second {
        Second::try_from(self.began.elapsed().as_secs()).unwrap_or(Second::MAX)
    }

    /// Looks at `client`, if it is known.
    pub(super) fn look<T>(&self, client: ClientKey, at: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let mut set = self.lock(self.set_of(client));
        set.iter_mut().find(|record| record.client == client).map(at)
    }

    /// Works on `client`, which is known from now on.
    pub(super) fn change<T>(&self, client: ClientKey, now: Second, how: impl FnOnce(&mut Record) -> T) -> T {
        let mut set = self.lock(self.set_of(client));
        if let Some(record) = set.iter_mut().find(|record| record.client == client) {
            return how(record);
        }
        let mut newcomer = Record::new(client, now);
        let outcome = how(&mut newcomer);
        if set.len() < WAYS {
            set.push(newcomer);
            self.clients.fetch_add(1, Ordering::Relaxed);
        } else if let Some(least) = set.iter_mut().min_by_key(|record| record.need(now)) {
            *least = newcomer;
        }
        outcome
    }

    /// How many sets there are, for [`Self::visit`].
    pub(super) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Looks at all clients of one set; others wait for nothing else.
    pub(super) fn visit(&self, set: usize, mut at: impl FnMut(&Record)) {
        if let Some(set) = self.sets.get(set) {
            self.lock(set).iter().for_each(&mut at);
        }
    }

    /// Forgets the clients of one set of whom nothing counts any more, and gives their room back.
    pub(super) fn sweep(&self, set: usize) {
        let Some(set) = self.sets.get(set) else { return };
        let now = self.now();
        let mut set = self.lock(set);
        let before = set.len();
        set.retain(|record| record.counts(now));
        self.clients.fetch_sub(before - set.len(), Ordering::Relaxed);
        if set.len() <= set.capacity() / 4 {
            set.shrink_to_fit();
        }
    }

    fn set_of(&self, client: ClientKey) -> &Mutex<Vec<Record>> {
        let hash = u128::from(self.hashes.hash_one(client));
        // A multiplication spreads the hash over any number of sets.
        let number = usize::try_from((hash * self.sets.len() as u128) >> 64).unwrap_or_default();
        &self.sets[number]
    }

    fn lock<'s>(&self, set: &'s Mutex<Vec<Record>>) -> MutexGuard<'s, Vec<Record>> {
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sentence {
    /// A ban until then. Numbers above 65 535 are told as that.
    pub(super) fn new(until: Second, reason: Tally) -> Self {
        let told = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Self {
            until: NonZero::new(until).unwrap_or(NonZero::<Second>::MIN),
            unknown: told(reason.unknown),
            known: told(reason.known),
        }
    }

    /// When it ends.
    pub(super) const fn until(self) -> Second {
        self.until.get()
    }

    /// What the client had asked for.
    pub(super) fn reason(self) -> Tally {
        Tally { unknown: self.unknown.into(), known: self.known.into() }
    }
}

impl Record {
    fn new(client: ClientKey, now: Second) -> Self {
        Self { client, ban: None, hour: Hour::new(now), last_unknown: None, pending: 0 }
    }

    /// Whose it is.
    pub(super) const fn client(&self) -> ClientKey {
        self.client
    }

    /// What it asked for within an hour.
    pub(super) fn tally(&self, now: Second) -> Tally {
        self.hour.tally(now)
    }

    /// It asked for these now.
    pub(super) fn add(&mut self, now: Second, tally: Tally) {
        self.hour.add(now, tally);
    }

    /// It asked for these within the hour, says who knows better.
    pub(super) fn agree(&mut self, now: Second, counted: Tally) {
        self.hour.agree(now, counted);
    }

    /// It named an unknown recipient now.
    pub(super) const fn named_unknown(&mut self, now: Second) {
        self.last_unknown = NonZero::new(now.saturating_add(1));
    }

    /// When it named an unknown recipient last; none when it did not within a day.
    pub(super) fn last_unknown(&self, now: Second) -> Option<Second> {
        self.last_unknown
            .map(|after| after.get() - 1)
            .filter(|last| u64::from(now - last.min(&now)) < HELD.as_secs())
    }

    /// The ban that holds now.
    pub(super) fn ban(&self, now: Second) -> Option<Sentence> {
        self.ban.filter(|ban| ban.until() > now)
    }

    /// Bans it.
    pub(super) const fn sentence(&mut self, ban: Sentence) {
        self.ban = Some(ban);
    }

    /// Lifts its ban; what it did until now is forgiven, or the next unknown recipient would ban it again.
    pub(super) fn pardon(&mut self, now: Second) {
        (self.ban, self.hour, self.last_unknown) = (None, Hour::new(now), None);
    }

    /// What is lost with it: the least goes first.
    fn need(&self, now: Second) -> (Need, u32, Second) {
        if let Some(ban) = self.ban(now) {
            return (Need::Banned, 0, ban.until());
        }
        let need = match self.last_unknown(now) {
            _ if self.pending > 0 => Need::Waiting,
            Some(_) => Need::Suspect,
            None => return (Need::Harmless, 0, self.hour.seen()),
        };
        (need, self.tally(now).unknown, self.last_unknown(now).unwrap_or_default())
    }

    /// Whether anything is lost with it.
    fn counts(&self, now: Second) -> bool {
        self.need(now).0 > Need::Harmless || !self.tally(now).is_empty()
    }
}

/// Why a client is remembered, in the order of forgetting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Harmless,
    Suspect,
    Waiting,
    Banned,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const UNKNOWN: Tally = Tally { unknown: 1, known: 0 };
    const KNOWN: Tally = Tally { unknown: 0, known: 1 };

    fn client(number: u32) -> ClientKey {
        ClientKey::of(Ipv4Addr::from_bits(number).into())
    }

    /// One set, full of clients that asked for a good recipient, each later than the one before.
    async fn full() -> Ledger {
        let ledger = Ledger::new(WAYS);
        for number in 0..WAYS {
            ledger
                .change(client(u32::try_from(number).unwrap()), ledger.now(), |r| r.add(ledger.now(), KNOWN));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        ledger
    }

    fn knows(ledger: &Ledger, number: u32) -> bool {
        ledger.look(client(number), |_| ()).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_harmless_clients_are_forgotten_first_and_banned_ones_last() {
        let ledger = full().await;
        let now = ledger.now();
        // The two oldest: one is suspect, the other banned.
        ledger.change(client(0), now, |record| {
            record.add(now, UNKNOWN);
            record.named_unknown(now);
        });
        ledger.change(client(1), now, |record| {
            record.sentence(Sentence::new(now + 1000, UNKNOWN));
        });
        let newcomers = 1000..;
        let last = u32::try_from(WAYS).unwrap();
        for (newcomer, forgotten) in newcomers.zip(2..last) {
            assert!(knows(&ledger, forgotten), "{forgotten}");
            ledger.change(client(newcomer), now + 100, |record| {
                record.add(now + 100, Tally { unknown: 2, known: 0 });
                record.named_unknown(now + 100);
            });
            assert!(!knows(&ledger, forgotten), "{forgotten}");
        }
        assert!(knows(&ledger, 0) && knows(&ledger, 1));
        ledger.change(client(2000), now, |_| ());
        assert!(!knows(&ledger, 0), "who named least unknown recipients");
        for number in 3000..3200 {
            ledger.change(client(number), now, |record| record.named_unknown(now));
        }
        assert!(knows(&ledger, 1), "a banned one is kept among any number of suspects");
        assert_eq!(ledger.clients(), WAYS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_counts_no_more_is_swept_away() {
        let ledger = full().await;
        let (harmless, suspect, banned) = (client(5), client(6), client(7));
        let now = ledger.now();
        ledger.change(suspect, now, |record| record.named_unknown(now));
        ledger.change(banned, now, |record| {
            record.sentence(Sentence::new(now + 2 * 24 * 3600, UNKNOWN));
        });
        ledger.sweep(0);
        assert_eq!(ledger.clients(), WAYS, "within the hour everybody counts");
        tokio::time::advance(Duration::from_secs(3780)).await;
        ledger.sweep(0);
        assert_eq!(ledger.clients(), 2);
        assert!(ledger.look(harmless, |_| ()).is_none());
        tokio::time::advance(HELD).await;
        ledger.sweep(0);
        assert!(ledger.look(suspect, |_| ()).is_none() && ledger.look(banned, |_| ()).is_some());
        tokio::time::advance(HELD).await;
        ledger.sweep(0);
        assert_eq!(ledger.clients(), 0);
        assert_eq!(ledger.lock(&ledger.sets[0]).capacity(), 0, "and its room with it");
    }

    #[test]
    fn any_number_of_clients_fits_into_the_room_there_is() {
        let ledger = Ledger::new(1000);
        assert_eq!(ledger.room(), 1024);
        for number in 0..50_000 {
            ledger.change(client(number), 0, |record| record.add(0, UNKNOWN));
        }
        let held: usize = ledger.sets.iter().map(|set| ledger.lock(set).len()).sum();
        assert_eq!((held, ledger.clients()), (1024, 1024));
        assert!(ledger.sets.iter().all(|set| ledger.lock(set).capacity() == WAYS));
        assert!(size_of::<Record>() <= 112, "{}", size_of::<Record>());
    }
}
