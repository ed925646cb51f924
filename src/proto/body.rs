//! The end of a message sent with DATA, and newlines inside it.
//!
//! Exactly CRLF `.` CRLF ends a message (RFC 5321 §4.1.1.4), whatever the segmentation. The reader is an
//! enum of positions and one `match`: flags and "the last two octets" have let CRLF `.` CR CR LF end a
//! message elsewhere. Octets that may still turn out to be the end (a dot at the start of a line, and a CR
//! behind it) are never forwarded before it is known, so the backend cannot see an end that we do not, and
//! the sender of the final dot decides when it goes out.
//!
//! Bare CR and LF: either the message is poisoned (`reject`), or each becomes CRLF and dots are stuffed
//! anew (`normalize`). Passing them through is not offered (SMTP smuggling).

use memchr::memchr2;

/// The end of a message as it goes to a backend, without the CRLF before it.
pub const END: &[u8] = b".\r\n";

/// Where in a line the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    /// Behind a CRLF, or at the very start: the CRLF of the DATA command counts.
    #[default]
    LineStart,
    /// Somewhere in a line.
    Text,
    /// Behind a CR that a LF should follow.
    Cr,
    /// Behind a dot at the start of a line.
    Dot,
    /// Behind a CR behind a dot at the start of a line.
    DotCr,
    /// Behind a CR or LF alone. Not the start of a line for the client, so a dot here is text; but the
    /// start of one in normalised output, where that dot must be stuffed.
    BehindBare,
}

/// Octets that are looked at together: as few where closer looks were needed, as many where none was for a while.
const LEAST_TOGETHER: usize = 64;
const MOST_TOGETHER: usize = 4096;

impl Position {
    /// Where the octet behind `block` stands that begins here, in text or at the start of a line, if nothing in it needs a
    /// closer look: each CR has its LF and each LF its CR, and no line begins with a dot. One pass without branches, several
    /// times faster than going from line to line.
    fn behind(self, block: &[u8]) -> Option<Self> {
        let (first, last) = (block.first()?, block.last()?);
        let before = if self == Self::LineStart { b'\n' } else { b' ' };
        let odd = |before: u8, octet: u8| {
            ((before == b'\r') != (octet == b'\n')) | ((before == b'\n') & (octet == b'.'))
        };
        let pairs = block.iter().zip(block.get(1..)?);
        let any_odd = pairs.fold(odd(before, *first), |any, (before, octet)| any | odd(*before, *octet));
        match last {
            b'\r' => None,
            _ if any_odd => None,
            b'\n' => Some(Self::LineStart),
            _ => Some(Self::Text),
        }
    }
}

/// What to do about a CR or LF alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNewlines {
    /// Report the first one; the message is not to be delivered.
    Reject,
    /// Make each a CRLF.
    Normalize,
}

/// What a look at some octets of a message found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// All octets belong to the message, and more will come.
    More,
    /// The message ended; `consumed` octets belong to it and its end, the rest are commands.
    End {
        /// Octets up to and with the final CRLF.
        consumed: usize,
    },
    /// A bare CR or LF at or before `consumed`; only in [`BareNewlines::Reject`]. Go on scanning behind it:
    /// the true end is still to be found.
    BareNewline {
        /// Octets up to the offence.
        consumed: usize,
    },
}

/// Reads a message sent with DATA.
#[derive(Debug, Clone)]
pub struct BodyReader {
    position: Position,
    bare_newlines: BareNewlines,
    /// Dots given on that are no part of the message.
    stuffed: u64,
}

impl BodyReader {
    /// At the start of a message.
    #[must_use]
    pub const fn new(bare_newlines: BareNewlines) -> Self {
        Self { position: Position::LineStart, bare_newlines, stuffed: 0 }
    }

    /// How many dots stand in what was read that the receiver takes away, so that they count for no size
    /// (RFC 1870 §5): one at the start of each line that begins so.
    #[must_use]
    pub const fn stuffed(&self) -> u64 {
        self.stuffed
    }

