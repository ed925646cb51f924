//! One client's session, from accept to close.
//!
//! The dialogue decides, the session performs: read what the client says, hand it to
//! [`Dialogue::step`], do what the step says, come back with what became of it. Everything a client can make
//! wait has a deadline, and everything it can send a bound:
//!
//! * a command line: `limits.max_command_line`, plus one read of 8 KiB;
//! * a batch: 16 recipients, a transaction: `limits.max_recipients` of them;
//! * replies: 16 KiB that the client has not taken, and those to a batch, of at most 64 KiB each;
//! * a message: 64 KiB at a time in two buffers that change places, each filled to twice that at most (where newlines are mended),
//!   whatever its size.
//!
//! The backend is attached with the first recipient that may be taken and detached when the transaction ends.

mod arrival;
mod attachment;
mod client;
mod context;
mod harvest;
mod message;
mod recipients;
mod relay;
mod secure;
mod trace;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::backend::Budget;
use crate::config::{Listener, ListenerTls, Route};
use crate::guard::{Admission, Conduct, Held};
use crate::net::client_key::ClientKey;
use crate::net::stream::Stream;
use crate::observe::metrics::{ListenerMetrics, MessageResult, Moved, SessionGauge, SessionState};
use crate::observe::record::{End, SessionRecord};
use crate::proto::body::BareNewlines;
use crate::proto::dialogue::{Dialogue, Exchange, Input, Rules, Step, Tls, Transaction};
use crate::proto::replies;
use crate::proto::reply::Reply;
use arrival::Arrival;
use attachment::Attachment;
use client::{Client, Committed, Heard, Patience};
use relay::{Body, Loss, Pace};

pub use context::Context;

/// RCPT lines taken together at most.
const BATCH: usize = 16;

/// One client's session.
#[derive(Debug)]
struct Session {
    context: Arc<Context>,
    client: Client,
    dialogue: Dialogue,
    record: SessionRecord,
    series: ListenerMetrics,
    gauge: SessionGauge,
    began: Instant,
    /// Who the client is; what follows from that is set when it is let in.
    arrival: Arrival,
    admission: Option<Admission>,
    key: ClientKey,
    /// A client whose recipients are taken as they are.
    bypass: bool,
    /// Whether it is held against the client what it asks for.
    held: Held,
    conduct: Conduct,
    bare_newlines: BareNewlines,
    /// Boxed, as most clients never need one.
    attachment: Option<Box<Attachment>>,
    /// The route of the transaction, also while its backend is being replaced.
    route: Option<Arc<Route>>,
    /// The backend session of this transaction was replaced once already.
    replaced: bool,
    /// When what is being given of the envelope must have been: the client waits.
    envelope_ends: Instant,
    /// A body that was stopped, whose rest is to be discarded.
    stopped: Option<Body>,
    /// How fast the message has come whose chunks are being sent.
    pace: Pace,
    /// A backend session was introduced as this client's for good.
    bound: bool,
    /// The `Received:` line of this transaction's message went out.
    traced: bool,
    /// A message the backend has, and the client is about to be told of: its route and size.
    stored: Option<(Arc<Route>, u64)>,
}

/// Serves one client until it or we end the session.
pub fn run(
    stream: Stream,
    peer: SocketAddr,
    listener: &Listener,
    series: &ListenerMetrics,
    context: Arc<Context>,
) -> impl Future<Output = ()> + use<> {
    // Made before the future: what it is made of would have room there for as long as the client stays.
    let (mut session, tls) = (Session::new(stream, peer, listener, series, context), listener.tls);
    async move {
        let end = session.serve(tls).await;
        Box::pin(session.over(end)).await;
    }
}

/// How long a client that is being left may take to hear the last words.
const CLOSING: std::time::Duration = std::time::Duration::from_secs(5);

impl Session {
    fn new(
        stream: Stream,
        peer: SocketAddr,
        listener: &Listener,
        series: &ListenerMetrics,
        context: Arc<Context>,
    ) -> Self {
        let limits = &context.config.limits;
        let client = Client::new(stream, limits.max_command_line);
        let arrival = Arrival::new(peer, client.destination(), listener);
        let rules = Rules {
            hostname: Arc::clone(&context.config.hostname),
            offer: context.offer(),
            max_size: limits.max_message_size,
            xclient: arrival.xclient(),
            tls: match listener.tls {
                ListenerTls::Off => Tls::Off,
                ListenerTls::StartTls => Tls::Offered,
                ListenerTls::Required => Tls::Required,
                ListenerTls::Implicit => Tls::Active,
            },
            max_recipients: limits.max_recipients,
            max_errors: limits.max_errors.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        };
        Self {
            client,
            dialogue: Dialogue::new(rules),
            record: SessionRecord::new(Arc::clone(&listener.name), arrival.address(), &context.live),
            series: series.clone(),
            gauge: series.session(),
            began: Instant::now(),
            key: ClientKey::of(arrival.address().ip()),
            arrival,
            admission: None,
            bypass: false,
            held: Held::Against,
            conduct: Conduct::default(),
            bare_newlines: BareNewlines::Reject,
            bound: false,
            traced: false,
            attachment: None,
            route: None,
            replaced: false,
            envelope_ends: Instant::now(),
            stopped: None,
            pace: Pace::default(),
            stored: None,
            context,
        }
    }

