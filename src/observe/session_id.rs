//! Names of sessions: short, printable, unique across restarts and instances for all practical purposes.
//!
//! 60 bits as twelve characters of Crockford's base32 in lower case, which has no letters that are mistaken
//! for digits: they are in our reply texts, and the other side's administrator may quote one on the
//! telephone. The upper 28 bits are the process's own and random, the lower 32 count its sessions.
//!
//! They are names and no secrets: the next one is easily guessed.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The name of one session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// A new session's.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "no two are alike, so none is the default")]
    pub fn new() -> Self {
        // For the whole process, since that is where no two may be alike.
        static PROCESS: LazyLock<u32> = LazyLock::new(process_number);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        Self::numbered(*PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
    }

    fn numbered(process: u32, count: u32) -> Self {
        Self(u64::from(process) << 32 | u64::from(count))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; LEN];
        let mut rest = self.0;
        for place in text.iter_mut().rev() {
            *place = DIGITS[(rest % 32) as usize];
            rest /= 32;
        }
        f.pad(str::from_utf8(&text).expect("the digits are ASCII"))
    }
}

/// 28 bits that other processes hardly have, too.
fn process_number() -> u32 {
    // Without a random source the process id still tells the processes of one machine apart.
    getrandom::u32().unwrap_or_else(|_| std::process::id()) & PROCESS_BITS
}

/// 60 bits: what remains of 64 when each character is full.
const LEN: usize = 12;
const PROCESS_BITS: u32 = (1 << 28) - 1;
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_twelve_plain_characters() {
        for (id, text) in
            [(0, "000000000000"), (31, "00000000000z"), (32, "000000000010"), ((1 << 60) - 1, "zzzzzzzzzzzz")]
        {
            assert_eq!(SessionId(id).to_string(), text);
        }
    }

    #[test]
    fn every_session_has_its_own_name() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| SessionId::new().to_string()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == LEN));
    }

    #[test]
    fn process_and_count_do_not_overlap() {
        assert_eq!(SessionId::numbered(PROCESS_BITS, u32::MAX).to_string(), "zzzzzzzzzzzz");
        assert_eq!(SessionId::numbered(PROCESS_BITS, 0).to_string(), "zzzzzw000000");
    }
}
