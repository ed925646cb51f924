//! What single steps cost: a command line, a reply, the end of a message, a step of the dialogue, a lookup in the cache.
//!
//! ```text
//! cargo bench --bench micro                # all of them, some seconds each
//! cargo bench --bench micro -- body        # those whose name has it
//! ```
//!
//! Times are of this machine; what they are good for is a comparison before and after a change, or of one step with another.

#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "a bench is a tool for people")]

use std::time::Duration;

use backstop::config;
use backstop::proto::body::{BareNewlines, BodyReader};
use backstop::proto::command::Command;
use backstop::proto::dialogue::{Dialogue, Input, Outcome, Recipient, Rules, Step, Tls, Xclient};
use backstop::proto::ehlo::Extensions;
use backstop::proto::replies;
use backstop::proto::reply::{Reply, ReplyReader};
use backstop::store::HashKey;
use backstop::verify::{Cache, Guard, Keyring};
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const LINES: [&str; 5] = [
    "EHLO client.example.net",
    "MAIL FROM:<bob@example.net> SIZE=20000 BODY=8BITMIME",
    "RCPT TO:<ann@example.org>",
    "RCPT TO:<ann@example.org> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;ann+40example.org",
    "DATA",
];

#[divan::bench(args = LINES)]
fn command_line(bencher: Bencher<'_, '_>, line: &str) {
    bencher.counter(ItemsCount::new(1_u8)).bench(|| Command::parse(black_box(line.as_bytes())).is_ok());
}

const REPLIES: [&str; 3] = [
    "250 2.1.5 Ok\r\n",
    "550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown in virtual mailbox table\r\n",
    "250-mail.example.org\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-STARTTLS\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n",
];

#[divan::bench(args = REPLIES)]
fn reply(bencher: Bencher<'_, '_>, octets: &str) {
    bencher
        .counter(ItemsCount::new(1_u8))
        .bench(|| ReplyReader::default().take(black_box(octets.as_bytes())).unwrap());
}

/// Octets in a line of a message.
const LENGTHS: [usize; 3] = [20, 76, 998];

#[divan::bench(args = LENGTHS)]
fn body(bencher: Bencher<'_, '_>, length: usize) {
    // As much as is read from a socket at once.
    let line = "x".repeat(length) + "\r\n";
    let octets = line.repeat(32 * 1024 / line.len());
    let mut out = Vec::with_capacity(octets.len());
    bencher.counter(BytesCount::new(octets.len())).bench_local(|| {
        out.clear();
        BodyReader::new(BareNewlines::Reject).read(black_box(octets.as_bytes()), &mut out)
    });
}

fn rules() -> Rules {
    Rules {
        hostname: "mx.example.org".into(),
        offer: Extensions::default(),
        max_size: None,
        tls: Tls::Off,
        xclient: Xclient::Refused,
        max_recipients: 1000,
        max_errors: None,
    }
}

/// RCPT and what became of it, in a transaction that has begun.
#[divan::bench]
fn dialogue_of_a_refused_recipient(bencher: Bencher<'_, '_>) {
    let mut dialogue = Dialogue::new(rules());
    for line in ["EHLO client.example.net", "MAIL FROM:<bob@example.net>"] {
        dialogue.step(Input::Line(line.as_bytes()));
    }
    bencher.counter(ItemsCount::new(1_u8)).bench_local(|| {
        let Step::Recipients(recipients) = dialogue.step(Input::Line(b"RCPT TO:<nobody@example.org>")) else {
            unreachable!("a recipient is looked up")
        };
        let refused = |_: Recipient| Outcome::Refused(replies::UNDETERMINED);
        dialogue.step(Input::Recipients(recipients.into_iter().map(refused).collect()))
    });
}

/// Names in the cache.
const NAMES: [usize; 3] = [1_000, 100_000, 1_000_000];

#[divan::bench(args = NAMES)]
fn cache_of_bad_names(bencher: Bencher<'_, '_>, names: usize) {
    let hour = Duration::from_secs(3600);
    let cache = Cache::new(config::Cache {
        max_entries: 4 * names,
        positive_ttl: hour,
        positive_refresh: hour,
        negative_ttl: hour,
        negative_ttl_max: hour,
        tempfail_ttl: hour,
        blind_ttl: hour,
        serve_stale: hour,
    });
    let keyring = Keyring::of(HashKey::random());
    let key = |number: usize| keyring.key(&[b"route", &number.to_le_bytes()]);
    let refusal = Reply::fixed(550, "5.1.1 <nobody@example.org>: Recipient address rejected: User unknown");
    for number in 0..names {
        cache.learn_bad(key(number), &refusal, "nobody@example.org");
    }
    let mut number = 0;
    bencher.counter(ItemsCount::new(1_u8)).bench_local(|| {
        // Far from the one before, so that memory is as cold as it would be.
        number = (number + 999_983) % names;
        cache.known(key(number), "nobody@example.org", Guard::Second)
    });
}
