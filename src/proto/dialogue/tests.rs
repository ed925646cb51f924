//! The dialogue, step by step.

use super::*;

fn dialogue() -> Dialogue {
    let mut offer = Extensions::assumed().with(Keyword::Chunking).with(Keyword::Dsn);
    offer.max_size = Some(1000);
    Dialogue::new(Rules {
        hostname: "mx.example".into(),
        offer,
        max_size: Some(1000),
        tls: Tls::Offered,
        xclient: Xclient::Refused,
        max_recipients: 3,
        max_errors: Some(4),
    })
}

/// The codes of what is said.
fn codes(step: &Step) -> Vec<u16> {
    match step {
        Step::Say(reply) | Step::HangUp(Some(reply)) | Step::StartTls(reply) => vec![reply.code()],
        Step::SayEach(replies) | Step::SayEachAndHangUp(replies) => replies.iter().map(Reply::code).collect(),
        other => panic!("nothing is said: {other:?}"),
    }
}

fn say(dialogue: &mut Dialogue, line: &str) -> Vec<u16> {
    codes(&dialogue.step(Input::Line(line.as_bytes())))
}

/// Offers one recipient and has it accepted.
fn accept(dialogue: &mut Dialogue, line: &str) -> Vec<u16> {
    let Step::Recipients(mut asked) = dialogue.step(Input::Line(line.as_bytes())) else {
        panic!("not asked about {line}");
    };
    let recipient = asked.remove(0);
    codes(
        &dialogue.step(Input::Recipients(vec![Outcome::Accepted(recipient, Reply::fixed(250, "2.1.5 Ok"))])),
    )
}

/// A dialogue with one accepted recipient.
fn ready() -> Dialogue {
    let mut d = dialogue();
    assert_eq!(say(&mut d, "EHLO c.example"), [250]);
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c>"), [250]);
    assert_eq!(accept(&mut d, "RCPT TO:<ann@example.org>"), [250]);
    d
}

#[test]
fn a_message_may_have_any_number_of_chunks() {
    let mut d = ready();
    for number in 0..2 * MAX_IDLE_COMMANDS {
        let chunk: &[u8] = if number % 2 == 0 { b"BDAT 1" } else { b"BDAT 0" };
        let step = d.step(Input::Line(chunk));
        assert!(matches!(step, Step::Body(None, Framing::Chunk(_))), "{step:?}");
        assert_eq!(codes(&d.step(Input::BodyEnd(BodyEnd::Answered(Reply::fixed(250, "2.0.0 Ok"))))), [250]);
    }
}

#[test]
fn empty_chunks_are_commands_that_move_no_mail() {
    let mut d = ready();
    for _ in 0..MAX_IDLE_COMMANDS {
        let step = d.step(Input::Line(b"BDAT 0"));
        assert!(matches!(step, Step::Body(None, Framing::Chunk(_))), "{step:?}");
        assert_eq!(codes(&d.step(Input::BodyEnd(BodyEnd::Answered(Reply::fixed(250, "2.0.0 Ok"))))), [250]);
    }
    assert_eq!(say(&mut d, "BDAT 0"), [421]);
}

#[test]
fn recipients_that_come_together_are_held_to_what_one_is_held_to() {
    let mut d = dialogue();
    assert_eq!(say(&mut d, "EHLO c.example"), [250]);
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c>"), [250]);
    let lines: [&[u8]; 2] = [b"RCPT TO:<x\0@b.c>", b"RCPT TO:x"];
    for _ in 0..2 {
        assert_eq!(codes(&d.step(Input::RecipientLines(&lines))), [500, 501]);
    }
    assert_eq!(codes(&d.step(Input::RecipientLines(&lines))), [421]);
}

#[test]
fn verbs_out_of_order_are_503() {
    let mut d = dialogue();
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c>"), [503]);
    assert_eq!(say(&mut d, "EHLO c.example"), [250]);
    assert_eq!(say(&mut d, "RCPT TO:<a@b.c>"), [503]);
    assert_eq!(say(&mut d, "DATA"), [503]);
    assert_eq!(say(&mut d, "MAIL FROM:<>"), [250]);
    assert_eq!(say(&mut d, "DATA"), [503]);
    assert_eq!(say(&mut d, "MAIL FROM:<>"), [503]);
    assert_eq!(say(&mut d, "RSET"), [250]);
    assert!(d.transaction().is_none());
}

