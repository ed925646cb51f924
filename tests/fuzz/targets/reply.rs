//! Replies of a backend: however they are cut into reads the same ones come out, and what a client is given
//! of each is well-formed, harmless, and has the same code.
//!
//! Input: an octet that seeds the cuts, then what the backend sends.

#![no_main]

use backstop::proto::reply::{Reply, ReplyFault, ReplyReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [seed, sent @ ..] = input else { return };
    let whole = replies(sent, std::iter::repeat(usize::MAX));
    assert_eq!(whole, replies(sent, std::iter::repeat(1)), "octet by octet");
    let cuts = (0_usize..).map(|n| 1 + (n * 7 + usize::from(*seed)) % 13);
    assert_eq!(whole, replies(sent, cuts), "in pieces");
    whole.0.iter().for_each(is_harmless_when_written);
});

/// The replies, and the fault that ended them.
type Read = (Vec<Reply>, Option<ReplyFault>);

fn replies(mut sent: &[u8], pieces: impl Iterator<Item = usize>) -> Read {
    let (mut reader, mut buffer, mut replies) = (ReplyReader::default(), Vec::new(), Vec::new());
    for piece in pieces {
        if sent.is_empty() {
            break;
        }
        let (now, later) = sent.split_at(piece.min(sent.len()));
        buffer.extend_from_slice(now);
        sent = later;
        loop {
            match reader.take(&buffer) {
                Ok((taken, reply)) => {
                    buffer.drain(..taken);
                    let Some(reply) = reply else { break };
                    replies.push(reply);
                }
                Err(fault) => return (replies, Some(fault)),
            }
        }
    }
    (replies, None)
}

fn is_harmless_when_written(reply: &Reply) {
    let mut written = Vec::new();
    reply.write(&mut written);
    let lines = written.strip_suffix(b"\r\n").expect("the last line ends with CRLF");
    for line in lines.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() + 2 <= 512, "a line of {} octets", line.len() + 2);
        assert!(line.iter().all(|b| *b == b'\t' || !b.is_ascii_control()), "{}", line.escape_ascii());
    }
    let (again, fault) = replies(&written, std::iter::repeat(usize::MAX));
    assert_eq!((again.len(), fault), (1, None), "one reply");
    assert_eq!(again[0].code(), reply.code());
    assert_eq!(again[0].lines().count(), reply.lines().count());
    let mut twice = Vec::new();
    again[0].write(&mut twice);
    assert_eq!(twice, written, "nothing is left to be made harmless");
}
