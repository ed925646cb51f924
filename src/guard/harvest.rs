//! Directory harvest attacks: who asks for recipients to find out which exist.
//!
//! What a client asked for within an hour is counted, by address or IPv6 /64. One that named more unknown recipients than
//! `max_unknown_per_hour`, and more than 80 % of all it asked for, is banned for a while. Before recipients are looked up
//! they are asked for here ([`Harvest::leave`]), never more at once than it takes to be banned, in all sessions of the client
//! together: neither pipelining nor many connections get past the limit. Who only connects and quits is not remembered.
//!
//! Everything that changes what is known is an [`Event`], and everything that is asked is one of [`Harvest::ban`],
//! [`Harvest::standing`], [`Harvest::leave`]: instances that tell each other their events know the same clients. In a tier leave
//! is given by all instances together; who guesses gets none while they cannot be asked, as long as they can be expected to be asked soon.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::elsewhere::{Elsewhere, Known};
use super::hour::{Second, Tally};
use super::ledger::{Ledger, Record, Sentence};
use crate::config;
use crate::net::client_key::ClientKey;
use crate::observe::metrics::Metrics;
use crate::store::{Haste, News, NoLeave, Tier};

/// How long recipients wait while too many others of the same client have no answer yet.
const WAIT: Duration = Duration::from_secs(25);
/// A client with a clean record may have this part of the limit pending without other instances knowing.
const FEW: u32 = 50;
/// How often those that wait look whether other instances have answered.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(100);
/// Clients whose sessions do not wake each other's.
const BELLS: usize = 64;
/// Sets visited before others get a turn.
const SETS_AT_A_TIME: usize = 256;

/// What is known of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing against it.
    Clean,
    /// It named an unknown recipient within a day.
    Suspect,
}

/// Whether what a client does is held against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is counted.
    Against,
    /// It is exempt: only its [`Standing`] is kept.
    Never,
}

/// A ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// How long it still holds.
    pub remaining: Duration,
    /// What the client had asked for within an hour.
    pub reason: Tally,
}

/// Something to be known of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was answered.
    Answered(Tally, Held),
    /// It was banned.
    Banned(Ban),
    /// Its ban was lifted, and what it did is forgiven.
    Pardoned,
}

/// A client, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// Who.
    pub client: ClientKey,
    /// What it asked for within an hour.
    pub tally: Tally,
    /// Whether it is banned.
    pub ban: Option<Ban>,
}

/// What all clients do to find out which recipients exist.
#[derive(Debug)]
pub struct Harvest {
    limits: ArcSwap<config::Harvest>,
    ledger: Ledger,
    /// What other instances know of clients, where there are some.
    elsewhere: Option<Elsewhere>,
    /// Recipients got their answers, so that the same clients may ask for others. Some clients share one.
    answered: [Notify; BELLS],
    /// Sessions that wait for that.
    waiting: AtomicUsize,
    metrics: Metrics,
}

/// Who asks for unknown recipients, for operators.
#[derive(Debug, Default)]
pub struct Suspicions {
    /// Those that named most of them within the hour.
    pub clients: Vec<Suspicion>,
    /// Banned ones, those that stay so longest first.
    pub banned: Vec<Suspicion>,
    /// How many are banned.
    pub bans: usize,
}

/// How many recipients may be looked up.
#[derive(Debug)]
pub enum Leave {
    /// So many now.
    Granted(Granted),
    /// None, and none later: the client is banned.
    Banned,
    /// None now: too many others have no answer yet.
    Busy,
}

/// Leave to look up some recipients. Dropped without [`Granted::answered`] they count as not answered.
#[derive(Debug)]
pub struct Granted {
    harvest: Arc<Harvest>,
    client: ClientKey,
    held: Held,
    recipients: u16,
    /// Of those, what other instances count as pending.
    reserved: u16,
    standing: Standing,
}

impl Harvest {
    /// Nobody is known, within these limits.
    #[must_use]
    pub fn new(limits: config::Harvest, metrics: Metrics) -> Arc<Self> {
        Self::within(limits, metrics, None)
    }

