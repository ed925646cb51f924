//! How many connections a backend is given, probes and deliveries together.
//!
//! Neither use can starve the other: at least half is kept for deliveries, and at least a tenth, and one, for
//! probes. Who waits for a delivery waits in the line of its client, and clients are served in turn; probes
//! wait in a class of their own; a slot that both could take goes to each class in turn.
//!
//! The budget shrinks and grows:
//! * "too many connections" halves it, once for all connections begun before; one is given back each minute.
//!   What is open above a shrunken budget is not cut, and not replaced.
//! * a backend under pressure is given half, a quarter, an eighth, for as long as it says so and a little
//!   longer.
//! * after an outage connections are opened a few at a time, twice as many with each that succeeds.
//!
//! It never falls below one probe and one delivery. All of it is one mutex, held for a few comparisons; who
//! waits is woken outside of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::shelves::Shelves;
use super::turns::{Place, Turns};
use crate::net::client_key::ClientKey;

/// One connection more is given back each time so much has passed.
const GROWTH: Duration = Duration::from_secs(60);
/// How long a backend must not have spoken of pressure for it to be halved once less.
const RELIEF: Duration = Duration::from_secs(10);
/// Words of pressure within this time are one.
const PRESSURE: Duration = Duration::from_secs(1);
/// Halvings by pressure at most.
const MOST_PRESSURE: u32 = 3;
/// Connections opened at a time after an outage.
const FEW: usize = 2;
/// Fewest connections: one probe, one delivery.
const LEAST: usize = 2;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Asking about recipients.
    Probe,
    /// Carrying a transaction of this client.
    Delivery(ClientKey),
    /// Learning what the backend offers; counted as a delivery.
    Greeting,
}

/// The connections one backend may have from us.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
    /// How often the budget was halved: what was begun before must not halve it again.
    round: AtomicU64,
    unused: Notify,
    /// Wakes who waits for the budget to grow: it shrank, and grows at another time.
    shrunk: Notify,
    /// Sessions that nobody holds a slot for.
    shelves: Shelves,
}

/// How much of a budget is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) used: usize,
    pub(super) limit: usize,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    class: Class,
}

/// Leave to open a connection now; over when dropped.
#[derive(Debug)]
pub struct Opening {
    budget: Arc<Budget>,
    round: Round,
}

/// The time between two halvings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round(u64);

/// What a refusal did to the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrunk {
    /// It is this now.
    To(usize),
    /// Nothing: it was shrunk since the connection was begun.
    Before,
}

/// A budget as an operator wants to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// Connections there may be now.
    pub limit: usize,
    /// Connections there may be at best.
    pub configured: usize,
    /// In use, for probes.
    pub probes: usize,
    /// In use, for deliveries.
    pub deliveries: usize,
    /// Who waits for one to ask.
    pub waiting_probes: usize,
    /// Who waits for one to deliver.
    pub waiting_deliveries: usize,
    /// Connections that may be opened at a time, after an outage.
    pub opening_slowly: Option<usize>,
    /// How often the backend said that there are too many.
    pub refusals: u64,
    /// Whether the backend is under pressure.
    pub pressed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Probe,
    Delivery,
}

type Line = Turns<Option<ClientKey>, oneshot::Sender<Permit>>;

#[derive(Debug)]
struct State {
    configured: usize,
    /// From [`LEAST`] to `configured`; pressure not counted.
    limit: usize,
    /// When `limit` changed last.
    changed: Instant,
    /// Halvings by pressure, up to [`MOST_PRESSURE`].
    pressure: u32,
    /// When it rose last, and when the backend spoke of it last.
    pressure_rose: Instant,
    pressed: Instant,
    probes: usize,
    deliveries: usize,
    waiting_probes: Line,
    waiting_deliveries: Line,
    /// Who got the last slot both could have had.
    favoured: Class,
    /// Openings there may be at a time.
    slowly: Option<usize>,
    openings: usize,
    waiting_openings: Turns<(), oneshot::Sender<Opening>>,
    refusals: u64,
}

impl Budget {
    /// A budget of `connections`, at least 2.
    #[must_use]
    pub fn new(connections: usize) -> Arc<Self> {
        let (configured, now) = (connections.max(LEAST), Instant::now());
        Arc::new(Self {
            round: AtomicU64::new(0),
            unused: Notify::new(),
            shrunk: Notify::new(),
            shelves: Shelves::default(),
            state: Mutex::new(State {
                configured,
                limit: configured,
                changed: now,
                pressure: 0,
                pressure_rose: now,
                pressed: now,
                probes: 0,
                deliveries: 0,
                waiting_probes: Turns::default(),
                waiting_deliveries: Turns::default(),
                favoured: Class::Probe,
                slowly: None,
                openings: 0,
                waiting_openings: Turns::default(),
                refusals: 0,
            }),
        })
    }

