//! Command lines: where the next one ends in what has arrived.
//!
//! A command ends with CRLF and nothing else (RFC 5321 §2.3.8). A bare CR or LF is reported as soon as it is
//! seen: guessing what it means is how requests are smuggled through one server into another. Lines above
//! the limit are read to their end without being stored, so that their tail is never taken for a command. Of
//! such a line no more is known than whether it is a BDAT, whose octets nobody can tell from commands then.

use memchr::{memchr, memchr2};

/// What the bytes that have arrived amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// No whole line yet. All but `keep` octets at the front may be thrown away (they belong to a line
    /// that is already too long); the rest stays.
    Incomplete,
    /// A line of `len` octets, followed by CRLF.
    Line {
        /// Octets of the line without its CRLF.
        len: usize,
    },
    /// A line above the limit ended; it occupied `consumed` octets of this buffer.
    TooLong {
        /// Octets up to and with the CRLF.
        consumed: usize,
        /// What it was.
        line: Overlong,
    },
    /// A CR without LF, or a LF without CR.
    BareNewline,
}

/// A line above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// It begins as a BDAT: octets follow, and how many is not known.
    Chunk,
    /// Any other.
    Other,
}

/// Finds command lines in a growing buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LineReader {
    /// At the start of a line, or within one that is short enough so far.
    #[default]
    Within,
    /// Within a line that is already above the limit.
    Beyond(Overlong),
}

/// The command that octets follow.
const CHUNK: &[u8] = b"BDAT";

impl LineReader {
    /// Looks for the end of the line at the start of `buffer`. `limit` counts octets with the CRLF.
    ///
    /// On [`Scan::Incomplete`] the caller reads more and calls again; when [`Self::excess`] says so it
    /// first removes octets that need not be kept.
    pub fn scan(&mut self, buffer: &[u8], limit: usize) -> Scan {
        let Some(at) = memchr2(b'\r', b'\n', buffer) else {
            self.go_beyond(buffer, limit);
            return Scan::Incomplete;
        };
        match (buffer.get(at), buffer.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => {
                let consumed = at + 2;
                match std::mem::take(self) {
                    Self::Beyond(line) => Scan::TooLong { consumed, line },
                    Self::Within if consumed > limit => {
                        Scan::TooLong { consumed, line: Overlong::of(buffer) }
                    }
                    Self::Within => Scan::Line { len: at },
                }
            }
            (Some(b'\r'), None) => {
                self.go_beyond(buffer, limit);
                Scan::Incomplete
            }
            _ => Scan::BareNewline,
        }
    }

    /// The line at the start of `buffer` has no end yet, and may be too long already. Its command is whole by then.
    fn go_beyond(&mut self, buffer: &[u8], limit: usize) {
        if *self == Self::Within && buffer.len() > limit.max(CHUNK.len()) {
            *self = Self::Beyond(Overlong::of(buffer));
        }
    }

    /// Octets at the start of an incomplete `buffer` that belong to an overlong line and can be dropped
    /// (all but a CR at the end, whose LF may follow).
    #[must_use]
    pub fn excess(self, buffer: &[u8]) -> usize {
        match self {
            Self::Within => 0,
            Self::Beyond(_) => buffer.len() - usize::from(buffer.last() == Some(&b'\r')),
        }
    }
}

/// Whether `line` is a RCPT command: such lines may be taken together (RFC 2920 §3.1).
#[must_use]
pub fn is_recipient(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"RCPT "))
}

/// Whether `input` begins with the line of a DATA command, to its CRLF.
#[must_use]
pub fn begins_with_data(input: &[u8]) -> bool {
    input.get(..6).is_some_and(|line| line.eq_ignore_ascii_case(b"DATA\r\n"))
}

/// Whether `line` is a BDAT command, or what is left of one: octets follow that are no commands.
#[must_use]
pub fn is_chunk(line: &[u8]) -> bool {
    line.get(..CHUNK.len()).is_some_and(|verb| verb.eq_ignore_ascii_case(CHUNK))
}

impl Overlong {
    fn of(line: &[u8]) -> Self {
        if is_chunk(line) { Self::Chunk } else { Self::Other }
    }
}

/// Whether `line` holds a NUL, which no server reads alike.
#[must_use]
pub fn has_nul(line: &[u8]) -> bool {
    memchr(0, line).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` in pieces and gives what the lines were.
    fn lines(input: &[u8], piece: usize, limit: usize) -> Vec<String> {
        let (mut reader, mut buffer, mut seen) = (LineReader::default(), Vec::new(), Vec::new());
        for chunk in input.chunks(piece) {
            buffer.extend_from_slice(chunk);
            loop {
                match reader.scan(&buffer, limit) {
                    Scan::Incomplete => {
                        buffer.drain(..reader.excess(&buffer));
                        assert!(buffer.len() <= limit + 1);
                        break;
                    }
                    Scan::Line { len } => {
                        seen.push(String::from_utf8(buffer[..len].to_vec()).unwrap());
                        buffer.drain(..len + 2);
                    }
                    Scan::TooLong { consumed, line } => {
                        seen.push(if line == Overlong::Chunk { "chunk" } else { "too long" }.into());
                        buffer.drain(..consumed);
                    }
                    Scan::BareNewline => {
                        seen.push("bare".into());
                        return seen;
                    }
                }
            }
        }
        seen
    }

    #[test]
    fn any_chunking_finds_the_same_lines() {
        for (input, expected) in [
            (&b"NOOP\r\nQUIT\r\n"[..], vec!["NOOP", "QUIT"]),
            (b"12345678\r\nNOOP\r\n", vec!["12345678", "NOOP"]),
            (b"123456789\r\nNOOP\r\n", vec!["too long", "NOOP"]),
            (b"12345678901234567890123\r\nNOOP\r\n", vec!["too long", "NOOP"]),
            (b"BDAT 5 LAST\r\nNOOP\r\n", vec!["chunk", "NOOP"]),
            (b"NOOP\r\nbdat 5               LAST\r\nNOOP\r\n", vec!["NOOP", "chunk", "NOOP"]),
            (b"NOOP     BDAT 5\r\nNOOP\r\n", vec!["too long", "NOOP"]),
            (b"NOOP\nQUIT\r\n", vec!["bare"]),
            (b"NOOP\rQUIT\r\n", vec!["bare"]),
            (b"NOOP\r\r\nQUIT\r\n", vec!["bare"]),
            (b"\r\nNOOP\r\n", vec!["", "NOOP"]),
            (b"12345678901234567890\nNOOP\r\n", vec!["bare"]),
        ] {
            for piece in 1..=input.len() {
                assert_eq!(lines(input, piece, 10), expected, "{input:?} by {piece}");
            }
        }
    }

    #[test]
    fn recipients_are_recognised_in_any_case() {
        assert!(is_recipient(b"rcpt TO:<a@b>"));
        assert!(!is_recipient(b"RCPT"));
        assert!(!is_recipient(b"DATA"));
    }
}
