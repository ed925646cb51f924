//! What instances share in Redis or Valkey: verdicts, who asks the store, what was forgotten, bans and counts of clients.
//!
//! Instances that share are a *tier*. Nothing here is needed: whatever is asked of the tier has a deadline of some tens of
//! milliseconds, and while Redis is away everything fails at once. What is learnt meanwhile waits, bounded, and is shared when Redis
//! is back. It holds no address of a recipient or a client, only keyed hashes; refusals have a placeholder for the address.
//!
//! Known limits: no Redis cluster; sentinels are asked without a password. The publish-subscribe channel may lose messages when a
//! connection breaks, so all that must reach everybody is kept, too, and read when an instance joins, and every second.

mod accounts;
mod link;
mod orders;
mod outbox;
mod script;
mod told;
mod work;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use redis::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::HashKey;
use crate::config::{Shared, SharedAddress};
use crate::net::client_key::ClientKey;
use crate::observe::metrics::{Metrics, SharedOperation};
use accounts::{Accounts, Delta, Statement};
use link::{Fault, Link, Request};
use outbox::{Forget, Learnt, Outbox, Write};
use script::Script;

pub use told::{Marks, News, Seen, Sight, Told};

/// How long somebody waits for Redis.
const PATIENCE: Duration = Duration::from_millis(30);
/// How long what nobody waits for may take.
const PATIENCE_ASIDE: Duration = Duration::from_millis(90);
/// A lease ends after so long unless it is renewed: then the instance that had it is gone.
const LEASE: Duration = Duration::from_secs(4);
/// Until a lease is to be renewed.
pub const RENEW_AFTER: Duration = Duration::from_millis(1500);
/// Redis is left alone for so long when it failed,
const FIRST_REST: Duration = Duration::from_secs(1);
/// and twice as long each time, up to this.
const LONGEST_REST: Duration = Duration::from_secs(15);
/// How long somebody waits for Redis whom it costs nothing but time.
const PATIENCE_SUSPECT: Duration = Duration::from_secs(1);
/// Redis that has not counted for so short a time is expected back, for it is tried again meanwhile: what can be put off is not decided
/// without it.
const GRACE: Duration = Duration::from_secs(18);
/// Who was not asked for so long says nothing by having been silent before.
const UNASKED: Duration = Duration::from_secs(60);
/// Clients whose requests do not wait for each other's.
const TURNS: usize = 256;
/// Who was joined for so long begins with the first rest again.
const SETTLED: Duration = Duration::from_secs(30);

/// There is no answer: this instance is on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shared memory does not answer")]
pub struct Alone;

/// Why other instances have not said what a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLeave {
    /// There was no answer in time, or has been none for moments only: it may be asked for again.
    #[error("the shared memory is late")]
    Late,
    /// This instance is on its own: its own count is all there is.
    #[error("the shared memory is away")]
    Alone,
}

/// How long one may be kept waiting for leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// A moment: it would do no harm to let it ask.
    Pressing,
    /// A while.
    Patient,
}

/// The tier, as one of its instances sees it. Clones are the same.
#[derive(Clone)]
pub struct Tier(Arc<Inner>);

struct Inner {
    address: SharedAddress,
    prefix: String,
    /// Who we are, made by chance: nobody else has it.
    token: String,
    key: HashKey,
    /// How long a verdict may be of use.
    keeps: Duration,
    link: Link,
    outbox: Outbox,
    accounts: Accounts,
    /// Requests about one client are made one after the other: each tells of all its leave.
    turns: [tokio::sync::Mutex<()>; TURNS],
    /// Who waits for answers others get.
    waits: DashMap<u128, Arc<Notify>>,
    epoch: AtomicU32,
    /// When it was first and last not said what a client may ask for; none when it was said last.
    silent: Mutex<Option<(Instant, Instant)>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why we are alone; none when we are not, or have not tried yet.
    fault: Option<String>,
    since: Option<Instant>,
    /// The life Redis leads: it has another one when it has lost everything.
    life: Option<String>,
    /// How often it was asked.
    attended: u64,
    /// The epoch all know of; ours may be ahead until what began it was told.
    agreed: u32,
    /// The log is known until this place.
    known: u64,
    /// What was heard of it since.
    heard: HashSet<u64>,
    /// Changes of domains that are known.
    changes: u64,
}

/// The tier as an operator wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierAccount {
    /// Where it is, without the password.
    pub address: String,
    /// Whether this instance shares now.
    pub up: bool,
    /// Why it does not.
    pub fault: Option<String>,
    /// For how long it has been so.
    pub since: Duration,
    /// What waits to be shared.
    pub waiting: usize,
    /// What was not shared since too much waited.
    pub dropped: u64,
}

