//! What happens, as it happens: server-sent events (HTML Living Standard §9.2).
//!
//! One event for each session that ended and each recipient that was refused, and with `?rates` one each second
//! with what was counted in it. A listener that is behind misses events and gets one that says how many. Bounded:
//! [`MOST_LISTENERS`] at once, [`AHEAD`] pieces of at most [`PIECE`] octets and one event more on the way to each. One
//! that takes nothing for [`PATIENCE`] is cut off.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Panel;
use super::answer::{self, Answer, Refusal};
use super::history::Rates;
use crate::observe::{Heard, Listener, MOST_LISTENERS};

/// The media type.
const KIND: &str = "text/event-stream";
/// Pieces on their way to a listener.
const AHEAD: usize = 4;
/// Events that are there already go together, up to so many octets.
const PIECE: usize = 16 * 1024;
/// What says that nothing happened, for whoever is in between.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a listener may take nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// `GET /api/v1/events`.
pub(super) fn stream(panel: &Panel, parameters: &[(String, String)]) -> Result<Answer, Refusal> {
    let listener = panel.events.listen().ok_or(Refusal::Listeners(MOST_LISTENERS))?;
    let rates = parameters.iter().any(|(name, _)| name == "rates").then(|| panel.history.watch());
    let (sender, pieces) = mpsc::channel(AHEAD);
    let stalled = CancellationToken::new();
    let feed = Feed { listener, rates, sender, stalled: stalled.clone(), ended: panel.ended.clone() };
    tokio::spawn(feed.run());
    Ok(answer::stream(KIND, pieces, stalled))
}

/// One listener's stream.
struct Feed {
    listener: Listener,
    rates: Option<watch::Receiver<Rates>>,
    sender: mpsc::Sender<Bytes>,
    stalled: CancellationToken,
    ended: CancellationToken,
}

impl Feed {
    /// Until the listener leaves, or we end.
    async fn run(mut self) {
        // Headers go out with the first octets, so the listener knows at once that it listens.
        let mut text = "retry: 2000\n\n".to_owned();
        loop {
            match timeout(PATIENCE, self.sender.send(text.into())).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => return self.stalled.cancel(),
            }
            text = String::new();
            tokio::select! {
                heard = self.listener.next() => match heard {
                    Some(heard) => self.write_all(&mut text, heard),
                    None => return,
                },
                rates = next_rates(&mut self.rates) => write(&mut text, "rates", &rates),
                () = sleep(HEARTBEAT) => text.push_str(": nothing happened\n\n"),
                () = self.sender.closed() => return,
                () = self.ended.cancelled() => return,
            }
        }
    }

    /// What was heard, and what is there besides.
    fn write_all(&mut self, text: &mut String, first: Heard) {
        let mut heard = Some(first);
        while let Some(next) = heard {
            match next {
                Heard::Event(event) => write(text, event.name(), &*event),
                Heard::Lost(events) => write(text, "lost", &json!({ "events": events })),
            }
            heard = if text.len() < PIECE { self.listener.already() } else { None };
        }
    }
}

async fn next_rates(rates: &mut Option<watch::Receiver<Rates>>) -> Rates {
    if let Some(rates) = rates
        && rates.changed().await.is_ok()
    {
        return *rates.borrow_and_update();
    }
    std::future::pending().await
}

/// One event. JSON has no line ends of its own.
fn write(text: &mut String, name: &str, data: &impl Serialize) {
    let data = serde_json::to_string(data).unwrap_or_default();
    let _ = write!(text, "event: {name}\ndata: {data}\n\n");
}
