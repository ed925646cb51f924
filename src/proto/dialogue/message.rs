//! Message data: how it is delimited, and how carrying it can end.

use crate::proto::command::Chunk;
use crate::proto::reply::Reply;

/// How message data is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Lines up to CRLF `.` CRLF.
    Lines,
    /// A BDAT chunk.
    Chunk(Chunk),
}

/// What is to be swallowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// So many octets.
    Octets(u64),
    /// What is left of the body that was being carried, to its end as it is framed.
    Body,
}

/// How carrying message data ended.
#[derive(Debug, Clone)]
pub enum BodyEnd {
    /// All of it went to the backend, which answered the end of the message (or the chunk).
    Answered(Reply),
    /// All of it was read from the client, and the backend was lost before it answered.
    Unanswered,
    /// Carrying stopped; the rest is still to come from the client.
    Stopped(Stop),
}

/// Why carrying message data stopped before its end.
#[derive(Debug, Clone)]
pub enum Stop {
    /// The backend answered before the end. Only a refusal is believed.
    EarlyReply(Reply),
    /// The backend was lost.
    BackendGone,
    /// The message holds a CR or LF alone.
    BareNewline,
    /// The message is larger than allowed.
    TooLarge,
}
