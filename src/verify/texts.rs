//! The words of refusals, shared.
//!
//! A store refuses in a handful of ways, most of which name the address. A refusal is kept once, with a
//! placeholder where the address stood, and each bad entry holds its number. A store that never says the
//! same thing twice fills the table; from then on new refusals get our own plain words.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use crate::proto::replies;
use crate::proto::reply::Reply;
use crate::store::Template;

/// Different texts kept.
const MAX_TEXTS: usize = 4096;
/// Longest text kept, in octets; longer ones get our own words.
const MAX_TEXT: usize = 2048;
/// Stands for the address. Not in any text: control characters are replaced first.
const PLACEHOLDER: u8 = 0;

/// The number of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Text(u16);

/// Our own words, number 0.
const PLAIN: Text = Text(0);

#[derive(Debug, Default)]
pub(super) struct Texts {
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    numbers: HashMap<Template, Text>,
    /// By number, from 1. A number without a text was one of the store's that nothing needs any more.
    templates: Vec<Option<Template>>,
    /// Such numbers.
    free: Vec<u16>,
}

/// A text that was not heard before.
#[derive(Debug)]
pub(super) struct News {
    pub(super) number: u16,
    pub(super) template: Template,
}

impl Texts {
    /// The number of `reply` given to `address`; and what is new, if it is.
    pub(super) fn keep(&self, reply: &Reply, address: &str) -> (Text, Option<News>) {
        if reply.text().len() > MAX_TEXT {
            return (PLAIN, None);
        }
        let text = with_placeholder(reply.text(), address.as_bytes()).into_boxed_slice();
        self.adopt(Template { code: reply.code(), text })
    }

    fn add(&self, template: Template) -> (Text, Option<News>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = table.numbers.get(&template) {
            return (*text, None);
        }
        let next = table.free.pop().unwrap_or_else(|| u16::try_from(table.templates.len() + 1).unwrap_or(0));
        if !table.put(next, &template) {
            return (PLAIN, None);
        }
        (Text(next), Some(News { number: next, template }))
    }

    /// The number of a text that somebody else heard; and what is new, if it is.
    pub(super) fn adopt(&self, template: Template) -> (Text, Option<News>) {
        if template.text.len() > MAX_TEXT {
            return (PLAIN, None);
        }
        let known = self.table.read().unwrap_or_else(PoisonError::into_inner).numbers.get(&template).copied();
        known.map_or_else(|| self.add(template), |text| (text, None))
    }

    /// The text of a number, for somebody else.
    pub(super) fn template(&self, text: Text) -> Template {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let template = usize::from(text.0).checked_sub(1).and_then(|index| table.templates.get(index));
        template.and_then(Clone::clone).unwrap_or_else(|| {
            let plain = replies::UNKNOWN_RECIPIENT;
            Template { code: plain.code(), text: plain.text().into() }
        })
    }

    /// Takes a text from the store under its number.
    pub(super) fn restore(&self, number: u16, template: &Template) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).put(number, template);
    }

    /// Lets go texts that nothing needs. Gives their numbers.
    pub(super) fn retain(&self, needed: impl Fn(Text) -> bool) -> Vec<u16> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Table { numbers, templates, free } = &mut *table;
        numbers.retain(|_, text| needed(*text));
        free.clear();
        let mut unused = Vec::new();
        for (number, template) in (1..).zip(templates.iter_mut()) {
            if !needed(Text(number)) {
                free.push(number);
                unused.extend(template.take().map(|_| number));
            }
        }
        // The lowest first.
        free.reverse();
        unused
    }

    /// The reply of number `text`, for `address`.
    pub(super) fn reply(&self, text: Text, address: &str) -> Reply {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let template = usize::from(text.0).checked_sub(1).and_then(|index| table.templates.get(index));
        template.and_then(Option::as_ref).map_or(replies::UNKNOWN_RECIPIENT, |template| {
            Reply::new(template.code, with_address(&template.text, address.as_bytes()))
        })
    }
}

impl Table {
    /// Puts a text under a number. False where there is no such number.
    fn put(&mut self, number: u16, template: &Template) -> bool {
        let index = usize::from(number).wrapping_sub(1);
        if index >= MAX_TEXTS {
            return false;
        }
        if self.templates.len() <= index {
            self.templates.resize(index + 1, None);
        }
        if let Some(place) = self.templates.get_mut(index) {
            *place = Some(template.clone());
        }
        self.numbers.insert(template.clone(), Text(number));
        true
    }
}

impl Text {
    /// As it is stored.
    pub(super) const fn number(self) -> u16 {
        self.0
    }

    /// From the store.
    pub(super) const fn of_number(number: u16) -> Self {
        Self(number)
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
        let (first, news) = texts.keep(&refusal("ann@a.b"), "ann@a.b");
        assert_eq!(news.map(|news| news.number), Some(first.number()));
        let (second, news) = texts.keep(&refusal("bob@a.b"), "bob@a.b");
        assert!(second == first && news.is_none());
        assert_eq!(texts.reply(first, "cid@a.b"), refusal("cid@a.b"));
    }

    #[test]
    fn a_store_that_never_repeats_itself_gets_plain_words() {
        let texts = Texts::default();
        for n in 0..MAX_TEXTS + 10 {
            texts.keep(&Reply::new(550, format!("5.1.1 refused, ticket {n}")), "a@b");
        }
        let (late, news) = texts.keep(&Reply::fixed(550, "5.1.1 something new"), "a@b");
        assert!(news.is_none());
        assert_eq!(texts.reply(late, "a@b"), replies::UNKNOWN_RECIPIENT);
        let (long, _) = texts.keep(&Reply::new(550, vec![b'x'; MAX_TEXT + 1]), "a@b");
        assert_eq!(texts.reply(long, "a@b"), replies::UNKNOWN_RECIPIENT);
    }

    #[test]
    fn texts_come_back_under_their_numbers_and_free_ones_are_used_again() {
        let reply = |n: usize| Reply::new(550, format!("5.1.1 text {n}"));
        let before = Texts::default();
        let kept: Vec<_> = (0..3).map(|n| before.keep(&reply(n), "a@b")).collect();
        let after = Texts::default();
        for (_, news) in kept.iter().rev() {
            let news = news.as_ref().unwrap();
            after.restore(news.number, &news.template);
        }
        assert_eq!(after.retain(|text| text == kept[1].0), [1, 3]);
        assert_eq!(after.reply(kept[1].0, "a@b"), reply(1));
        assert_eq!(after.reply(kept[0].0, "a@b"), replies::UNKNOWN_RECIPIENT);
        let again: Vec<_> = [1, 5, 6, 7].map(|n| after.keep(&reply(n), "a@b").0.number()).into();
        assert_eq!(again, [2, 1, 3, 4]);
    }
}
