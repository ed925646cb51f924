//! What is known of one domain at the store that knows its recipients.
//!
//! Is the store truthful about it, at RCPT, at DATA; is the delivery port; do its refusals deserve belief; who
//! are two of its recipients. Subdomains that one wildcard covers share all of it; domains behind `*` do not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::brake::{Brake, Braking};
use super::cache::{Guard, Tally};
use super::key::Key;
use super::sights::Sights;
use super::truth::{Sighting, Test, Truth};
use crate::config::StageKind;
use crate::observe::{AlarmKind, Alarms};
use crate::proto::address::Mailbox;
use crate::store::Marks;

/// One domain, or all that one wildcard covers.
#[derive(Debug)]
pub(super) struct Scope {
    route: Arc<str>,
    name: Box<str>,
    stage: StageKind,
    blind_ttl: Duration,
    tally: Tally,
    alarms: Alarms,
    /// Who is asked, as whom, and who takes the mail.
    identity: Arc<[u8]>,
    sights: Arc<Sights>,
    /// What the hot path asks, so that it takes no lock.
    flags: AtomicU8,
    state: Mutex<State>,
}

impl State {
    const fn test(&mut self, what: Tested) -> &mut Test {
        match what {
            Tested::Recipient => &mut self.recipient,
            Tested::Data => &mut self.data,
            Tested::Delivery => &mut self.delivery,
        }
    }
}

#[derive(Debug)]
struct State {
    recipient: Test,
    data: Test,
    delivery: Test,
    brake: Brake,
    witnesses: VecDeque<Mailbox>,
    /// Entries that would be good if the store proved truthful: their answers came before that of the random name.
    provisional: Vec<Key>,
}

/// Good answers that wait for a test.
const MAX_PROVISIONAL: usize = 64;
/// Recipients kept for comparison.
const WITNESSES: usize = 2;

const BRAKED: u8 = 1;
const SOLE_GUARD: u8 = 2;
const AT_DATA: u8 = 4;

/// What a random name is to find out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tested {
    /// Whether the store tells at RCPT.
    Recipient,
    /// Whether it tells at DATA.
    Data,
    /// Whether the delivery port tells at RCPT.
    Delivery,
}

/// Where a question about a recipient is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskAt {
    /// RCPT tells.
    Recipient,
    /// DATA tells.
    Data,
    /// Neither tells.
    Nowhere,
}

/// How far a good answer can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// As it is.
    Full,
    /// For this once.
    Once,
    /// Not at all: anyone would have got it.
    None,
}

/// What is known of a domain, for operators.
#[derive(Debug, Clone)]
pub struct ScopeReport {
    /// The domain, or the pattern that covers several.
    pub name: String,
    /// Whether RCPT tells.
    pub recipient: Truth,
    /// Whether DATA tells.
    pub data: Truth,
    /// Whether the delivery port tells, where another port is asked.
    pub delivery: Truth,
    /// The store's refusals are not believed at the moment.
    pub braked: bool,
    /// Good entries in the cache.
    pub good: u32,
}

/// What scopes of a route have in common.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) route: Arc<str>,
    pub(super) stage: StageKind,
    pub(super) blind_ttl: Duration,
    pub(super) alarms: Alarms,
    pub(super) identity: Arc<[u8]>,
    pub(super) sights: Arc<Sights>,
}

impl Scope {
    pub(super) fn new(common: &Common, name: &str, tally: Tally) -> Arc<Self> {
        let scope = Arc::new(Self {
            route: Arc::clone(&common.route),
            name: name.into(),
            stage: common.stage,
            blind_ttl: common.blind_ttl,
            tally,
            alarms: common.alarms.clone(),
            identity: Arc::clone(&common.identity),
            sights: Arc::clone(&common.sights),
            flags: AtomicU8::new(0),
            state: Mutex::new(State {
                recipient: Test::new(),
                data: Test::new(),
                delivery: Test::new(),
                brake: Brake::default(),
                witnesses: VecDeque::new(),
                provisional: Vec::new(),
            }),
        });
        common.sights.met(&scope);
        scope
    }

    /// What tells it from others.
    pub(super) fn facts(&self) -> [&[u8]; 4] {
        [b"scope", &self.identity, self.route.as_bytes(), self.name.as_bytes()]
    }

    /// What it is called beyond this process; none where nothing is.
    pub(super) fn hash(&self) -> Option<u128> {
        self.sights.hash(self)
    }

    /// What random names have shown.
    pub(super) fn marks(&self) -> Marks {
        let state = self.state();
        Marks { recipient: state.recipient.seen(), data: state.data.seen(), delivery: state.delivery.seen() }
    }

