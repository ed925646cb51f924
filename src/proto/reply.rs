//! Replies: read from a backend, written to a client.
//!
//! Reading is strict about what decides (code, continuation, CRLF) and generous about size: lines up to
//! 4096 octets and 64 KiB in all, since Exchange's final 250 is long, and taking it for an error would
//! store the message and make the sender repeat it. Writing never lets a backend's text do harm: lines are
//! cut to 512 octets and control characters replaced (RFC 5321 §4.2, §4.5.3.1.5).

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

/// Longest line taken from a backend, CRLF included, in octets.
pub const MAX_LINE: usize = 4096;
/// Longest reply taken from a backend, in octets.
pub const MAX_REPLY: usize = 64 * 1024;
/// Longest line given to a client, CRLF included, in octets (RFC 5321 §4.5.3.1.5).
const MAX_LINE_OUT: usize = 512;

/// The first digit of a code: what a client does about it (RFC 5321 §4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 2yz: done.
    Positive,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: no.
    Permanent,
}

/// An enhanced status code (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enhanced {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: 1 addressing, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// The detail within the subject.
    pub detail: u16,
}

impl Enhanced {
    /// Reads `(#5.1.1)` at the end of a text, which is where qmail has it.
    fn parse_behind(text: &[u8]) -> Option<Self> {
        let inner = text.trim_ascii_end().strip_suffix(b")")?;
        let at = memchr::memmem::rfind(inner, b"(#")?;
        Self::parse(inner.get(at + 2..)?)
    }

    /// Reads `5.1.1` at the start of a text.
    fn parse(text: &[u8]) -> Option<Self> {
        let word = text.split(|b| *b == b' ').next()?;
        let mut parts = std::str::from_utf8(word).ok()?.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let digits = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if parts.next().is_some() || ![class, subject, detail].into_iter().all(digits) {
            return None;
        }
        Some(Self {
            class: class.parse().ok()?,
            subject: subject.parse().ok()?,
            detail: detail.parse().ok()?,
        })
    }
}

/// A code and its text, as one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    code: u16,
    /// The text after the codes, lines parted by LF. Octets as the backend sent them, also control ones.
    text: Cow<'static, [u8]>,
}

impl Reply {
    /// One of our own; `text` may hold several lines parted by LF.
    #[must_use]
    pub const fn fixed(code: u16, text: &'static str) -> Self {
        Self { code, text: Cow::Borrowed(text.as_bytes()) }
    }

    /// A reply with text made at run time, lines parted by LF.
    #[must_use]
    pub fn new(code: u16, text: impl Into<Vec<u8>>) -> Self {
        Self { code, text: Cow::Owned(text.into()) }
    }

    /// The three digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// What the first digit says.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self.code {
            ..300 => Class::Positive,
            300..400 => Class::Intermediate,
            400..500 => Class::Transient,
            500.. => Class::Permanent,
        }
    }

    /// Whether it says that what was asked is done (RFC 5321 §4.3.2): of all 2yz 250, or 251 and 252 of a recipient. A
    /// greeting or a farewell answers no command of a transaction.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.code, 250..=252)
    }

    /// Whether it takes a message, or a chunk of one.
    #[must_use]
    pub const fn takes_message(&self) -> bool {
        self.code == 250
    }

    /// The enhanced code, when the text begins with one of the reply's own class (RFC 2034 §4).
    #[must_use]
    pub fn enhanced(&self) -> Option<Enhanced> {
        let line = self.lines().next()?;
        let fits = |e: &Enhanced| u16::from(e.class) == self.code / 100;
        Enhanced::parse(line).filter(fits).or_else(|| Enhanced::parse_behind(line).filter(fits))
    }

    /// Whether the words are our own and not a backend's.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        matches!(self.text, Cow::Borrowed(_))
    }

    /// The lines of text, without code and CRLF.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|b| *b == b'\n')
    }

    /// The whole text, lines parted by LF.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether the text contains `word`, in any case.
    #[must_use]
    pub fn mentions(&self, word: &str) -> bool {
        self.text.windows(word.len()).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The same reply, cut to so many octets of text where it is longer.
    #[must_use]
    pub fn shortened(self, most: usize) -> Self {
        let Some(short) = self.text.get(..most).filter(|short| short.len() < self.text.len()) else {
            return self;
        };
        Self { text: Cow::Owned(short.to_vec()), ..self }
    }

    /// The same reply with `note` behind its last line.
    #[must_use]
    pub fn with_note(mut self, note: impl fmt::Display) -> Self {
        self.text.to_mut().extend_from_slice(format!(" ({note})").as_bytes());
        self
    }

    /// The same reply with one more line.
    #[must_use]
    pub fn with_line(mut self, line: &str) -> Self {
        let text = self.text.to_mut();
        text.push(b'\n');
        text.extend_from_slice(line.as_bytes());
        self
    }

    /// Writes it as a client may see it: CRLF lines of at most 512 octets, no control characters.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            let parting = if lines.peek().is_some() { b'-' } else { b' ' };
            let digit = |n: u16| b'0' + u8::try_from(n % 10).unwrap_or(0);
            out.extend([digit(self.code / 100), digit(self.code / 10), digit(self.code), parting]);
            write_harmless(line, MAX_LINE_OUT - 6, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// For logs and people: one line, harmless.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        let mut shown = Vec::new();
        for line in self.lines() {
            shown.push(b' ');
            write_harmless(line, MAX_LINE_OUT, &mut shown);
        }
        f.write_str(&String::from_utf8_lossy(&shown))
    }
}

