//! The octets of a message, and where they end.

use memchr::memmem;

use super::script::Keep;

/// What was read of a message, kept or counted.
pub(super) struct Content {
    keep: Keep,
    /// The octets, behind the CRLF that ended the DATA line: a dot may be the first line. When only counting, no more
    /// than the end of what was read, as an end of data may begin there.
    raw: Vec<u8>,
    octets: u64,
    framing: Framing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Dots,
    Chunks,
}

/// What became of some input.
pub(super) struct Taken {
    /// How much of it belonged to the message and its end.
    pub(super) octets: usize,
    /// Whether the final dot was in it.
    pub(super) complete: bool,
}

const LINE_END: &[u8] = b"\r\n";
const END_OF_DATA: &[u8] = b"\r\n.\r\n";

impl Content {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, raw: LINE_END.to_vec(), octets: 0, framing: Framing::Dots }
    }

    /// Takes input of DATA up to CRLF `.` CRLF.
    pub(super) fn take(&mut self, input: &[u8]) -> Taken {
        let before = self.raw.len();
        let from = before.saturating_sub(END_OF_DATA.len() - 1);
        self.raw.extend_from_slice(input);
        if let Some(end) = memmem::find(&self.raw[from..], END_OF_DATA) {
            let end = from + end;
            let octets = end + END_OF_DATA.len() - before;
            self.raw.truncate(end + LINE_END.len());
            // The line end before the dot is the message's, the dot and its line end are not.
            self.octets = self.octets + octets as u64 - 3;
            return Taken { octets, complete: true };
        }
        self.octets += input.len() as u64;
        if self.keep == Keep::Count {
            self.raw.drain(..self.raw.len().saturating_sub(END_OF_DATA.len() - 1));
        }
        Taken { octets: input.len(), complete: false }
    }

    /// Takes a chunk of BDAT.
    pub(super) fn append(&mut self, chunk: &[u8]) {
        self.framing = Framing::Chunks;
        self.octets += chunk.len() as u64;
        if self.keep == Keep::Octets {
            self.raw.extend_from_slice(chunk);
        }
    }

    /// Length of the message as it came.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// The message as it came and without dot-stuffing; both empty when it was only counted.
    pub(super) fn into_raw_and_body(mut self) -> (Vec<u8>, Vec<u8>) {
        if self.keep == Keep::Count {
            return (Vec::new(), Vec::new());
        }
        let mut body = self.raw.clone();
        if self.framing == Framing::Dots {
            body = unstuff(&body);
        }
        self.raw.drain(..LINE_END.len());
        body.drain(..LINE_END.len());
        (self.raw, body)
    }
}

/// Drops the first dot of every line [RFC 5321 §4.5.2].
fn unstuff(raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memmem::find(rest, b"\r\n.") {
        body.extend_from_slice(&rest[..at + LINE_END.len()]);
        rest = &rest[at + 3..];
    }
    body.extend_from_slice(rest);
    body
}