/// What is known of a recipient there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consulted {
    /// Who is to ask the store.
    pub turn: Turn,
    /// What is known, and how old it is.
    pub told: Option<(Told, Duration)>,
    /// What is known of the domain.
    pub marks: Marks,
}

/// Who is to ask the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nobody: what is known serves.
    Nobodys,
    /// We are, and nobody else meanwhile.
    Ours,
    /// Another instance, which is at it.
    Anothers,
}

/// How old what is known may be, to serve.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Of a good verdict.
    pub good: Duration,
    /// Of a bad one.
    pub bad: Duration,
}

/// What a client asked for, on all instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many more it may ask for now.
    pub granted: u32,
    /// Unknown recipients within the hour.
    pub unknown: u32,
    /// Accepted ones.
    pub known: u32,
}

impl Tier {
    /// A tier nobody has joined yet. `keeps` is how long a verdict may be of use.
    #[must_use]
    pub fn new(shared: &Shared, key: HashKey, keeps: Duration, metrics: Metrics) -> Self {
        let mut random = [0; 8];
        // Two instances with one token would take each other's leases; without randomness the process number tells most apart.
        if getrandom::fill(&mut random).is_err() {
            random = u64::from(std::process::id()).to_le_bytes();
        }
        Self(Arc::new(Inner {
            address: shared.address.clone(),
            prefix: shared.prefix.clone(),
            token: format!("{:016x}", u64::from_le_bytes(random)),
            key,
            keeps,
            link: Link::new(metrics),
            outbox: Outbox::default(),
            accounts: Accounts::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            waits: DashMap::new(),
            epoch: AtomicU32::new(0),
            silent: Mutex::default(),
            state: Mutex::default(),
        }))
    }

