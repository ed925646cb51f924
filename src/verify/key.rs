//! What a verdict is remembered under: a keyed 128-bit hash, never the address.
//!
//! The hash covers what was asked: the store, the probe's sender, the stage, the canonical address. A changed
//! configuration therefore never serves old answers, and forgetting a domain is one more number in the hash.

use std::hash::{BuildHasher, Hash, Hasher};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::store::HashKey;

/// A recipient of one verification group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u128);

/// Makes keys. Two keyrings of one secret make the same keys.
#[derive(Debug, Clone)]
pub struct Keyring {
    secret: [u8; 16],
}

impl Keyring {
    /// The keyring of a secret.
    #[must_use]
    pub const fn of(key: HashKey) -> Self {
        Self { secret: key.octets() }
    }

    /// A keyring of this process alone.
    #[must_use]
    pub fn random() -> Self {
        Self::of(HashKey::random())
    }

    /// The key of `parts`, which are told apart also where they touch.
    #[must_use]
    pub fn key(&self, parts: &[&[u8]]) -> Key {
        let mut hasher = SipHasher13::new_with_key(&self.secret);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        Key(hasher.finish128().as_u128())
    }
}

impl Key {
    /// A key for what is asked for no recipient's sake. Nothing is remembered under it.
    #[must_use]
    pub(super) const fn anonymous(number: u64) -> Self {
        Self(number as u128)
    }

    /// The same recipient in another generation of answers; the first is 0.
    #[must_use]
    pub(super) const fn in_generation(self, generation: u32) -> Self {
        // Odd, so that each generation has a number of its own, with all octets different.
        Self(self.0 ^ (generation as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }

    /// As it is stored.
    pub(super) const fn to_bits(self) -> u128 {
        self.0
    }

    /// From the store.
    pub(super) const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// A number from 0 to 255 that is spread evenly over keys: for jitter without a source of chance.
    #[must_use]
    pub const fn scatter(self) -> u8 {
        self.0.to_le_bytes()[15]
    }
}

/// Keys are hashes already.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// Takes the low half of a [`Key`] as it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AsIs;

/// See [`AsIs`].
#[derive(Debug, Default)]
pub(super) struct LowHalf(u64);

impl BuildHasher for AsIs {
    type Hasher = LowHalf;

    fn build_hasher(&self) -> LowHalf {
        LowHalf::default()
    }
}

impl Hasher for LowHalf {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        let bytes = key.to_le_bytes();
        let low = bytes.first_chunk::<8>().copied().unwrap_or_default();
        self.0 = u64::from_le_bytes(low);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_covers_every_part_and_where_it_ends() {
        let ring = Keyring::random();
        assert_eq!(ring.key(&[b"a", b"bc"]), ring.clone().key(&[b"a", b"bc"]));
        assert_ne!(ring.key(&[b"a", b"bc"]), ring.key(&[b"ab", b"c"]));
        assert_ne!(ring.key(&[b"a", b"bc"]), Keyring::random().key(&[b"a", b"bc"]));
    }
}
