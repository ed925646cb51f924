//! The whole dialogue, against any client and any backend: every command has one answer, in order; nothing is
//! acknowledged that the backend did not; nothing is forwarded without an accepted recipient; every run ends.
//! Nothing survives STARTTLS: behind it the dialogue goes step by step as one that begins there, but for
//! the count of the client's errors and idle commands.
//!
//! Input: two octets of rules, then octets that each choose what happens next.

#![no_main]

use backstop::proto::command::Command;
use backstop::proto::dialogue::{
    BodyEnd, Dialogue, Framing, Health, Input, Outcome, Recipient, Remainder, Rules, Step, Stop, Tls, Xclient,
};
use backstop::proto::ehlo::{Extensions, Keyword};
use backstop::proto::line::{Overlong, is_chunk};
use backstop::proto::replies;
use backstop::proto::reply::{Class, Reply};
use libfuzzer_sys::fuzz_target;

/// Steps that one thing a client says can lead to.
const MOST_STEPS: usize = 4;

/// What clients say.
const LINES: &[&[u8]] = &[
    b"EHLO client.example.net",
    b"HELO client.example.net",
    b"MAIL FROM:<bob@example.net>",
    b"MAIL FROM:<> BODY=BINARYMIME",
    b"MAIL FROM:<bob@example.net> SIZE=2000 BODY=8BITMIME",
    b"MAIL FROM:<b\xc3\xb8b@example.net> SMTPUTF8",
    b"RCPT TO:<ann@example.org>",
    b"RCPT TO:<cid@example.org> NOTIFY=NEVER",
    b"RCPT TO:<>",
    b"DATA",
    b"BDAT 10",
    b"BDAT 10 LAST",
    b"BDAT 0 LAST",
    b"BDAT 18446744073709551615",
    b"BDAT x",
    b"BDAT 5 LAST\0",
    b"RSET",
    b"STARTTLS",
    b"NOOP",
    b"VRFY ann",
    b"EXPN staff",
    b"HELP",
    b"NOOP\0",
    b"GET / HTTP/1.1",
    b"QUIT",
    b"XCLIENT ADDR=198.51.100.7 HELO=x",
    b"XCLIENT HELO=x+0D+0A",
    b"PROXY UNKNOWN",
];
/// What backends say.
const REPLIES: &[(u16, &str)] = &[
    (250, "2.0.0 Ok"),
    (354, "Go ahead"),
    (251, "Will forward"),
    (220, "Hello"),
    (421, "4.3.2 Going down"),
    (452, "4.2.2 Full"),
    (550, "5.1.1 No such user"),
    (554, "5.7.1 No"),
];

fuzz_target!(|input: &[u8]| {
    let [rules, limits, rest @ ..] = input else { return };
    let rules = self::rules(*rules, *limits);
    let mut session =
        Session { dialogue: Dialogue::new(rules.clone()), rules, from_tls_on: None, choices: rest };
    assert_eq!(session.dialogue.greeting().code(), 220);
    while let Some(choice) = session.choice() {
        if session.happens(choice) == Life::Over {
            let after = session.dialogue.step(Input::Line(b"NOOP"));
            assert_eq!(after, Step::HangUp(None), "the end is the end");
            return;
        }
    }
});

fn rules(rules: u8, limits: u8) -> Rules {
    use Keyword::{BinaryMime, Chunking, Dsn, EightBitMime, Pipelining, Size, SmtpUtf8};
    let mut offer = if rules & 1 == 0 {
        Extensions::of(&[Pipelining, Size, EightBitMime, SmtpUtf8, Dsn, Chunking, BinaryMime])
    } else {
        Extensions::assumed()
    };
    offer.max_size = (rules & 2 == 0).then_some(1000);
    Rules {
        hostname: "mx.example.org".into(),
        offer,
        tls: [Tls::Off, Tls::Offered, Tls::Required, Tls::Active][usize::from(rules >> 2 & 3)],
        xclient: if rules & 16 == 0 { Xclient::Refused } else { Xclient::Taken },
        max_size: (rules & 2 == 0).then_some(1000),
        max_recipients: usize::from(limits & 7) + 1,
        max_errors: (limits & 8 == 0).then_some(u32::from(limits >> 4)),
    }
}

#[derive(Debug, PartialEq)]
enum Life {
    GoesOn,
    Over,
}

/// What the answer that is due may be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Due {
    /// Anything that answers a command.
    Answer,
    /// The backend did not take the message: no 2yz.
    Refusal,
}

struct Session<'i> {
    dialogue: Dialogue,
    rules: Rules,
    /// Behind STARTTLS: a dialogue that began there.
    from_tls_on: Option<Dialogue>,
    choices: &'i [u8],
}

