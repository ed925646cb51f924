//! Quantities with their units: durations, sizes, rates.
//!
//! A quantity is a whole number directly followed by its unit, so that no reader has to guess what `30`
//! means; only zero may stand without one, since zero of anything is nothing. What is displayed reads back
//! as the same value. Fractions and sums (`1.5h`, `1h30m`) are refused: `90m` says it.

use std::fmt;
use std::time::Duration;

use super::leaf::{Form, Leaf, Misread};

/// Longest duration taken: ten years, which every clock can still add to now.
const MAX_PERIOD: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// Milliseconds in each unit of a duration, largest first.
const PERIOD_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Octets in each unit of a size, largest first.
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A length of time, as `"500ms"`, `"10s"`, `"5m"`, `"12h"` or `"7d"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So many seconds.
    #[must_use]
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// So many minutes.
    #[must_use]
    pub const fn minutes(n: u64) -> Self {
        Self::seconds(n * 60)
    }

    /// So many hours.
    #[must_use]
    pub const fn hours(n: u64) -> Self {
        Self::minutes(n * 60)
    }

    /// The length of time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The length of time, none for zero.
    #[must_use]
    pub fn unless_zero(self) -> Option<Duration> {
        Some(self.0).filter(|duration| !duration.is_zero())
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        f.write_str(&display(millis, &PERIOD_UNITS, "0s"))
    }
}

impl Leaf for Period {
    const FORM: Form = Form::Quantity;
    const EXAMPLE: &'static str = "\"10s\"";
    const KIND: &'static str = "duration";
    const PATTERN: Option<&'static str> = Some("^(0|[0-9]+(ms|s|m|h|d))$");

    fn parse(text: &str) -> Result<Self, Misread> {
        let period = parse(text, &PERIOD_UNITS).map(Duration::from_millis).map_err(|odd| match odd {
            Odd::NoUnit(n) => Misread::new(
                "a duration needs a unit",
                format!("write \"{n}s\", or another of ms, s, m, h, d"),
            ),
            Odd::TooLarge => too_long(),
            Odd::Malformed => {
                Misread::new("not a duration", "write a whole number with ms, s, m, h or d, such as \"10s\"")
            }
        })?;
        if period > MAX_PERIOD { Err(too_long()) } else { Ok(Self(period)) }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// The fault of a duration nobody means.
fn too_long() -> Misread {
    Misread::new("longer than ten years", "write \"3650d\" or less")
}

/// A number of octets, as `"512B"`, `"64KiB"`, `"25MiB"` or `"1GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// So many octets.
    #[must_use]
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// The octets, none for zero.
    #[must_use]
    pub fn unless_zero(self) -> Option<u64> {
        Some(self.0).filter(|&bytes| bytes > 0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&display(self.0, &SIZE_UNITS, "0"))
    }
}

impl Leaf for Size {
    const FORM: Form = Form::Quantity;
    const EXAMPLE: &'static str = "\"25MiB\"";
    const KIND: &'static str = "size";
    const PATTERN: Option<&'static str> = Some("^(0|[0-9]+(B|KiB|MiB|GiB))$");

