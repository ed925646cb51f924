//! One stay in the tier: join, hear what others do, tell what we do, until the connection is to be given up.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _};
use redis::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{self, Fault, Joined, Request};
use super::outbox::{Forget, Learnt, Order, Write};
use super::script::Script;
use super::told::{Heard, News};
use super::{Inner, PATIENCE_SUSPECT, State, Tier, integer, octets, score};
use crate::observe::metrics::SharedOperation;

/// How often the log of what was forgotten is read, for what the channel did not bring.
const ATTEND_EVERY: Duration = Duration::from_secs(1);
/// Redis that does not answer within this, nor anything else, is away.
const ATTENDING: Duration = Duration::from_millis(500);
/// A subscription that does not answer within this is lost.
const PING: Duration = Duration::from_secs(2);
/// How often it is asked.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Requests of one kind under way at once that nobody waits for.
const AT_ONCE: usize = 64;
/// What clients were told gathers for so long.
const GATHERING: Duration = Duration::from_millis(20);
/// What could not be done is tried again after so long, if we are still joined then.
const AGAIN: Duration = Duration::from_millis(100);

impl Tier {
    /// Comes back, with the reason, when Redis is away.
    pub(super) async fn take_part(&self, hear: &impl Fn(News)) -> String {
        let inner = &*self.0;
        let client = match link::client(&inner.address).await {
            Ok(client) => client,
            Err(fault) => return fault.to_string(),
        };
        // The channel first: nothing that happens from now on is missed.
        let subscription = match link::subscribe(&client, &inner.name("news")).await {
            Ok(subscription) => subscription,
            Err(fault) => return fault.to_string(),
        };
        let joined = match inner.link.connect(&client).await {
            Ok(joined) => joined,
            Err(fault) => return fault.to_string(),
        };
        if let Err(fault) = inner.attend(&joined, Extent::All, hear).await {
            return fault.to_string();
        }
        inner.link.join(joined.clone());
        self.tell(None);
        inner.outbox.wake.notify_one();
        inner.accounts.due.notify_one();
        let (mut sink, mut stream) = subscription.split();
        let pinging = async {
            loop {
                sleep(PING_EVERY).await;
                let ping = timeout(PING, sink.ping::<Value>()).await;
                if !matches!(ping, Ok(Ok(_))) {
                    return "the subscription to its channel is lost".to_owned();
                }
            }
        };
        let over = CancellationToken::new();
        let staying = async {
            let why = tokio::select! {
                why = inner.link.ended() => why,
                why = inner.listen(&mut stream, hear) => why,
                why = pinging => why,
                why = inner.attend_always(&joined, hear) => why,
            };
            inner.link.part();
            self.tell(Some(why.clone()));
            over.cancel();
            why
        };
        // Who writes ends by itself: what it has in hand and cannot write goes back and is not lost.
        let (why, (), ()) = tokio::join!(staying, inner.write_until(&over, hear), inner.count_until(&over));
        why
    }
}

/// How much is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    All,
    Changes,
}

impl Inner {
    /// Hears what others publish.
    async fn listen(
        &self,
        stream: &mut (impl Stream<Item = redis::Msg> + Unpin),
        hear: &impl Fn(News),
    ) -> String {
        while let Some(message) = stream.next().await {
            match Heard::read(message.get_payload_bytes(), &self.token) {
                Some(Heard::Answered(key)) => {
                    if let Some(waiting) = self.waits.get(&key) {
                        waiting.notify_one();
                    }
                }
                Some(Heard::News(news, place)) if place.is_none_or(|place| self.state().hears(place)) => {
                    self.hear(news, hear);
                }
                Some(Heard::News(..)) | None => {}
            }
        }
        "the subscription to its channel ended".to_owned()
    }

    fn hear(&self, news: News, hear: &impl Fn(News)) {
        if let News::Epoch(epoch) = news {
            let mut state = self.state();
            state.agreed = state.agreed.max(epoch);
            drop(state);
            if epoch <= self.epoch.fetch_max(epoch, Ordering::Relaxed) {
                return;
            }
        }
        hear(news);
    }

    async fn attend_always(&self, joined: &Joined, hear: &impl Fn(News)) -> String {
        loop {
            sleep(ATTEND_EVERY).await;
            match self.attend(joined, Extent::Changes, hear).await {
                Ok(()) => {}
                Err(Fault::Slow(_)) if !self.link.is_silent() => {}
                Err(fault) => return fault.to_string(),
            }
        }
    }