#[test]
fn a_message_is_acknowledged_with_the_backends_words_only() {
    for (reply, code) in [
        (Reply::fixed(250, "2.0.0 Ok: queued as 1"), 250),
        (Reply::fixed(452, "4.3.1 full"), 452),
        (Reply::fixed(554, "5.7.1 spam"), 554),
        (Reply::fixed(354, "again?"), 451),
        (Reply::fixed(421, "bye"), 451),
    ] {
        let mut d = ready();
        assert_eq!(d.step(Input::Line(b"DATA")), Step::Forward(Exchange::Data));
        let step = d.step(Input::BackendReply(Reply::fixed(354, "go")));
        assert_eq!(step, Step::Body(Some(replies::GO_AHEAD), Framing::Lines));
        let step = d.step(Input::BodyEnd(BodyEnd::Answered(reply)));
        assert_eq!(codes(&step), [code]);
        assert!(d.transaction().is_none());
    }
}

#[test]
fn what_is_not_354_is_no_go_ahead() {
    for (reply, code) in
        [(Reply::fixed(250, "ok"), 451), (Reply::fixed(550, "5.7.1 no"), 550), (Reply::fixed(421, ""), 451)]
    {
        let mut d = ready();
        d.step(Input::Line(b"DATA"));
        assert_eq!(codes(&d.step(Input::BackendReply(reply))), [code]);
    }
    let mut d = ready();
    d.step(Input::Line(b"DATA"));
    assert_eq!(codes(&d.step(Input::BackendGone)), [451]);
}

#[test]
fn a_message_cut_short_is_read_to_its_end_before_the_answer() {
    for (stop, code) in [
        (Stop::EarlyReply(Reply::fixed(552, "5.3.4 too big")), 552),
        (Stop::EarlyReply(Reply::fixed(250, "2.0.0 queued?")), 451),
        (Stop::BackendGone, 451),
        (Stop::BareNewline, 550),
        (Stop::TooLarge, 552),
    ] {
        let mut d = ready();
        d.step(Input::Line(b"DATA"));
        d.step(Input::BackendReply(Reply::fixed(354, "go")));
        assert_eq!(d.step(Input::BodyEnd(BodyEnd::Stopped(stop))), Step::Discard(Remainder::Body));
        assert_eq!(codes(&d.step(Input::Discarded)), [code]);
        assert_eq!(say(&mut d, "MAIL FROM:<>"), [250]);
    }
}

#[test]
fn a_run_of_recipients_is_answered_in_its_order() {
    let mut d = dialogue();
    say(&mut d, "EHLO c.example");
    say(&mut d, "MAIL FROM:<>");
    let lines: [&[u8]; 5] = [
        b"RCPT TO:<ann@example.org>",
        b"RCPT TO:<>",
        b"RCPT TO:<bob@example.org>",
        b"RCPT TO:<cid@example.org>",
        b"RCPT TO:<dee@example.org>",
    ];
    let Step::Recipients(asked) = d.step(Input::RecipientLines(&lines)) else { panic!("not asked") };
    let names: Vec<_> = asked.iter().map(|r| r.mailbox.local_part().to_owned()).collect();
    assert_eq!(names, ["ann", "bob", "cid"]);
    let mut asked = asked.into_iter();
    let ann = asked.next().unwrap();
    let step = d.step(Input::Recipients(vec![
        Outcome::Accepted(ann, Reply::fixed(250, "2.1.5 Ok")),
        Outcome::Refused(replies::UNKNOWN_RECIPIENT),
        Outcome::Refused(Reply::fixed(421, "?")),
    ]));
    assert_eq!(codes(&step), [250, 501, 550, 451, 452]);
    assert_eq!(d.transaction().unwrap().accepted().len(), 1);
}

#[test]
fn a_backend_lost_after_a_recipient_was_accepted_breaks_the_transaction() {
    let mut d = ready();
    assert_eq!(d.step(Input::BackendGone), Step::Continue);
    assert_eq!(say(&mut d, "RCPT TO:<bob@example.org>"), [451]);
    assert_eq!(say(&mut d, "DATA"), [451]);
    assert_eq!(say(&mut d, "MAIL FROM:<>"), [250]);
}

#[test]
fn a_backend_lost_before_is_only_this_recipients_loss() {
    let mut d = dialogue();
    say(&mut d, "EHLO c.example");
    say(&mut d, "MAIL FROM:<>");
    assert!(matches!(d.step(Input::Line(b"RCPT TO:<ann@example.org>")), Step::Recipients(_)));
    assert_eq!(codes(&d.step(Input::Recipients(vec![Outcome::Lost]))), [451]);
    assert_eq!(accept(&mut d, "RCPT TO:<bob@example.org>"), [250]);
}