    /// Waits for a slot, in the turn of whoever it is for. Who gives up waiting leaves nothing behind.
    pub async fn permit(self: &Arc<Self>, purpose: Use) -> Permit {
        let (class, key) = match purpose {
            Use::Probe => (Class::Probe, None),
            Use::Greeting => (Class::Delivery, None),
            Use::Delivery(client) => (Class::Delivery, Some(client)),
        };
        let waiting = {
            let mut state = self.state();
            state.settle(Instant::now());
            if state.line(class).is_empty() && state.has_room(class) {
                *state.used(class) += 1;
                return Permit { budget: Arc::clone(self), class };
            }
            let (grant, granted) = oneshot::channel();
            let place = state.line(class).join(key, grant);
            WaitingForSlot { budget: self, class, place, granted }
        };
        waiting.wait().await
    }

    /// Waits until a connection may be opened: at once, except after an outage.
    pub async fn opening(self: &Arc<Self>) -> Opening {
        let mut waiting = {
            let mut state = self.state();
            if state.may_open() {
                state.openings += 1;
                return Opening { budget: Arc::clone(self), round: self.round() };
            }
            let (grant, granted) = oneshot::channel();
            let place = state.waiting_openings.join((), grant);
            WaitingToOpen { budget: self, place, granted }
        };
        (&mut waiting.granted).await.expect("whoever waits is granted something before the sender is dropped")
    }

    /// The backend said that there are too many connections, to one that was begun in `round`.
    pub fn refused(&self, round: Round) -> Shrunk {
        let now = Instant::now();
        let mut state = self.state();
        state.settle(now);
        state.refusals += 1;
        if round != self.round() {
            return Shrunk::Before;
        }
        self.round.fetch_add(1, Ordering::Relaxed);
        state.limit = (state.limit / 2).max(LEAST);
        state.changed = now;
        self.shrunk.notify_waiters();
        Shrunk::To(state.limit)
    }

    /// The backend said that it is under pressure.
    pub fn pressed(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.settle(now);
        if state.pressure == 0 || now.duration_since(state.pressure_rose) >= PRESSURE {
            state.pressure = (state.pressure + 1).min(MOST_PRESSURE);
            state.pressure_rose = now;
        }
        state.pressed = now;
        self.shrunk.notify_waiters();
    }

    /// From now on connections are opened a few at a time, until enough of them succeed.
    pub fn begin_slowly(&self) {
        self.state().slowly = Some(FEW);
    }

    /// From now on there may be so many connections, at least 2. Those above, if any, are not cut, and not replaced.
    pub(super) fn allow(self: &Arc<Self>, connections: usize) {
        let mut state = self.state();
        state.settle(Instant::now());
        let was_whole = state.limit == state.configured;
        state.configured = connections.max(LEAST);
        state.limit = if was_whole { state.configured } else { state.limit.min(state.configured) };
        drop(state);
        self.shrunk.notify_waiters();
        self.serve();
    }

    /// The round that lasts now.
    pub fn round(&self) -> Round {
        Round(self.round.load(Ordering::Relaxed))
    }

    /// Probes there may be at once.
    #[must_use]
    pub fn most_probes(&self) -> usize {
        self.settled().most(Class::Probe)
    }

    /// How much may be asked at once where `most` would be without pressure; at least 1.
    #[must_use]
    pub fn at_once(&self, most: usize) -> usize {
        (most >> self.settled().pressure).max(1)
    }

    /// The sessions that are kept by all who share it.
    #[must_use]
    pub(super) const fn shelves(&self) -> &Shelves {
        &self.shelves
    }

