//! Message data on its way from the client to the backend, while it arrives.
//!
//! One buffer in, one out, whatever the size of the message. Both directions are watched: a backend that
//! refuses early is heard at once. Before each write the backend must have said nothing since its 354 (or its
//! last answer to a chunk), so that no reply can be taken for the answer to the message but that answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::client::{Client, before, earlier};
use crate::backend::{Budget, Connection, Fault};
use crate::guard::Drain;
use crate::net::stream::Stream;
use crate::proto::body::{BareNewlines, BodyReader, END, Found};
use crate::proto::command::{Chunk, Place};
use crate::proto::dialogue::{BodyEnd, Remainder, Stop};
use crate::proto::ehlo::Keyword;
use crate::proto::replies;

/// How long a backend may take nothing at all before it is given up (RFC 5321 §4.5.3.2.5).
const BACKEND_STALL: Duration = Duration::from_secs(180);
/// How many times the least pace is asked of a client where others wait for the backend connection it holds.
const HURRIED: u64 = 10;
/// The pace of a body is first judged after so much waiting for it.
const JUDGED_AFTER: Duration = Duration::from_secs(60);

/// What a body is held to.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Between two reads.
    pub(super) data: Duration,
    /// For anything at all.
    pub(super) session_end: Option<Instant>,
    /// Octets per second.
    pub(super) min_rate: Option<u64>,
    /// The connections of which the client holds one: while they are scarce it is to be quick.
    pub(super) holds: Option<Arc<Budget>>,
    /// Octets in all.
    pub(super) max_size: Option<u64>,
    /// Ends the wait for the client.
    pub(super) drain: Drain,
}

/// Why the client's part failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// It went away in the middle.
    Gone,
    /// It was silent for too long, or too slow.
    Timeout,
    /// We are to end, and it was not through.
    Drained,
}

/// A body being carried or discarded.
#[derive(Debug)]
pub(super) struct Body {
    rest: Rest,
    /// Octets that went to the backend.
    octets: u64,
    pace: Pace,
}

/// What of it is still to come.
#[derive(Debug)]
enum Rest {
    Lines(BodyReader),
    Octets(u64),
    Nothing,
}

impl Body {
    /// A message sent with DATA.
    pub(super) fn lines(bare_newlines: BareNewlines) -> Self {
        Self::of(Rest::Lines(BodyReader::new(bare_newlines)))
    }

    /// Octets counted beforehand, of a message that has come at this pace so far.
    pub(super) fn counted(octets: u64, pace: Pace) -> Self {
        Self { pace, ..Self::of(Rest::Octets(octets)) }
    }

    fn of(rest: Rest) -> Self {
        Self { rest, octets: 0, pace: Pace::default() }
    }

    /// Octets that went to the backend.
    pub(super) const fn octets(&self) -> u64 {
        self.octets
    }

    /// How fast it came.
    pub(super) const fn pace(&self) -> Pace {
        self.pace
    }

    /// Carries it to the backend behind what is in `out` already, and hears the answer.
    pub(super) async fn carry(
        &mut self,
        mut out: Vec<u8>,
        client: &mut Client,
        backend: &mut Connection,
        limits: &Limits,
    ) -> Result<BodyEnd, Loss> {
        loop {
            if let Some(stop) = self.take(client, &mut out, limits) {
                return Ok(BodyEnd::Stopped(stop));
            }
            self.pace.judge(limits)?;
            if let Rest::Nothing = self.rest {
                return Ok(finish(backend, &mut out).await);
            }
            // What stands before the message goes out with the first of it.
            if self.octets > 0
                && let Err(stop) = write_listening(backend, &mut out).await
            {
                return Ok(BodyEnd::Stopped(stop));
            }
            let reading = self.pace.read(client, limits);
            tokio::select! {
                biased;
                stop = interrupted(backend) => return Ok(BodyEnd::Stopped(stop)),
                read = reading => read?,
            }
        }
    }

    /// Carries a chunk, and hears the answer. What is in `before` becomes part of it: a chunk of its own would
    /// cost another answer to wait for.
    pub(super) async fn carry_chunk(
        &mut self,
        before: &[u8],
        client: &mut Client,
        backend: &mut Connection,
        chunk: Chunk,
        limits: &Limits,
    ) -> Result<BodyEnd, Loss> {
        if !backend.announced().has(Keyword::Chunking) {
            // It was offered, so another backend has it, or this one had it once.
            return Ok(BodyEnd::Stopped(Stop::EarlyReply(replies::EXTENSION_LOST)));
        }
        let last = if chunk.place == Place::Last { " LAST" } else { "" };
        // In one write with its octets: a backend may answer an empty chunk as soon as it has the command.
        let Some(size) = chunk.size.checked_add(before.len() as u64) else {
            return Ok(BodyEnd::Stopped(Stop::TooLarge));
        };
        let mut command = format!("BDAT {size}{last}\r\n").into_bytes();
        command.extend_from_slice(before);
        self.carry(command, client, backend, limits).await
    }

