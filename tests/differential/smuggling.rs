//! The known smuggling sequences, each by its name, at every split, through every server.
//!
//! Each stands behind the text of a message, and a whole transaction for another mailbox behind it. Where bare newlines
//! are rejected the client hears 550 5.6.11 once and nothing is stored; where they are normalized the transaction
//! arrives as text. Sequences without a bare newline are text in both. One test shows that a message behind a true end
//! does arrive, so the others could see it.

use crate::model::{Bare, Chunking, expected};
use crate::run;
use crate::store::Kind;
use crate::stream::{CARRIER, STOWAWAY, Stream, Then, smuggle};

/// What a sequence is to a server that keeps to RFC 5321.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    /// It holds a CR or LF alone.
    Bare,
    /// Nothing but text.
    Text,
    /// The end of the message.
    End,
}

macro_rules! sequences {
    ($($name:ident: $octets:literal is $sequence:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            nothing_is_smuggled_behind($octets, Sequence::$sequence).await;
        })*
    };
}

sequences! {
    lf_dot_lf: b"\n.\n" is Bare;
    lf_dot_cr: b"\n.\r" is Bare;
    lf_dot_crlf: b"\n.\r\n" is Bare;
    lf_dot_cr_crlf: b"\n.\r\r\n" is Bare;
    cr_dot_cr: b"\r.\r" is Bare;
    cr_dot_lf: b"\r.\n" is Bare;
    cr_dot_crlf: b"\r.\r\n" is Bare;
    crlf_dot_cr: b"\r\n.\r" is Bare;
    crlf_dot_lf: b"\r\n.\n" is Bare;
    crlf_dot_cr_crlf: b"\r\n.\r\r\n" is Bare;
    cr_crlf_dot_cr_crlf: b"\r\r\n.\r\r\n" is Bare;
    lf_cr_dot_lf_cr: b"\n\r.\n\r" is Bare;
    lf_lf_dot_lf_lf: b"\n\n.\n\n" is Bare;
    crlf_dot_lf_cr: b"\r\n.\n\r" is Bare;
    crlf_dot_cr_nul_lf: b"\r\n.\r\0\n" is Bare;
    crlf_nul_dot_crlf: b"\r\n\0.\r\n" is Text;
    crlf_dot_nul_crlf: b"\r\n.\0\r\n" is Text;
    crlf_dot_dot_crlf: b"\r\n..\r\n" is Text;
    crlf_dot_space_crlf: b"\r\n. \r\n" is Text;
    crlf_space_dot_crlf: b"\r\n .\r\n" is Text;
    a_message_behind_a_true_end_arrives: b"\r\n.\r\n" is End;
}

async fn nothing_is_smuggled_behind(octets: &[u8], sequence: Sequence) {
    for bare in [Bare::Reject, Bare::Normalize] {
        let (streams, outcome) = at_every_split(octets, bare);
        let refused = if sequence == Sequence::Bare && bare == Bare::Reject { streams.len() } else { 0 };
        let arrived = if sequence == Sequence::End { streams.len() } else { 0 };
        let carried = streams.len() - refused;
        // What the model expects of them is what this test is about.
        assert_eq!(outcome, Outcome { refused, carried, arrived });
        tokio::join!(
            run::check(Kind::Postfix, bare, at_every_split(octets, bare).0, |_| String::new()),
            run::check(Kind::Exim, bare, at_every_split(octets, bare).0, |_| String::new()),
            run::check(Kind::Aiosmtpd, bare, streams, |_| String::new()),
        );
    }
}

/// The sequence in one segment, split at each place in and around it, and octet by octet.
fn at_every_split(octets: &[u8], bare: Bare) -> (Vec<Stream>, Outcome) {
    let carried = smuggle("whole", octets);
    let place = memchr::memmem::find(&carried, b"before").expect("it is in the text") + b"before".len();
    let around = place - 1..=place + octets.len() + 1;
    let mut splits: Vec<Vec<usize>> = around.clone().map(|split| vec![split]).collect();
    splits.push(Vec::new());
    splits.push(around.collect());
    let mut outcome = Outcome::default();
    let streams = splits.into_iter().enumerate().map(|(number, splits)| {
        let carried = smuggle(&format!("{number:05}"), octets);
        outcome.count(&carried, bare);
        let mut stream = Stream::new();
        let mut from = 0;
        for split in splits {
            stream.push(&carried[from..split]).cut(Then::UntilRead);
            from = split;
        }
        stream.push(&carried[from..]);
        stream.quit()
    });
    (streams.collect(), outcome)
}

/// How many messages become what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    refused: usize,
    carried: usize,
    arrived: usize,
}

impl Outcome {
    fn count(&mut self, octets: &[u8], bare: Bare) {
        let expected = expected(octets, bare, Chunking::Offered);
        let to = |mailbox| expected.messages.iter().filter(|message| message.recipients == [mailbox]).count();
        self.refused += expected.replies.iter().filter(|due| due.start == "550 5.6.11").count();
        self.carried += to(CARRIER);
        self.arrived += to(STOWAWAY);
    }
}
