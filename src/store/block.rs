//! Records in blocks: what was learnt within moments is written as one value.
//!
//! A verdict's key is a hash, so a tree of verdicts would be written to all over at each batch; blocks are
//! written in a row, one after the other, and end of age in a row. A later record of a key counts, so blocks
//! are read in their order. Each has a keyed checksum: one that was not written by us with this secret is
//! not read.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::record::{Record, Stamp};

/// The format of blocks; others are not read.
const FORMAT: u8 = 1;
/// Format, count, newest stamp, checksum.
const HEADER: usize = 1 + 4 + 4 + 8;
/// Records in one block at most: it then fills 64 KiB, and nothing of the next.
pub(super) const MOST_RECORDS: usize = 2450;

/// What a block says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) records: u32,
    pub(super) newest: Stamp,
}

/// `records` as a block.
pub(super) fn write(records: &[Record], secret: &[u8; 16]) -> Vec<u8> {
    let mut body = Vec::with_capacity(records.len() * 25);
    records.iter().for_each(|record| record.write(&mut body));
    let newest = records.iter().map(|record| record.learnt).max().unwrap_or(Stamp(0));
    let mut block = vec![FORMAT];
    block.extend_from_slice(&u32::try_from(records.len()).unwrap_or(u32::MAX).to_le_bytes());
    block.extend_from_slice(&newest.0.to_le_bytes());
    let checksum = checksum(&block, &body, secret);
    block.extend_from_slice(&checksum);
    block.extend_from_slice(&body);
    block
}

/// What `block` says of itself; none when it is no block of ours.
pub(super) fn header(block: &[u8]) -> Option<Header> {
    let [FORMAT, rest @ ..] = block.get(..HEADER)? else { return None };
    let (records, rest) = rest.split_first_chunk()?;
    let newest = rest.first_chunk()?;
    Some(Header { records: u32::from_le_bytes(*records), newest: Stamp(u32::from_le_bytes(*newest)) })
}

/// The records in `block`; none when it is no block of ours, or not as it was written.
pub(super) fn read<'b>(block: &'b [u8], secret: &[u8; 16]) -> Option<impl Iterator<Item = Record> + use<'b>> {
    header(block)?;
    let (head, mut body) = block.split_at_checked(HEADER)?;
    let (said, written) = head.split_last_chunk::<8>().map(|(said, written)| (said, *written))?;
    (checksum(said, body, secret) == written).then(|| std::iter::from_fn(move || Record::read(&mut body)))
}

fn checksum(head: &[u8], body: &[u8], secret: &[u8; 16]) -> [u8; 8] {
    let mut hasher = SipHasher13::new_with_key(secret);
    hasher.write(head);
    hasher.write(body);
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::Fact;

    #[test]
    fn a_block_is_read_as_it_was_written_or_not_at_all() {
        let record = |n: u32| Record { key: n.into(), learnt: Stamp(n), fact: Fact::Good { mark: 0 } };
        let records: Vec<_> = (0..9).map(record).collect();
        let block = write(&records, &[1; 16]);
        assert_eq!(header(&block), Some(Header { records: 9, newest: Stamp(8) }));
        assert_eq!(read(&block, &[1; 16]).unwrap().collect::<Vec<_>>(), records);
        assert!(read(&block, &[2; 16]).is_none(), "another secret");
        for at in 0..block.len() {
            let mut torn = block.clone();
            torn[at] ^= 1;
            assert!(read(&torn, &[1; 16]).is_none(), "octet {at}");
            assert!(read(&block[..at], &[1; 16]).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn the_longest_block_fits_into_64_kib() {
        let good = Record { key: 1, learnt: Stamp(1), fact: Fact::Good { mark: 1 } };
        // Less what the tree puts around it.
        assert!(write(&vec![good; MOST_RECORDS], &[0; 16]).len() <= 65_536 - 1024);
    }
}
