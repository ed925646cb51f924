//! Message data: one end, wherever it is cut into reads, and nothing forwarded that a backend could take for
//! another.
//!
//! Input: an octet that seeds the cuts and chooses what happens to bare newlines, then what stands behind
//! DATA.

#![no_main]

use backstop::proto::body::{BareNewlines, BodyReader, END, Found};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [seed, sent @ ..] = input else { return };
    let cuts = || (0_usize..).map(|n| 1 + (n * 7 + usize::from(*seed >> 1)) % 13);
    let mode = if seed & 1 == 0 { BareNewlines::Reject } else { BareNewlines::Normalize };
    let whole = read(sent, std::iter::repeat(usize::MAX), mode);
    assert_eq!(whole, read(sent, std::iter::repeat(1), mode), "octet by octet");
    assert_eq!(whole, read(sent, cuts(), mode), "in pieces");
    assert_eq!(discarded(sent, std::iter::repeat(usize::MAX)), end_by_definition(sent), "discarded whole");
    assert_eq!(discarded(sent, cuts()), end_by_definition(sent), "discarded in pieces");
    match whole.bare_at {
        Some(at) => {
            assert!(end_by_definition(sent).is_none_or(|end| at < end), "nothing is judged behind the end")
        }
        None => assert_eq!(whole.end, end_by_definition(sent)),
    }
    another_server_sees_the_same(&whole);
    if let (BareNewlines::Reject, Some(end)) = (mode, whole.end) {
        assert_eq!([&whole.out, END].concat(), sent[..end], "not one octet changes");
    }
});

#[derive(Debug, Default, PartialEq)]
struct Read {
    /// Octets up to and with the end.
    end: Option<usize>,
    /// Octets up to the first bare newline, where reading stopped.
    bare_at: Option<usize>,
    out: Vec<u8>,
}

fn read(sent: &[u8], pieces: impl Iterator<Item = usize>, mode: BareNewlines) -> Read {
    let (mut reader, mut at, mut read) = (BodyReader::new(mode), 0, Read::default());
    for piece in pieces {
        let rest = &sent[at..];
        if rest.is_empty() {
            break;
        }
        let piece = piece.min(rest.len());
        match reader.read(&rest[..piece], &mut read.out) {
            Found::More => at += piece,
            Found::End { consumed } => {
                read.end = Some(at + consumed);
                break;
            }
            Found::BareNewline { consumed } => {
                read.bare_at = Some(at + consumed);
                break;
            }
        }
    }
    read
}

fn discarded(sent: &[u8], pieces: impl Iterator<Item = usize>) -> Option<usize> {
    let (mut reader, mut at) = (BodyReader::new(BareNewlines::Reject), 0);
    for piece in pieces {
        let rest = &sent[at..];
        if rest.is_empty() {
            break;
        }
        let piece = piece.min(rest.len());
        match reader.discard(&rest[..piece]) {
            Found::End { consumed } => return Some(at + consumed),
            Found::More => at += piece,
            Found::BareNewline { .. } => panic!("what is discarded is not judged"),
        }
    }
    None
}

/// RFC 5321 §4.1.1.4, the CRLF of the DATA command counted.
fn end_by_definition(sent: &[u8]) -> Option<usize> {
    let whole = [b"\r\n", sent].concat();
    whole.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 3)
}

/// What was forwarded holds no end of its own, no bare newline, and ends where we end it.
fn another_server_sees_the_same(read: &Read) {
    let forwarded = [&read.out, END].concat();
    assert!(end_by_definition(&read.out).is_none());
    if read.end.is_some() {
        let theirs = self::read(&forwarded, std::iter::repeat(usize::MAX), BareNewlines::Reject);
        assert_eq!((theirs.end, theirs.bare_at), (Some(forwarded.len()), None));
    }
}