impl<'i> Session<'i> {
    fn choice(&mut self) -> Option<u8> {
        let (first, rest) = self.choices.split_first()?;
        self.choices = rest;
        Some(*first)
    }

    /// The next choice among `all`; the first once choices have run out.
    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.choice().unwrap_or(0)) % all.len()]
    }

    fn step(&mut self, input: Input<'_>) -> Step {
        let Some(twin) = &mut self.from_tls_on else { return self.dialogue.step(input) };
        let expected = twin.step(input.clone());
        let step = self.dialogue.step(input);
        let out_of_patience =
            matches!(&step, Step::HangUp(Some(reply)) if *reply == replies::TOO_MANY_ERRORS);
        assert!(step == expected || out_of_patience, "{step:?} behind STARTTLS, not {expected:?}");
        step
    }

    fn reply(&mut self) -> Reply {
        let (code, text) = self.one_of(REPLIES);
        Reply::fixed(code, text)
    }

    fn happens(&mut self, choice: u8) -> Life {
        match choice % 16 {
            0..=8 => {
                let line = self.one_of(LINES);
                self.line(line)
            }
            9 => {
                let len = usize::from(self.choice().unwrap_or(0)).min(self.choices.len());
                let (line, rest) = self.choices.split_at(len);
                self.choices = rest;
                self.line(line)
            }
            10 | 11 => {
                let lines: Vec<&[u8]> = (0..2 + choice / 64).map(|_| self.one_of(&LINES[6..10])).collect();
                let step = self.step(Input::RecipientLines(&lines));
                self.perform(step, lines.len())
            }
            12 => {
                let kind = if choice / 16 == 0 { Overlong::Chunk } else { Overlong::Other };
                let step = self.step(Input::OverlongLine(kind));
                assert!(
                    kind == Overlong::Other || matches!(step, Step::HangUp(_)),
                    "{step:?} to a BDAT too long"
                );
                self.perform(step, 1)
            }
            13 => {
                let step = self.step(Input::BackendGone);
                assert_eq!(step, Step::Continue);
                Life::GoesOn
            }
            14 => self.ending_input(choice / 16),
            _ => self.stray_input(choice / 16),
        }
    }

    fn line(&mut self, line: &[u8]) -> Life {
        let step = self.step(Input::Line(line));
        if line.contains(&0) && is_chunk(line) {
            assert!(matches!(step, Step::HangUp(_)), "{step:?} to a BDAT with a NUL");
        }
        if let (Ok(Command::Bdat(chunk)), false) = (Command::parse(line), line.contains(&0)) {
            let octets_are_accounted_for = match &step {
                Step::Body(None, Framing::Chunk(carried)) => *carried == chunk,
                Step::Discard(Remainder::Octets(octets)) => *octets == chunk.size,
                step => matches!(step, Step::HangUp(_)),
            };
            assert!(octets_are_accounted_for, "{step:?} for {chunk:?}");
        }
        self.perform(step, 1)
    }

    /// What ends a session, whatever it is in the middle of.
    fn ending_input(&mut self, which: u8) -> Life {
        let (input, code) = match which % 4 {
            0 => (Input::Timeout, Some(421)),
            1 => (Input::Drain, Some(421)),
            2 => (Input::BareNewline, Some(500)),
            _ => (Input::ClientGone, None),
        };
        let Step::HangUp(reply) = self.step(input) else { panic!("the session goes on") };
        assert_eq!(reply.map(|reply| reply.code()), code);
        Life::Over
    }

    /// What cannot come now.
    fn stray_input(&mut self, which: u8) -> Life {
        let reply = self.reply();
        let step = self.step(match which % 5 {
            0 => Input::BackendReply(reply),
            1 => Input::BodyEnd(BodyEnd::Answered(reply)),
            2 => Input::Recipients(vec![Outcome::Lost]),
            3 => Input::Discarded,
            _ => Input::TlsDone,
        });
        assert!(matches!(step, Step::HangUp(_)), "{step:?}");
        Life::Over
    }

    /// Performs `step` and what it leads to: one answer for each of `commands`.
    fn perform(&mut self, mut step: Step, commands: usize) -> Life {
        let mut due = Due::Answer;
        for _ in 0..MOST_STEPS {
            step = match step {
                Step::Say(reply) => {
                    assert_eq!(commands, 1, "one answer for each command");
                    is_an_answer(&reply, due);
                    return Life::GoesOn;
                }
                Step::SayEach(replies) => {
                    assert_eq!(commands, replies.len(), "one answer for each command");
                    replies.iter().for_each(|reply| is_an_answer(reply, Due::Answer));
                    return Life::GoesOn;
                }
                Step::SayEachAndHangUp(replies) => {
                    let (last, before) = replies.split_last().expect("it is said why");
                    assert!(replies.len() <= commands, "at most one answer for each command");
                    before.iter().for_each(|reply| is_an_answer(reply, Due::Answer));
                    assert_eq!(last.code(), 421);
                    return Life::Over;
                }
                Step::Recipients(batch) => {
                    assert!(!batch.is_empty() && batch.len() <= commands);
                    self.recipients(batch)
                }
                Step::Forward(_) => {
                    self.may_carry_a_message();
                    due = Due::Refusal;
                    let reply = self.reply();
                    let lost = self.choice() == Some(0);
                    self.step(if lost { Input::BackendGone } else { Input::BackendReply(reply) })
                }
                Step::Body(go_ahead, framing) => {
                    self.may_carry_a_message();
                    assert_eq!(
                        go_ahead.map(|reply| reply.code()),
                        (framing == Framing::Lines).then_some(354)
                    );
                    let end = self.body_end();
                    let stored = matches!(&end, BodyEnd::Answered(reply) if reply.class() == Class::Positive);
                    due = if stored { Due::Answer } else { Due::Refusal };
                    self.step(Input::BodyEnd(end))
                }
                Step::Discard(_) => {
                    due = Due::Refusal;
                    self.step(Input::Discarded)
                }
                Step::StartTls(reply) => return self.start_tls(&reply),
                Step::Client(_) => {
                    assert!(self.dialogue.hello().is_none() && self.dialogue.transaction().is_none());
                    let greeted = self.step(Input::ClientKnown);
                    assert!(matches!(&greeted, Step::Say(reply) if reply.code() == 220), "{greeted:?}");
                    greeted
                }
                Step::HangUp(_) => return Life::Over,
                Step::Continue => panic!("a command without an answer"),
            };
        }
        panic!("the dialogue does not come to an answer");
    }

    fn may_carry_a_message(&self) {
        let transaction = self.dialogue.transaction().expect("a message belongs to a transaction");
        assert!(!transaction.accepted().is_empty(), "nobody to carry it to");
        assert_eq!(transaction.health(), Health::Whole);
    }

    fn recipients(&mut self, batch: Vec<Recipient>) -> Step {
        let before = self.accepted();
        let outcomes: Vec<Outcome> = batch
            .into_iter()
            .map(|recipient| match self.choice().unwrap_or(0) % 5 {
                0 | 1 => Outcome::Accepted(recipient, self.reply()),
                2 => Outcome::Refused(self.reply()),
                4 => Outcome::Barred,
                _ => Outcome::Lost,
            })
            .collect();
        let step = self.step(Input::Recipients(outcomes));
        if let Step::SayEach(replies) = &step {
            let taken = replies.iter().filter(|reply| reply.class() == Class::Positive).count();
            assert_eq!(self.accepted() - before, taken, "who was told 250 is in the transaction");
        }
        step
    }

    fn accepted(&self) -> usize {
        self.dialogue.transaction().map_or(0, |transaction| transaction.accepted().len())
    }

    fn body_end(&mut self) -> BodyEnd {
        let reply = self.reply();
        match self.choice().unwrap_or(0) % 8 {
            0..=2 => BodyEnd::Answered(reply),
            3 => BodyEnd::Unanswered,
            4 => BodyEnd::Stopped(Stop::EarlyReply(reply)),
            5 => BodyEnd::Stopped(Stop::BackendGone),
            6 => BodyEnd::Stopped(Stop::BareNewline),
            _ => BodyEnd::Stopped(Stop::TooLarge),
        }
    }

    fn start_tls(&mut self, reply: &Reply) -> Life {
        assert_eq!(reply.code(), 220);
        if self.choice() == Some(0) {
            let step = self.step(Input::BytesBehindStartTls);
            assert!(matches!(step, Step::HangUp(Some(reply)) if reply.code() == 554));
            return Life::Over;
        }
        assert_eq!(self.dialogue.step(Input::TlsDone), Step::Continue);
        self.from_tls_on = Some(Dialogue::new(Rules { tls: Tls::Active, ..self.rules.clone() }));
        assert!(self.dialogue.hello().is_none() && self.dialogue.transaction().is_none());
        assert!(!self.dialogue.offered().has(Keyword::StartTls));
        Life::GoesOn
    }
}

/// An answer to a command that leaves the session open: no 3yz, no 421, no success that nobody vouches for.
fn is_an_answer(reply: &Reply, due: Due) {
    assert_ne!(reply.class(), Class::Intermediate, "{reply}");
    assert_ne!(reply.code(), 421, "{reply}");
    assert!(due == Due::Answer || reply.class() != Class::Positive, "{reply} for a message not taken");
}