    /// The same, as an instance of a tier: what a client does counts on all of them.
    #[must_use]
    pub fn within(limits: config::Harvest, metrics: Metrics, tier: Option<Tier>) -> Arc<Self> {
        let elsewhere = tier.map(|tier| Elsewhere::new(tier, limits.max_clients));
        let ledger = Ledger::new(limits.max_clients);
        let (answered, waiting) = (std::array::from_fn(|_| Notify::new()), AtomicUsize::new(0));
        Arc::new(Self {
            limits: ArcSwap::from_pointee(limits),
            ledger,
            elsewhere,
            answered,
            waiting,
            metrics,
        })
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Guard<Arc<config::Harvest>> {
        self.limits.load()
    }

    /// From now on these hold; what is known of clients stays.
    pub fn set_limits(&self, limits: config::Harvest) {
        self.limits.store(Arc::new(limits));
    }

    /// The ban of `client`, if it is banned.
    #[must_use]
    pub fn ban(&self, client: ClientKey) -> Option<Ban> {
        let now = self.ledger.now();
        let here = self.ledger.look(client, |record| ban_of(record, now)).flatten();
        here.or_else(|| self.elsewhere(client)?.ban)
    }

    /// How `client` stands.
    #[must_use]
    pub fn standing(&self, client: ClientKey) -> Standing {
        let now = self.ledger.now();
        match self.ledger.look(client, |record| standing_of(record, now)) {
            Some(Standing::Suspect) => Standing::Suspect,
            _ => self.elsewhere(client).map_or(Standing::Clean, |known| known.standing),
        }
    }

    fn elsewhere(&self, client: ClientKey) -> Option<Known> {
        self.elsewhere.as_ref().map(|elsewhere| elsewhere.known(client))
    }

    /// Leave for `client` to have some of `wanted` recipients looked up, as soon as it may have one.
    pub async fn leave(self: &Arc<Self>, client: ClientKey, held: Held, wanted: usize) -> Leave {
        match self.reserved(self.try_leave(client, held, wanted)).await {
            Leave::Busy => self.wait_for_leave(client, held, wanted).await,
            leave => leave,
        }
    }

    async fn wait_for_leave(self: &Arc<Self>, client: ClientKey, held: Held, wanted: usize) -> Leave {
        let deadline = Instant::now() + WAIT;
        let _waiting = Waiting::of(&self.waiting);
        loop {
            // Before looking: what is answered in between is heard of.
            let answered = self.bell(client).notified();
            match self.reserved(self.try_leave(client, held, wanted)).await {
                Leave::Busy if Instant::now() < deadline => {
                    // What is answered on other instances is not heard of here.
                    let look =
                        if self.elsewhere.is_some() { Instant::now() + LOOK_ELSEWHERE } else { deadline };
                    let _ = timeout_at(look.min(deadline), answered).await;
                }
                leave => return leave,
            }
        }
    }

    fn try_leave(self: &Arc<Self>, client: ClientKey, held: Held, wanted: usize) -> Leave {
        let wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
        let elsewhere = self.elsewhere(client).unwrap_or_default();
        let granted = |recipients, standing| Granted {
            harvest: Arc::clone(self),
            client,
            held,
            recipients,
            reserved: 0,
            standing,
        };
        let Some(most) = self.limits().max_unknown_per_hour.filter(|_| held == Held::Against) else {
            return Leave::Granted(granted(wanted, self.standing(client)));
        };
        let now = self.ledger.now();
        self.ledger.change(client, now, |record| {
            if record.ban(now).is_some() || elsewhere.ban.is_some() {
                return Leave::Banned;
            }
            let allowance =
                record.tally(now).plus(elsewhere.tally).allowance(most).saturating_sub(record.pending.into());
            let recipients = wanted.min(u16::try_from(allowance).unwrap_or(u16::MAX));
            if recipients == 0 {
                return Leave::Busy;
            }
            record.pending = record.pending.saturating_add(recipients);
            let standing = match standing_of(record, now) {
                Standing::Clean => elsewhere.standing,
                Standing::Suspect => Standing::Suspect,
            };
            Leave::Granted(granted(recipients, standing))
        })
    }

    /// Takes note of what happened, here or elsewhere.
    pub fn learn(&self, client: ClientKey, event: Event) {
        let now = self.ledger.now();
        match event {
            Event::Answered(tally, held) => self.count(client, tally, held, (0, 0)),
            Event::Banned(ban) => {
                self.ledger.change(client, now, |record| record.sentence(sentence(now, ban)));
                self.elsewhere.as_ref().into_iter().for_each(|elsewhere| elsewhere.banned(client, ban));
            }
            Event::Pardoned => {
                self.ledger.look(client, |record| record.pardon(now));
                self.elsewhere.as_ref().into_iter().for_each(|elsewhere| elsewhere.pardoned(client));
            }
        }
    }

    /// Counts, and bans where it is too much; so many recipients are pending no more.
    fn count(&self, client: ClientKey, tally: Tally, held: Held, (answered, reserved): (u16, u16)) {
        let now = self.ledger.now();
        if tally.is_empty() || (held == Held::Never && tally.unknown == 0) {
            return;
        }
        let elsewhere = self.elsewhere(client).unwrap_or_default();
        let reason = self.ledger.change(client, now, |record| {
            if tally.unknown > 0 {
                record.named_unknown(now);
            }
            if held == Held::Never {
                return None;
            }
            record.pending = record.pending.saturating_sub(answered);
            record.add(now, tally);
            let reason = record.tally(now).plus(elsewhere.tally);
            let too_many = self.limits().max_unknown_per_hour.is_some_and(|most| reason.exceeds(most));
            if !too_many || tally.unknown == 0 || record.ban(now).or(elsewhere.sentence).is_some() {
                return None;
            }
            record.sentence(sentence(now, Ban { remaining: self.limits().ban, reason }));
            Some(reason)
        });
        if let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| held == Held::Against) {
            elsewhere.told(client, tally, reserved);
        }
        let Some(reason) = reason else { return };
        self.bans(client, reason);
    }