    /// Moves what is unread from the client into `out`, as far as it belongs to the body.
    fn take(&mut self, client: &mut Client, out: &mut Vec<u8>, limits: &Limits) -> Option<Stop> {
        let before = out.len();
        let mut stuffed = 0;
        let (taken, stop) = match &mut self.rest {
            Rest::Lines(reader) => {
                let lines = reader.lines(client.unread());
                client.move_into(lines, out);
                let found = reader.read(client.unread(), out);
                stuffed = reader.stuffed();
                let (consumed, stop) = match found {
                    Found::More => (client.unread().len(), None),
                    Found::End { consumed } => {
                        self.rest = Rest::Nothing;
                        // The end goes out with the last of the message, once the backend is known to be silent.
                        out.extend_from_slice(END);
                        (consumed, None)
                    }
                    Found::BareNewline { consumed } => (consumed, Some(Stop::BareNewline)),
                };
                client.consume(consumed);
                (lines + consumed, stop)
            }
            Rest::Octets(left) => {
                let here = client.unread().len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                client.move_into(here, out);
                *left -= here as u64;
                if *left == 0 {
                    self.rest = Rest::Nothing;
                }
                (here, None)
            }
            Rest::Nothing => (0, None),
        };
        self.pace.octets += taken as u64;
        self.octets += (out.len() - before) as u64;
        let size = self.octets.saturating_sub(stuffed);
        let too_large = limits.max_size.is_some_and(|max| size > max.saturating_add(END.len() as u64));
        if stop.is_none() && too_large { Some(Stop::TooLarge) } else { stop }
    }

    /// Swallows what is left.
    pub(super) async fn discard(&mut self, client: &mut Client, limits: &Limits) -> Result<(), Loss> {
        loop {
            let unread = client.unread().len();
            let consumed = match &mut self.rest {
                Rest::Nothing => return Ok(()),
                Rest::Lines(reader) => match reader.discard(client.unread()) {
                    Found::End { consumed } => {
                        self.rest = Rest::Nothing;
                        consumed
                    }
                    Found::More | Found::BareNewline { .. } => unread,
                },
                Rest::Octets(left) => {
                    let here = unread.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    if *left == 0 {
                        self.rest = Rest::Nothing;
                    }
                    here
                }
            };
            client.consume(consumed);
            self.pace.octets += consumed as u64;
            self.pace.judge(limits)?;
            if !matches!(self.rest, Rest::Nothing) {
                self.pace.read(client, limits).await?;
            }
        }
    }
}

/// What is to be swallowed, given the body that was being carried.
pub(super) fn remainder(remainder: Remainder, carried: Option<Body>) -> Body {
    match remainder {
        Remainder::Octets(octets) => Body::counted(octets, Pace::default()),
        Remainder::Body => carried.unwrap_or_else(|| Body::of(Rest::Nothing)),
    }
}

/// How fast the client sends a message, in one piece or in chunks. Only time spent waiting for the client counts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    waited: Duration,
    octets: u64,
}

impl Pace {
    async fn read(&mut self, client: &mut Client, limits: &Limits) -> Result<(), Loss> {
        let began = Instant::now();
        let deadline = earlier(began + limits.data, limits.session_end);
        let holds_up = |budget: &Budget| {
            self.is_below(limits.min_rate, HURRIED, self.waited + began.elapsed()) && budget.is_scarce()
        };
        let read = tokio::select! {
            biased;
            () = limits.drain.all_end() => return Err(Loss::Drained),
            read = before(deadline, client.read_body(), limits.holds.as_deref(), holds_up) => read,
        };
        let octets = read.ok_or(Loss::Timeout)?.map_err(|_| Loss::Gone)?;
        if octets == 0 {
            return Err(Loss::Gone);
        }
        self.waited += began.elapsed();
        Ok(())
    }

    /// The client was waited for so long between two chunks.
    pub(super) fn waited(&mut self, waited: Duration) {
        self.waited += waited;
    }

    /// Whether it is fast enough, of what was taken.
    fn judge(&self, limits: &Limits) -> Result<(), Loss> {
        if self.is_below(limits.min_rate, 1, self.waited) { Err(Loss::Timeout) } else { Ok(()) }
    }

