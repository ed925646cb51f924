//! The words of refusals, shared.
//!
//! A store refuses in a handful of ways, most of which name the address. A refusal is kept once, with a
//! placeholder where the address stood, and each bad entry holds its number. A store that never says the
//! same thing twice fills the table; from then on new refusals get our own plain words.
//!
//! A refusal that names an address in another way still (an alias, a contact) is given here as it is, but neither stored nor
//! shared: others, and we ourselves after a start, have our own words for it.

use std::collections::{HashMap, HashSet};
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
/// Stands for the local part alone.
const LOCAL_PLACEHOLDER: u8 = 1;
/// A local part so short stands within ordinary words, too, and says nothing there.
const TELLING: usize = 4;

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
    /// Those that name somebody.
    private: HashSet<u16>,
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
        let text = with_placeholders(reply.text(), address).into_boxed_slice();
        let private = names_somebody(&text, local_part(address));
        let (text, news) = self.adopt(Template { code: reply.code(), text });
        if private && text != PLAIN {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.private.insert(text.0);
        }
        (text, news.map(|news| if private { News { template: plain(), ..news } } else { news }))
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
        let index = usize::from(text.0).checked_sub(1).filter(|_| !table.private.contains(&text.0));
        let template = index.and_then(|index| table.templates.get(index));
        template.and_then(Clone::clone).unwrap_or_else(plain)
    }

    /// Takes a text from the store under its number.
    pub(super) fn restore(&self, number: u16, template: &Template) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).put(number, template);
    }

    /// Lets go texts that nothing needs. Gives their numbers.
    pub(super) fn retain(&self, needed: impl Fn(Text) -> bool) -> Vec<u16> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let Table { numbers, templates, free, private } = &mut *table;
        private.retain(|number| needed(Text(*number)));
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
            Reply::new(template.code, with_address(&template.text, address))
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

/// What those hear who may not know the words.
fn plain() -> Template {
    let plain = replies::UNKNOWN_RECIPIENT;
    Template { code: plain.code(), text: plain.text().into() }
}

/// What stands before the domain, without quotes.
fn local_part(address: &str) -> &[u8] {
    let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
    local.strip_prefix('"').and_then(|local| local.strip_suffix('"')).unwrap_or(local).as_bytes()
}

/// With placeholders for the address, however it is spelt, and for its local part where that stands alone.
fn with_placeholders(text: &[u8], address: &str) -> Vec<u8> {
    let reserved = |b: u8| b == PLACEHOLDER || b == LOCAL_PLACEHOLDER;
    let clean: Vec<u8> = text.iter().map(|b| if reserved(*b) { b'?' } else { *b }).collect();
    let whole = replaced(&clean, address.as_bytes(), PLACEHOLDER, |_, _| true);
    replaced(&whole, local_part(address), LOCAL_PLACEHOLDER, |before, after| {
        !continues(before.iter().rev()) && !continues(after.iter())
    })
}

/// Whether a word goes on with these octets, the nearest first. A full stop belongs to it when more follows.
fn continues<'t>(mut octets: impl Iterator<Item = &'t u8>) -> bool {
    let of_word = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || matches!(b, b'_' | b'-' | b'+');
    match octets.next() {
        Some(b'.') => octets.next().is_some_and(of_word),
        octet => octet.is_some_and(of_word),
    }
}

/// `text` with `placeholder` where `words` stand, in any case, if what is before and behind them allows it.
fn replaced(text: &[u8], words: &[u8], placeholder: u8, allows: impl Fn(&[u8], &[u8]) -> bool) -> Vec<u8> {
    let mut template = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some((before, rest)) = text.split_at_checked(at) {
        let Some((first, _)) = rest.split_first() else { break };
        let behind = rest.split_at_checked(words.len()).filter(|(here, _)| here.eq_ignore_ascii_case(words));
        match behind {
            Some((_, after)) if !words.is_empty() && allows(before, after) => {
                template.push(placeholder);
                at += words.len();
            }
            _ => {
                template.push(*first);
                at += 1;
            }
        }
    }
    template
}

/// Whether what remains still has an address, or the local part within another word.
fn names_somebody(template: &[u8], local: &[u8]) -> bool {
    let address = template.windows(3).any(|octets| {
        matches!(octets, [before, b'@', after] if !before.is_ascii_whitespace() && !after.is_ascii_whitespace())
    });
    let local = local.len() >= TELLING
        && template.windows(local.len()).any(|octets| octets.eq_ignore_ascii_case(local));
    address || local
}

fn with_address(template: &[u8], address: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(template.len() + address.len());
    for octet in template {
        match *octet {
            PLACEHOLDER => text.extend_from_slice(address.as_bytes()),
            LOCAL_PLACEHOLDER => text.extend_from_slice(local_part(address)),
            octet => text.push(octet),
        }
    }
    text
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
    fn what_is_stored_and_shared_names_nobody_however_the_store_spells_it() {
        let (texts, plain) = (Texts::default(), replies::UNKNOWN_RECIPIENT);
        for (said, shared) in [
            ("5.1.1 <Anna.Berg@Example.ORG>: unknown", "5.1.1 <\0>: unknown"),
            ("5.1.1 ANNA.BERG: no such user.", "5.1.1 \x01: no such user."),
            ("5.1.1 no mailbox for anna.berg.", "5.1.1 no mailbox for \x01."),
            ("5.1.1 CN=anna.berg/OU=x unknown", "5.1.1 CN=\x01/OU=x unknown"),
            ("5.1.1 unknown @ 12:00", "5.1.1 unknown @ 12:00"),
            ("5.1.1 <real.name@internal.example>: unknown", "PLAIN"),
            ("5.1.1 <anna.berg@internal.example>: unknown", "PLAIN"),
            ("5.1.1 xanna.berg: unknown", "PLAIN"),
        ] {
            let reply = Reply::new(550, said.to_owned());
            let (text, news) = texts.keep(&reply, "anna.berg@example.org");
            let shared: &[u8] = if shared == "PLAIN" { plain.text() } else { shared.as_bytes() };
            assert_eq!(&*texts.template(text).text, shared, "{said}");
            assert_eq!(&*news.unwrap().template.text, shared, "{said}");
            let again = texts.reply(text, "anna.berg@example.org");
            assert!(again.text().eq_ignore_ascii_case(reply.text()), "{again:?}");
        }
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
