//! Names nobody has, to find out whether a store takes anyone.
//!
//! Pronounceable, since a store (or a filter before it) may refuse what looks random; long enough that no
//! mailbox has one by chance; a new one each time, so that none can be learnt and answered specially.

use crate::proto::address::{Domain, Mailbox};

const CONSONANTS: &[u8; 16] = b"bdfghklmnprstvwz";
const VOWELS: &[u8; 4] = b"aeio";

/// A mailbox of `domain` that does not exist: five to seven syllables, 10 to 14 letters.
pub(super) fn nobody_at(domain: &Domain) -> Option<Mailbox> {
    let mut chance = [0_u8; 8];
    // Without randomness the name is always the same one, which is still nobody's.
    let _ = getrandom::fill(&mut chance);
    let [length, syllables @ ..] = chance;
    let mut name = String::with_capacity(14);
    for octet in syllables.into_iter().take(5 + usize::from(length % 3)) {
        let consonant = CONSONANTS.get(usize::from(octet & 15)).copied().unwrap_or(b'm');
        let vowel = VOWELS.get(usize::from(octet >> 4 & 3)).copied().unwrap_or(b'a');
        name.extend([char::from(consonant), char::from(vowel)]);
    }
    Mailbox::parse(&format!("{name}@{domain}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_names_are_plausible_and_differ() {
        let domain = Domain::parse("example.org").unwrap();
        let names: Vec<_> = (0..50).filter_map(|_| nobody_at(&domain)).collect();
        assert_eq!(names.len(), 50);
        for name in &names {
            let local = name.local_part();
            assert!(
                (10..=14).contains(&local.len()) && local.bytes().all(|b| b.is_ascii_lowercase()),
                "{local}"
            );
        }
        let distinct: std::collections::HashSet<_> = names.iter().map(Mailbox::written).collect();
        assert!(distinct.len() > 45, "{distinct:?}");
    }
}