    /// What they have shown others, or us before a restart.
    pub(super) fn recall(&self, marks: &Marks) {
        let [recipient, data, delivery] = marks.each();
        for (what, seen) in
            [(Tested::Recipient, recipient), (Tested::Data, data), (Tested::Delivery, delivery)]
        {
            let Some(seen) = seen else { continue };
            let mut state = self.state();
            let before = state.test(what).truth();
            let news = state.test(what).recall(seen, self.blind_ttl);
            let truth = state.test(what).truth();
            if news && truth != before {
                self.is_now(state, what, truth);
            }
        }
    }

    /// The route it belongs to.
    pub(super) const fn route(&self) -> &Arc<str> {
        &self.route
    }

    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What the cache holds an answer about the recipient of `key` under. Once RCPT has proved blind that is another
    /// entry: good answers to RCPT are not found any more.
    pub(super) fn entry(&self, key: Key) -> Key {
        if self.flags.load(Ordering::Relaxed) & AT_DATA == 0 { key } else { key.otherwise() }
    }

    /// Whether the delivery port guards too, or the cache alone.
    pub(super) fn guard(&self) -> Guard {
        if self.flags.load(Ordering::Relaxed) & SOLE_GUARD == 0 { Guard::Second } else { Guard::Sole }
    }

    /// Whether the store's refusals are not to be believed at the moment.
    pub(super) fn is_braked(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & BRAKED != 0
    }

    /// Where a recipient is to be asked about.
    pub(super) fn ask_at(&self) -> AskAt {
        let state = self.state();
        match (self.stage, state.recipient.truth(), state.data.truth()) {
            (StageKind::Recipient, ..) | (StageKind::Auto, Truth::Untested | Truth::Truthful, _) => {
                AskAt::Recipient
            }
            (_, _, Truth::Blind) => AskAt::Nowhere,
            _ => AskAt::Data,
        }
    }

    /// How far a good answer got at `at` can be believed.
    pub(super) fn belief(&self, at: AskAt) -> Belief {
        let state = self.state();
        let truth = match (at, self.stage) {
            (AskAt::Recipient, StageKind::Recipient) => return Belief::Full,
            (AskAt::Recipient, _) => state.recipient.truth(),
            (AskAt::Data, _) => state.data.truth(),
            (AskAt::Nowhere, _) => Truth::Blind,
        };
        match truth {
            Truth::Truthful => Belief::Full,
            Truth::Untested => Belief::Once,
            Truth::Blind => Belief::None,
        }
    }

    /// The test a random name should make now at the store, if one is due; the caller then makes it.
    pub(super) fn begin_test(&self) -> Option<Tested> {
        let mut state = self.state();
        if self.stage == StageKind::Auto && state.recipient.begin(self.blind_ttl) {
            return Some(Tested::Recipient);
        }
        let at_data = match self.stage {
            StageKind::Recipient => false,
            StageKind::Data => true,
            StageKind::Auto => state.recipient.truth() == Truth::Blind,
        };
        (at_data && state.data.begin(self.blind_ttl)).then_some(Tested::Data)
    }

    /// Whether the last random name asked at RCPT got no answer.
    pub(super) fn missed_test(&self) -> bool {
        self.state().recipient.missed()
    }

    /// Whether a test is due, without making it.
    pub(super) fn test_is_due(&self) -> bool {
        let state = self.state();
        (self.stage == StageKind::Auto && state.recipient.is_due(self.blind_ttl))
            || (self.stage != StageKind::Recipient && state.data.is_due(self.blind_ttl))
    }

    /// Whether the delivery port should be tested now; the caller then does.
    pub(super) fn begin_delivery_test(&self) -> bool {
        self.state().delivery.begin(self.blind_ttl)
    }

    /// A random name was answered, or was not: none.
    pub(super) fn tested(&self, what: Tested, sighting: Option<Sighting>) {
        let mut state = self.state();
        match state.test(what).saw(sighting) {
            Some(truth) => self.is_now(state, what, truth),
            None => drop(state),
        }
        if sighting.is_some() {
            self.sights.saw(self);
        }
    }

