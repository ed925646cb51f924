//! Commands: any line is read or refused, and what goes on to a backend is one line that means the same.
//!
//! The line may hold what the line reader lets nobody send (CR, LF) and the dialogue refuses (NUL): not even
//! then may a command to the backend hold any of them.

#![no_main]

use backstop::backend::{mail_command, rcpt_command};
use backstop::proto::address::Path;
use backstop::proto::command::Command;
use backstop::proto::dialogue::{Recipient, Sender};
use backstop::proto::ehlo::{Extensions, Keyword};
use backstop::proto::parameter::{Of, Parameters};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    match Command::parse(line) {
        Ok(Command::Ehlo(name) | Command::Helo(name)) => {
            assert!(!name.is_empty() && !name.contains(|c: char| c == ' ' || c.is_control()), "{name:?}");
        }
        Ok(Command::Mail(path)) => mail(path),
        Ok(Command::Rcpt(path)) => rcpt(path),
        _ => {}
    }
});

fn mail(path: Path<'_>) {
    let Some(sender) = sender(path) else { return };
    let line = mail_command(&sender, &all(), 0).expect("a backend with all extensions takes it");
    let Ok(Command::Mail(path)) = Command::parse(one_line(&line)) else { panic!("{line:?} is no MAIL") };
    assert_eq!(self::sender(path), Some(sender), "read once more");
}

fn rcpt(path: Path<'_>) {
    let Some(recipient) = recipient(path) else { return };
    let line = rcpt_command(&recipient, &all()).expect("a backend with all extensions takes it");
    let Ok(Command::Rcpt(path)) = Command::parse(one_line(&line)) else { panic!("{line:?} is no RCPT") };
    assert_eq!(self::recipient(path), Some(recipient), "read once more");
}

fn sender(path: Path<'_>) -> Option<Sender> {
    let parameters = Parameters::parse(path.rest, Of::Mail, &all()).ok()?;
    Some(Sender { mailbox: path.mailbox, parameters })
}

fn recipient(path: Path<'_>) -> Option<Recipient> {
    let parameters = Parameters::parse(path.rest, Of::Rcpt, &all()).ok()?;
    Some(Recipient { mailbox: path.mailbox?, parameters })
}

/// The line without its CRLF, and without anything that would end it earlier.
fn one_line(line: &str) -> &[u8] {
    let line = line.strip_suffix("\r\n").expect("a command ends with CRLF");
    assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
    line.as_bytes()
}

fn all() -> Extensions {
    use Keyword::{BinaryMime, Chunking, Dsn, EightBitMime, MtPriority, Pipelining, Size, SmtpUtf8};
    Extensions::of(&[Pipelining, Size, EightBitMime, SmtpUtf8, Dsn, Chunking, BinaryMime, MtPriority])
}
