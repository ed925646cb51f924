//! What is known of one domain at the store that knows its recipients.
//!
//! Is the store truthful about it, at RCPT, at DATA; is the delivery port; do its refusals deserve belief; who
//! are two of its recipients. Subdomains that one wildcard covers share all of it; domains behind `*` do not.

mod belief;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::brake::Brake;
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
    /// What its alarms are about: clients choose the names of domains that only `*` covers.
    about: Box<str>,
    stage: StageKind,
    blind_ttl: Duration,
    tally: RwLock<Tally>,
    alarms: Alarms,
    /// How often the store proved blind at RCPT: what was learnt before is not found any more.
    generation: AtomicU32,
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
    /// When the store last knew a recipient.
    knew: Option<Instant>,
    /// When a good recipient was refused and no other was at hand to compare it with, for the first time in a while.
    alone: Option<Instant>,
    /// Entries that would be good if the store proved truthful: their answers came before that of the random name.
    provisional: Vec<Key>,
}

/// Good answers that wait for a test.
const MAX_PROVISIONAL: usize = 64;
/// Recipients kept for comparison.
const WITNESSES: usize = 2;

/// How long a good recipient's refusal is not believed where no other can be heard.
const ALONE: Duration = Duration::from_secs(10 * 60);

const BRAKED: u8 = 1;
const SOLE_GUARD: u8 = 2;
const WITNESSED: u8 = 4;

/// The pattern of every domain.
const ANY: &str = "*";

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

/// What is planned for a question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Where it is to be asked.
    pub(super) ask_at: AskAt,
    /// The last random name asked at RCPT got no answer.
    pub(super) missed: bool,
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

impl Common {
    /// Whether what was found out with this holds with `other`, too.
    pub(super) fn asks_as(&self, other: &Self) -> bool {
        self.route == other.route && self.stage == other.stage && self.identity == other.identity
    }
}

impl State {
    fn new() -> Self {
        Self {
            recipient: Test::new(),
            data: Test::new(),
            delivery: Test::new(),
            brake: Brake::default(),
            witnesses: VecDeque::new(),
            knew: None,
            alone: None,
            provisional: Vec::new(),
        }
    }
}

impl Scope {
    pub(super) fn new(common: &Common, name: &str, tally: Tally) -> Arc<Self> {
        Self::about(common, name, name, tally)
    }

    /// Of a domain that only `*` covers.
    pub(super) fn unnamed(common: &Common, name: &str, tally: Tally) -> Arc<Self> {
        Self::about(common, name, ANY, tally)
    }