    /// A client is banned from now on.
    fn bans(&self, client: ClientKey, reason: Tally) {
        let ban = Ban { remaining: self.limits().ban, reason };
        self.elsewhere.as_ref().into_iter().for_each(|elsewhere| elsewhere.banned(client, ban));
        self.metrics.harvest_ban();
        let (unknown, asked, seconds) = (reason.unknown, reason.asked(), self.limits().ban.as_secs());
        tracing::info!(%client, unknown, asked, seconds, "client banned: it asks for too many unknown recipients");
    }

    /// Has recipients counted as pending on all instances, where that is worth a question: a client that named nobody unknown yet
    /// asks for a few at a time.
    async fn reserved(&self, leave: Leave) -> Leave {
        let Leave::Granted(mut granted) = leave else { return leave };
        let limit = self.limits().max_unknown_per_hour.filter(|_| granted.held == Held::Against);
        let (Some(elsewhere), Some(most)) = (&self.elsewhere, limit) else { return Leave::Granted(granted) };
        let client = granted.client;
        let pending = self.ledger.look(client, |record| record.pending).unwrap_or(0);
        let few = most / FEW;
        if u32::from(pending) <= few && granted.standing == Standing::Clean {
            return Leave::Granted(granted);
        }
        let own = || {
            let now = self.ledger.now();
            self.ledger.look(client, |record| record.tally(now)).unwrap_or_default()
        };
        let tally = own().plus(elsewhere.known(client).tally);
        // Above the limit only all instances together say what known recipients make up for.
        let harmless =
            tally.spare().min(most.saturating_sub(tally.unknown)).max(few.saturating_sub(tally.unknown));
        let haste = if u32::from(pending) <= harmless { Haste::Pressing } else { Haste::Patient };
        let asked = elsewhere.reserve(client, (granted.recipients, most), haste, own).await;
        let (allowed, all) = match asked {
            Ok(said) => said,
            Err(NoLeave::Alone) => return Leave::Granted(granted),
            Err(NoLeave::Late) => {
                // What would not be too many whatever others count; who guesses waits for the tier.
                let others = pending.saturating_sub(granted.recipients);
                let allowed = harmless.saturating_sub(others.into());
                return self.granted_of(granted, u16::try_from(allowed).unwrap_or(u16::MAX));
            }
        };
        granted.reserved = allowed;
        if self.ban(client).is_some() {
            return Leave::Banned;
        }
        if all.exceeds(most) {
            let now = self.ledger.now();
            let ban = Ban { remaining: self.limits().ban, reason: all };
            self.ledger.change(client, now, |record| record.sentence(sentence(now, ban)));
            self.bans(client, all);
            return Leave::Banned;
        }
        self.granted_of(granted, allowed)
    }

    /// So many at most of what was granted; the rest is pending no more.
    fn granted_of(&self, mut granted: Granted, most: u16) -> Leave {
        let more = granted.recipients.saturating_sub(most);
        self.ledger.look(granted.client, |record| record.pending = record.pending.saturating_sub(more));
        granted.recipients -= more;
        if granted.recipients == 0 { Leave::Busy } else { Leave::Granted(granted) }
    }

    /// Another instance did something about a client.
    pub fn heard(self: &Arc<Self>, news: News) {
        let Some(elsewhere) = &self.elsewhere else { return };
        match news {
            News::Banned { client, remaining, unknown, known } => {
                elsewhere.is_banned(client, Ban { remaining, reason: Tally { unknown, known } });
            }
            News::Pardoned(client) => {
                elsewhere.is_pardoned(client);
                tokio::spawn(Arc::clone(self).pardon_hashed(client));
            }
            News::Lost => drop(tokio::spawn(Arc::clone(self).tell_bans())),
            News::Key(_) | News::Domain(..) | News::Epoch(_) | News::Marked(_) => {}
        }
    }

