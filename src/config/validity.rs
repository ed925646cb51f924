//! When a certificate holds: the two times in it, which its owner wants to know before they come. Whether a peer's
//! certificate holds is for who verifies it; nothing here reads what a peer sent.

use std::time::{Duration, SystemTime};

/// When a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Not before.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// What is wrong with the certificate at this time, if anything.
    #[must_use]
    pub fn fault_at(&self, now: SystemTime) -> Option<&'static str> {
        if now > self.until {
            Some("has expired: clients that verify it will not send")
        } else if now < self.from {
            Some("does not hold yet: clients that verify it will not send")
        } else {
            None
        }
    }

    /// That of a certificate (RFC 5280 §4.1): the fifth part of what is signed, the version being the first.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (signed, _) = element(element(certificate)?.0)?;
        let mut rest = signed;
        if rest.first() == Some(&0xa0) {
            rest = element(rest)?.1;
        }
        for _serial_algorithm_issuer in 0..3 {
            rest = element(rest)?.1;
        }
        let (validity, _) = element(rest)?;
        let (_, until) = element(validity)?;
        Some(Self { from: time(validity)?, until: time(until)? })
    }
}

/// The first element of `der`: its contents, and what stands behind it (X.690 §8.1).
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        let octets = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
        let length = octets.iter().fold(0_usize, |length, &octet| length << 8 | usize::from(octet));
        (length, rest.get(count..)?)
    };
    Some((rest.get(..length)?, rest.get(length..)?))
}

/// A `UTCTime` or `GeneralizedTime` (RFC 5280 §4.1.2.5), always in UTC with seconds.
fn time(der: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(element(der)?.0).ok()?.strip_suffix('Z')?;
    let (year, rest) = match der.first()? {
        0x17 => {
            let year: u64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
    let days = days_since_1970(year, part(0)?, part(2)?)?;
    let seconds = ((days * 24 + part(4)?) * 60 + part(6)?) * 60 + part(8)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Days from 1970-01-01 in the Gregorian calendar. Earlier days count as that one.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if year < 1970 {
        return Some(0);
    }
    // Years that begin in March end with the day that not every year has.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_octets_are_too_odd(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (Validity::of(&octets), time(&octets));
        }

        #[test]
        fn nor_is_a_certificate_that_was_damaged(place in any::<prop::sample::Index>(), octet in any::<u8>()) {
            let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
            let mut der = made.cert.der().to_vec();
            assert!(Validity::of(&der).is_some_and(|whole| whole.from < whole.until));
            let place = place.index(der.len());
            der[place] = octet;
            let _ = Validity::of(&der);
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1970, 3, 1), 59),
            ((2000, 2, 29), 11_016),
            ((2026, 11, 24), 20_781),
            ((2100, 3, 1), 47_541),
            ((1950, 1, 1), 0),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), Some(days), "{date:?}");
        }
        assert_eq!(days_since_1970(2026, 13, 1), None);
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let seconds =
            |der: &[u8]| time(der)?.duration_since(SystemTime::UNIX_EPOCH).ok().map(|t| t.as_secs());
        assert_eq!(seconds(b"\x17\x0d261124150000Z"), Some(1_795_532_400));
        assert_eq!(seconds(b"\x18\x0f20261124150000Z"), Some(1_795_532_400));
        for wrong in [
            &b"\x17\x0d261124150000+"[..],
            b"\x17\x0d2611",
            b"\x02\x01\x01",
            b"",
            b"\x17\x84\xff\xff\xff\xff",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong:?}");
        }
    }
}
