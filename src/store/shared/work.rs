//! One stay in the tier: join, hear what others do, tell what we do, until the connection is to be given up.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{Stream, StreamExt as _};
use redis::Value;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{self, Fault, Joined, Request};
use super::outbox::{Learnt, Order, Write};
use super::script::{MOST_LOGGED, Script};
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
/// What is told of a domain holds no longer than that there.
const MARKS_LIVE: Duration = Duration::from_secs(24 * 3600);

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
        let (why, (), ()) = tokio::join!(staying, inner.write_until(&over), inner.count_until(&over));
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
                Some(Heard::News(news, moment)) if moment.is_none_or(|moment| self.state().hears(moment)) => {
                    self.hear(news, hear);
                }
                Some(Heard::News(..)) | None => {}
            }
        }
        "the subscription to its channel ended".to_owned()
    }

    fn hear(&self, news: News, hear: &impl Fn(News)) {
        match news {
            News::Epoch(epoch) if epoch <= self.epoch.fetch_max(epoch, Ordering::Relaxed) => {}
            news => hear(news),
        }
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
        let known = self.state().known;
        let answer = self.ask_attendance(joined, extent, known).await?;
        let unexpected = || Fault::Refused("it answers what no Redis would".to_owned());
        let Value::Array(parts) = &answer else { return Err(unexpected()) };
        let [moment, lost, epoch, changes, logged, oldest, log, generations, bans] = parts.as_slice() else {
            return Err(unexpected());
        };
        let moment = score(moment).ok_or_else(unexpected)?;
        if integer(lost) == Some(1) {
            hear(News::Lost);
        }
        let epoch = integer(epoch).and_then(|epoch| u32::try_from(epoch).ok()).unwrap_or(0);
        self.hear(News::Epoch(epoch), hear);
        let full = score(logged).is_some_and(|logged| logged >= MOST_LOGGED as u64);
        if full && known > 0 && score(oldest).is_some_and(|oldest| oldest > known) {
            // What the log has let go was not heard of: only forgetting everything forgets it for certain.
            hear(News::Epoch(self.epoch.fetch_add(1, Ordering::Relaxed) + 1));
            self.outbox.order(Order::Epoch);
        }
        for (entry, at) in pairs(log) {
            let Some(at) = score(at) else { continue };
            if self.state().hears(at)
                && let Some(news) = octets(entry).and_then(|entry| logged_news(entry, &self.token))
            {
                hear(news);
            }
        }
        for (domain, generation) in pairs(generations) {
            let hash = octets(domain).and_then(hash);
            let generation = octets(generation).and_then(|g| std::str::from_utf8(g).ok()?.parse().ok());
            if let (Some(hash), Some(generation)) = (hash, generation) {
                hear(News::Domain(hash, generation));
            }
        }
        each_ban(bans, hear);
        let changes = score(changes).unwrap_or(0);
        let missed = {
            let mut state = self.state();
            state.known = moment;
            state.heard.retain(|heard| *heard > moment);
            std::mem::replace(&mut state.changes, changes) != changes
        };
        if missed && extent == Extent::Changes {
            return Box::pin(self.attend(joined, Extent::All, hear)).await;
        }
        Ok(())
    }

    async fn ask_attendance(&self, joined: &Joined, extent: Extent, known: u64) -> Result<Value, Fault> {
        let keys = ["forgotten", "log", "bans", "reasons", "news"].map(|name| self.name(name));
        let epoch = self.epoch.load(Ordering::Relaxed).to_string();
        let wanted = if extent == Extent::All { "all" } else { "changes" };
        let message = format!("{} epoch", self.token);
        let known = known.to_string();
        let arguments = [epoch.as_bytes(), known.as_bytes(), wanted.as_bytes(), message.as_bytes()];
        let operation = SharedOperation::Attend;
        let (script, patience) =
            (Script::Attend, if extent == Extent::All { ATTENDING * 4 } else { ATTENDING });
        self.link
            .request_on(joined, Request { operation, script, keys: &keys, arguments: &arguments, patience })
            .await
    }

    /// Writes what was learnt, as it comes.
    async fn write_until(&self, over: &CancellationToken) {
        while !over.is_cancelled() {
            let orders = self.outbox.take_orders(AT_ONCE);
            let writes = self.outbox.take_writes(AT_ONCE);
            if orders.is_empty() && writes.is_empty() {
                over.run_until_cancelled(self.outbox.wake.notified()).await;
                continue;
            }
            // One after the other: what was forgotten last counts.
            let mut left = orders.into_iter();
            let mut failed = false;
            while let Some(order) = left.next() {
                if self.carry_out(&order).await.is_err() {
                    self.outbox.give_back_orders(std::iter::once(order).chain(left).collect());
                    failed = true;
                    break;
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

    async fn carry_out(&self, order: &Order) -> Result<(), Fault> {
        let news = self.name("news");
        let said = |text: String| format!("{} {text}", self.token);
        let keeps = self.keeps.max(Duration::from_secs(3600)).as_millis().to_string();
        let most = MOST_LOGGED.to_string();
        let (script, keys, arguments): (_, Vec<String>, Vec<Vec<u8>>) = match order {
            Order::Forget(key) => {
                let entry = said(format!("key {key:032x}"));
                (
                    Script::ForgetKey,
                    vec![self.key("v", *key), self.name("log"), news],
                    texts([&keeps, &entry, &keeps, &most, &entry]),
                )
            }
            Order::Domain { hash, generation, epoch } => {
                let message = said(format!("domain {hash:032x} {generation}"));
                let (epoch, hash, generation) =
                    (epoch.to_string(), format!("{hash:032x}"), generation.to_string());
                (
                    Script::ForgetDomain,
                    vec![self.name("forgotten"), news],
                    texts([&epoch, &hash, &generation, &message]),
                )
            }
            Order::Epoch => {
                let keys = ["forgotten", "log", "bans", "reasons", "news"].map(|name| self.name(name));
                let epoch = self.epoch.load(Ordering::Relaxed).to_string();
                let known = self.state().known.to_string();
                (Script::Attend, keys.into(), texts([&epoch, &known, "changes", &said("epoch".to_owned())]))
            }
            Order::Mark(scope, marks, since) => {
                let message = said(format!("marked {scope:032x}"));
                let mut arguments = texts([&MARKS_LIVE.as_millis().to_string(), &message]);
                arguments.extend(marks.aged(since.elapsed()).arguments());
                (Script::Mark, vec![self.key("m", *scope), news], arguments)
            }
            Order::Ban { client, until, unknown, known } => {
                let remaining = until.saturating_duration_since(Instant::now()).as_millis();
                let message = said(format!("banned {client:032x} {remaining} {unknown} {known}"));
                let (client, reason) = (format!("{client:032x}"), format!("{unknown} {known}"));
                let keys = vec![self.name("bans"), self.name("reasons"), news];
                (Script::Ban, keys, texts([&client, &remaining.to_string(), &reason, &message]))
            }
            Order::Pardon(client) => {
                let entry = said(format!("pardoned {client:032x}"));
                let keys = vec![
                    self.name("bans"),
                    self.name("reasons"),
                    self.key("c", *client),
                    self.name("log"),
                    news,
                ];
                (Script::Pardon, keys, texts([&format!("{client:032x}"), &entry, &keeps, &most, &entry]))
            }
        };
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        self.aside(SharedOperation::Tell, script, &keys, &arguments).await.map(drop)
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
    /// Whether what happened at that moment is new to us.
    fn hears(&mut self, moment: u64) -> bool {
        moment > self.known && self.heard.insert(moment)
    }
}

fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// An entry of the log; our own are known.
fn logged_news(entry: &[u8], token: &str) -> Option<News> {
    match Heard::read(entry, token)? {
        Heard::News(news, _) => Some(news),
        Heard::Answered(_) => None,
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