    /// Nothing is left to be said: the backend's session is another's, and what happened is told.
    async fn over(mut self, end: End) {
        self.detach();
        let Self { client, record, began, bound, context, .. } = self;
        if bound {
            context.backends.dismiss(&record.session.to_string());
        }
        client.close(context.config.timeouts.command.min(CLOSING)).await;
        // Whoever opens too many connections, or is banned, does not fill the log with them.
        if !matches!(end, End::Connections | End::Banned) {
            record.log(end, began.elapsed());
            record.tell(end, began.elapsed(), &context.events);
        }
        context.metrics.session_ended(began.elapsed());
    }

    /// The client's arrival, then the whole conversation.
    async fn serve(&mut self, tls: ListenerTls) -> End {
        if let Some(end) = Box::pin(self.arrive()).await {
            return end;
        }
        if tls == ListenerTls::Implicit && !self.client.unread().is_empty() {
            // It began as a header does, and is neither one nor TLS.
            return End::ProxyHeader;
        }
        if tls == ListenerTls::Implicit
            && let Err(end) = Box::pin(self.secure()).await
        {
            return end;
        }
        if let Some(end) = Box::pin(self.hold_greeting()).await {
            return end;
        }
        self.client.say(&self.dialogue.greeting());
        if let Some(end) = Box::pin(self.arrive_late()).await {
            return end;
        }
        self.converse().await
    }

    async fn converse(&mut self) -> End {
        loop {
            let heard = self.listen().await;
            if let Some(end) = self.perform(heard).await {
                return end;
            }
            if self.dialogue.transaction().is_none() {
                self.detach();
            }
        }
    }

    /// The next thing the client does.
    async fn listen(&mut self) -> Heard {
        let timeouts = &self.context.config.timeouts;
        let patience = Patience {
            command: timeouts.command,
            line: timeouts.command_line,
            session_end: timeouts.session.map(|whole| self.began + whole),
            holds: self.budget(),
        };
        let committed = match self.dialogue.transaction() {
            None => Committed::ToNothing,
            Some(_) => Committed::ToTransaction,
        };
        let began = Instant::now();
        let heard = self.client.listen(patience, BATCH, &self.context.drain, committed).await;
        if self.dialogue.transaction().is_some_and(Transaction::is_in_chunks) {
            self.pace.waited(began.elapsed());
        }
        heard
    }

    /// Does what the dialogue says about `heard`, until it wants to hear more. Gives how the session ended,
    /// if it did.
    async fn perform(&mut self, heard: Heard) -> Option<End> {
        let end = ending(&heard);
        let mut step = self.step(heard);
        loop {
            step = match step {
                Step::Say(reply) => {
                    self.client.say(&reply);
                    self.acknowledged().await;
                    return None;
                }
                Step::SayEach(replies) => {
                    replies.iter().for_each(|reply| self.client.say(reply));
                    return None;
                }
                Step::SayEachAndHangUp(replies) => {
                    replies.iter().for_each(|reply| self.client.say(reply));
                    return Some(end);
                }
                Step::Continue => return None,
                Step::HangUp(reply) => {
                    let end = reply.as_ref().map_or(end, |reply| ending_of(reply, end));
                    reply.iter().for_each(|reply| self.client.say(reply));
                    return Some(end);
                }
                Step::Recipients(batch) => {
                    // A client that is gone is found out when it is listened to.
                    let _ = self.client.flush_overdue(self.context.config.timeouts.command).await;
                    match Box::pin(self.recipients(batch)).await {
                        Step::SayEach(replies) => {
                            Box::pin(self.say_slowly(replies)).await;
                            return None;
                        }
                        Step::SayEachAndHangUp(replies) => {
                            Box::pin(self.say_slowly(replies)).await;
                            return Some(End::Harvest);
                        }
                        step => step,
                    }
                }
                Step::Forward(Exchange::Data) => {
                    let answer = Box::pin(self.data()).await;
                    self.dialogue.step(answer)
                }
                Step::Body(go_ahead, framing) => match Box::pin(self.body(go_ahead, framing)).await {
                    Ok(end) => self.dialogue.step(Input::BodyEnd(end)),
                    Err(loss) => return Some(self.lost(loss)),
                },
                Step::Discard(remainder) => match Box::pin(self.discard(remainder)).await {
                    Ok(()) => self.dialogue.step(Input::Discarded),
                    Err(loss) => return Some(self.lost(loss)),
                },
                Step::Client(attributes) => match self.become_client(*attributes) {
                    Ok(step) => step,
                    Err(end) => return Some(end),
                },
                Step::StartTls(ready) => match Box::pin(self.start_tls(&ready)).await {
                    Ok(input) => self.dialogue.step(input),
                    Err(end) => return Some(end),
                },
            };
        }
    }

