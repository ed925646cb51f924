//! The sessions that are kept open with a backend.
//!
//! One that is kept holds no permit: who waits for one would never get it. It stands in a slot nobody needs, and
//! leaves when a new connection needs that slot, or the backend finds that there are too many.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Backend, lock};
use crate::backend::fault::{Blame, Fault};
use crate::backend::introduction::{Fit, Introduction};
use crate::backend::lease::{Kept, Origin};

/// Sessions kept idle per backend.
const MAX_KEPT: usize = 16;
/// For so long a backend that took no second client in a session is not asked to again.
const REFUSES_ANEW: Duration = Duration::from_secs(600);

impl Backend {
    /// Takes leave of the oldest sessions that stand in slots somebody holds a permit for by now.
    pub(in crate::backend) async fn make_room(&self) {
        loop {
            let Some(oldest) = self.budget.shelves().take_beyond(self.budget.free()) else { return };
            oldest.leave().await;
        }
    }

    /// The oldest session of all who share the budget.
    pub(super) fn oldest_kept(&self) -> Option<Kept> {
        self.budget.shelves().take_beyond(0)
    }

    /// Keeps a session whose permit is about to be given back. Gives it back when there is no room for it.
    pub(in crate::backend) fn keep(&self, kept: Kept) -> Option<Kept> {
        // Asked with the shelf in hand: whoever says so afterwards finds it there.
        let is_needed = || !self.is_withdrawn() && !self.stands_down.load(Ordering::Relaxed);
        // Above a budget that shrank nothing is kept: it would be one connection too many.
        self.budget.shelves().keep(&self.kept, kept, (MAX_KEPT, self.budget.free_but_for_one()), is_needed)
    }

    /// A kept session that is for this client, or was made so. What the backend says of the client it would say in any
    /// other session, too.
    pub(super) async fn take_kept(
        &self,
        introduction: &Introduction,
        deadline: Instant,
    ) -> Result<Option<(Kept, Origin)>, Fault> {
        if let Some(kept) = self.youngest_kept(introduction, Fit::AsItIs) {
            return Ok(Some((kept, Origin::Kept)));
        }
        while !self.refuses_anew()
            && let Some(mut kept) = self.youngest_kept(introduction, Fit::Anew)
        {
            let introducing = timeout_at(deadline, kept.connection().introduce_anew(introduction));
            let Ok(introduced) = introducing.await else { break };
            let Err(fault) = introduced else {
                // As good as new: what it said just now was an answer.
                return Ok(Some((kept, Origin::Fresh)));
            };
            match fault.blame(introduction) {
                // With 421 the session ends (RFC 5321 §3.8): a new one may not.
                Blame::Unclear(Some(reply)) if reply.code() == 421 => {}
                // Nor does one that was over when it was taken up.
                Blame::Unclear(None) => {}
                Blame::Client(_) | Blame::Unclear(_) => return Err(fault),
                // Whether it is one of the route a new session shows.
                Blame::Route => *lock(&self.refuses_anew) = Some(Instant::now()),
                Blame::Backend => {}
            }
            tracing::debug!(backend = %self.site(), %fault, "kept session lost");
        }
        Ok(None)
    }

    /// Whether it takes no second client in one session, as far as was seen a while ago.
    fn refuses_anew(&self) -> bool {
        lock(&self.refuses_anew).is_some_and(|seen| seen.elapsed() < REFUSES_ANEW)
    }

    /// The youngest kept session that still looks alive.
    fn youngest_kept(&self, introduction: &Introduction, fit: Fit) -> Option<Kept> {
        let mut shelf = lock(&self.kept);
        while let Some(at) = shelf.iter().rposition(|kept| introduction.fit(kept.introduction()) == fit) {
            let mut kept = shelf.remove(at);
            if kept.is_fit() {
                return Some(kept);
            }
        }
        None
    }

    /// Takes leave of the sessions that are good for nobody once this session of a client is over.
    pub(in crate::backend) fn dismiss(&self, session: &str) {
        let mut shelf = lock(&self.kept);
        let alone = self.refuses_anew();
        let bound = |kept: &Kept| {
            let introduction = kept.introduction();
            introduction.bound_to() == Some(session) || (alone && introduction.session() == Some(session))
        };
        let (bound, others): (Vec<_>, Vec<_>) = shelf.drain(..).partition(bound);
        *shelf = others;
        drop(shelf);
        for kept in bound {
            tokio::spawn(kept.leave());
        }
    }

    /// Takes leave of all of them.
    pub(super) fn keep_none(&self) {
        for kept in std::mem::take(&mut *lock(&self.kept)) {
            tokio::spawn(kept.leave());
        }
    }

    /// Takes leave of sessions nobody has needed for a while.
    pub fn sweep(&self) {
        let mut shelf = lock(&self.kept);
        let (forgotten, fit): (Vec<_>, Vec<_>) = shelf.drain(..).partition(Kept::is_forgotten);
        *shelf = fit;
        drop(shelf);
        for kept in forgotten {
            tokio::spawn(kept.leave());
        }
    }
}
