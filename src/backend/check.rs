//! Active checks: is a backend well that nobody has needed for a while, or that rests?
//!
//! A check is a session of our own: connect, EHLO, and QUIT. With a canary, a recipient that must exist, MAIL with the
//! null sender and RCPT come between; only 2yz to both is well. A check that fails counts as any fault does, but one
//! refused over the canary makes the backend rest at once: sessions with users, which go well until RCPT, would clear
//! its name. While a backend rests the check is its trial, so that no mail is.
//!
//! Checks take a connection of the budget, and are left out while few are free: who is busy is seen to work.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::budget::Use;
use super::connection::Connection;
use super::destination::Destination;
use super::fault::{Fault, Phase};
use super::health::{Standing, Trier};
use super::introduction::Introduction;
use super::pool::Backend;
use crate::proto::address::Mailbox;
use crate::proto::reply::{Class, Reply};

/// How often it is looked whether a check is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a check may wait for a connection of the budget.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a check found.
enum Found {
    Well,
    /// The canary, or its sender, was refused.
    Refused(Reply),
}

/// Checks the backends of `destination` as they become due, for ever.
pub(super) async fn watch(destination: &Destination) {
    let quota = &destination.blueprint().quota;
    let Some(interval) = quota.check else { return std::future::pending().await };
    loop {
        sleep(LOOK_EVERY).await;
        for member in destination.members().iter() {
            member.backend.health().leave_trials_to_checks();
            if member.backend.is_due(jittered(interval)) {
                let (backend, canary) = (Arc::clone(&member.backend), quota.canary.clone());
                tokio::spawn(async move { backend.check(canary.as_ref()).await });
            }
        }
    }
}

impl Backend {
    /// Whether it is to be checked now, and nobody does.
    fn is_due(&self, interval: Duration) -> bool {
        let due = match self.standing() {
            // As soon as it may be tried.
            Standing::Resting => self.rests_for() == Some(Duration::ZERO),
            Standing::Well | Standing::Shaky => {
                let load = self.load();
                self.idle_for() >= interval && load.used + 1 < load.limit
            }
        };
        due && self.begin_check()
    }

    /// Finds out whether it is well.
    async fn check(self: &Arc<Self>, canary: Option<&Mailbox>) {
        let patience = self.patience();
        let deadline = Instant::now() + patience.connect + patience.command;
        let permit = timeout_at(Instant::now() + PATIENCE, self.budget().permit(Use::Greeting)).await;
        if let Ok(_permit) = permit
            && let Ok(opening) = timeout_at(deadline, self.budget().opening()).await
            && let Some(attempt) = self.health().attempt(Trier::Check)
        {
            let checked = async {
                self.make_room().await;
                let mut connection = self.connect(&opening, &Introduction::Ourselves, deadline).await?;
                let found = match canary {
                    Some(canary) => ask(&mut connection, canary).await?,
                    None => Found::Well,
                };
                Ok((connection, found))
            };
            match timeout_at(deadline, checked).await.unwrap_or(Err(Fault::Timeout(Phase::Command))) {
                Ok((connection, Found::Well)) => {
                    self.serves_us(&connection, attempt, opening);
                    connection.quit().await;
                }
                Ok((connection, Found::Refused(reply))) => {
                    attempt.condemned();
                    self.is_not_well(format!("does not take the canary: {reply}"));
                    connection.quit().await;
                }
                Err(fault) => self.does_not(&fault, attempt),
            }
        }
        self.end_check();
    }
}

/// Asks about the canary as a probe does.
async fn ask(connection: &mut Connection, canary: &Mailbox) -> Result<Found, Fault> {
    for command in ["MAIL FROM:<>\r\n".to_owned(), format!("RCPT TO:<{}>\r\n", canary.written())] {
        let reply = connection.exchange(command.as_bytes()).await?;
        if reply.class() != Class::Positive {
            return Ok(Found::Refused(reply));
        }
    }
    Ok(Found::Well)
}

/// From nine tenths to the whole of `interval`: instances, and backends, are not to check in step.
fn jittered(interval: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or_default() % 1000;
    interval - interval / 10 * chance / 1000
}
