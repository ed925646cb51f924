//! Whether the store's refusals deserve belief: one that lost its user table refuses everybody.
//!
//! Some recipients that it knew a moment ago are its witnesses: a refusal of one that was good counts only as long as
//! it knows another.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{ALONE, BRAKED, Scope, State, WITNESSED, WITNESSES};
use crate::observe::AlarmKind;
use crate::proto::address::Mailbox;
use crate::verify::brake::Braking;

impl Scope {
    /// The store knows `mailbox`, and would not say so of anyone.
    pub(in crate::verify) fn knows(&self, mailbox: &Mailbox) {
        let mut state = self.state();
        if !state.witnesses.contains(mailbox) {
            state.witnesses.truncate(WITNESSES - 1);
            state.witnesses.push_front(mailbox.clone());
        }
        state.knew = Some(Instant::now());
        state.alone = None;
        self.are_there_witnesses(&state);
        let braking = state.brake.knows();
        drop(state);
        self.braked(braking);
    }

    /// `mailbox` is remembered as good. What was learnt before a restart names its witnesses again as it is used.
    pub(in crate::verify) fn recalls(&self, mailbox: &Mailbox) {
        if self.flags.load(Ordering::Relaxed) & WITNESSED != 0 {
            return;
        }
        let mut state = self.state();
        if state.witnesses.len() < WITNESSES && !state.witnesses.contains(mailbox) {
            state.witnesses.push_back(mailbox.clone());
        }
        self.are_there_witnesses(&state);
    }

    fn are_there_witnesses(&self, state: &State) {
        if state.witnesses.len() < WITNESSES {
            self.flags.fetch_and(!WITNESSED, Ordering::Relaxed);
        } else {
            self.flags.fetch_or(WITNESSED, Ordering::Relaxed);
        }
    }

    /// Whether the refusal of a recipient that was good, first met at `since`, is believed: the store knew another
    /// meanwhile, or there is none. Where others are remembered and none could be heard it is, after a while.
    pub(in crate::verify) fn believes_refusal(&self, since: Instant) -> bool {
        let mut state = self.state();
        let heard = state.knew.is_some_and(|knew| knew >= since);
        if heard || self.tally().count() <= 1 {
            return true;
        }
        let alone = *state.alone.get_or_insert_with(Instant::now);
        alone.elapsed() >= ALONE
    }

    /// Recipients the store knew a moment ago, latest first.
    pub(in crate::verify) fn witnesses(&self) -> Vec<Mailbox> {
        self.state().witnesses.iter().cloned().collect()
    }

    /// A recipient that was good is refused for good.
    pub(in crate::verify) fn turned(&self, mailbox: &Mailbox) {
        let good = usize::try_from(self.tally().count()).unwrap_or(usize::MAX);
        let mut state = self.state();
        state.witnesses.retain(|witness| witness != mailbox);
        self.are_there_witnesses(&state);
        let braking = state.brake.turned(good);
        drop(state);
        self.braked(braking);
    }

    /// A recipient that was good is refused for good, and so is a witness that was asked beside it.
    pub(in crate::verify) fn denied(&self, witness: &Mailbox) {
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
    pub(in crate::verify) fn begin_recovery(&self) -> Option<Mailbox> {
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
                self.alarms.raise(&self.route, AlarmKind::StoreIll, &self.about, detail);
            }
            Braking::Ended => {
                self.flags.fetch_and(!BRAKED, Ordering::Relaxed);
                self.alarms.clear(&self.route, AlarmKind::StoreIll, &self.about);
            }
            Braking::Unchanged => {}
        }
    }
}
