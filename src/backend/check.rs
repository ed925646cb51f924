//! Active checks: is a backend well that nobody has needed for a while, or that rests?
//!
//! A check is a session of our own: connect, EHLO, and QUIT. With a canary, a recipient that must exist, MAIL with the
//! null sender and RCPT come between, and the fallback sender asks where that one is refused; only 2yz is well. A check
//! that fails counts as any fault does, but one refused over the canary makes the backend rest at once: sessions with
//! users, which go well until RCPT, would clear its name. While a backend rests the check is its trial, so that no mail is.
//!
//! What every backend refuses is no fault of any: the canary was deleted, or they take nothing from us. So a refusal
//! counts only while another backend that must take the same canary is well. 4yz says nothing: it may be greylisting.
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
use super::quota::Canary;
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
    /// Not now, it says.
    Deferred,
}

/// Checks the backends of `destination` as they become due, for ever. It is one of the `fellows`, which have its canary.
pub(super) async fn watch(destination: &Destination, fellows: &Arc<[Arc<Destination>]>) {
    let quota = &destination.blueprint().quota;
    let Some(interval) = quota.check else { return std::future::pending().await };
    loop {
        sleep(LOOK_EVERY).await;
        for member in destination.members().iter() {
            member.backend.health().leave_trials_to_checks();
            if member.backend.is_due(jittered(interval)) {
                let (backend, canary) = (Arc::clone(&member.backend), quota.canary.clone());
                let fellows = Arc::clone(fellows);
                tokio::spawn(async move { backend.check(canary.as_ref(), &fellows).await });
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
    async fn check(self: &Arc<Self>, canary: Option<&Canary>, fellows: &[Arc<Destination>]) {
        let patience = self.patience();
        let deadline = Instant::now() + patience.connect + patience.command;
        let permit = timeout_at(Instant::now() + PATIENCE, self.budget().permit(Use::Greeting)).await;
        if let Ok(_permit) = permit
            && let Ok(opening) = timeout_at(deadline, self.budget().opening()).await
            && let Some(attempt) = self.health().attempt(Trier::Check)
        {
            let checked = async {
                self.make_room().await;
                let began = Instant::now();
                let mut connection = self.connect(&opening, &Introduction::Ourselves, deadline).await?;
                // One whose first greeting was slow is not to go without mail for that.
                self.took(began.elapsed());
                let found = match canary {
                    Some(canary) => ask(&mut connection, canary).await?,
                    None => Found::Well,
                };
                Ok((connection, found))
            };
            match timeout_at(deadline, checked).await.unwrap_or(Err(Fault::Timeout(Phase::Command))) {
                Ok((connection, Found::Well)) => {
                    self.found_to_refuse_canary(false);
                    self.serves_us(&connection, attempt, opening);
                    connection.quit().await;
                }
                Ok((connection, Found::Refused(reply))) => {
                    let before = self.found_to_refuse_canary(true);
                    if self.others_are_well(fellows) {
                        attempt.condemned();
                        self.is_not_well(format!("does not take the canary: {reply}"));
                    } else {
                        if !before {
                            tracing::warn!(
                                backend = %self.site(), %reply,
                                "the canary is refused, and no other backend takes it: not held against this one"
                            );
                        }
                        self.serves_us(&connection, attempt, opening);
                    }
                    connection.quit().await;
                }
                Ok((connection, Found::Deferred)) => {
                    if let Some(attempt) = attempt.unless_condemned() {
                        self.serves_us(&connection, attempt, opening);
                    }
                    connection.quit().await;
                }
                Err(fault) => self.does_not(&fault, attempt),
            }
        }
        self.end_check();
    }
}

impl Backend {
    /// Whether another of the backends that must take the same canary is well, as far as is known.
    fn others_are_well(self: &Arc<Self>, fellows: &[Arc<Destination>]) -> bool {
        let is_well = |other: &Arc<Self>| {
            !Arc::ptr_eq(self, other) && other.standing() != Standing::Resting && !other.refuses_canary()
        };
        fellows.iter().any(|fellow| fellow.members().iter().any(|member| is_well(&member.backend)))
    }
}

/// Asks about the canary as a probe does: as the null sender, then as another.
async fn ask(connection: &mut Connection, canary: &Canary) -> Result<Found, Fault> {
    let senders =
        [Some(String::new()), canary.fallback_sender.as_ref().map(|sender| sender.written().to_string())];
    let mut found = Found::Well;
    for (turn, sender) in senders.into_iter().flatten().enumerate() {
        if turn > 0 && connection.exchange(b"RSET\r\n").await?.class() != Class::Positive {
            break;
        }
        match ask_as(connection, &sender, canary).await? {
            None => return Ok(Found::Well),
            Some(reply) if reply.class() == Class::Transient => return Ok(Found::Deferred),
            Some(reply) => found = Found::Refused(reply),
        }
    }
    Ok(found)
}

/// The refusal, if any.
async fn ask_as(connection: &mut Connection, sender: &str, canary: &Canary) -> Result<Option<Reply>, Fault> {
    for command in
        [format!("MAIL FROM:<{sender}>\r\n"), format!("RCPT TO:<{}>\r\n", canary.recipient.written())]
    {
        let reply = connection.exchange(command.as_bytes()).await?;
        if reply.class() != Class::Positive {
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// From nine tenths to the whole of `interval`: instances, and backends, are not to check in step.
fn jittered(interval: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or_default() % 1000;
    interval - interval / 10 * chance / 1000
}
