//! The client's side of a session: lines in, replies out.
//!
//! Replies are collected and written when no further command is at hand (RFC 2920 §3.2). Input is bounded by
//! the command line limit, or by one buffer while a body passes; a client that waits costs no buffer at all.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Budget;
use crate::guard::Drain;
use crate::net::stream::{Pending, Prefix, Stream, read_some, write_through};
use crate::net::tls::{Acceptor, Handshake, HandshakeFault};
use crate::proto::line::{self, LineReader, Overlong, Scan};
use crate::proto::proxy_header::{self, HeaderFault, Source, Start};
use crate::proto::reply::Reply;
use crate::proto::tls::TlsFacts;
use bytes::BufMut as _;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Replies wait for each other for so long at most.
const OVERDUE: Duration = Duration::from_secs(1);
/// Octets of replies that wait for the client to take some before anything else it said is looked at.
const UNSENT: usize = 16 * 1024;
/// How long, and in how many reads, a client may finish what it was sending when we close.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;
/// Octets of a body taken from the client at a time.
const BODY_BUFFER: usize = 64 * 1024;
/// What a client has for a command where others wait for the backend connection it holds.
const HURRIED: Duration = Duration::from_secs(10);
/// How often is looked whether others wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Input buffers up to this size are kept between commands; the rest goes back to the allocator.
const KEPT_BUFFER: usize = 1024;

/// What came from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A command line; see [`Client::text`].
    Line(Range<usize>),
    /// Several RCPT lines that had arrived together.
    Recipients(Vec<Range<usize>>),
    /// A line above the limit, read to its end.
    Overlong(Overlong),
    /// A CR or LF alone.
    BareNewline,
    /// Nothing, for too long.
    Timeout,
    /// The client is gone.
    Gone,
    /// We are to end.
    Drain,
}

/// What stands behind the commands that were heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequel {
    /// DATA.
    Data,
    /// Something else, or nothing yet.
    Unknown,
}

/// What stands at the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heading {
    /// A header that says this.
    Says(Source),
    /// Something else.
    Missing,
    /// Nothing came in time.
    Silence,
    /// A header was begun, and not completed in time.
    Late,
    /// A header was begun that is none.
    Bad(HeaderFault),
    /// The end of the connection.
    Gone,
}

/// How a pause ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paused {
    /// By itself, or others wait for what this client holds.
    Over,
    /// The client sends no more; perhaps it still listens.
    Left,
    /// We are to end.
    Drain,
}

/// What a client did before it was greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing.
    Kept,
    /// It spoke.
    Broken,
    /// It left.
    Left,
    /// We are to end.
    Drain,
}

/// How long to wait for a command.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    /// For its first octet.
    pub(super) command: Duration,
    /// From there to its CRLF.
    pub(super) line: Duration,
    /// For anything at all.
    pub(super) session_end: Option<Instant>,
    /// The connections of which the client holds one: while they are scarce it is to be quick.
    pub(super) holds: Option<Arc<Budget>>,
}

/// What a client is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Committed {
    /// Nothing.
    ToNothing,
    /// A transaction.
    ToTransaction,
}

/// One client's connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: Stream,
    input: Vec<u8>,
    /// Octets of `input` that are done with.
    done: usize,
    output: Vec<u8>,
    /// When the first of what is in `output` was said.
    said: Option<Instant>,
    lines: LineReader,
    line_limit: usize,
}

impl Client {
    pub(super) fn new(stream: Stream, line_limit: usize) -> Self {
        Self {
            stream,
            input: Vec::new(),
            done: 0,
            output: Vec::new(),
            said: None,
            lines: LineReader::default(),
            line_limit,
        }
    }

