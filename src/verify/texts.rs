//! The words of refusals, shared.
//!
//! A store refuses in a handful of ways, most of which name the address. A refusal is kept once, with a
//! placeholder where the address stood, and each bad entry holds its number. A store that never says the
//! same thing twice fills the table; from then on new refusals get our own plain words.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::proto::replies;
use crate::proto::reply::Reply;

/// Different texts kept.
const MAX_TEXTS: usize = 4096;
/// Longest text kept, in octets; longer ones get our own words.
const MAX_TEXT: usize = 2048;
/// Stands for the address. Not in any text: control characters are replaced first.
const PLACEHOLDER: u8 = 0;

/// The number of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text(u16);

/// Our own words, number 0.
const PLAIN: Text = Text(0);

#[derive(Debug, Default)]
pub(super) struct Texts {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<(u16, Box<[u8]>), Text>,
    replies: Vec<(u16, Box<[u8]>)>,
}

impl Texts {
    /// The number of `reply` given to `address`.
    pub(super) fn keep(&self, reply: &Reply, address: &str) -> Text {
        if reply.text().len() > MAX_TEXT {
            return PLAIN;
        }
        let template = with_placeholder(reply.text(), address.as_bytes());
        let entry = (reply.code(), template.into_boxed_slice());
        let known = self.table.read().unwrap_or_else(PoisonError::into_inner).numbers.get(&entry).copied();
        known.unwrap_or_else(|| self.add(entry))
    }

    fn add(&self, entry: (u16, Box<[u8]>)) -> Text {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = table.numbers.get(&entry) {
            return *text;
        }
        if table.replies.len() >= MAX_TEXTS {
            return PLAIN;
        }
        table.replies.push(entry.clone());
        let text = Text(u16::try_from(table.replies.len()).unwrap_or(0));
        table.numbers.insert(entry, text);
        text
    }

    /// The reply of number `text`, for `address`.
    pub(super) fn reply(&self, text: Text, address: &str) -> Reply {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let entry = usize::from(text.0).checked_sub(1).and_then(|index| table.replies.get(index));
        entry.map_or(replies::UNKNOWN_RECIPIENT, |(code, template)| {
            Reply::new(*code, with_address(template, address.as_bytes()))
        })
    }
}

fn with_placeholder(text: &[u8], address: &[u8]) -> Vec<u8> {
    let clean: Vec<u8> = text.iter().map(|b| if *b == PLACEHOLDER { b'?' } else { *b }).collect();
    let mut template = Vec::with_capacity(clean.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(&clean, address) {
        template.extend_from_slice(clean.get(from..at).unwrap_or_default());
        template.push(PLACEHOLDER);
        from = at + address.len();
    }
    template.extend_from_slice(clean.get(from..).unwrap_or_default());
    template
}

fn with_address(template: &[u8], address: &[u8]) -> Vec<u8> {
    template.split(|b| *b == PLACEHOLDER).collect::<Vec<_>>().join(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_serves_all_addresses() {
        let texts = Texts::default();
        let refusal =
            |who: &str| Reply::new(550, format!("5.1.1 <{who}>: Recipient address rejected ({who})"));
        let first = texts.keep(&refusal("ann@a.b"), "ann@a.b");
        assert_eq!(texts.keep(&refusal("bob@a.b"), "bob@a.b"), first);
        assert_eq!(texts.reply(first, "cid@a.b"), refusal("cid@a.b"));
    }

    #[test]
    fn a_store_that_never_repeats_itself_gets_plain_words() {
        let texts = Texts::default();
        for n in 0..MAX_TEXTS + 10 {
            texts.keep(&Reply::new(550, format!("5.1.1 refused, ticket {n}")), "a@b");
        }
        let late = texts.keep(&Reply::fixed(550, "5.1.1 something new"), "a@b");
        assert_eq!(texts.reply(late, "a@b"), replies::UNKNOWN_RECIPIENT);
        let long = texts.keep(&Reply::new(550, vec![b'x'; MAX_TEXT + 1]), "a@b");
        assert_eq!(texts.reply(long, "a@b"), replies::UNKNOWN_RECIPIENT);
    }
}
