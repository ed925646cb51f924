//! What is stored of one recipient, as octets.
//!
//! `length tag key learnt …`: one octet each for the length of what follows it and for the tag, 16 for the
//! key, 4 for the time, then whatever the tag adds. A reader skips tags it does not know and ignores what a
//! later version added behind the parts it knows; so a record can grow without a new format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970: until 2106 in four octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub u32);

/// What is known under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// A keyed hash; never an address.
    pub key: u128,
    /// When that was.
    pub learnt: Stamp,
    /// What was learnt.
    pub fact: Fact,
}

/// What was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// What was known is known no more.
    Gone,
    /// It exists.
    Good {
        /// What it is counted with: a hash of the route and the domain's name there.
        mark: u32,
    },
    /// It does not.
    Bad {
        /// In these words.
        text: u16,
        /// After so many answers that said the same.
        confirmed: u8,
    },
}

/// Tag, key and time.
const LEAST: usize = 1 + 16 + 4;

impl Stamp {
    /// Now, by the wall clock.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// So much earlier.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)))
    }

    /// How long ago it is at `now`; none when it is yet to come, since the clock went back meanwhile. A little
    /// of that is what clocks do when they are set right.
    #[must_use]
    pub fn age(self, now: Self) -> Option<Duration> {
        const SET_RIGHT: u32 = 60;
        if self.0 > now.0.saturating_add(SET_RIGHT) {
            return None;
        }
        Some(Duration::from_secs(u64::from(now.0.saturating_sub(self.0))))
    }
}

impl Record {
    /// Appends it to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (tag, rest): (u8, &[u8]) = match self.fact {
            Fact::Gone => (0, &[]),
            Fact::Good { mark } => (1, &mark.to_le_bytes()),
            Fact::Bad { text, confirmed } => {
                let [low, high] = text.to_le_bytes();
                (2, &[low, high, confirmed])
            }
        };
        out.push(u8::try_from(LEAST + rest.len()).unwrap_or(u8::MAX));
        out.push(tag);
        out.extend_from_slice(&self.key.to_le_bytes());
        out.extend_from_slice(&self.learnt.0.to_le_bytes());
        out.extend_from_slice(rest);
    }

    /// Takes the first record off `octets`. None at their end, or where they are no records; a record that
    /// means nothing to this version is skipped.
    pub fn read(octets: &mut &[u8]) -> Option<Self> {
        loop {
            let (length, behind) = octets.split_first()?;
            let (record, behind) = behind.split_at_checked(usize::from(*length))?;
            *octets = behind;
            if let Some(record) = Self::parse(record) {
                return Some(record);
            }
        }
    }

    fn parse(record: &[u8]) -> Option<Self> {
        let (tag, rest) = record.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (learnt, rest) = rest.split_first_chunk()?;
        let fact = match (tag, rest) {
            (0, _) => Fact::Gone,
            (1, _) => Fact::Good { mark: rest.first_chunk().map_or(0, |mark| u32::from_le_bytes(*mark)) },
            (2, [low, high, confirmed, ..]) => {
                Fact::Bad { text: u16::from_le_bytes([*low, *high]), confirmed: *confirmed }
            }
            _ => return None,
        };
        Some(Self { key: u128::from_le_bytes(*key), learnt: Stamp(u32::from_le_bytes(*learnt)), fact })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let fact = prop_oneof![
            Just(Fact::Gone),
            any::<u32>().prop_map(|mark| Fact::Good { mark }),
            (any::<u16>(), any::<u8>()).prop_map(|(text, confirmed)| Fact::Bad { text, confirmed }),
        ];
        let record = (any::<u128>(), any::<u32>(), fact).prop_map(|(key, learnt, fact)| Record {
            key,
            learnt: Stamp(learnt),
            fact,
        });
        proptest::collection::vec(record, 0..20)
    }

    fn read_all(mut octets: &[u8]) -> Vec<Record> {
        std::iter::from_fn(|| Record::read(&mut octets)).collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(records in records()) {
            let mut octets = Vec::new();
            records.iter().for_each(|record| record.write(&mut octets));
            prop_assert_eq!(read_all(&octets), records);
        }

        #[test]
        fn anything_may_be_read(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            read_all(&octets);
        }
    }

    #[test]
    fn what_a_later_version_wrote_is_skipped_or_read_as_far_as_it_is_known() {
        let good = Record { key: 7, learnt: Stamp(9), fact: Fact::Good { mark: 5 } };
        let mut longer = Vec::new();
        good.write(&mut longer);
        longer[0] += 3;
        longer.extend_from_slice(b"new");
        let mut unknown = longer.clone();
        unknown[1] = 99;
        let mut octets = unknown;
        octets.extend_from_slice(&longer);
        good.write(&mut octets);
        assert_eq!(read_all(&octets), [good, good]);
    }

    #[test]
    fn a_stamp_from_the_future_has_no_age() {
        let now = Stamp(1_000_000);
        assert_eq!(Stamp(999_000).age(now), Some(Duration::from_secs(1000)));
        assert_eq!(Stamp(1_000_030).age(now), Some(Duration::ZERO));
        assert_eq!(Stamp(1_000_100).age(now), None);
    }
}