    /// Scans `input` and appends to `out` what the backend may see of it: everything but the end, and but
    /// the octets held back because they may become the end. Held octets come with a later call.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> Found {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            let lines = self.lines(rest);
            out.extend_from_slice(rest.get(..lines).unwrap_or_default());
            at += lines;
            let Some(&octet) = input.get(at) else { return Found::More };
            at += 1;
            match self.step(octet, out) {
                Found::More => {}
                Found::End { .. } => return Found::End { consumed: at },
                Found::BareNewline { .. } => return Found::BareNewline { consumed: at },
            }
        }
    }

    /// Finds the end without forwarding anything: for messages that are refused already.
    pub fn discard(&mut self, input: &[u8]) -> Found {
        let mut at = 0;
        while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
            let mut nowhere = Vec::new();
            match self.read(rest.get(..4096).unwrap_or(rest), &mut nowhere) {
                Found::More => at += rest.len().min(4096),
                Found::End { consumed } => return Found::End { consumed: at + consumed },
                Found::BareNewline { consumed } => at += consumed,
            }
        }
        Found::More
    }

    /// How much of `input` the backend may see as it is: text and the CRLFs in it, up to what needs a closer look (a line that
    /// begins with a dot, a CR or LF that is alone or may be). It counts as read; the rest is for [`Self::read`]. Nearly all of
    /// a message goes through here, in one piece.
    #[must_use = "what is not given on is lost"]
    pub fn lines(&mut self, input: &[u8]) -> usize {
        if !matches!(self.position, Position::Text | Position::LineStart) {
            return 0;
        }
        let (mut end, mut together) = (0, LEAST_TOGETHER);
        while let Some(rest) = input.get(end..).filter(|rest| !rest.is_empty()) {
            let block = rest.get(..together).unwrap_or(rest);
            if let Some(position) = self.position.behind(block) {
                (self.position, end) = (position, end + block.len());
                together = (together * 2).min(MOST_TOGETHER);
                continue;
            }
            together = LEAST_TOGETHER;
            if self.position == Position::LineStart && rest.first() == Some(&b'.') {
                break;
            }
            // Whatever else needs a closer look has one of these.
            let Some(text) = memchr2(b'\r', b'\n', block) else { break };
            if text > 0 {
                self.position = Position::Text;
            }
            end += text;
            if rest.get(text..).is_none_or(|newline| !newline.starts_with(b"\r\n")) {
                break;
            }
            end += 2;
            self.position = Position::LineStart;
        }
        end
    }

    /// One octet: the whole of the law.
    fn step(&mut self, octet: u8, out: &mut Vec<u8>) -> Found {
        use Position::{BehindBare, Cr, Dot, DotCr, LineStart, Text};
        let mut found = Found::More;
        // A CR without LF behind it is an offence of its own; the octet is then read as one behind it.
        if matches!(self.position, Cr | DotCr) && octet != b'\n' {
            found = self.bare(out);
        }
        self.position = match (self.position, octet) {
            (DotCr, b'\n') => {
                found = Found::End { consumed: 0 };
                LineStart
            }
            (Cr, b'\n') => {
                out.extend_from_slice(b"\r\n");
                LineStart
            }
            (_, b'\n') => {
                found = self.bare(out);
                BehindBare
            }
            (Dot, b'\r') => DotCr,
            (_, b'\r') => Cr,
            (LineStart, b'.') => Dot,
            (BehindBare, b'.') => {
                self.stuffed += 1;
                out.extend_from_slice(b"..");
                Text
            }
            (Dot, _) => {
                self.stuffed += 1;
                out.extend([b'.', octet]);
                Text
            }
            _ => {
                out.push(octet);
                Text
            }
        };
        found
    }

    /// A newline that is not CRLF, with the octets held back before it.
    fn bare(&mut self, out: &mut Vec<u8>) -> Found {
        let alone = matches!(self.position, Position::Dot | Position::DotCr);
        self.position = Position::BehindBare;
        match self.bare_newlines {
            BareNewlines::Reject => Found::BareNewline { consumed: 0 },
            BareNewlines::Normalize => {
                // A dot alone in its line would become the end of the message: it is stuffed.
                self.stuffed += u64::from(alone);
                out.extend_from_slice(if alone { b"..\r\n" } else { b"\r\n" });
                Found::More
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a message amounts to, read octet by octet from the definition.
    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        end: Option<usize>,
        bare: bool,
        forwarded: Vec<u8>,
    }

    /// Reads `input` with the reader under test, cut at `splits`.
    fn read(input: &[u8], splits: &[usize], mode: BareNewlines) -> Outcome {
        let (mut reader, mut out, mut bare, mut base) = (BodyReader::new(mode), Vec::new(), false, 0);
        let mut edges = splits.to_vec();
        edges.push(input.len());
        for edge in edges {
            while base < edge {
                match reader.read(&input[base..edge], &mut out) {
                    Found::More => base = edge,
                    Found::End { consumed } => {
                        return Outcome { end: Some(base + consumed), bare, forwarded: out };
                    }
                    Found::BareNewline { consumed } => {
                        bare = true;
                        base += consumed;
                    }
                }
            }
        }
        Outcome { end: None, bare, forwarded: out }
    }

    /// The end by definition: the first `.` CR LF behind a CRLF or at the start.
    fn end_by_definition(input: &[u8]) -> Option<usize> {
        let mut framed = b"\r\n".to_vec();
        framed.extend_from_slice(input);
        memchr::memmem::find(&framed, b"\r\n.\r\n").map(|at| at + 3)
    }

    fn has_bare_newline(message: &[u8], ended: bool) -> bool {
        let at = |i: usize| message.get(i).copied();
        (0..message.len()).any(|i| match message[i] {
            b'\r' => at(i + 1).map_or(ended, |next| next != b'\n'),
            b'\n' => i == 0 || message[i - 1] != b'\r',
            _ => false,
        })
    }

    /// Every string over `alphabet` up to `length`, each handed to `check`.
    fn every_string(alphabet: &[u8], length: usize, check: &mut impl FnMut(&[u8])) {
        fn grow(alphabet: &[u8], left: usize, text: &mut Vec<u8>, check: &mut impl FnMut(&[u8])) {
            check(text);
            if left > 0 {
                for octet in alphabet {
                    text.push(*octet);
                    grow(alphabet, left - 1, text, check);
                    text.pop();
                }
            }
        }
        grow(alphabet, length, &mut Vec::new(), check);
    }

    #[test]
    fn every_short_string_at_every_split_ends_where_the_definition_says() {
        every_string(b"\r\n.x", 8, &mut |input| {
            let end = end_by_definition(input);
            let message = &input[..end.unwrap_or(input.len())];
            let whole = read(input, &[], BareNewlines::Reject);
            assert_eq!(whole.end, end, "{input:?}");
            assert_eq!(whole.bare, has_bare_newline(message, end.is_some()), "{input:?}");
            if let (Some(end), false) = (end, whole.bare) {
                assert_eq!(whole.forwarded, input[..end - 3], "{input:?}");
            }
            for split in 1..input.len() {
                assert_eq!(read(input, &[split], BareNewlines::Reject), whole, "{input:?} at {split}");
            }
        });
    }

    #[test]
    fn every_short_string_split_everywhere_is_the_same_message() {
        every_string(b"\r\n.x", 7, &mut |input| {
            let everywhere: Vec<usize> = (1..input.len()).collect();
            for mode in [BareNewlines::Reject, BareNewlines::Normalize] {
                assert_eq!(read(input, &everywhere, mode), read(input, &[], mode), "{input:?}");
            }
        });
    }

    /// Strings across the edges of what is looked at together, which are nothing that shows.
    #[test]
    fn a_string_is_the_same_message_behind_text_of_any_length() {
        every_string(b"\r\n.x", 5, &mut |input| {
            for before in [61, 62, 63, 64, 190, 191, 192, 4030, 4031, 4032, 8127, 8128] {
                let padded = [&b"x".repeat(before), input].concat();
                let everywhere: Vec<usize> = (before..padded.len()).collect();
                for mode in [BareNewlines::Reject, BareNewlines::Normalize] {
                    let whole = read(&padded, &[], mode);
                    assert_eq!(whole.end, end_by_definition(&padded), "{input:?} behind {before}");
                    assert_eq!(whole, read(&padded, &everywhere, mode), "{input:?} behind {before}");
                }
            }
        });
    }

    #[test]
    fn nothing_forwarded_can_be_read_as_an_end() {
        every_string(b"\r\n.x", 8, &mut |input| {
            for mode in [BareNewlines::Reject, BareNewlines::Normalize] {
                let forwarded = read(input, &[], mode).forwarded;
                assert_eq!(end_by_definition(&forwarded), None, "{input:?}");
                assert!(!has_bare_newline(&forwarded, true), "{input:?} gave {forwarded:?}");
            }
        });
    }

    #[test]
    fn normalizing_changes_newlines_and_nothing_else() {
        for (input, forwarded) in [
            (&b"a\nb\r\n.\r\n"[..], &b"a\r\nb\r\n"[..]),
            (b"a\rb\r\n.\r\n", b"a\r\nb\r\n"),
            (b"a\n.\n\r\n.\r\n", b"a\r\n..\r\n\r\n"),
            (b"a\n.\r\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
            (b"..a\r\n.\r\n", b"..a\r\n"),
        ] {
            let outcome = read(input, &[], BareNewlines::Normalize);
            assert_eq!(outcome.end, Some(input.len()), "{input:?}");
            assert_eq!(outcome.forwarded, forwarded, "{input:?}");
        }
    }

    #[test]
    fn stuffed_dots_are_those_the_receiver_takes_away() {
        every_string(b"\r\n.x", 7, &mut |input| {
            for mode in [BareNewlines::Reject, BareNewlines::Normalize] {
                let (mut reader, mut out) = (BodyReader::new(mode), Vec::new());
                let mut at = 0;
                while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
                    match reader.read(rest, &mut out) {
                        Found::End { .. } => break,
                        Found::More => at = input.len(),
                        Found::BareNewline { .. } => return,
                    }
                }
                let framed = [b"\r\n", out.as_slice()].concat();
                let dots = memchr::memmem::find_iter(&framed, b"\r\n.").count();
                assert_eq!(reader.stuffed(), dots as u64, "{input:?} gave {out:?}");
            }
        });
    }

    #[test]
    fn a_discarded_message_ends_where_a_forwarded_one_would() {
        let mut long = b"x".repeat(10_000);
        long.extend_from_slice(b"\n.\n\r\n.\r\nQUIT\r\n");
        let end = long.len() - 6;
        let found = BodyReader::new(BareNewlines::Reject).discard(&long);
        assert_eq!(found, Found::End { consumed: end });
    }
}
