//! What instances tell each other, as octets: verdicts, marks of domains, news.

use std::time::Duration;

use super::super::queue::Template;

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The recipient exists.
    Good,
    /// It does not, in these words, after so many answers that said the same.
    Bad {
        /// With a placeholder for the address.
        template: Template,
        /// Answers before this one.
        confirmed: u8,
    },
    /// What was known is known no more.
    Gone,
}

/// Longest text of a refusal that is taken.
const MOST_TEXT: usize = 2048;

impl Told {
    pub(super) const fn tag(&self) -> &'static [u8] {
        match self {
            Self::Good => b"g",
            Self::Bad { .. } => b"b",
            Self::Gone => b"x",
        }
    }

    /// What stands behind the tag and the time.
    pub(super) fn rest(&self) -> Vec<u8> {
        match self {
            Self::Good | Self::Gone => b"0 0 ".to_vec(),
            Self::Bad { template, confirmed } => {
                let mut rest = format!("{confirmed} {} ", template.code).into_bytes();
                rest.extend_from_slice(&template.text);
                rest
            }
        }
    }

    /// Reads a verdict; with its age at `now`.
    pub(super) fn read(octets: &[u8], now: u64) -> Option<(Self, Duration)> {
        let mut parts = octets.splitn(5, |b| *b == b' ');
        let tag = parts.next()?;
        let at: u64 = number(parts.next()?)?;
        let confirmed = number(parts.next()?)?;
        let code: u16 = number(parts.next()?)?;
        let text = parts.next()?;
        let told = match tag {
            b"g" => Self::Good,
            b"b" if (500..600).contains(&code) && text.len() <= MOST_TEXT => {
                Self::Bad { template: Template { code, text: text.into() }, confirmed }
            }
            b"x" => Self::Gone,
            _ => return None,
        };
        Some((told, Duration::from_millis(now.saturating_sub(at))))
    }
}

fn number<N: std::str::FromStr>(octets: &[u8]) -> Option<N> {
    std::str::from_utf8(octets).ok()?.parse().ok()
}

/// What random names have shown of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The answer to RCPT.
    pub recipient: Option<Seen>,
    /// The answer to DATA.
    pub data: Option<Seen>,
    /// The delivery port's.
    pub delivery: Option<Seen>,
}

/// What one of them has shown, and how long ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// What.
    pub sight: Sight,
    /// How long ago.
    pub age: Duration,
}

/// See [`Seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// A random name was refused.
    Truthful,
    /// One was taken.
    Blind,
}

impl Marks {
    /// In their order.
    #[must_use]
    pub const fn each(&self) -> [Option<Seen>; 3] {
        [self.recipient, self.data, self.delivery]
    }

    /// The same, so much later.
    #[must_use]
    pub fn aged(self, by: Duration) -> Self {
        Self::of(self.each().map(|seen| seen.map(|seen| Seen { age: seen.age + by, ..seen })))
    }

    pub(in super::super) const fn of([recipient, data, delivery]: [Option<Seen>; 3]) -> Self {
        Self { recipient, data, delivery }
    }

    /// Truth and age in milliseconds of each.
    pub(super) fn arguments(&self) -> [Vec<u8>; 6] {
        let letter = |seen: Option<Seen>| match seen.map(|seen| seen.sight) {
            None => b"u".to_vec(),
            Some(Sight::Truthful) => b"t".to_vec(),
            Some(Sight::Blind) => b"b".to_vec(),
        };
        let age = |seen: Option<Seen>| seen.map_or(0, |seen| seen.age.as_millis()).to_string().into_bytes();
        let [a, b, c] = self.each();
        [letter(a), age(a), letter(b), age(b), letter(c), age(c)]
    }

    /// Reads marks, with their ages at `now`.
    pub(super) fn read(octets: &[u8], now: u64) -> Self {
        let mut parts = octets.split(|b| *b == b' ');
        let mut seen = || {
            let sight = match parts.next()? {
                b"t" => Some(Sight::Truthful),
                b"b" => Some(Sight::Blind),
                _ => None,
            };
            let at: u64 = number(parts.next()?)?;
            sight.map(|sight| Seen { sight, age: Duration::from_millis(now.saturating_sub(at)) })
        };
        Self::of([seen(), seen(), seen()])
    }
}