/// Text as it is when it is clean UTF-8, else with every suspicious octet replaced; cut at `limit`.
fn write_harmless(line: &[u8], limit: usize, out: &mut Vec<u8>) {
    // Nearly all that is said.
    if line.len() <= limit && line.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        return out.extend_from_slice(line);
    }
    match std::str::from_utf8(line) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\t') => {
            out.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(limit)]);
        }
        _ => out.extend(line.iter().take(limit).map(|b| if (0x20..0x7f).contains(b) { *b } else { b'?' })),
    }
}

/// How a backend's octets fail to be a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// No code from 200 to 599 followed by space, hyphen or the end of the line.
    #[error("a line that is not an SMTP reply")]
    Grammar,
    /// Two codes in one reply.
    #[error("a multi-line reply with different codes")]
    MixedCodes,
    /// A line above [`MAX_LINE`].
    #[error("a reply line above {MAX_LINE} octets")]
    LineTooLong,
    /// A reply above [`MAX_REPLY`].
    #[error("a reply above {MAX_REPLY} octets")]
    TooLong,
}

/// Takes replies out of a growing buffer, line by line.
#[derive(Debug, Default)]
pub struct ReplyReader {
    code: Option<u16>,
    text: Vec<u8>,
    /// Of all its lines, codes and CRLF counted: what is given to a client is no longer than that.
    octets: usize,
}

impl ReplyReader {
    /// Whether lines of a reply were taken whose last line is still to come.
    #[must_use]
    pub const fn is_amid_reply(&self) -> bool {
        self.code.is_some()
    }

    /// Takes whole lines from the front of `input` until one ends a reply. Gives the octets taken, and
    /// the reply when it is whole. Call again with what is left plus what arrives.
    ///
    /// # Errors
    /// The [`ReplyFault`]; what follows on this connection means nothing any more.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyFault> {
        let mut taken = 0;
        while let Some(rest) = input.get(taken..) {
            let Some(end) = memchr(b'\n', rest.get(..MAX_LINE).unwrap_or(rest)) else {
                if rest.len() >= MAX_LINE {
                    return Err(ReplyFault::LineTooLong);
                }
                break;
            };
            let line = rest.get(..end).and_then(|l| l.strip_suffix(b"\r")).ok_or(ReplyFault::Grammar)?;
            taken += end + 1;
            if let Some(reply) = self.line(line)? {
                return Ok((taken, Some(reply)));
            }
        }
        Ok((taken, None))
    }

    /// One line without CRLF; the reply when it was the last one.
    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyFault> {
        let (code, parting, text) = split(line).ok_or(ReplyFault::Grammar)?;
        match self.code {
            Some(first) if first != code => return Err(ReplyFault::MixedCodes),
            Some(_) => self.text.push(b'\n'),
            None => self.code = Some(code),
        }
        self.octets += line.len() + 2;
        if self.octets > MAX_REPLY {
            return Err(ReplyFault::TooLong);
        }
        self.text.extend_from_slice(text);
        if parting == Parting::More {
            return Ok(None);
        }
        let mut whole = std::mem::take(self);
        if whole.text.capacity() > MAX_LINE {
            whole.text.shrink_to_fit();
        }
        Ok(Some(Reply { code, text: Cow::Owned(whole.text) }))
    }
}