    /// Reads a PROXY header at the start of what is said, of which not an octet is taken that another reader may
    /// want: its first octet before `silence` is over, the others within `rest` of that.
    pub(super) async fn heading(&mut self, silence: impl Future<Output = ()>, rest: Duration) -> Heading {
        let something = |seen: &[u8]| if seen.is_empty() { Prefix::Open } else { Prefix::Until(0) };
        let read = tokio::select! {
            read = self.stream.read_prefix(Vec::new(), something) => read,
            () = silence => return Heading::Silence,
        };
        let Ok(seen) = read else { return Heading::Gone };
        let mut heading = Heading::Missing;
        let reading = self.stream.read_prefix(seen, |seen| match proxy_header::read(seen) {
            Ok(Start::Open) => Prefix::Open,
            Ok(Start::Header { len, source }) => {
                heading = Heading::Says(source);
                Prefix::Until(len)
            }
            Ok(Start::Other) => Prefix::Until(0),
            Err(fault) => {
                heading = Heading::Bad(fault);
                Prefix::Until(0)
            }
        });
        match timeout(rest, reading).await {
            Ok(Ok(_)) if matches!(heading, Heading::Says(_)) => {}
            Ok(Ok(seen)) => self.input = seen,
            Ok(Err(_)) => return Heading::Gone,
            Err(_) => return Heading::Late,
        }
        heading
    }

