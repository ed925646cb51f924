//! How many connections a backend is given, probes and deliveries together.
//!
//! Neither use can starve the other: at least half is kept for deliveries, and at least a tenth, and one, for
//! probes. Waiting is first come, first served.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Asking about recipients.
    Probe,
    /// Carrying a client's transaction.
    Delivery,
}

/// The connections one backend may have from us.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    deliveries: Arc<Semaphore>,
    most_probes: usize,
    connections: u32,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    _share: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `connections`, at least 2.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        let connections = connections.max(2);
        let kept_for_probes = (connections / 10).max(1);
        let most_probes = (connections / 2).max(1);
        Self {
            all: Arc::new(Semaphore::new(connections)),
            probes: Arc::new(Semaphore::new(most_probes)),
            deliveries: Arc::new(Semaphore::new(connections - kept_for_probes)),
            most_probes,
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
        }
    }

    /// Probes there may be at once.
    #[must_use]
    pub const fn most_probes(&self) -> usize {
        self.most_probes
    }

    /// Slots nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.all.available_permits()
    }

    /// Waits until nobody holds a slot.
    pub async fn unused(&self) {
        let _ = self.all.acquire_many(self.connections).await;
    }

    /// Waits for a slot.
    pub async fn permit(&self, purpose: Use) -> Permit {
        let share = match purpose {
            Use::Probe => &self.probes,
            Use::Delivery => &self.deliveries,
        };
        // The share first: who waits for it holds no slot the other use could take.
        let share = Arc::clone(share).acquire_owned().await.expect("never closed");
        let slot = Arc::clone(&self.all).acquire_owned().await.expect("never closed");
        Permit { _share: share, _slot: slot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(budget: &Budget, purpose: Use) -> Vec<Permit> {
        let mut held = Vec::new();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            let waiting = std::pin::pin!(budget.permit(purpose));
            match waiting.poll(&mut context) {
                std::task::Poll::Ready(permit) => held.push(permit),
                std::task::Poll::Pending => return held,
            }
        }
    }

    #[test]
    fn neither_use_can_starve_the_other() {
        for (connections, probes, deliveries) in [(45, 22, 41), (18, 9, 17), (2, 1, 1), (10, 5, 9)] {
            let budget = Budget::new(connections);
            let held = free(&budget, Use::Delivery);
            assert_eq!(held.len(), deliveries, "of {connections}");
            assert_eq!(free(&budget, Use::Probe).len(), connections - deliveries);
            drop(held);
            let held = free(&budget, Use::Probe);
            assert_eq!(held.len(), probes, "of {connections}");
            assert_eq!(free(&budget, Use::Delivery).len(), (connections - probes).min(deliveries));
        }
    }
}