#[derive(PartialEq, Eq)]
enum Parting {
    More,
    Last,
}

/// `250-text`, `250 text` and `250` (RFC 5321 §4.2 asks receivers to take the last form).
fn split(line: &[u8]) -> Option<(u16, Parting, &[u8])> {
    let &[a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', ref rest @ ..] = line else {
        return None;
    };
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [] => Some((code, Parting::Last, rest)),
        [b' ', text @ ..] => Some((code, Parting::Last, text)),
        [b'-', text @ ..] => Some((code, Parting::More, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<(usize, Option<Reply>), ReplyFault> {
        ReplyReader::default().take(input)
    }

    #[test]
    fn a_reply_is_whole_only_with_its_last_crlf() {
        assert_eq!(read(b"250 ok\r\n250 next"), Ok((8, Some(Reply::new(250, *b"ok")))));
        assert_eq!(read(b"250\r\n"), Ok((5, Some(Reply::new(250, *b"")))));
        assert_eq!(read(b"250-a\r\n250 b\r\n"), Ok((14, Some(Reply::new(250, *b"a\nb")))));
        assert_eq!(read(b"250 ok"), Ok((0, None)));
        assert_eq!(read(b"250-a\r\n"), Ok((7, None)));
    }

    #[test]
    fn what_is_no_reply_is_a_fault() {
        for bad in
            ["25\r\n", "2500 ok\r\n", "150 x\r\n", "600 x\r\n", "999 x\r\n", "ok\r\n", "250 ok\n", "\r\n"]
        {
            assert_eq!(read(bad.as_bytes()), Err(ReplyFault::Grammar), "{bad:?}");
        }
        assert_eq!(read(b"250-a\r\n550 b\r\n"), Err(ReplyFault::MixedCodes));
        assert_eq!(read(&[b'2'; MAX_LINE]), Err(ReplyFault::LineTooLong));
        let endless = b"250-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n".repeat(MAX_REPLY / 30);
        assert_eq!(read(&endless), Err(ReplyFault::TooLong));
        let empty = b"250-\r\n".repeat(MAX_REPLY / 6 + 1);
        assert_eq!(read(&empty), Err(ReplyFault::TooLong));
    }

    #[test]
    fn a_reply_in_pieces_is_the_same_reply() {
        let input = b"250-first\r\n250-\r\n250 last line\r\n";
        for piece in 1..input.len() {
            let (mut reader, mut buffer, mut found) = (ReplyReader::default(), Vec::new(), None);
            for chunk in input.chunks(piece) {
                buffer.extend_from_slice(chunk);
                let (taken, reply) = reader.take(&buffer).unwrap();
                buffer.drain(..taken);
                found = found.or(reply);
            }
            assert_eq!(found, Some(Reply::new(250, *b"first\n\nlast line")), "by {piece}");
        }
    }

    #[test]
    fn what_a_client_sees_is_bounded_and_harmless() {
        let mut out = Vec::new();
        Reply::new(550, b"a\x1b[31m\0\nb\xff\r".to_vec()).write(&mut out);
        assert_eq!(out, b"550-a?[31m?\r\n550 b??\r\n");
        for text in ["x".repeat(600), "é".repeat(400)] {
            out.clear();
            Reply::new(250, text).write(&mut out);
            assert!(out.len() <= MAX_LINE_OUT && out.ends_with(b"\r\n"));
            assert!(std::str::from_utf8(&out).is_ok());
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for reply in [Reply::fixed(354, "go"), Reply::new(250, *b"a\n\nb"), Reply::new(421, *b"")] {
            let mut out = Vec::new();
            reply.write(&mut out);
            assert_eq!(read(&out), Ok((out.len(), Some(reply))));
        }
    }

    #[test]
    fn enhanced_codes_count_only_in_their_own_class() {
        let code = |code, text: &str| Reply::new(code, text).enhanced().map(|e| (e.subject, e.detail));
        assert_eq!(code(550, "5.1.1 no such user"), Some((1, 1)));
        assert_eq!(code(550, "5.1.10"), Some((1, 10)));
        for text in ["4.1.1 x", "5.1 x", "5.1.1.1 x", "5.1.1111 x", "5.1.x", "no", ""] {
            assert_eq!(code(550, text), None, "{text}");
        }
    }
}
