//! CRC-32C (Castagnoli), as the PROXY protocol's checksum wants it (RFC 4960 appendix B). Bit by bit: headers
//! are short, and few of them carry one.

/// The polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The sum over `parts` as if they were one.
pub(super) fn sum(parts: &[&[u8]]) -> u32 {
    let octets = parts.iter().flat_map(|part| part.iter());
    !octets.fold(u32::MAX, |crc, octet| {
        (0..8).fold(crc ^ u32::from(*octet), |crc, _| (crc >> 1) ^ (POLYNOMIAL * (crc & 1)))
    })
}

#[test]
fn the_check_value_is_that_of_the_catalogue() {
    assert_eq!(sum(&[b"12345", b"6789"]), 0xe306_9283);
    assert_eq!(sum(&[&[0; 32]]), 0x8a91_36aa);
}
