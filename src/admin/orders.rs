//! What an operator may tell the process through the endpoint: the same as with signals.

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::Panel;
use super::answer::{self, Answer, Refusal};

/// Something to be done by whoever runs the server.
#[derive(Debug)]
pub enum Order {
    /// Read the configuration again, and say what came of it: all its faults, if it has any.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
    /// End as SIGTERM does.
    Drain,
}

/// Where orders go.
#[derive(Debug, Clone)]
pub struct Orders(mpsc::Sender<Order>);

/// `POST /api/v1/reload`.
#[derive(Debug, Serialize)]
pub struct Reloaded {
    /// Which configuration since the start is in force now.
    pub generation: u64,
    /// Keys that changed.
    pub changed: usize,
    /// Of them those that take effect with a restart alone.
    pub restart_needed: Vec<String>,
}

/// `POST /api/v1/drain`.
#[derive(Debug, Serialize)]
struct Draining {
    draining: bool,
}

impl Orders {
    /// Orders, and where they arrive.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, arriving) = mpsc::channel(1);
        (Self(orders), arriving)
    }

    async fn give(&self, order: Order) -> Result<(), Refusal> {
        self.0.send(order).await.map_err(|_| Refusal::NobodyObeys)
    }
}

/// Orders that nobody obeys.
impl Default for Orders {
    fn default() -> Self {
        Self::new().0
    }
}

/// The configuration is read again.
pub(super) async fn reload(panel: &Panel) -> Result<Answer, Refusal> {
    let (answer, answered) = oneshot::channel();
    panel.orders.give(Order::Reload(answer)).await?;
    match answered.await.map_err(|_| Refusal::NobodyObeys)? {
        Ok(reloaded) => Ok(answer::json(&reloaded)),
        Err(faults) => Err(Refusal::Configuration(faults)),
    }
}

/// The end begins.
pub(super) async fn drain(panel: &Panel) -> Result<Answer, Refusal> {
    panel.orders.give(Order::Drain).await?;
    Ok(answer::accepted(&Draining { draining: true }))
}