/// What another instance did that concerns this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A recipient was forgotten.
    Key(u128),
    /// A domain was forgotten so often, in this epoch.
    Domain(u128, u32, u32),
    /// Everything was forgotten so often.
    Epoch(u32),
    /// Something was found out about a domain.
    Marked(u128),
    /// A client was banned.
    Banned {
        /// Its hash.
        client: u128,
        /// For so long.
        remaining: Duration,
        /// For so many unknown recipients,
        unknown: u32,
        /// and so many known ones.
        known: u32,
    },
    /// A ban was lifted.
    Pardoned(u128),
    /// Redis has lost everything: what must hold everywhere is to be told once more.
    Lost,
}

/// What is heard on the channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A lease ended.
    Answered(u128),
    /// News; what is in the log, too, has its place there.
    News(News, Option<u64>),
}

impl Heard {
    /// Reads a message: `TOKEN KIND ARGUMENTS`. None where it is our own, or none of ours.
    pub(super) fn read(message: &[u8], token: &str) -> Option<Self> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.split(' ');
        if parts.next()? == token {
            return None;
        }
        let kind = parts.next()?;
        let first = parts.next()?;
        let hash = || u128::from_str_radix(first, 16).ok();
        let mut next = || parts.next()?.parse::<u64>().ok();
        let news = match kind {
            "answered" => return hash().map(Self::Answered),
            "key" => return Some(Self::News(News::Key(hash()?), next())),
            "pardoned" => return Some(Self::News(News::Pardoned(hash()?), next())),
            "domain" => {
                let (generation, epoch) = (next()?, next()?);
                News::Domain(hash()?, u32::try_from(generation).ok()?, u32::try_from(epoch).ok()?)
            }
            "epoch" => News::Epoch(first.parse().ok()?),
            "marked" => News::Marked(hash()?),
            "banned" => {
                let (remaining, unknown, known) = (next()?, next()?, next()?);
                News::Banned {
                    client: hash()?,
                    remaining: Duration::from_millis(remaining),
                    unknown: u32::try_from(unknown).unwrap_or(u32::MAX),
                    known: u32::try_from(known).unwrap_or(u32::MAX),
                }
            }
            _ => return None,
        };
        Some(Self::News(news, None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written() {
        let template = Template { code: 550, text: b"5.1.1 <\0>: no such  user"[..].into() };
        for told in [Told::Good, Told::Bad { template, confirmed: 3 }, Told::Gone] {
            let mut octets = [told.tag(), b" 1000 "].concat();
            octets.extend_from_slice(&told.rest());
            assert_eq!(Told::read(&octets, 3500), Some((told, Duration::from_millis(2500))));
        }
        assert_eq!(Told::read(b"b 1000 0 250 fine", 0), None, "a refusal is 5xx");
    }

    #[test]
    fn marks_are_read_as_they_were_written() {
        let seen = |sight, age| Some(Seen { sight, age: Duration::from_millis(age) });
        let marks =
            Marks { recipient: seen(Sight::Blind, 20), data: None, delivery: seen(Sight::Truthful, 5) };
        assert_eq!(Marks::read(b"b 80 u 0 t 95", 100), marks);
        assert_eq!(marks.arguments().join(&b' '), b"b 20 u 0 t 5");
        assert_eq!(Marks::read(b"", 100), Marks::default());
    }

    #[test]
    fn news_are_of_others() {
        let heard = |text: &str| Heard::read(text.as_bytes(), "me");
        assert_eq!(heard("other key ff 12"), Some(Heard::News(News::Key(255), Some(12))));
        assert_eq!(heard("other answered ff"), Some(Heard::Answered(255)));
        assert_eq!(heard("other epoch 7"), Some(Heard::News(News::Epoch(7), None)));
        assert_eq!(heard("other domain ff 7 2"), Some(Heard::News(News::Domain(255, 7, 2), None)));
        assert_eq!(heard("me key ff 12"), None);
        assert_eq!(heard("other key zz"), None);
    }

    proptest! {
        #[test]
        fn anything_may_be_read(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            Told::read(&octets, 7);
            Marks::read(&octets, 7);
            Heard::read(&octets, "me");
        }
    }
}
