//! Ending without losing anything, in three steps that all sessions can see.

use tokio_util::sync::CancellationToken;

/// How far the end has come. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    announced: CancellationToken,
    idle: CancellationToken,
    all: CancellationToken,
}

impl Drain {
    /// Whoever balances clients is told not to send more; those who come are still served.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// No new clients; sessions outside a transaction end.
    pub fn end_idle(&self) {
        self.announce();
        self.idle.cancel();
    }

    /// Sessions end wherever they wait for their client. One that waits for the backend's word on a whole
    /// message goes on: that message may be stored already.
    pub fn end_all(&self) {
        self.end_idle();
        self.all.cancel();
    }

    /// Whether the end was announced.
    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.announced.is_cancelled()
    }

    /// Waits for [`Self::end_idle`].
    pub async fn idle_ends(&self) {
        self.idle.cancelled().await;
    }

    /// Waits for [`Self::end_all`].
    pub async fn all_end(&self) {
        self.all.cancelled().await;
    }
}