    /// Pardons a client of which only the hash is known.
    async fn pardon_hashed(self: Arc<Self>, client: u128) {
        let Some(elsewhere) = &self.elsewhere else { return };
        for set in 0..self.ledger.sets() {
            let mut found = None;
            self.ledger.visit(set, |record| {
                if elsewhere.hash(record.client()) == client {
                    found = Some(record.client());
                }
            });
            if let Some(found) = found {
                let now = self.ledger.now();
                self.ledger.look(found, |record| record.pardon(now));
                return;
            }
            if set % SETS_AT_A_TIME == SETS_AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Tells the tier again whom we have banned.
    async fn tell_bans(self: Arc<Self>) {
        let Some(elsewhere) = &self.elsewhere else { return };
        for set in 0..self.ledger.sets() {
            let now = self.ledger.now();
            self.ledger.visit(set, |record| {
                ban_of(record, now).into_iter().for_each(|ban| elsewhere.banned(record.client(), ban));
            });
            if set % SETS_AT_A_TIME == SETS_AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Recipients are pending no more.
    fn wake(&self, client: ClientKey) {
        // Whoever began to wait before the client's set was ours is seen here.
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.bell(client).notify_waiters();
        }
    }

    fn bell(&self, client: ClientKey) -> &Notify {
        &self.answered[usize::try_from(client.bits() % BELLS as u64).unwrap_or_default()]
    }

    /// Clients known, and room for how many.
    #[must_use]
    pub fn clients(&self) -> (usize, usize) {
        (self.ledger.clients(), self.ledger.room())
    }

    /// The `most` clients that named most unknown recipients within the hour, and as many of those banned.
    pub async fn suspicions(&self, most: usize) -> Suspicions {
        let mut found = Suspicions::default();
        for first in (0..self.ledger.sets()).step_by(SETS_AT_A_TIME) {
            for set in first..(first + SETS_AT_A_TIME).min(self.ledger.sets()) {
                let now = self.ledger.now();
                self.ledger.visit(set, |record| found.see(record, now, self.elsewhere(record.client())));
            }
            found.keep(most);
            tokio::task::yield_now().await;
        }
        found
    }

    /// Forgets who counts no more, a few at a time.
    pub async fn sweep(&self) {
        for set in 0..self.ledger.sets() {
            self.ledger.sweep(set);
            self.elsewhere.as_ref().into_iter().for_each(|elsewhere| elsewhere.sweep(set));
            if set % SETS_AT_A_TIME == SETS_AT_A_TIME - 1 {
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Granted {
    /// How many.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.recipients.into()
    }

    /// How the client stood.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// They were answered so.
    pub fn answered(mut self, tally: Tally) {
        if !tally.is_empty() {
            let (answered, reserved) =
                (std::mem::take(&mut self.recipients), std::mem::take(&mut self.reserved));
            self.harvest.count(self.client, tally, self.held, (answered, reserved));
            self.harvest.wake(self.client);
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        let recipients = self.recipients;
        if self.reserved > 0
            && let Some(elsewhere) = &self.harvest.elsewhere
        {
            elsewhere.told(self.client, Tally::default(), self.reserved);
        }
        if recipients > 0 && self.held == Held::Against {
            self.harvest.ledger.look(self.client, |record| {
                record.pending = record.pending.saturating_sub(recipients);
            });
            self.harvest.wake(self.client);
        }
    }
}

impl Suspicions {
    fn see(&mut self, record: &Record, now: Second, elsewhere: Option<Known>) {
        let elsewhere = elsewhere.unwrap_or_default();
        let tally = record.tally(now).plus(elsewhere.tally);
        let suspicion =
            Suspicion { client: record.client(), tally, ban: ban_of(record, now).or(elsewhere.ban) };
        if suspicion.tally.unknown > 0 {
            self.clients.push(suspicion);
        }
        if suspicion.ban.is_some() {
            self.bans += 1;
            self.banned.push(suspicion);
        }
    }

    fn keep(&mut self, most: usize) {
        self.clients.sort_by_key(|one| Reverse(one.tally.unknown));
        self.clients.truncate(most);
        self.banned.sort_by_key(|one| Reverse(one.ban.map(|ban| ban.remaining)));
        self.banned.truncate(most);
    }
}

/// One session that waits, for as long as this lives.
struct Waiting<'h>(&'h AtomicUsize);

impl<'h> Waiting<'h> {
    fn of(waiting: &'h AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn sentence(now: Second, Ban { remaining, reason }: Ban) -> Sentence {
    let seconds = Second::try_from(remaining.as_secs()).unwrap_or(Second::MAX);
    Sentence::new(now.saturating_add(seconds.max(1)), reason)
}

pub(super) fn ban_of(record: &Record, now: Second) -> Option<Ban> {
    let ban = record.ban(now)?;
    Some(Ban { remaining: Duration::from_secs((ban.until() - now).into()), reason: ban.reason() })
}

pub(super) fn standing_of(record: &Record, now: Second) -> Standing {
    record.last_unknown(now).map_or(Standing::Clean, |_| Standing::Suspect)
}

#[cfg(test)]
mod tests;
