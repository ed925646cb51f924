//! Text from a peer, made safe to log: nothing in it can move a terminal's cursor, begin a new line or fill
//! the disk.
//!
//! Printable characters of any script and the space stay as they are. Control characters, characters nobody
//! sees (direction overrides, zero-width joiners, private use) and the backslash are written as Rust escapes,
//! octets that are not UTF-8 as `\xNN`, so that two different texts never look the same. What is longer than
//! 256 octets ends with an ellipsis.
//!
//! Quotes are not escaped: whoever puts the text between quotes escapes them there.

use std::fmt::{self, Write};

/// Octets written at most, before the ellipsis. A mailbox of ordinary length fits.
const LIMIT: usize = 256;

/// Shows text or octets from a peer; costs nothing until it is displayed, and then no allocation.
#[derive(Clone, Copy)]
pub struct Escaped<T>(pub T);

/// The same without an end before that of the text, which is bounded already.
#[derive(Clone, Copy)]
pub struct EscapedWhole<T>(pub T);

impl<T: AsRef<[u8]>> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(self.0.as_ref(), LIMIT, f)
    }
}

impl<T: AsRef<[u8]>> fmt::Display for EscapedWhole<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(self.0.as_ref(), usize::MAX, f)
    }
}

impl<T: AsRef<[u8]>> fmt::Debug for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn write_escaped(text: &[u8], limit: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut room = limit;
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            // Nearly everything a peer says is plain, and goes out in one piece.
            let plain = rest.bytes().take(room).take_while(|octet| is_plain(*octet)).count();
            let (shown, behind) = rest.split_at(plain);
            f.write_str(shown)?;
            room -= plain;
            let mut chars = behind.chars();
            if let Some(c) = chars.next() {
                let Some(left) = room.checked_sub(shown_len(c)) else { return f.write_char('…') };
                room = left;
                show(c, f)?;
            }
            rest = chars.as_str();
        }
        for octet in chunk.invalid() {
            let Some(left) = room.checked_sub(r"\xff".len()) else { return f.write_char('…') };
            room = left;
            write!(f, "\\x{octet:02x}")?;
        }
    }
    Ok(())
}

/// Whether it stays as it is.
const fn is_plain(octet: u8) -> bool {
    matches!(octet, b' '..=b'~') && octet != b'\\'
}

fn show(c: char, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if is_quote(c) { f.write_char(c) } else { write!(f, "{}", c.escape_debug()) }
}

/// Octets that [`show`] writes.
fn shown_len(c: char) -> usize {
    if is_quote(c) { 1 } else { c.escape_debug().map(char::len_utf8).sum() }
}

const fn is_quote(c: char) -> bool {
    matches!(c, '"' | '\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (text, shown) in [
            (&b"ann@example.org"[..], "ann@example.org"),
            (b"\"a b\"@example.org", "\"a b\"@example.org"),
            ("pelé@bücher.example".as_bytes(), "pelé@bücher.example"),
            (b"\x1b[2Jx", r"\u{1b}[2Jx"),
            (b"a\r\nb\0\t", r"a\r\nb\0\t"),
            ("a\u{9b}31m".as_bytes(), r"a\u{9b}31m"),
            ("gro\u{202e}elpmaxe".as_bytes(), r"gro\u{202e}elpmaxe"),
            ("a\u{200b}b\u{2028}".as_bytes(), r"a\u{200b}b\u{2028}"),
            (b"a\xff\xc3b", r"a\xff\xc3b"),
            (b"a\\xff", r"a\\xff"),
            (b"", ""),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn long_text_is_cut_with_an_ellipsis() {
        for octet in [b'a', 0x1b, 0xff, b'\\'] {
            let shown = Escaped(&vec![octet; 10_000]).to_string();
            let kept = shown.strip_suffix('…').expect("cut");
            assert!(kept.len() <= LIMIT && kept.len() > LIMIT - 8, "{octet}: {}", kept.len());
        }
        let umlauts = Escaped(&"ü".repeat(5_000)).to_string();
        assert_eq!(umlauts, format!("{}…", "ü".repeat(LIMIT / 2)));
    }

    #[test]
    fn what_is_not_plain_is_shown_in_the_midst_of_what_is() {
        let shown = Escaped("one\\two\u{1b}thrée \"four\"").to_string();
        assert_eq!(shown, r#"one\\two\u{1b}thrée "four""#);
        let text = "a".repeat(LIMIT - 3) + "\u{1b}" + &"a".repeat(9);
        assert_eq!(Escaped(&text).to_string(), "a".repeat(LIMIT - 3) + "…", "no half of an escape");
        let text = "a".repeat(LIMIT - 1) + "üa";
        assert_eq!(Escaped(&text).to_string(), "a".repeat(LIMIT - 1) + "…");
    }

    #[test]
    fn text_that_just_fits_is_whole() {
        let text = "a".repeat(LIMIT);
        assert_eq!(Escaped(&text).to_string(), text);
    }
    #[test]
    fn a_whole_text_is_escaped_to_its_end() {
        let text = "\u{202e}".repeat(100) + &"a".repeat(2 * LIMIT);
        let shown = EscapedWhole(&text).to_string();
        assert_eq!(shown, r"\u{202e}".repeat(100) + &"a".repeat(2 * LIMIT));
    }
}
