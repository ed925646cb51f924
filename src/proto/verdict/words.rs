//! The words of a reply, without those that somebody else may have put there.

use crate::proto::reply::Reply;

/// What it says in words of its own, in lower case: what a client wrote speaks for nobody.
pub(super) fn own_words(reply: &Reply) -> String {
    without_addresses(&String::from_utf8_lossy(reply.text()).to_ascii_lowercase())
}

pub(super) fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// The words of a reply but for addresses, what stands in angle brackets, and names of hosts, which have words of their own. A bracket may
/// be part of a local part: one that opens is closed behind an at sign, where there is one.
fn without_addresses(text: &str) -> String {
    let mut outside = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, bracketed)) = rest.split_once('<') {
        outside.push_str(before);
        outside.push(' ');
        let from = bracketed.find('@').unwrap_or(0);
        let close = bracketed.get(from..).and_then(|behind| behind.find('>')).map(|at| from + at + 1);
        rest = close
            .or_else(|| bracketed.find('>').map(|at| at + 1))
            .and_then(|at| bracketed.get(at..))
            .unwrap_or_default();
    }
    outside.push_str(rest);
    let is_name = |word: &&str| {
        let word = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        word.contains('@') || word.contains('.')
    };
    outside.split_ascii_whitespace().filter(|word| !is_name(word)).collect::<Vec<_>>().join(" ")
}