    /// Learns what happened that the channel did not bring, and whether Redis does what is asked of it.
    async fn attend(&self, joined: &Joined, extent: Extent, hear: &impl Fn(News)) -> Result<(), Fault> {
        let ours = self.state().next_life(&self.token);
        let answer = self.ask_attendance(joined, extent, &ours).await?;
        let unexpected = || Fault::Refused("it answers what no Redis would".to_owned());
        let Value::Array(parts) = &answer else { return Err(unexpected()) };
        let [life, last, epoch, changes, log, generations, bans] = parts.as_slice() else {
            return Err(unexpected());
        };
        let life = octets(life).and_then(|life| std::str::from_utf8(life).ok()).ok_or_else(unexpected)?;
        let last = score(last).ok_or_else(unexpected)?;
        let (were_here, known) = {
            let state = self.state();
            (state.life.as_deref() == Some(life), state.known)
        };
        if self.state().meets(life, &ours) {
            self.outbox.forget_again(self.epoch.load(Ordering::Relaxed));
            hear(News::Lost);
        }
        let before = self.epoch.load(Ordering::Relaxed);
        let epoch = integer(epoch).and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or(0);
        self.hear(News::Epoch(epoch), hear);
        let entries = list(log);
        let missed = were_here && (entries.len() as u64) < last.saturating_sub(known);
        if missed && epoch <= before {
            // What the log has let go was not heard of: only forgetting everything forgets it for certain.
            let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
            hear(News::Epoch(epoch));
            self.outbox.forget(Forget::All { epoch }, epoch);
        }
        for entry in entries {
            if let Some(Heard::News(news, Some(place))) =
                octets(entry).and_then(|e| Heard::read(e, &self.token))
                && self.state().hears(place)
            {
                hear(news);
            }
        }
        for (domain, generation) in pairs(generations) {
            let hash = octets(domain).and_then(hash);
            let generation = octets(generation).and_then(|g| std::str::from_utf8(g).ok()?.parse().ok());
            if let (Some(hash), Some(generation)) = (hash, generation) {
                hear(News::Domain(hash, generation, epoch));
            }
        }
        each_ban(bans, hear);
        let changes = score(changes).unwrap_or(0);
        let missed = {
            let mut state = self.state();
            state.known = last;
            state.heard.retain(|heard| *heard > last);
            std::mem::replace(&mut state.changes, changes) != changes
        };
        if missed && extent == Extent::Changes {
            return Box::pin(self.attend(joined, Extent::All, hear)).await;
        }
        Ok(())
    }

    async fn ask_attendance(&self, joined: &Joined, extent: Extent, ours: &str) -> Result<Value, Fault> {
        let keys = ["forgotten", "log", "bans", "reasons", "news"].map(|name| self.name(name));
        let (agreed, known, life) = {
            let state = self.state();
            (state.agreed.to_string(), state.known.to_string(), state.life.clone().unwrap_or_default())
        };
        let wanted = if extent == Extent::All { "all" } else { "changes" };
        let message = format!("{} epoch", self.token);
        let arguments = [&agreed, &known, &life, wanted, &message, ours].map(str::as_bytes);
        let operation = SharedOperation::Attend;
        let (script, patience) =
            (Script::Attend, if extent == Extent::All { ATTENDING * 4 } else { ATTENDING });
        self.link
            .request_on(joined, Request { operation, script, keys: &keys, arguments: &arguments, patience })
            .await
    }

    /// Writes what was learnt, as it comes.
    async fn write_until(&self, over: &CancellationToken, hear: &impl Fn(News)) {
        while !over.is_cancelled() {
            let orders = self.outbox.take_orders(AT_ONCE);
            let writes = self.outbox.take_writes(AT_ONCE);
            if orders.is_empty() && writes.is_empty() {
                over.run_until_cancelled(self.outbox.wake.notified()).await;
                continue;
            }
            // One after the other: what was forgotten last counts.
            let mut left: VecDeque<Order> = orders.into();
            let mut failed = false;
            while let Some(order) = left.pop_front() {
                let last = self.outbox.last_number();
                match self.carry_out(&order).await {
                    Ok(news) => {
                        self.outbox.carried_out(order);
                        if let Some(News::Epoch(began)) = news {
                            // Each of them would begin another one.
                            left.retain(
                                |order| !matches!(order, Order::Forget(_, what) if what.is_covered_by(began)),
                            );
                            self.outbox.began(began, last);
                        }
                        news.into_iter().for_each(|news| self.hear(news, hear));
                    }
                    Err(_) => {
                        left.push_front(order);
                        self.outbox.give_back_orders(left.into(), self.epoch.load(Ordering::Relaxed));
                        failed = true;
                        break;
                    }
                }
            }
            let written = join_all(writes.iter().map(|write| self.write(write))).await;
            for (write, outcome) in writes.into_iter().zip(written) {
                if outcome.is_err() {
                    failed = true;
                    self.outbox.give_back(write);
                }
            }
            if failed {
                sleep(AGAIN).await;
            }
        }
    }