    fn parse(text: &str) -> Result<Self, Misread> {
        parse(text, &SIZE_UNITS).map(Self).map_err(|odd| match odd {
            Odd::NoUnit(n) => {
                Misread::new("a size needs a unit", format!("write \"{n}B\", or another of KiB, MiB, GiB"))
            }
            Odd::TooLarge => Misread::new("too large", "write \"0\" for no limit"),
            Odd::Malformed => {
                Misread::new("not a size", "write a whole number with B, KiB, MiB or GiB, such as \"25MiB\"")
            }
        })
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Octets per second, as `"500B/s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(Size);

impl Rate {
    /// So many octets in each second.
    #[must_use]
    pub const fn bytes_per_second(n: u64) -> Self {
        Self(Size::bytes(n))
    }

    /// The octets in each second, none for zero.
    #[must_use]
    pub fn unless_zero(self) -> Option<u64> {
        self.0.unless_zero()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unless_zero() {
            Some(_) => write!(f, "{}/s", self.0),
            None => f.write_str("0"),
        }
    }
}

impl Leaf for Rate {
    const FORM: Form = Form::Quantity;
    const EXAMPLE: &'static str = "\"500B/s\"";
    const KIND: &'static str = "rate";
    const PATTERN: Option<&'static str> = Some("^(0(/s)?|0B|[0-9]+(B|KiB|MiB|GiB)/s)$");

    fn parse(text: &str) -> Result<Self, Misread> {
        let size = text.strip_suffix("/s").unwrap_or(text);
        let rate = Size::parse(size).map(Self);
        if let Ok(rate) = rate
            && (size.len() < text.len() || rate.unless_zero().is_none())
        {
            return Ok(rate);
        }
        let remedy = "write a size per second, such as \"500B/s\", or \"0\" for none";
        Err(Misread::new("not a rate", remedy))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Why a text is not a quantity.
enum Odd {
    /// A number alone, and not zero.
    NoUnit(u64),
    /// More than can be counted.
    TooLarge,
    /// Neither number nor known unit.
    Malformed,
}

/// Reads digits followed by one of `units`, in terms of the smallest.
fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, Odd> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let Some((number, unit)) = text.split_at_checked(digits).filter(|(number, _)| !number.is_empty()) else {
        return Err(Odd::Malformed);
    };
    let number: u64 = number.parse().map_err(|_| Odd::TooLarge)?;
    if unit.is_empty() {
        return if number == 0 { Ok(0) } else { Err(Odd::NoUnit(number)) };
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or(Odd::Malformed)?;
    number.checked_mul(*factor).ok_or(Odd::TooLarge)
}

/// Writes `amount` in the largest unit that holds it without a remainder.
fn display(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    if amount == 0 {
        return zero.to_owned();
    }
    let whole = units.iter().find(|(_, factor)| amount.is_multiple_of(*factor));
    whole.map_or_else(|| amount.to_string(), |(unit, factor)| format!("{}{unit}", amount / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("0", 0),
            ("0s", 0),
            ("0d", 0),
        ] {
            assert_eq!(Period::parse(text).unwrap().get(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "s", "10", "-1s", "1.5h", "1h30m", "10 s", "10S", "3651d", "99999999999999999999s"] {
            let misread = Period::parse(bad).unwrap_err();
            assert!(misread.remedy.starts_with("write "), "{bad}: {misread:?}");
        }
        assert!(Period::parse("10").unwrap_err().remedy.contains("\"10s\""));
    }

    #[test]
    fn sizes_and_rates_are_read_with_their_units() {
        for (text, bytes) in [("512B", 512), ("64KiB", 65_536), ("25MiB", 26_214_400), ("0", 0), ("0MiB", 0)]
        {
            assert_eq!(Size::parse(text).unwrap(), Size::bytes(bytes), "{text}");
        }
        for bad in ["", "512", "25MB", "25 MiB", "1.5GiB", "18446744073709551615KiB"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Rate::parse("500B/s").unwrap().unless_zero(), Some(500));
        assert_eq!(Rate::parse("2KiB/s").unwrap().unless_zero(), Some(2048));
        for none in ["0", "0B/s", "0/s", "0B"] {
            assert_eq!(Rate::parse(none).unwrap().unless_zero(), None, "{none}");
        }
        for bad in ["", "500", "500B", "500/s", "500B/m"] {
            assert!(Rate::parse(bad).unwrap_err().remedy.contains("\"500B/s\""), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_reads_back_the_same(n in 0u64..315_360_000_000) {
            let period = Period(Duration::from_millis(n));
            prop_assert_eq!(Period::parse(&period.to_string()).ok(), Some(period));
            prop_assert_eq!(Size::parse(&Size(n).to_string()).ok(), Some(Size(n)));
            let rate = Rate::bytes_per_second(n);
            prop_assert_eq!(Rate::parse(&rate.to_string()).ok(), Some(rate));
        }
    }
}