    /// Where the client connected to.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.stream.local_address()
    }

    /// Notes a reply; it goes out with the next [`Self::flush`] or wait.
    pub(super) fn say(&mut self, reply: &Reply) {
        self.said.get_or_insert_with(Instant::now);
        reply.write(&mut self.output);
    }

    /// Writes what was said a while ago: what comes next may take its time.
    pub(super) async fn flush_overdue(&mut self, patience: Duration) -> io::Result<()> {
        if self.said.is_some_and(|said| said.elapsed() > OVERDUE) {
            self.flush(patience).await
        } else {
            Ok(())
        }
    }

    /// Writes what was said once it is much: whoever does not take replies is not to have them heap up.
    pub(super) async fn flush_much(&mut self, patience: Duration) -> io::Result<()> {
        if self.output.len() > UNSENT { self.flush(patience).await } else { Ok(()) }
    }

    /// Writes what was said.
    pub(super) async fn flush(&mut self, patience: Duration) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = timeout(patience, write_through(&mut self.stream, &self.output)).await;
        if self.output.capacity() > KEPT_BUFFER {
            self.output = Vec::new();
        }
        self.output.clear();
        self.said = None;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the client has said more than was heard, be it only to the socket.
    pub(super) fn has_said_more(&mut self) -> bool {
        !self.unread().is_empty() || self.stream.pending(&mut self.input) == Pending::Octets
    }

    /// Shakes hands. Nothing that was read before is kept; after a fault the client is gone.
    pub(super) async fn secure(
        &mut self,
        acceptor: &Acceptor,
        patience: Duration,
    ) -> Result<(TlsFacts, Handshake), HandshakeFault> {
        (self.input, self.done, self.lines) = (Vec::new(), 0, LineReader::default());
        let secured = acceptor.accept(self.stream.hand_over(), patience).await?;
        self.stream = secured.stream;
        Ok((secured.facts, secured.handshake))
    }

    /// The next command, or several RCPTs together (at most `together`). Being told to end interrupts the
    /// wait, as far as the client is `committed`.
    pub(super) async fn listen(
        &mut self,
        patience: Patience,
        together: usize,
        drain: &Drain,
        committed: Committed,
    ) -> Heard {
        let began = Instant::now();
        let mut deadline = earlier(began + patience.command, patience.session_end);
        let mut begun = false;
        loop {
            if self.flush_much(patience.command).await.is_err() {
                return Heard::Gone;
            }
            match self.scan() {
                Scan::Line { len } => return self.line_of(len, together),
                Scan::TooLong { consumed, line } => {
                    self.consume(consumed);
                    return Heard::Overlong(line);
                }
                Scan::BareNewline => return Heard::BareNewline,
                Scan::Incomplete => {}
            }
            self.consume(self.lines.excess(self.unread()));
            if !begun && (!self.unread().is_empty() || self.lines != LineReader::Within) {
                begun = true;
                deadline = earlier(Instant::now() + patience.line, patience.session_end);
            }
            if self.flush(patience.command).await.is_err() {
                return Heard::Gone;
            }
            self.compact();
            let reading = read_some(&mut self.stream, &mut self.input);
            let read = tokio::select! {
                // The end first, or a client that always has something to say would outlive it.
                biased;
                () = drain.all_end() => return Heard::Drain,
                () = drain.idle_ends(), if committed == Committed::ToNothing && !begun => return Heard::Drain,
                read = before(deadline, reading, patience.holds.as_deref(), |budget| is_spent(began, budget)) => read,
            };
            match read {
                None => return Heard::Timeout,
                Some(Ok(0) | Err(_)) => return Heard::Gone,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Keeps the client waiting, unless it leaves, we are to end or it is to wait no longer. What it sends meanwhile is
    /// kept, up to a line's length, as if it had come behind.
    pub(super) async fn pause(&mut self, pause: Duration, drain: &Drain, holds: Option<&Budget>) -> Paused {
        let deadline = Instant::now() + pause;
        self.compact();
        while self.input.len() < self.line_limit {
            let read = tokio::select! {
                read = before(deadline, read_some(&mut self.stream, &mut self.input), holds, Budget::is_scarce) => read,
                () = drain.idle_ends() => return Paused::Drain,
            };
            match read {
                None => return Paused::Over,
                Some(Ok(0) | Err(_)) => return Paused::Left,
                Some(Ok(_)) => {}
            }
        }
        tokio::select! {
            _ = before(deadline, std::future::pending::<()>(), holds, Budget::is_scarce) => Paused::Over,
            () = drain.idle_ends() => Paused::Drain,
        }
    }

    /// Waits for the client to speak, which it should not: as long as `delay`.
    pub(super) async fn silence(&mut self, delay: Duration, drain: &Drain) -> Silence {
        if !self.unread().is_empty() {
            return Silence::Broken;
        }
        tokio::select! {
            read = timeout(delay, read_some(&mut self.stream, &mut self.input)) => match read {
                Err(_) => Silence::Kept,
                Ok(Ok(0) | Err(_)) => Silence::Left,
                Ok(Ok(_)) => Silence::Broken,
            },
            () = drain.idle_ends() => Silence::Drain,
        }
    }

    /// The line of `len` octets at hand, and the RCPTs behind it when it is one.
    fn line_of(&mut self, len: usize, together: usize) -> Heard {
        let first = self.done..self.done + len;
        self.done += len + 2;
        if !line::is_recipient(self.text(&first)) {
            return Heard::Line(first);
        }
        let mut run = vec![first];
        while run.len() < together {
            let Scan::Line { len } = self.scan() else { break };
            let next = self.done..self.done + len;
            if !line::is_recipient(self.text(&next)) {
                break;
            }
            self.done += len + 2;
            run.push(next);
        }
        Heard::Recipients(run)
    }

    /// Looks for the next line in what is unread.
    fn scan(&mut self) -> Scan {
        self.lines.scan(self.input.get(self.done..).unwrap_or_default(), self.line_limit)
    }

    /// The octets of a line that was just heard.
    pub(super) fn text(&self, line: &Range<usize>) -> &[u8] {
        self.input.get(line.clone()).unwrap_or_default()
    }

    /// What has arrived and was not looked at.
    pub(super) fn unread(&self) -> &[u8] {
        self.input.get(self.done..).unwrap_or_default()
    }

    /// What the client has said next, as far as that matters to what goes before. It is what will be heard next, whatever comes
    /// between, or the session ends.
    pub(super) fn sequel(&self) -> Sequel {
        if line::begins_with_data(self.unread()) { Sequel::Data } else { Sequel::Unknown }
    }

    /// Done with so many octets of what is unread.
    pub(super) fn consume(&mut self, octets: usize) {
        self.done = (self.done + octets).min(self.input.len());
    }

    /// Moves so many octets of what is unread behind what is in `out`: the buffers change places where that copies less.
    pub(super) fn move_into(&mut self, octets: usize, out: &mut Vec<u8>) {
        let moved = self.unread().get(..octets).unwrap_or_default();
        if self.done == 0 && out.is_empty() && moved.len() > self.input.len() / 2 {
            std::mem::swap(&mut self.input, out);
            // It may have grown where newlines were mended.
            self.input.shrink_to(2 * BODY_BUFFER);
            self.input.extend_from_slice(out.get(octets..).unwrap_or_default());
            out.truncate(octets);
        } else {
            out.extend_from_slice(moved);
            self.consume(octets);
        }
    }

    /// Reads more of a body. 0 is the end of the stream.
    pub(super) async fn read_body(&mut self) -> io::Result<usize> {
        self.compact();
        // No more where there is more room: a buffer that changed places may have grown. Something, or it would look like the end.
        let room = BODY_BUFFER.saturating_sub(self.input.len()).max(1);
        self.input.reserve(room);
        self.stream.read_buf(&mut (&mut self.input).limit(room)).await
    }

    /// A body is through: its buffer is not needed for commands.
    pub(super) fn body_done(&mut self) {
        self.compact();
        self.input.shrink_to(KEPT_BUFFER);
    }

    /// Says farewell to the socket, so that the client gets what was written before the end: with input
    /// unread the system would send a reset, which takes our last words along. So what the client was sending is
    /// read away, for a moment.
    pub(super) async fn close(mut self, patience: Duration) {
        let flushed = self.flush(patience).await.is_ok();
        if !flushed || timeout(patience, self.stream.shutdown()).await.is_err() {
            return;
        }
        let mut away = Vec::new();
        if self.unread().is_empty() && self.stream.pending(&mut away) == Pending::Nothing {
            return;
        }
        let reading = async {
            for _ in 0..LINGER_READS {
                away.clear();
                if !matches!(read_some(&mut self.stream, &mut away).await, Ok(1..)) {
                    return;
                }
            }
        };
        let _ = timeout(LINGER, reading).await;
    }

    fn compact(&mut self) {
        self.input.drain(..self.done);
        self.done = 0;
        if self.input.is_empty() && self.input.capacity() > KEPT_BUFFER && self.input.capacity() < BODY_BUFFER
        {
            self.input = Vec::new();
        }
    }
}

/// Whether a client that was given the word at `began`, and holds one of these connections, holds up others.
fn is_spent(began: Instant, budget: &Budget) -> bool {
    began.elapsed() >= HURRIED && budget.is_scarce()
}

/// What `waiting` comes to before `deadline`; for a client that holds one of a backend's connections also before it is
/// `spent`, which is looked at first and every second.
pub(super) async fn before<T>(
    deadline: Instant,
    waiting: impl Future<Output = T>,
    holds: Option<&Budget>,
    spent: impl Fn(&Budget) -> bool,
) -> Option<T> {
    let mut waiting = std::pin::pin!(waiting);
    if let Some(outcome) = waiting.as_mut().now_or_never() {
        return Some(outcome);
    }
    let Some(budget) = holds else { return timeout_at(deadline, waiting).await.ok() };
    // Here too, or who sends an octet more often than we look would never be found out.
    if spent(budget) {
        return None;
    }
    loop {
        let look = deadline.min(Instant::now() + LOOK_EVERY);
        tokio::select! {
            biased;
            outcome = &mut waiting => return Some(outcome),
            () = sleep_until(look) => if look == deadline || spent(budget) { return None },
        }
    }
}

pub(super) fn earlier(deadline: Instant, other: Option<Instant>) -> Instant {
    other.map_or(deadline, |other| deadline.min(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    /// How a pause ends, after how many seconds, for a client that does this in the third.
    async fn paused(what: impl AsyncFnOnce(tokio::io::DuplexStream, &Drain)) -> (Paused, u64, Client) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (mut client, drain) = (Client::new(Stream::Memory(near), 512), Drain::default());
        let began = Instant::now();
        let pausing = async {
            let paused = client.pause(PAUSE, &drain, None).await;
            (paused, began.elapsed().as_secs())
        };
        let doing = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            what(far, &drain).await;
        };
        let ((paused, after), ()) = tokio::join!(pausing, doing);
        (paused, after, client)
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_when_the_client_leaves_or_we_are_to_end() {
        let later = Duration::from_secs(60);
        let (ended, after, _) = paused(async |far, _| drop(far)).await;
        assert_eq!((ended, after), (Paused::Left, 3));
        let (ended, after, _) = paused(async |_far, drain| {
            drain.end_idle();
            tokio::time::sleep(later).await;
        })
        .await;
        assert_eq!((ended, after), (Paused::Drain, 3));
        let (ended, after, _) = paused(async |_far, _| tokio::time::sleep(later).await).await;
        assert_eq!((ended, after), (Paused::Over, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_replies_is_heard_no_further() {
        let (near, mut far) = tokio::io::duplex(512);
        let (mut client, drain) = (Client::new(Stream::Memory(near), 512), Drain::default());
        let patience = Patience { command: PAUSE, line: PAUSE, session_end: None, holds: None };
        far.write_all(b"NOOP\r\nNOOP\r\n").await.unwrap();
        let heard = client.listen(patience.clone(), 1, &drain, Committed::ToNothing).await;
        assert_eq!(heard, Heard::Line(0..4));
        while client.output.len() <= UNSENT {
            client.say(&Reply::fixed(250, "2.0.0 Ok"));
        }
        let began = Instant::now();
        let heard = client.listen(patience, 1, &drain, Committed::ToNothing).await;
        assert_eq!((heard, began.elapsed()), (Heard::Gone, PAUSE));
        assert_eq!(client.unread(), b"NOOP\r\n");
    }

    #[test]
    fn what_is_moved_is_the_same_whether_octets_or_buffers_change_places() {
        for octets in 0..=6 {
            for (done, before) in [(0, ""), (0, "x"), (1, ""), (1, "x")] {
                let mut client = Client::new(Stream::Gone, 512);
                (client.input, client.done) = (b"?abcdef"[1 - done..].to_vec(), done);
                let (came_in, mut out) = (client.input.as_ptr(), before.as_bytes().to_vec());
                client.move_into(octets, &mut out);
                let changed_places = out.as_ptr() == came_in;
                assert_eq!(changed_places, (done, before) == (0, "") && octets > 3);
                assert_eq!(out, [before.as_bytes(), &b"abcdef"[..octets]].concat());
                assert_eq!(client.unread(), &b"abcdef"[octets..]);
            }
        }
    }

    #[tokio::test]
    async fn a_body_is_read_by_the_buffer_whatever_room_there_is() {
        let (near, mut far) = tokio::io::duplex(4 * BODY_BUFFER);
        let mut client = Client::new(Stream::Memory(near), 512);
        far.write_all(&[b'x'; 4 * BODY_BUFFER]).await.unwrap();
        client.input.reserve(4 * BODY_BUFFER);
        assert_eq!(client.read_body().await.unwrap(), BODY_BUFFER);
        assert_eq!(client.read_body().await.unwrap(), 1, "of what is there nothing was taken away");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_on_during_a_pause_is_read_no_further_than_a_line() {
        let (ended, after, client) = paused(async |mut far, _| {
            // As much as the pipe takes; the rest is never read.
            let _ = timeout(Duration::from_secs(60), far.write_all(&[b'x'; 1024 * 1024])).await;
        })
        .await;
        assert_eq!((ended, after), (Paused::Over, 10));
        assert!(client.unread().len() <= 512 + 8192, "{}", client.unread().len());
    }
}