    /// Whether what others know can be asked for now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.link.is_up()
    }

    /// How it is doing.
    #[must_use]
    pub fn account(&self) -> TierAccount {
        let (waiting, dropped) = self.0.outbox.account();
        let (clients, uncounted) = self.0.accounts.account();
        let state = self.0.state();
        TierAccount {
            address: self.0.address.to_string(),
            up: self.is_up(),
            fault: state.fault.clone(),
            since: state.since.map_or(Duration::ZERO, |since| since.elapsed()),
            waiting: waiting + clients,
            dropped: dropped + uncounted,
        }
    }

    /// Joins, and joins again whenever Redis was away. `hear` is told what others did; ends when dropped.
    pub async fn run(&self, hear: impl Fn(News)) {
        let mut rest = FIRST_REST;
        loop {
            let began = Instant::now();
            let why = self.take_part(&hear).await;
            self.0.link.part();
            self.0.waits.iter().for_each(|waiting| waiting.notify_one());
            self.tell(Some(why));
            if began.elapsed() > SETTLED {
                rest = FIRST_REST;
            }
            sleep(rest).await;
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    /// Tells operators how it is, once.
    fn tell(&self, fault: Option<String>) {
        let address = &self.0.address;
        let mut state = self.0.state();
        match (&state.fault, &fault) {
            (None, Some(fault)) => {
                tracing::warn!(%address, fault, "the shared memory is away: this instance goes on with what it knows itself");
            }
            (Some(before), Some(fault)) if before != fault => {
                tracing::info!(%address, fault, "the shared memory is still away");
            }
            (_, None) => tracing::info!(%address, "shares what it knows with other instances"),
            _ => {}
        }
        if state.since.is_none() || state.fault.is_some() != fault.is_some() {
            state.since = Some(Instant::now());
        }
        state.fault = fault;
    }

    /// What others know of the recipient of `key` in the domain of `scope`, and whose turn it is to ask.
    ///
    /// # Errors
    /// [`Alone`]: then it is ours.
    pub async fn consult(&self, key: u128, scope: u128, ages: Ages) -> Result<Consulted, Alone> {
        let keys = [self.0.key("v", key), self.0.key("l", key), self.0.key("m", scope)];
        let millis = |duration: Duration| duration.as_millis().to_string();
        let arguments = [self.0.token.clone(), millis(LEASE), millis(ages.good), millis(ages.bad)];
        let arguments = arguments.each_ref().map(String::as_bytes);
        let request = Request {
            operation: SharedOperation::Lookup,
            script: Script::Consult,
            keys: &keys,
            arguments: &arguments,
            patience: PATIENCE,
        };
        let answer = self.0.link.request(request).await.map_err(|_| Alone)?;
        consulted(&answer).ok_or(Alone)
    }

    /// Comes back when the instance that asks about `key` has its answer, or after `patience`.
    pub async fn answered(&self, key: u128, patience: Duration) {
        let waiting = Arc::clone(&self.0.waits.entry(key).or_default());
        let _ = timeout(patience, waiting.notified()).await;
        drop(waiting);
        // Whoever comes last takes it away.
        self.0.waits.remove_if(&key, |_, waiting| Arc::strong_count(waiting) == 1);
    }

    /// The store is still being asked about `key`.
    pub async fn renew(&self, key: u128) {
        let keys = [self.0.key("l", key)];
        let lease = LEASE.as_millis().to_string();
        let arguments = [self.0.token.as_bytes(), lease.as_bytes()];
        let _ = self.0.aside(SharedOperation::Learn, Script::Renew, &keys, &arguments).await;
    }

    /// A verdict was learnt now, of use for so long.
    pub fn learnt(&self, key: u128, told: Told, lives: Duration) {
        let learnt = Learnt { told, at: Instant::now(), lives };
        self.0.outbox.write(Write { key, learnt: Some(learnt), releases: false });
    }

    /// The store is asked about `key` no more.
    pub fn release(&self, key: u128) {
        if self.is_up() {
            self.0.outbox.write(Write { key, learnt: None, releases: true });
        }
    }

    /// Something was found out about a domain.
    pub fn mark(&self, scope: u128, marks: Marks) {
        self.0.outbox.mark(scope, marks);
    }

    /// What is known of a domain there.
    pub async fn marks(&self, scope: u128) -> Option<Marks> {
        // A lookup of no recipient: the lease it takes ends by itself.
        let none = Ages { good: Duration::ZERO, bad: Duration::ZERO };
        self.consult(scope, scope, none).await.ok().map(|consulted| consulted.marks)
    }

    /// Everything was forgotten so often before this instance began.
    pub fn epoch_is(&self, epoch: u32) {
        self.0.epoch.store(epoch, Ordering::Relaxed);
        self.0.state().agreed = epoch;
    }

    /// The recipient that all know by `key` is to be forgotten everywhere, and what stands under `verdicts`.
    pub fn forget_key(&self, key: u128, verdicts: impl IntoIterator<Item = u128>) {
        let epoch = self.0.epoch.load(Ordering::Relaxed);
        self.forget(Forget::Recipient { key, verdicts: verdicts.into_iter().collect(), epoch });
    }

    /// A domain is to be forgotten everywhere; here this is its generation.
    pub fn forget_domain(&self, hash: u128, generation: u32) {
        let epoch = self.0.epoch.load(Ordering::Relaxed);
        self.forget(Forget::Domain { hash, generation, epoch });
    }

    /// Everything is to be forgotten everywhere; here this is the epoch.
    pub fn forget_all(&self, epoch: u32) {
        self.0.epoch.fetch_max(epoch, Ordering::Relaxed);
        self.forget(Forget::All { epoch });
    }

    fn forget(&self, what: Forget) {
        self.0.outbox.forget(what, self.0.epoch.load(Ordering::Relaxed));
    }

    /// A domain is in this generation: Redis, which has lost everything, is to know.
    pub fn generation_is(&self, hash: u128, generation: u32) {
        self.0.outbox.generation(hash, generation, self.0.epoch.load(Ordering::Relaxed));
    }

    /// What stands for a client there.
    #[must_use]
    pub fn client(&self, client: ClientKey) -> u128 {
        self.0.key.hash(&[b"client", &client.bits().to_le_bytes()])
    }

    /// A client was answered, and has no leave any more for what was `returned`.
    pub fn told(&self, client: u128, unknown: u32, known: u32, returned: u32) {
        self.0.accounts.told(client, Delta { unknown, known }, returned);
    }

    /// Leave for a client to ask for some of `wanted` recipients, where `most` unknown ones are allowed.
    ///
    /// # Errors
    /// [`NoLeave`] says whether to ask again.
    pub async fn reserve(
        &self,
        client: u128,
        wanted: u32,
        most: u32,
        haste: Haste,
    ) -> Result<Counted, NoLeave> {
        let patience = match haste {
            Haste::Pressing => PATIENCE,
            Haste::Patient => PATIENCE_SUSPECT,
        };
        if self.is_up()
            && let Ok(counted) = self.0.count(client, (wanted, most), patience).await
        {
            *self.0.silence() = None;
            return Ok(counted);
        }
        Err(if self.0.is_expected() { NoLeave::Late } else { NoLeave::Alone })
    }

    /// A client was banned for so long, for so many unknown and known recipients.
    pub fn banned(&self, client: u128, lasts: Duration, counts: (u32, u32)) {
        self.0.outbox.banned(client, Instant::now() + lasts, counts);
    }

    /// A client's ban was lifted.
    pub fn pardoned(&self, client: u128) {
        self.0.outbox.pardoned(client);
    }
}

impl Inner {
    fn key(&self, kind: &str, hash: u128) -> String {
        format!("{}:{kind}:{hash:032x}", self.prefix)
    }

    fn name(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what Redis did not say just now can be expected of it soon. Being joined is no sign of it: who takes a connection
    /// may yet not count.
    fn is_expected(&self) -> bool {
        let is_away = |state: &State| {
            state.fault.is_some() && state.since.is_some_and(|since| since.elapsed() >= GRACE)
        };
        if is_away(&self.state()) {
            return false;
        }
        let (mut silent, now) = (self.silence(), Instant::now());
        let since = silent.filter(|(_, last)| now - *last < UNASKED).map_or(now, |(since, _)| since);
        *silent = Some((since, now));
        now - since < GRACE
    }

    fn silence(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request nobody waits for.
    async fn aside(
        &self,
        operation: SharedOperation,
        script: Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<Value, Fault> {
        self.link.request(Request { operation, script, keys, arguments, patience: PATIENCE_ASIDE }).await
    }

    /// Counts what a client was told, and asks for leave.
    async fn count(
        &self,
        client: u128,
        (wanted, most): (u32, u32),
        patience: Duration,
    ) -> Result<Counted, Alone> {
        let [place, ..] = client.to_le_bytes();
        let turn = self.turns.get(usize::from(place) % TURNS).ok_or(Alone)?;
        let Ok(_turn) = timeout(patience, turn.lock()).await else { return Err(Alone) };
        let Statement { number, told, leave } = self.accounts.state(client);
        let asked = Asked { accounts: &self.accounts, client };
        let keys = [self.key("c", client)];
        let numbers = [u64::from(leave), wanted.into(), most.into(), number].map(|number| number.to_string());
        let [leave, wanted, most, number_text] = numbers.each_ref().map(String::as_bytes);
        let arguments = [self.token.as_bytes(), number_text, told.as_bytes(), leave, wanted, most];
        let operation = SharedOperation::Count;
        let request =
            Request { operation, script: Script::Count, keys: &keys, arguments: &arguments, patience };
        let outcome = self.link.request(request).await;
        if let Ok(answer) = &outcome
            && let Some(counted) = counted(answer)
        {
            asked.settled(counted.granted);
            return Ok(counted);
        }
        if matches!(outcome, Err(Fault::Apart | Fault::Busy)) {
            asked.unsent(number);
        }
        Err(Alone)
    }
}

/// A request that counts, under way. Dropped, as when who asked is gone, it had no answer.
struct Asked<'a> {
    accounts: &'a Accounts,
    client: u128,
}

impl Asked<'_> {
    fn settled(self, granted: u32) {
        self.accounts.settle(self.client, granted);
        std::mem::forget(self);
    }

    fn unsent(self, number: u64) {
        self.accounts.unsent(self.client, number);
        std::mem::forget(self);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.accounts.unsettled(self.client);
    }
}

fn consulted(answer: &Value) -> Option<Consulted> {
    let Value::Array(parts) = answer else { return None };
    let [turn, now, told, marks] = parts.as_slice() else { return None };
    let now = u64::try_from(integer(now)?).ok()?;
    let turn = match octets(turn)? {
        b"known" => Turn::Nobodys,
        b"leased" => Turn::Ours,
        b"held" => Turn::Anothers,
        _ => return None,
    };
    Some(Consulted { turn, told: Told::read(octets(told)?, now), marks: Marks::read(octets(marks)?, now) })
}

fn counted(answer: &Value) -> Option<Counted> {
    let Value::Array(parts) = answer else { return None };
    let [granted, unknown, known] = parts.as_slice() else { return None };
    let number = |value| u32::try_from(integer(value)?).ok();
    Some(Counted { granted: number(granted)?, unknown: number(unknown)?, known: number(known)? })
}

const fn integer(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

fn octets(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(octets) => Some(octets),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}

/// A number as Redis writes scores and as it writes integers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "scores are whole and below 2^53"
)]
fn score(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::Double(number) if *number >= 0.0 => Some(*number as u64),
        value => {
            let text = std::str::from_utf8(octets(value)?).ok()?;
            text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|n| *n >= 0.0).map(|n| n as u64))
        }
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tier").field(&self.0.address).finish()
    }
}