    /// Counts a message that the backend has, by whether the client could be told.
    async fn acknowledged(&mut self) {
        let Some((route, octets)) = self.stored.take() else { return };
        let told = self.client.flush(self.context.config.timeouts.command).await;
        let result = if told.is_ok() { MessageResult::Accepted } else { MessageResult::StoredUnacknowledged };
        if told.is_ok() {
            self.record.message();
        } else {
            tracing::info!(session = %self.record.session, route = %route.name, "stored_unacknowledged");
        }
        self.context.route(&route).message(result, octets);
    }

    /// What the dialogue makes of `heard`.
    fn step(&mut self, heard: Heard) -> Step {
        let (client, dialogue) = (&self.client, &mut self.dialogue);
        let step = match heard {
            Heard::Line(line) => dialogue.step(Input::Line(client.text(&line))),
            Heard::Recipients(lines) => {
                let lines: Vec<&[u8]> = lines.iter().map(|line| client.text(line)).collect();
                match lines.as_slice() {
                    [line] => dialogue.step(Input::Line(line)),
                    lines => dialogue.step(Input::RecipientLines(lines)),
                }
            }
            Heard::Overlong(line) => dialogue.step(Input::OverlongLine(line)),
            Heard::BareNewline => dialogue.step(Input::BareNewline),
            Heard::Timeout => dialogue.step(Input::Timeout),
            Heard::Gone => dialogue.step(Input::ClientGone),
            Heard::Drain => dialogue.step(Input::Drain),
        };
        if let Some(hello) = dialogue.hello() {
            self.record.helo(self.arrival.helo().unwrap_or(&hello.name));
        }
        if let Some(transaction) = dialogue.transaction() {
            if self.gauge.is(SessionState::Transaction) == Moved::Elsewhere {
                self.record.state(SessionState::Transaction);
            }
            self.record.from(transaction.sender().written());
        }
        step
    }

    /// Closes the backend session in the middle of what it was.
    fn tear(&mut self) {
        if let Some(torn) = self.attachment.take() {
            torn.lease.abort();
        }
    }

    /// The connections of which this client holds one now.
    fn budget(&self) -> Option<Arc<Budget>> {
        self.attachment.as_ref().map(|attachment| Arc::clone(attachment.lease.backend().budget()))
    }

    /// The client failed in the middle of a body.
    fn lost(&mut self, loss: Loss) -> End {
        match loss {
            Loss::Gone => {
                self.dialogue.step(Input::ClientGone);
                End::ClientLost
            }
            Loss::Drained => {
                self.client.say(&replies::DRAINING);
                End::Drained
            }
            Loss::Timeout => {
                if let Step::HangUp(Some(reply)) = self.dialogue.step(Input::Timeout) {
                    self.client.say(&reply);
                }
                End::Idle
            }
        }
    }

    fn record_backend(&mut self, attachment: &Attachment) {
        self.record.backend(attachment.lease.backend().site());
    }

    /// The transaction is over: the backend session goes back.
    fn detach(&mut self) {
        if let Some(attachment) = self.attachment.take() {
            attachment.release();
        }
        if self.gauge.is(SessionState::Idle) == Moved::Elsewhere {
            self.record.state(SessionState::Idle);
        }
        self.traced = false;
        self.pace = Pace::default();
        self.route = None;
        self.replaced = false;
    }
}

/// How the session ends if what was heard ends it.
const fn ending(heard: &Heard) -> End {
    match heard {
        Heard::Line(_) | Heard::Recipients(_) | Heard::Overlong(_) => End::Errors,
        Heard::BareNewline => End::Protocol,
        Heard::Timeout => End::Idle,
        Heard::Gone => End::ClientLost,
        Heard::Drain => End::Drained,
    }
}

/// The same, where the last words say more.
fn ending_of(reply: &Reply, end: End) -> End {
    match reply {
        reply if *reply == replies::BYE => End::Quit,
        reply if *reply == replies::NOT_HTTP => End::Http,
        reply if *reply == replies::STRAY_PROXY_HEADER => End::ProxyHeader,
        reply if *reply == replies::BAD_CHUNK || *reply == replies::BYTES_BEHIND_STARTTLS => End::Protocol,
        _ => end,
    }
}
