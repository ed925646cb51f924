//! Backstop, a model and real mail servers, held against each other.
//!
//! Streams of octets with every arrangement of CR, LF and dots, with DATA and BDAT, and with whole transactions behind
//! all that a server could take for the end of a message, go through Backstop into a real Postfix, a real Exim and
//! aiosmtpd. The client must hear exactly one reply to each command, and what the servers hold in the end must be
//! exactly the messages that the client was told are accepted, octet for octet: RFC 5321 §4.1.1.4, RFC 3030 §2.
//!
//! - `BACKSTOP_DIFFERENTIAL=n` runs n random streams through each pair of server and configuration, with a new seed.
//! - `BACKSTOP_SEED=s` makes s the seed of the first of them.

#![allow(unreachable_pub, reason = "a test binary exports nothing; `pub` marks what its modules share")]

#[path = "../support/mod.rs"]
mod support;

mod model;
mod run;
mod smuggling;
mod store;
mod stream;

use model::Bare;
use store::Kind;
use stream::{Stream, arrangements, random, smuggle};

/// The length up to which every arrangement of CR, LF, dot and x is tried.
const EXHAUSTIVE: usize = 5;
/// Messages in one connection.
const PER_CONNECTION: usize = 12;
/// Random streams through each pair of server and configuration.
const RANDOM: u64 = 100;
/// The seed, unless another or a new one is asked for.
const SEED: u64 = 1;

/// Each server with each configuration, as tests of their own.
macro_rules! pairs {
    ($($name:ident: $kind:ident, $bare:ident;)*) => {
        mod every_arrangement_through {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::every_arrangement(super::Kind::$kind, super::Bare::$bare).await;
            })*
        }
        mod random_streams_through {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::random_streams(super::Kind::$kind, super::Bare::$bare).await;
            })*
        }
    };
}

pairs! {
    postfix_with_bare_newlines_rejected: Postfix, Reject;
    postfix_with_bare_newlines_normalized: Postfix, Normalize;
    exim_with_bare_newlines_rejected: Exim, Reject;
    exim_with_bare_newlines_normalized: Exim, Normalize;
    aiosmtpd_with_bare_newlines_rejected: Aiosmtpd, Reject;
    aiosmtpd_with_bare_newlines_normalized: Aiosmtpd, Normalize;
}

async fn every_arrangement(kind: Kind, bare: Bare) {
    let all = arrangements(EXHAUSTIVE);
    let mut streams = Vec::new();
    let mut stream = Stream::new();
    for (number, arrangement) in all.iter().enumerate() {
        let octets = smuggle(&format!("every-{number}"), arrangement);
        // One that ends the connection has no others behind it.
        stream.push(&octets);
        let ends_connection = closes(&octets, bare);
        if ends_connection || number % PER_CONNECTION == PER_CONNECTION - 1 || number + 1 == all.len() {
            streams.push(std::mem::replace(&mut stream, Stream::new()).quit());
        }
    }
    nothing_is_wrong(run::findings(kind, bare, streams, |number| format!("connection {number}")).await);
}

/// Whether the server closes the connection before the end of the octets: their true end is a bare CR or LF in a command.
fn closes(octets: &[u8], bare: Bare) -> bool {
    let replies = model::expected(octets, bare, model::Chunking::Missing).replies;
    replies.last().is_none_or(|last| last.after < octets.len())
}

async fn random_streams(kind: Kind, bare: Bare) {
    let (seed, count) = (seed(), count());
    let streams = (0..count).map(|number| {
        let seed = seed.wrapping_add(number);
        random(seed, &format!("random-{seed}"))
    });
    let describe = |number: usize| {
        let seed = seed.wrapping_add(u64::try_from(number).expect("a count"));
        format!("BACKSTOP_SEED={seed} BACKSTOP_DIFFERENTIAL=1")
    };
    nothing_is_wrong(run::findings(kind, bare, streams.collect(), describe).await);
}

#[track_caller]
fn nothing_is_wrong(findings: Option<Vec<String>>) {
    let findings = findings.unwrap_or_default();
    assert!(findings.is_empty(), "{} findings, the first of them:\n{}", findings.len(), first(&findings));
}

/// As many findings as one can read.
fn first(findings: &[String]) -> String {
    findings.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("\n\n")
}

fn count() -> u64 {
    setting("BACKSTOP_DIFFERENTIAL").unwrap_or(RANDOM)
}

fn seed() -> u64 {
    setting("BACKSTOP_SEED").unwrap_or_else(|| match setting("BACKSTOP_DIFFERENTIAL") {
        None => SEED,
        Some(_) => getrandom::u64().expect("the system has random numbers") >> 16,
    })
}

/// # Panics
/// When the variable is set to what is no number.
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}