    /// A test has come to something else than before.
    fn is_now(&self, state: MutexGuard<'_, State>, what: Tested, truth: Truth) {
        if self.stage == StageKind::Auto && state.recipient.truth() == Truth::Blind {
            self.flags.fetch_or(AT_DATA, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!AT_DATA, Ordering::Relaxed);
        }
        let unverifiable = match self.stage {
            StageKind::Recipient => false,
            StageKind::Data => state.data.truth() == Truth::Blind,
            StageKind::Auto => state.recipient.truth() == Truth::Blind && state.data.truth() == Truth::Blind,
        };
        drop(state);
        let (route, domain) = (&self.route, &self.name);
        match (what, truth) {
            (Tested::Delivery, Truth::Blind) => {
                self.flags.fetch_or(SOLE_GUARD, Ordering::Relaxed);
                tracing::warn!(%route, %domain, "the delivery port takes any recipient: what is remembered is the only guard, for 15 minutes at most");
            }
            (Tested::Delivery, _) => {
                self.flags.fetch_and(!SOLE_GUARD, Ordering::Relaxed);
            }
            (Tested::Recipient | Tested::Data, Truth::Blind) => {
                tracing::warn!(%route, %domain, at = ?what, "the mail store takes a recipient that does not exist");
            }
            _ => {
                tracing::info!(%route, %domain, at = ?what, "the mail store tells its recipients from others");
            }
        }
        if unverifiable {
            self.alarms.raise(
                route,
                AlarmKind::Unverifiable,
                domain,
                "random names are taken at RCPT and at DATA",
            );
        } else {
            self.alarms.clear(route, AlarmKind::Unverifiable, domain);
        }
    }

    /// The store knows `mailbox`, and would not say so of anyone.
    pub(super) fn knows(&self, mailbox: &Mailbox) {
        let mut state = self.state();
        if !state.witnesses.contains(mailbox) {
            state.witnesses.truncate(WITNESSES - 1);
            state.witnesses.push_front(mailbox.clone());
        }
        let braking = state.brake.knows();
        drop(state);
        self.braked(braking);
    }

    /// The answer for `entry` was good, and whether that means anything is being tested.
    pub(super) fn provisionally(&self, entry: Key) {
        let mut state = self.state();
        if state.provisional.len() < MAX_PROVISIONAL {
            state.provisional.push(entry);
        }
    }

    /// What was good provisionally and is so now that the store proved truthful. Where it proved blind nothing is.
    pub(super) fn proved(&self) -> Vec<Key> {
        let mut state = self.state();
        match state.recipient.truth() {
            Truth::Untested => Vec::new(),
            Truth::Truthful => std::mem::take(&mut state.provisional),
            Truth::Blind => {
                state.provisional.clear();
                Vec::new()
            }
        }
    }

    /// Nothing that was said of `entry` holds any more.
    pub(super) fn forget(&self, entry: Key) {
        self.state().provisional.retain(|other| *other != entry);
    }

    /// Recipients the store knew a moment ago, latest first.
    pub(super) fn witnesses(&self) -> Vec<Mailbox> {
        self.state().witnesses.iter().cloned().collect()
    }

    /// A recipient that was good is refused for good.
    pub(super) fn turned(&self, mailbox: &Mailbox) {
        let good = usize::try_from(self.tally.count()).unwrap_or(usize::MAX);
        let mut state = self.state();
        state.witnesses.retain(|witness| witness != mailbox);
        let braking = state.brake.turned(good);
        drop(state);
        self.braked(braking);
    }

    /// A recipient that was good is refused for good, and so is a witness that was asked beside it.
    pub(super) fn denied(&self, witness: &Mailbox) {
        let mut state = self.state();
        if state.witnesses.front() == Some(witness) {
            // The other one is asked next.
            state.witnesses.rotate_left(1);
        }
        let braking = state.brake.set();
        drop(state);
        self.braked(braking);
    }

    /// A witness to ask whether the store has recovered, every now and then while its refusals are not believed.
    pub(super) fn begin_recovery(&self) -> Option<Mailbox> {
        if !self.is_braked() {
            return None;
        }
        let mut state = self.state();
        let witness = state.witnesses.front().cloned()?;
        state.brake.begin_recovery().then_some(witness)
    }

    fn braked(&self, braking: Braking) {
        match braking {
            Braking::Began => {
                self.flags.fetch_or(BRAKED, Ordering::Relaxed);
                let detail = "recipients that were good are refused in numbers";
                self.alarms.raise(&self.route, AlarmKind::StoreIll, &self.name, detail);
            }
            Braking::Ended => {
                self.flags.fetch_and(!BRAKED, Ordering::Relaxed);
                self.alarms.clear(&self.route, AlarmKind::StoreIll, &self.name);
            }
            Braking::Unchanged => {}
        }
    }

    /// What is known of it.
    pub(super) fn report(&self) -> ScopeReport {
        let state = self.state();
        ScopeReport {
            name: self.name.to_string(),
            recipient: state.recipient.truth(),
            data: state.data.truth(),
            delivery: state.delivery.truth(),
            braked: state.brake.is_on(),
            good: self.tally.count(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