#[test]
fn refused_chunks_are_consumed() {
    let mut d = dialogue();
    say(&mut d, "EHLO c.example");
    assert_eq!(d.step(Input::Line(b"BDAT 10 LAST")), Step::Discard(Remainder::Octets(10)));
    assert_eq!(codes(&d.step(Input::Discarded)), [503]);
    let mut d = ready();
    assert_eq!(d.step(Input::Line(b"BDAT 1001")), Step::Discard(Remainder::Octets(1001)));
    assert_eq!(codes(&d.step(Input::Discarded)), [552]);
    assert_eq!(d.step(Input::Line(b"BDAT 5 LAST")), Step::Discard(Remainder::Octets(5)));
    assert_eq!(codes(&d.step(Input::Discarded)), [503]);
    assert_eq!(say(&mut d, "BDAT x"), [501]);
    assert!(matches!(d.step(Input::Line(b"NOOP")), Step::HangUp(None)));
}

#[test]
fn chunks_go_to_the_backend_one_by_one() {
    let mut d = ready();
    let middle = Chunk { size: 600, place: Place::Middle };
    assert_eq!(d.step(Input::Line(b"BDAT 600")), Step::Body(None, Framing::Chunk(middle)));
    assert_eq!(codes(&d.step(Input::BodyEnd(BodyEnd::Answered(Reply::fixed(250, "2.0.0 600"))))), [250]);
    assert_eq!(say(&mut d, "DATA"), [503]);
    assert_eq!(say(&mut d, "RCPT TO:<bob@example.org>"), [503]);
    let last = Chunk { size: 0, place: Place::Last };
    assert_eq!(d.step(Input::Line(b"BDAT 0 LAST")), Step::Body(None, Framing::Chunk(last)));
    assert_eq!(codes(&d.step(Input::BodyEnd(BodyEnd::Answered(Reply::fixed(250, "2.0.0 queued"))))), [250]);
    assert!(d.transaction().is_none());
}

#[test]
fn nothing_survives_starttls() {
    let mut d = ready();
    assert!(matches!(d.step(Input::Line(b"STARTTLS")), Step::StartTls(_)));
    assert_eq!(d.step(Input::TlsDone), Step::Continue);
    assert!(d.hello().is_none() && d.transaction().is_none());
    assert_eq!(say(&mut d, "MAIL FROM:<>"), [503]);
    assert_eq!(say(&mut d, "STARTTLS"), [503]);
    let Step::Say(offer) = d.step(Input::Line(b"EHLO c.example")) else { panic!() };
    assert!(!offer.mentions("STARTTLS"));
    let mut d = ready();
    d.step(Input::Line(b"STARTTLS"));
    assert_eq!(codes(&d.step(Input::BytesBehindStartTls)), [554]);
}

#[test]
fn too_many_errors_end_the_session() {
    let mut d = dialogue();
    for _ in 0..4 {
        assert_eq!(say(&mut d, "FOO"), [500]);
    }
    assert!(matches!(d.step(Input::Line(b"NOOP")), Step::HangUp(Some(r)) if r.code() == 421));
}

#[test]
fn a_drained_session_is_told_so() {
    let mut d = ready();
    assert_eq!(codes(&d.step(Input::Drain)), [421]);
    assert_eq!(d.step(Input::Line(b"NOOP")), Step::HangUp(None));
}

#[test]
fn extensions_must_have_been_offered() {
    let mut d = dialogue();
    say(&mut d, "HELO c.example");
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c> SIZE=5"), [555]);
    say(&mut d, "EHLO c.example");
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c> SIZE=1001"), [552]);
    assert_eq!(say(&mut d, "MAIL FROM:<\u{e9}@b.c>"), [553]);
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c> SMTPUTF8"), [555]);
    assert_eq!(say(&mut d, "MAIL FROM:<a@b.c> SIZE=1000 RET=FULL"), [421]);
}

#[test]
fn who_is_barred_hears_what_was_found_out_before_and_nothing_behind() {
    let mut dialogue = dialogue();
    say(&mut dialogue, "EHLO client.example");
    say(&mut dialogue, "MAIL FROM:<>");
    let lines: [&[u8]; 4] =
        [b"RCPT TO:<a@b.example>", b"RCPT TO:<", b"RCPT TO:<c@b.example>", b"RCPT TO:<d@b.example>"];
    let Step::Recipients(_) = dialogue.step(Input::RecipientLines(&lines)) else { panic!("not asked") };
    let unknown = Outcome::Refused(replies::UNKNOWN_RECIPIENT);
    let step = dialogue.step(Input::Recipients(vec![unknown, Outcome::Barred]));
    assert!(matches!(step, Step::SayEachAndHangUp(_)));
    assert_eq!(codes(&step), [550, 501, 421]);
    assert_eq!(dialogue.step(Input::Line(b"NOOP")), Step::HangUp(None));
}
