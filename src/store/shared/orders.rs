//! What is to be done everywhere is carried out in Redis, which tells everybody.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::link::Fault;
use super::outbox::{Forget, Order, Word};
use super::script::{MOST_LOGGED, Script};
use super::told::{Marks, News};
use super::{Inner, integer};
use crate::observe::metrics::SharedOperation;

/// What is told of a domain holds no longer than that there.
const MARKS_LIVE: Duration = Duration::from_secs(24 * 3600);
/// The log lives so long at least.
const LOG_LIVES: Duration = Duration::from_secs(3600);

impl Inner {
    /// Carries out an order. Gives what came of it, where it is more than this instance knew.
    pub(super) async fn carry_out(&self, order: &Order) -> Result<Option<News>, Fault> {
        match order {
            Order::Forget(number, what) => self.forget(*number, what).await,
            Order::Client(client, Word::Ban { until, unknown, known }) => {
                self.tell_ban(*client, *until, (*unknown, *known)).await.map(|_| None)
            }
            Order::Client(client, Word::Pardon { number }) => {
                self.tell_pardon(*client, *number).await.map(|_| None)
            }
            Order::Generation { hash, generation, epoch } => {
                let keys = ["forgotten", "news"].map(|name| self.name(name));
                let arguments = [
                    epoch.to_string(),
                    format!("{hash:032x}"),
                    generation.to_string(),
                    self.said(&format!("domain {hash:032x}")),
                ];
                self.tell_all(Script::Generation, &keys, &arguments).await.map(|_| None)
            }
            Order::Mark(scope, marks, since) => {
                self.tell_marks(*scope, marks.aged(since.elapsed())).await.map(|_| None)
            }
        }
    }

    async fn forget(&self, number: u64, what: &Forget) -> Result<Option<News>, Fault> {
        let number = number.to_string();
        let mut keys = vec![self.name("forgotten"), self.name(&format!("o:{}", self.token))];
        match what {
            Forget::Recipient { key, verdicts, epoch } => {
                keys.extend([self.name("log"), self.name("news")]);
                keys.extend(verdicts.iter().map(|verdict| self.key("v", *verdict)));
                let [lives, most] = self.log_is_kept();
                let entry = self.said(&format!("key {key:032x}"));
                let arguments = [number, lives, most, entry, epoch.to_string(), self.said("epoch")];
                let answer = self.tell_all(Script::ForgetKey, &keys, &arguments).await?;
                Ok(numbers(&answer).map(|[epoch]| News::Epoch(epoch)))
            }
            Forget::Domain { hash, generation, epoch } => {
                keys.push(self.name("news"));
                let hash_text = format!("{hash:032x}");
                let message = self.said(&format!("domain {hash_text}"));
                let arguments = [number, epoch.to_string(), generation.to_string(), hash_text, message];
                let answer = self.tell_all(Script::ForgetDomain, &keys, &arguments).await?;
                Ok(numbers(&answer).map(|[generation, epoch]| News::Domain(*hash, generation, epoch)))
            }
            Forget::All { epoch } => {
                keys.push(self.name("news"));
                let arguments = [number, epoch.to_string(), self.said("epoch")];
                let answer = self.tell_all(Script::ForgetAll, &keys, &arguments).await?;
                Ok(numbers(&answer).map(|[epoch]| News::Epoch(epoch)))
            }
        }
    }

    async fn tell_ban(
        &self,
        client: u128,
        until: Instant,
        (unknown, known): (u32, u32),
    ) -> Result<Value, Fault> {
        let remaining = until.saturating_duration_since(Instant::now()).as_millis();
        let message = self.said(&format!("banned {client:032x} {remaining} {unknown} {known}"));
        let arguments =
            [format!("{client:032x}"), remaining.to_string(), format!("{unknown} {known}"), message];
        let keys = ["bans", "reasons", "news"].map(|name| self.name(name));
        self.tell_all(Script::Ban, &keys, &arguments).await
    }

    async fn tell_pardon(&self, client: u128, number: u64) -> Result<Value, Fault> {
        let keys = ["forgotten", "log", "news", "bans", "reasons"].map(|name| self.name(name));
        let order = self.name(&format!("o:{}:{number}", self.token));
        let keys: Vec<String> = keys.into_iter().chain([self.key("c", client), order]).collect();
        let [lives, most] = self.log_is_kept();
        let client = format!("{client:032x}");
        let entry = self.said(&format!("pardoned {client}"));
        self.tell_all(Script::Pardon, &keys, &[client, lives, most, entry]).await
    }

    async fn tell_marks(&self, scope: u128, marks: Marks) -> Result<Value, Fault> {
        let keys = [self.key("m", scope), self.name("news")];
        let message = self.said(&format!("marked {scope:032x}"));
        let marks = marks.arguments();
        let lives = MARKS_LIVE.as_millis().to_string();
        let arguments = [lives.as_bytes(), message.as_bytes()];
        let arguments: Vec<&[u8]> = arguments.into_iter().chain(marks.iter().map(Vec::as_slice)).collect();
        self.aside(SharedOperation::Tell, Script::Mark, &keys, &arguments).await
    }

    async fn tell_all(&self, script: Script, keys: &[String], arguments: &[String]) -> Result<Value, Fault> {
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        self.aside(SharedOperation::Tell, script, keys, &arguments).await
    }

    fn said(&self, text: &str) -> String {
        format!("{} {text}", self.token)
    }

    /// For how long in milliseconds, and how many entries.
    fn log_is_kept(&self) -> [String; 2] {
        [self.keeps.max(LOG_LIVES).as_millis().to_string(), MOST_LOGGED.to_string()]
    }
}

fn numbers<const N: usize>(answer: &Value) -> Option<[u32; N]> {
    let Value::Array(parts) = answer else { return None };
    let numbers: Option<Vec<u32>> = parts.iter().map(|part| u32::try_from(integer(part)?).ok()).collect();
    numbers?.try_into().ok()
}