    async fn write(&self, write: &Write) -> Result<(), Fault> {
        let keys = [self.key("v", write.key), self.key("l", write.key), self.name("news")];
        let (tag, age, lives, rest) = match &write.learnt {
            None => (&b""[..], Duration::ZERO, Duration::ZERO, Vec::new()),
            Some(Learnt { told, at, lives }) => {
                let age = at.elapsed();
                let lives = lives.saturating_sub(age);
                if lives < Duration::from_millis(1) && !write.releases {
                    return Ok(());
                }
                (told.tag(), age, lives.max(Duration::from_millis(1)), told.rest())
            }
        };
        let (age, lives) = (age.as_millis().to_string(), lives.as_millis().to_string());
        let token = if write.releases { self.token.as_bytes() } else { b"" };
        let message = format!("{} answered {:032x}", self.token, write.key);
        let arguments = [tag, age.as_bytes(), lives.as_bytes(), &rest, token, message.as_bytes()];
        self.aside(SharedOperation::Learn, Script::Learn, &keys, &arguments).await.map(drop)
    }

    /// Counts what clients were told, as it comes.
    async fn count_until(&self, over: &CancellationToken) {
        while !over.is_cancelled() {
            let clients = self.accounts.due(AT_ONCE);
            if clients.is_empty() {
                over.run_until_cancelled(self.accounts.due.notified()).await;
                sleep(GATHERING).await;
                continue;
            }
            let counting = clients.into_iter().map(|client| self.count(client, (0, 0), PATIENCE_SUSPECT));
            if join_all(counting).await.iter().any(Result::is_err) {
                sleep(AGAIN).await;
            }
        }
    }
}

impl State {
    /// What a life that begins now would be called.
    fn next_life(&mut self, token: &str) -> String {
        self.attended += 1;
        format!("{token}.{}", self.attended)
    }

    /// Whether what stands at that place of the log is new to us.
    fn hears(&mut self, place: u64) -> bool {
        place > self.known && self.heard.insert(place)
    }

    /// Takes note of the life Redis leads, in which our own name for it is `ours`. Gives whether it has lost what was there.
    fn meets(&mut self, life: &str, ours: &str) -> bool {
        let lost = self.life.as_deref().map_or(life == ours, |known| known != life);
        if lost {
            self.known = 0;
            self.heard.clear();
        }
        if self.life.as_deref() != Some(life) {
            self.life = Some(life.to_owned());
        }
        lost
    }
}

fn each_ban(bans: &Value, hear: &impl Fn(News)) {
    let Value::Array(bans) = bans else { return };
    for ban in bans.chunks_exact(3) {
        let [client, remaining, reason] = ban else { continue };
        let client = octets(client).and_then(hash);
        let reason = octets(reason).and_then(|reason| std::str::from_utf8(reason).ok()).unwrap_or_default();
        let mut numbers = reason.split(' ').map(|number| number.parse().unwrap_or(0));
        let (unknown, known) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if let (Some(client), Some(remaining)) = (client, score(remaining)) {
            hear(News::Banned { client, remaining: Duration::from_millis(remaining), unknown, known });
        }
    }
}

fn hash(octets: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(octets).ok().filter(|text| text.len() == 32)?;
    u128::from_str_radix(text, 16).ok()
}

fn list(value: &Value) -> &[Value] {
    if let Value::Array(values) = value { values } else { &[] }
}

/// Two by two, as an array or as a map.
fn pairs(value: &Value) -> Vec<(&Value, &Value)> {
    match value {
        Value::Array(values) => values
            .chunks_exact(2)
            .filter_map(|pair| if let [a, b] = pair { Some((a, b)) } else { None })
            .collect(),
        Value::Map(pairs) => pairs.iter().map(|(a, b)| (a, b)).collect(),
        _ => Vec::new(),
    }
}