    fn about(common: &Common, name: &str, about: &str, tally: Tally) -> Arc<Self> {
        let scope = Arc::new(Self {
            about: about.into(),
            generation: AtomicU32::new(0),
            route: Arc::clone(&common.route),
            name: name.into(),
            stage: common.stage,
            blind_ttl: common.blind_ttl,
            tally: RwLock::new(tally),
            alarms: common.alarms.clone(),
            identity: Arc::clone(&common.identity),
            sights: Arc::clone(&common.sights),
            flags: AtomicU8::new(0),
            state: Mutex::new(State::new()),
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

    /// The domain, or the pattern that covers several.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The route it belongs to.
    pub(super) const fn route(&self) -> &Arc<str> {
        &self.route
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether only `*` covers it.
    pub(super) fn is_unnamed(&self) -> bool {
        &*self.about == ANY
    }

    /// What alarms about it name.
    pub(super) fn alarms_name(&self) -> &str {
        &self.about
    }

    /// Everything that was found out is forgotten, and what is good is counted in `tally` from now on.
    pub(super) fn reset(&self, tally: Tally) {
        *self.tally.write().unwrap_or_else(PoisonError::into_inner) = tally;
        let mut state = self.state();
        *state = State::new();
        self.flags.store(0, Ordering::Relaxed);
        drop(state);
        for kind in [AlarmKind::StoreIll, AlarmKind::Unverifiable] {
            self.alarms.clear(&self.route, kind, &self.about);
        }
    }

    /// What the cache holds an answer about the recipient of `key` under. Once RCPT has proved blind that is another
    /// entry: good answers from before are not found any more, also when it tells again.
    pub(super) fn entry(&self, key: Key) -> Key {
        key.in_generation(self.generation.load(Ordering::Relaxed))
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
        self.asked_at(&self.state())
    }

    fn asked_at(&self, state: &State) -> AskAt {
        match (self.stage, state.recipient.truth(), state.data.truth()) {
            (StageKind::Recipient, ..) | (StageKind::Auto, Truth::Untested | Truth::Truthful, _) => {
                AskAt::Recipient
            }
            (_, _, Truth::Blind) => AskAt::Nowhere,
            _ => AskAt::Data,
        }
    }

    /// How a recipient is to be asked about, all of it at one moment.
    pub(super) fn plan(&self) -> Plan {
        let state = self.state();
        Plan { ask_at: self.asked_at(&state), missed: state.recipient.missed() }
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

    /// The test a random name should make now at the store, if one is due and the store is still asked as in `plan`; the
    /// caller then makes it.
    pub(super) fn begin_test(&self, plan: Plan) -> Option<Tested> {
        let mut state = self.state();
        if self.asked_at(&state) != plan.ask_at {
            return None;
        }
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

    /// What became of a random name.
    pub(super) fn tested(&self, what: Tested, sighting: Sighting) {
        let mut state = self.state();
        let truth = state.test(what).saw(sighting);
        self.who_guards(&state.delivery);
        match truth {
            Some(truth) => self.is_now(state, what, truth),
            None => drop(state),
        }
        if !matches!(sighting, Sighting::Vague | Sighting::Lost) {
            self.sights.saw(self);
        }
    }

    /// A test has come to something else than before.
    fn is_now(&self, state: MutexGuard<'_, State>, what: Tested, truth: Truth) {
        self.who_guards(&state.delivery);
        if self.stage == StageKind::Auto && what == Tested::Recipient && truth == Truth::Blind {
            self.generation.fetch_add(1, Ordering::Relaxed);
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
                tracing::warn!(%route, %domain, "the delivery port takes any recipient: what is remembered is the only guard, for 15 minutes at most");
            }
            (Tested::Delivery, _) => {}
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
                &self.about,
                "random names are taken at RCPT and at DATA",
            );
        } else {
            self.alarms.clear(route, AlarmKind::Unverifiable, &self.about);
        }
    }

    /// A delivery port that takes anyone is no guard, nor one that never says.
    fn who_guards(&self, delivery: &Test) {
        if delivery.truth() == Truth::Blind || delivery.is_hopeless() {
            self.flags.fetch_or(SOLE_GUARD, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!SOLE_GUARD, Ordering::Relaxed);
        }
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

    /// What is known of it.
    pub(super) fn report(&self) -> ScopeReport {
        let state = self.state();
        ScopeReport {
            name: self.name.to_string(),
            recipient: state.recipient.truth(),
            data: state.data.truth(),
            delivery: state.delivery.truth(),
            braked: state.brake.is_on(),
            good: self.tally().count(),
        }
    }

    /// Whether nothing is lost if it is met anew: none of its recipients is remembered, and nobody took a random name.
    pub(super) fn is_dispensable(&self) -> bool {
        let state = self.state();
        let was_blind =
            [&state.recipient, &state.data, &state.delivery].iter().any(|t| t.truth() == Truth::Blind)
                || self.generation.load(Ordering::Relaxed) > 0;
        self.is_unnamed() && !was_blind && !state.brake.is_on() && self.tally().count() == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.sights.lost(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::cache::Cache;
    use crate::verify::cache::tests::lifetimes;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn what_was_learnt_while_a_store_was_blind_unnoticed_does_not_come_back() {
        let cache = Cache::new(lifetimes());
        let (route, alarms) = ("route".into(), Alarms::default());
        let (identity, sights) = (Arc::from(&b"store"[..]), Arc::default());
        let common = Common { route, stage: StageKind::Auto, blind_ttl: HOUR, alarms, identity, sights };
        let scope = Scope::new(&common, "example.org", cache.tally_of("route", "example.org"));
        let key = Key::anonymous(1);
        let before = scope.entry(key);
        scope.tested(Tested::Recipient, Sighting::Unknown);
        assert_eq!(scope.entry(key), before);
        let mut entries = vec![before];
        for _ in 0..3 {
            scope.tested(Tested::Recipient, Sighting::Taken);
            let blind = scope.entry(key);
            assert!(!entries.contains(&blind), "answers to RCPT are not found any more");
            scope.tested(Tested::Data, Sighting::Unknown);
            scope.tested(Tested::Recipient, Sighting::Unknown);
            assert_eq!(scope.entry(key), blind, "nor when it tells again, and what DATA told is kept");
            entries.push(blind);
        }
    }
}