    /// Slots nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        let state = self.settled();
        state.limit_now().saturating_sub(state.in_use())
    }

    /// Who holds a slot.
    #[must_use]
    pub fn holders(&self) -> usize {
        self.state().in_use()
    }

    /// Whether nobody holds a slot.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.holders() == 0
    }

    /// Slots nobody will hold once one more is given back.
    #[must_use]
    pub fn free_but_for_one(&self) -> usize {
        let state = self.settled();
        (state.limit_now() + 1).saturating_sub(state.in_use())
    }

    /// Whether slots are scarce: four fifths of them in use, or a client waits. Then clients that hold one are
    /// to be quick, and nobody who holds one is delayed on purpose.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        let state = self.settled();
        !state.waiting_deliveries.is_empty() || state.in_use() * 5 >= state.limit_now() * 4
    }

    /// How much is in use of what there may be now.
    pub(super) fn load(&self) -> Load {
        let state = self.settled();
        Load { used: state.in_use(), limit: state.limit_now() }
    }

    /// What there is, and who has it.
    #[must_use]
    pub fn account(&self) -> Account {
        let state = self.settled();
        Account {
            limit: state.limit_now(),
            configured: state.configured,
            probes: state.probes,
            deliveries: state.deliveries,
            waiting_probes: state.waiting_probes.len(),
            waiting_deliveries: state.waiting_deliveries.len(),
            opening_slowly: state.slowly,
            refusals: state.refusals,
            pressed: state.pressure > 0,
        }
    }

    /// Waits until nobody holds a slot.
    pub async fn unused(&self) {
        loop {
            let mut unused = std::pin::pin!(self.unused.notified());
            unused.as_mut().enable();
            if self.state().in_use() == 0 {
                return;
            }
            unused.await;
        }
    }

    /// Gives away what can be given away. Outside the lock, since who is no longer there gives it back.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            state.settle(Instant::now());
            if let Some((class, waiting)) = state.next() {
                drop(state);
                let _ = waiting.send(Permit { budget: Arc::clone(self), class });
            } else if let Some(waiting) = state.next_opening() {
                drop(state);
                let _ = waiting.send(Opening { budget: Arc::clone(self), round: self.round() });
            } else {
                return;
            }
        }
    }

    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        state.settle(Instant::now());
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings the limit up to `now`.
    fn settle(&mut self, now: Instant) {
        while self.limit < self.configured && self.changed + GROWTH <= now {
            self.limit += 1;
            self.changed += GROWTH;
        }
        while self.pressure > 0 && self.pressed + RELIEF <= now {
            self.pressure -= 1;
            self.pressed += RELIEF;
        }
    }

    /// When the limit grows next, if it does.
    fn grows(&self) -> Option<Instant> {
        let limit = (self.limit < self.configured).then(|| self.changed + GROWTH);
        let pressure = (self.pressure > 0).then(|| self.pressed + RELIEF);
        limit.into_iter().chain(pressure).min()
    }

    fn limit_now(&self) -> usize {
        (self.limit >> self.pressure).max(LEAST)
    }

    const fn in_use(&self) -> usize {
        self.probes + self.deliveries
    }

    fn most(&self, class: Class) -> usize {
        let limit = self.limit_now();
        match class {
            Class::Probe => (limit / 2).max(1),
            Class::Delivery => limit - (limit / 10).max(1),
        }
    }

    fn has_room(&mut self, class: Class) -> bool {
        self.in_use() < self.limit_now() && *self.used(class) < self.most(class)
    }

    fn may_open(&self) -> bool {
        self.slowly.is_none_or(|most| self.openings < most)
    }

    const fn used(&mut self, class: Class) -> &mut usize {
        match class {
            Class::Probe => &mut self.probes,
            Class::Delivery => &mut self.deliveries,
        }
    }

    const fn line(&mut self, class: Class) -> &mut Line {
        match class {
            Class::Probe => &mut self.waiting_probes,
            Class::Delivery => &mut self.waiting_deliveries,
        }
    }

    /// Who gets the next slot; it is counted as used.
    fn next(&mut self) -> Option<(Class, oneshot::Sender<Permit>)> {
        let mut can_take = |class| !self.line(class).is_empty() && self.has_room(class);
        let class = match (can_take(Class::Probe), can_take(Class::Delivery)) {
            (true, true) => match self.favoured {
                Class::Probe => Class::Delivery,
                Class::Delivery => Class::Probe,
            },
            (true, false) => Class::Probe,
            (false, true) => Class::Delivery,
            (false, false) => return None,
        };
        self.favoured = class;
        let waiting = self.line(class).serve()?;
        *self.used(class) += 1;
        Some((class, waiting))
    }

    fn next_opening(&mut self) -> Option<oneshot::Sender<Opening>> {
        let waiting = if self.may_open() { self.waiting_openings.serve() } else { None }?;
        self.openings += 1;
        Some(waiting)
    }
}

impl Opening {
    /// Whose it is.
    #[must_use]
    pub const fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// When it began, for [`Budget::refused`].
    #[must_use]
    pub const fn round(&self) -> Round {
        self.round
    }

    /// The backend took us: twice as many may be opened at a time.
    pub fn succeeded(self) {
        let mut state = self.budget.state();
        let limit = state.limit_now();
        state.slowly = state.slowly.map(|most| most * 2).filter(|most| *most < limit);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.budget.state().openings -= 1;
        self.budget.serve();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        *state.used(self.class) -= 1;
        let unused = state.in_use() == 0;
        drop(state);
        if unused {
            self.budget.unused.notify_waiters();
        }
        self.budget.serve();
    }
}

/// A place in the line for a slot.
struct WaitingForSlot<'b> {
    budget: &'b Arc<Budget>,
    class: Class,
    place: Place<Option<ClientKey>>,
    granted: oneshot::Receiver<Permit>,
}

impl WaitingForSlot<'_> {
    /// The slot, once somebody gives one back or the budget grows.
    async fn wait(mut self) -> Permit {
        loop {
            let mut shrunk = std::pin::pin!(self.budget.shrunk.notified());
            shrunk.as_mut().enable();
            let grows = self.budget.settled().grows();
            let grown = async {
                match grows {
                    Some(when) => sleep_until(when).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                granted = &mut self.granted => {
                    return granted.expect("whoever waits is granted something before the sender is dropped");
                }
                () = grown => self.budget.serve(),
                () = shrunk => {}
            }
        }
    }
}

impl Drop for WaitingForSlot<'_> {
    fn drop(&mut self) {
        self.budget.state().line(self.class).leave(&self.place);
    }
}

/// A place in the line of those who want to open a connection.
struct WaitingToOpen<'b> {
    budget: &'b Arc<Budget>,
    place: Place<()>,
    granted: oneshot::Receiver<Opening>,
}

impl Drop for WaitingToOpen<'_> {
    fn drop(&mut self) {
        self.budget.state().waiting_openings.leave(&self.place);
    }
}

#[cfg(test)]
mod tests;