    /// Whether so much waiting for it makes the body slower than `times` the rate.
    fn is_below(&self, rate: Option<u64>, times: u64, waited: Duration) -> bool {
        let due = rate.unwrap_or(0).saturating_mul(times).saturating_mul(waited.as_secs());
        waited >= JUDGED_AFTER && self.octets < due
    }
}

/// The last octets, and the backend's answer to them.
async fn finish(backend: &mut Connection, out: &mut Vec<u8>) -> BodyEnd {
    if let Err(stop) = write_listening(backend, out).await {
        return BodyEnd::Stopped(stop);
    }
    match backend.answer_to_message().await {
        Ok(reply) => BodyEnd::Answered(reply),
        Err(_) => BodyEnd::Unanswered,
    }
}

/// Waits for the backend to say what it was not asked for, however long it is silent: that is not for the body
/// to judge. Only beside another wait, which has a deadline.
async fn interrupted(backend: &mut Connection) -> Stop {
    match backend.answer_to_message().await {
        Ok(reply) => Stop::EarlyReply(reply),
        Err(Fault::Timeout(_)) => std::future::pending().await,
        Err(_) => Stop::BackendGone,
    }
}

/// What the backend has begun to say without being asked.
async fn outburst(backend: &mut Connection) -> Stop {
    backend.answer_to_message().await.map_or(Stop::BackendGone, Stop::EarlyReply)
}

/// Writes all of `out`, unless the backend speaks up or takes nothing for too long.
async fn write_listening(backend: &mut Connection, out: &mut Vec<u8>) -> Result<(), Stop> {
    let mut written = 0;
    while let Some(rest) = out.get(written..).filter(|rest| !rest.is_empty()) {
        if backend.quiet().is_err() {
            return Err(outburst(backend).await);
        }
        match timeout(BACKEND_STALL, write_or_hear(backend, rest)).await {
            Ok(Progress::Wrote(octets)) => written += octets,
            Ok(Progress::Heard) => return Err(outburst(backend).await),
            Ok(Progress::Broken) => return Err(last_words(backend).await),
            Err(_) => return Err(Stop::BackendGone),
        }
    }
    // Inside TLS what was taken is not yet on its way.
    match timeout(BACKEND_STALL, flush_or_hear(backend)).await {
        Ok(Progress::Wrote(_)) => {}
        Ok(Progress::Heard) => return Err(outburst(backend).await),
        Ok(Progress::Broken) => return Err(last_words(backend).await),
        Err(_) => return Err(Stop::BackendGone),
    }
    out.clear();
    Ok(())
}

/// A backend that closed in the middle may have said why before.
async fn last_words(backend: &mut Connection) -> Stop {
    let moment = Duration::from_secs(1);
    timeout(moment, outburst(backend)).await.unwrap_or(Stop::BackendGone)
}

enum Progress {
    Wrote(usize),
    Heard,
    Broken,
}

async fn write_or_hear(backend: &mut Connection, octets: &[u8]) -> Progress {
    let (stream, input) = backend.parts();
    std::future::poll_fn(|cx| {
        // Heard before more is written, also when there was no room at first: the end of a message must not
        // go out behind a reply.
        if let Poll::Ready(heard) = poll_hear(stream, input, cx) {
            return Poll::Ready(heard);
        }
        match Pin::new(&mut *stream).poll_write(cx, octets) {
            Poll::Ready(Ok(written @ 1..)) => Poll::Ready(Progress::Wrote(written)),
            Poll::Ready(_) => Poll::Ready(Progress::Broken),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn flush_or_hear(backend: &mut Connection) -> Progress {
    let (stream, input) = backend.parts();
    std::future::poll_fn(|cx| match Pin::new(&mut *stream).poll_flush(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Progress::Wrote(0)),
        Poll::Ready(Err(_)) => Poll::Ready(Progress::Broken),
        Poll::Pending => poll_hear(stream, input, cx),
    })
    .await
}

/// What the backend says while it is written to.
fn poll_hear(stream: &mut Stream, input: &mut Vec<u8>, cx: &mut Context<'_>) -> Poll<Progress> {
    let mut space = [0; 512];
    let mut heard = ReadBuf::new(&mut space);
    match std::task::ready!(Pin::new(stream).poll_read(cx, &mut heard)) {
        Ok(()) if !heard.filled().is_empty() => {
            input.extend_from_slice(heard.filled());
            Poll::Ready(Progress::Heard)
        }
        _ => Poll::Ready(Progress::Broken),
    }
}
