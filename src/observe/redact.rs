//! Addresses of people, as much of them as the log is to show.
//!
//! One choice for the process, like the log itself. It holds for log lines and for what is told to operators about sessions and
//! refusals; the cache, the commands of an operator and the backends are not concerned.

use std::hash::Hasher as _;
use std::sync::OnceLock;

use siphasher::sip::SipHasher13;

use super::Escaped;

/// How much of an address is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redaction {
    /// All of it.
    None,
    /// Its domain.
    LocalPart,
    /// A hash of it, keyed so that nobody else can find it out by trying; the same for the same address.
    Hash([u8; 16]),
}

static IN_FORCE: OnceLock<Redaction> = OnceLock::new();

/// From now on so much is told. Only the first counts.
pub fn begin(redaction: Redaction) {
    let _ = IN_FORCE.set(redaction);
}

/// An address, without brackets, to be told.
#[must_use]
pub fn address(address: &str) -> String {
    in_force().address(address)
}

/// What was said about `address`, to be told.
#[must_use]
pub fn words(words: &str, address: &str) -> String {
    in_force().words(words, address)
}

/// Whether less than all of an address is told.
#[must_use]
pub fn is_in_force() -> bool {
    in_force() != Redaction::None
}

fn in_force() -> Redaction {
    IN_FORCE.get().copied().unwrap_or(Redaction::None)
}

impl Redaction {
    fn address(self, address: &str) -> String {
        match (self, address.rsplit_once('@')) {
            // The null sender is nobody's.
            (_, None) if address.is_empty() => String::new(),
            (Self::None, _) => Escaped(address).to_string(),
            (Self::LocalPart, Some((_, domain))) => format!("*@{}", Escaped(domain)),
            (Self::LocalPart, None) => "*".to_owned(),
            (Self::Hash(key), _) => {
                let mut hasher = SipHasher13::new_with_key(&key);
                hasher.write(address.to_ascii_lowercase().as_bytes());
                format!("#{:016x}", hasher.finish())
            }
        }
    }

    /// Whatever looks like an address in `words`, and the local part of `address`, is shown as `address` is.
    fn words(self, words: &str, address: &str) -> String {
        if self == Self::None {
            return Escaped(words).to_string();
        }
        let local = address.rsplit_once('@').map_or(address, |(local, _)| local);
        let shown = if address.is_empty() { "*".to_owned() } else { self.address(address) };
        let mut told = String::with_capacity(words.len());
        for word in words.split_inclusive(|c: char| c.is_whitespace() || "<>()[]\"',;:".contains(c)) {
            let bare = word.trim_end_matches(|c: char| c.is_whitespace() || "<>()[]\"',;:.".contains(c));
            let behind = word.get(bare.len()..).unwrap_or_default();
            if bare.contains('@') || (!local.is_empty() && bare.eq_ignore_ascii_case(local)) {
                told.push_str(&shown);
            } else {
                told.push_str(bare);
            }
            told.push_str(behind);
        }
        Escaped(told).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Redaction = Redaction::Hash([7; 16]);

    #[test]
    fn as_much_of_an_address_is_told_as_is_wanted() {
        assert_eq!(Redaction::None.address("Ann@example.org"), "Ann@example.org");
        assert_eq!(Redaction::LocalPart.address("\"a@b\"@example.org"), "*@example.org");
        assert_eq!(Redaction::LocalPart.address("postmaster"), "*");
        let hashed = HASH.address("Ann@example.org");
        assert!(hashed.len() == 17 && hashed.starts_with('#'), "{hashed}");
        assert_eq!(hashed, HASH.address("ann@EXAMPLE.org"));
        assert_ne!(hashed, HASH.address("bob@example.org"));
        assert_ne!(hashed, Redaction::Hash([8; 16]).address("ann@example.org"));
        for redaction in [Redaction::None, Redaction::LocalPart, HASH] {
            assert_eq!(redaction.address(""), "");
        }
    }

    #[test]
    fn nothing_that_was_said_about_an_address_gives_it_away() {
        for (said, told) in [
            ("550 5.1.1 <Ann@example.org>: User unknown", "550 5.1.1 <*@example.org>: User unknown"),
            ("550 ann: no such user.", "550 *@example.org: no such user."),
            ("550 mailto:other@example.com, see (ann).", "550 mailto:*@example.org, see (*@example.org)."),
            ("550 5.1.1 No such user here", "550 5.1.1 No such user here"),
        ] {
            assert_eq!(Redaction::LocalPart.words(said, "ann@example.org"), told);
            assert!(!HASH.words(said, "ann@example.org").to_ascii_lowercase().contains("ann"));
            assert_eq!(Redaction::None.words(said, "ann@example.org"), said);
        }
        assert_eq!(
            HASH.words("554 <ann@example.org>: Relay access denied", ""),
            "554 <*>: Relay access denied"
        );
        assert_eq!(Redaction::LocalPart.words("a\u{202e}b", "x@y"), r"a\u{202e}b");
    }
}
