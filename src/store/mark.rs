//! What random names have shown of a domain, as octets: for RCPT, DATA and the delivery port one octet and the second.

use super::record::Stamp;
use super::shared::{Marks, Seen, Sight};

const ONE: usize = 1 + 4;
/// Octets of all three.
pub(super) const LENGTH: usize = 3 * ONE;

/// Marks as they are at `now`.
pub(super) fn write(marks: &Marks, now: Stamp) -> [u8; LENGTH] {
    let mut octets = [0; LENGTH];
    for (place, seen) in octets.chunks_exact_mut(ONE).zip(marks.each()) {
        let (Some(seen), [sight, stamp @ ..]) = (seen, place) else { continue };
        *sight = match seen.sight {
            Sight::Truthful => 1,
            Sight::Blind => 2,
        };
        stamp.copy_from_slice(&now.before(seen.age).0.to_le_bytes());
    }
    octets
}

/// Marks with their ages at `now`; none where they are no marks. What was seen in the future was not seen.
pub(super) fn read(octets: &[u8], now: Stamp) -> Option<Marks> {
    let (octets, _) = octets.split_first_chunk::<LENGTH>()?;
    let mut each = octets.chunks_exact(ONE).map(|one| {
        let (sight, stamp) = one.split_first()?;
        let sight = match sight {
            1 => Sight::Truthful,
            2 => Sight::Blind,
            _ => return None,
        };
        let age = Stamp(u32::from_le_bytes(*stamp.first_chunk()?)).age(now)?;
        Some(Seen { sight, age })
    });
    let mut next = || each.next().flatten();
    Some(Marks::of([next(), next(), next()]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn marks_age_while_they_are_stored() {
        let seen = |sight, age| Some(Seen { sight, age: Duration::from_secs(age) });
        let marks =
            Marks { recipient: seen(Sight::Truthful, 5), data: None, delivery: seen(Sight::Blind, 60) };
        let octets = write(&marks, Stamp(1000));
        assert_eq!(read(&octets, Stamp(1100)), Some(marks.aged(Duration::from_secs(100))));
        assert_eq!(read(&octets, Stamp(100)), Some(Marks::default()), "the clock went back");
        assert_eq!(read(&octets[1..], Stamp(1000)), None);
    }
}
