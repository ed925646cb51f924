//! Addresses: whatever stands behind MAIL FROM: and RCPT TO: is read or refused, never a panic.
//!
//! What is read goes out again to the backend and into the cache, so the text must be safe on a command
//! line and mean the same when it is read once more.

#![no_main]

use backstop::proto::address::{AddressFault, LocalCase, Mailbox, Path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|argument: &[u8]| {
    let Ok(path) = Path::parse(argument) else { return };
    assert!(argument.ends_with(path.rest), "the rest is the end of the argument");
    let Some(mailbox) = path.mailbox else { return };
    written_is_one_safe_word_of_a_command(&mailbox);
    for case in [LocalCase::Sensitive, LocalCase::Insensitive] {
        canonical_form_is_a_fixed_point(&mailbox, case);
    }
});

fn written_is_one_safe_word_of_a_command(mailbox: &Mailbox) {
    let written = mailbox.written();
    assert!(!written.contains(['\r', '\n', '\0']), "{written:?} would end a command");
    assert_eq!(Mailbox::parse(written).as_ref(), Ok(mailbox), "read once more");
    let command = format!("<{written}> SIZE=1");
    let path = Path::parse(command.as_bytes()).expect("a mailbox fits between brackets");
    assert_eq!(path.mailbox.as_ref(), Some(mailbox), "as the backend would read it");
    assert_eq!(path.rest, b" SIZE=1");
}

fn canonical_form_is_a_fixed_point(mailbox: &Mailbox, case: LocalCase) {
    let canonical = mailbox.canonical(case);
    let again = match Mailbox::parse(&canonical) {
        // Lower case can take more octets (Ⱥ), and the limit is meant for what clients write.
        Err(AddressFault::TooLong) if case == LocalCase::Insensitive => return,
        again => again.expect("a canonical form is an address"),
    };
    assert_eq!(again.canonical(case), canonical, "of {mailbox}");
    assert_eq!(again.domain(), mailbox.domain(), "of {mailbox}");
}
