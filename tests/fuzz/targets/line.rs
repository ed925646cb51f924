//! Command lines: however the octets are cut into reads, the same lines come out, and what is kept between
//! two reads never exceeds the limit, or the four octets that tell a BDAT.
//!
//! Input: an octet for the limit, an octet that seeds the cuts, then what the client sends.

#![no_main]

use backstop::proto::line::{LineReader, Overlong, Scan};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [limit, seed, sent @ ..] = input else { return };
    let limit = usize::from(*limit);
    let whole = lines(sent, std::iter::repeat(usize::MAX), limit);
    assert_eq!(whole, lines(sent, std::iter::repeat(1), limit), "octet by octet");
    let cuts = (0_usize..).map(|n| 1 + (n * 7 + usize::from(*seed)) % 13);
    assert_eq!(whole, lines(sent, cuts, limit), "in pieces");
});

/// What was read, in order.
#[derive(Debug, PartialEq)]
enum Read {
    Line(Vec<u8>),
    TooLong(Overlong),
    /// Nothing is read behind it.
    BareNewline,
}

fn lines(mut sent: &[u8], pieces: impl Iterator<Item = usize>, limit: usize) -> Vec<Read> {
    let (mut reader, mut buffer, mut read) = (LineReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        if sent.is_empty() {
            break;
        }
        let (now, later) = sent.split_at(piece.min(sent.len()));
        buffer.extend_from_slice(now);
        sent = later;
        loop {
            match reader.scan(&buffer, limit) {
                Scan::Line { len } => {
                    let line: Vec<u8> = buffer.drain(..len + 2).take(len).collect();
                    assert!(len + 2 <= limit && !line.contains(&b'\r') && !line.contains(&b'\n'));
                    read.push(Read::Line(line));
                }
                Scan::TooLong { consumed, line } => {
                    buffer.drain(..consumed);
                    read.push(Read::TooLong(line));
                }
                Scan::BareNewline => {
                    read.push(Read::BareNewline);
                    return read;
                }
                Scan::Incomplete => break,
            }
        }
        buffer.drain(..reader.excess(&buffer));
        assert!(buffer.len() <= limit.max(4), "{} octets kept of at most {limit}", buffer.len());
    }
    read
}
