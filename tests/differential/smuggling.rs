//! The known smuggling sequences, each by its name, at every split, through every server.
//!
//! Each stands behind the text of a message, and a whole transaction for another mailbox behind it. Where bare newlines
//! are rejected the client hears 550 5.6.11 once and nothing is stored; where they are normalized the transaction
//! arrives as text. Sequences without a bare newline are text in both. One test shows that a message behind a true end
//! does arrive, so the others could see it.

use std::sync::OnceLock;

use memchr::memmem;
use tokio::join;
use tokio::runtime::Runtime;

use crate::model::{Bare, Chunking, expected};
use crate::store::Kind;
use crate::stream::{CARRIER, STOWAWAY, Stream, Then, smuggle};
use crate::{first, run};

macro_rules! sequences {
    ($($name:ident: $octets:literal is $nature:ident;)*) => {
        const SEQUENCES: &[Sequence] = &[
            $(Sequence { name: stringify!($name), octets: $octets, nature: Nature::$nature },)*
        ];
        $(#[test]
        fn $name() {
            nothing_is_smuggled_behind(stringify!($name));
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
    a_bare_cr_before_a_true_end_spoils_only_the_message_that_has_it: b"\r\r\n.\r\n" is BareThenEnd;
}

/// What stands where a server may take it for the end of a message.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    name: &'static str,
    octets: &'static [u8],
    nature: Nature,
}

/// What a sequence is by RFC 5321.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// It holds a CR or LF alone.
    Bare,
    /// Nothing but text.
    Text,
    /// The end of the message.
    End,
    /// A CR alone, and then the end of the message.
    BareThenEnd,
}

/// Fails if anything was found about the sequence, or about none of them.
#[track_caller]
fn nothing_is_smuggled_behind(name: &str) {
    static FINDINGS: OnceLock<Vec<String>> = OnceLock::new();
    let concerns = |finding: &&String| {
        let named = |name: &str| finding.contains(&format!("<{name}."));
        named(name) || !SEQUENCES.iter().any(|sequence| named(sequence.name))
    };
    let findings: Vec<_> = FINDINGS.get_or_init(all_findings).iter().filter(concerns).cloned().collect();
    assert!(findings.is_empty(), "{} findings, the first of them:\n{}", findings.len(), first(&findings));
}

/// All sequences through all servers, once for all tests: servers take longer to start than to answer.
fn all_findings() -> Vec<String> {
    let runtime = Runtime::new().expect("a runtime");
    let mut all = Vec::new();
    for bare in [Bare::Reject, Bare::Normalize] {
        let through = |kind| run::findings(kind, bare, streams(bare), |number| format!("stream {number}"));
        let (postfix, exim, aiosmtpd) = runtime
            .block_on(async { join!(through(Kind::Postfix), through(Kind::Exim), through(Kind::Aiosmtpd)) });
        all.extend([postfix, exim, aiosmtpd].into_iter().flatten().flatten());
    }
    all
}

/// Each sequence at each split, each in a connection of its own.
fn streams(bare: Bare) -> Vec<Stream> {
    SEQUENCES.iter().flat_map(|sequence| sequence.at_every_split(bare)).collect()
}

impl Sequence {
    /// In one segment, split at each place in and around it, and octet by octet.
    fn at_every_split(&self, bare: Bare) -> Vec<Stream> {
        let around = 0..=self.octets.len();
        let mut splits: Vec<Vec<usize>> = around.clone().map(|split| vec![split]).collect();
        splits.push(Vec::new());
        splits.push(around.collect());
        let split = |(number, splits): (usize, Vec<usize>)| self.split(number, &splits, bare);
        splits.into_iter().enumerate().map(split).collect()
    }

    /// The stream with segments that end at these places of the sequence.
    fn split(&self, number: usize, splits: &[usize], bare: Bare) -> Stream {
        let text = smuggle(&format!("{}.{number}", self.name), self.octets);
        self.is_understood(&text, bare);
        let start = memmem::find(&text, b"before").expect("it is in the text") + b"before".len();
        let mut stream = Stream::new();
        let mut from = 0;
        for split in splits {
            stream.push(&text[from..start + split]).cut(Then::UntilRead);
            from = start + split;
        }
        stream.push(&text[from..]);
        stream.quit()
    }

    /// The model, which the replies and the stores are held against, must itself see in a sequence what it is.
    fn is_understood(&self, text: &[u8], bare: Bare) {
        let expected = expected(text, bare, Chunking::Offered);
        let to = |mailbox| expected.messages.iter().filter(|message| message.recipients == [mailbox]).count();
        let refused = expected.replies.iter().filter(|due| due.start == "550 5.6.11").count();
        let spoilt = usize::from(bare == Bare::Reject);
        let (message, stowaway) = match self.nature {
            Nature::Bare => (1 - spoilt, 0),
            Nature::Text => (1, 0),
            Nature::End => (1, 1),
            Nature::BareThenEnd => (1 - spoilt, 1),
        };
        assert_eq!((to(CARRIER), to(STOWAWAY), refused), (message, stowaway, 1 - message), "{self:?}");
    }
}
