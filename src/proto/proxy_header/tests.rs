//! PROXY headers as they are read and written, by the forms of the specification and against them.

use super::*;
use crate::proto::tls::{TlsFacts, TlsVersion};

fn client(address: &str, destination: &str) -> Source {
    Source::Client { address: address.parse().unwrap(), destination: destination.parse().unwrap() }
}

/// A header of version 2 with this command, family and block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let len = u16::try_from(block.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &len, block].concat()
}

const V4_BLOCK: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 0, 25];

#[test]
fn a_line_of_version_1_names_the_client() {
    for (line, source) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.2 40000 25\r\n", client("192.0.2.1:40000", "198.51.100.2:25")),
        ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", client("[2001:db8::1]:1", "[::1]:65535")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 0 25\r\n", client("192.0.2.1:0", "[::1]:25")),
        ("PROXY UNKNOWN\r\n", Source::Sender),
        ("PROXY UNKNOWN ffff::1 whatever\r\n", Source::Sender),
    ] {
        let behind = [line.as_bytes(), b"EHLO x\r\n"].concat();
        assert_eq!(read(&behind), Ok(Start::Header { len: line.len(), source }), "{line:?}");
        for cut in 0..line.len() {
            assert_eq!(read(&behind[..cut]), Ok(Start::Open), "{line:?} cut at {cut}");
        }
    }
}

#[test]
fn a_line_that_is_nearly_version_1_is_refused() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 40000 99999\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 040000 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +4 25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4 25 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 4 25\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 4 25\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 4 25\r\n",
        "PROXY TCP4 2001:db8::1 ::1 4 25\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 4 25\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4 25\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 4 25\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 4 25\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\rx",
        "PROXY TCP4 192.0.2.1 198.51.100.2 4\0 25\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(HeaderFault::Line), "{line:?}");
    }
    let long = format!("PROXY UNKNOWN {}", "x".repeat(V1_MOST));
    assert_eq!(read(long.as_bytes()), Err(HeaderFault::TooLong));
    assert_eq!(read(&long.as_bytes()[..V1_MOST]), Err(HeaderFault::TooLong));
    assert_eq!(read(&long.as_bytes()[..V1_MOST - 1]), Ok(Start::Open));
}

#[test]
fn version_2_names_the_client_whatever_extensions_follow() {
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 25);
    let noop = [0x04, 0, 2, 0, 0];
    for (header, source) in [
        (v2(0x21, 0x11, &V4_BLOCK), client("192.0.2.1:40000", "198.51.100.2:25")),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &noop].concat()), client("192.0.2.1:40000", "198.51.100.2:25")),
        (v2(0x21, 0x21, &v6), client("[::1]:3", "[::2]:25")),
        (v2(0x20, 0x00, &[]), Source::Sender),
        (v2(0x20, 0x11, &V4_BLOCK), Source::Sender),
        (v2(0x20, 0xff, b"junk"), Source::Sender),
        (v2(0x21, 0x00, b"junk"), Source::Sender),
    ] {
        let behind = [&header[..], b"\x16\x03"].concat();
        assert_eq!(read(&behind), Ok(Start::Header { len: header.len(), source }), "{header:?}");
        for cut in 0..header.len() {
            assert_eq!(read(&behind[..cut]), Ok(Start::Open), "{header:?} cut at {cut}");
        }
    }
}

#[test]
fn a_version_2_that_is_too_short_too_long_or_unknown_is_refused() {
    for (header, fault) in [
        (v2(0x21, 0x11, &V4_BLOCK[..11]), HeaderFault::TooShort),
        (v2(0x21, 0x21, &V4_BLOCK), HeaderFault::TooShort),
        (v2(0x21, 0x11, &[]), HeaderFault::TooShort),
        (v2(0x21, 0x12, &V4_BLOCK), HeaderFault::Family),
        (v2(0x21, 0x31, &[0; 216]), HeaderFault::Family),
        (v2(0x11, 0x11, &V4_BLOCK), HeaderFault::Command),
        (v2(0x22, 0x11, &V4_BLOCK), HeaderFault::Command),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[4, 0]].concat()), HeaderFault::Extensions),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[4, 0, 1]].concat()), HeaderFault::Extensions),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[CRC32C, 0, 1, 0]].concat()), HeaderFault::Extensions),
        (v2(0x21, 0x11, &[&V4_BLOCK[..], &[CRC32C, 0, 4, 0, 0, 0, 0]].concat()), HeaderFault::Checksum),
    ] {
        assert_eq!(read(&header), Err(fault), "{header:?}");
    }
    let mut long = v2(0x21, 0x11, &[0; 2049]);
    long.truncate(V2_FIXED);
    assert_eq!(read(&long), Err(HeaderFault::TooLong), "told by its length alone");
}

#[test]
fn a_right_checksum_is_taken() {
    let mut header = v2(0x21, 0x11, &[&V4_BLOCK[..], &[CRC32C, 0, 4, 0, 0, 0, 0]].concat());
    let sum = crc32c::sum(&[&header]).to_be_bytes();
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum);
    assert!(matches!(read(&header), Ok(Start::Header { source: Source::Client { .. }, .. })));
    header[at - 8] ^= 1;
    assert_eq!(read(&header), Err(HeaderFault::Checksum));
}

#[test]
fn what_is_written_is_read_again() {
    let tls = TlsFacts {
        version: TlsVersion::Tls12,
        cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        server_name: Some("mx.test".into()),
    };
    for (from, to, told) in [
        ("192.0.2.1:40000", Some("198.51.100.2:25"), ("192.0.2.1:40000", "198.51.100.2:25")),
        ("[::ffff:192.0.2.1]:4", Some("[::ffff:198.51.100.2]:25"), ("192.0.2.1:4", "198.51.100.2:25")),
        ("[2001:db8::1]:4", Some("[::1]:25"), ("[2001:db8::1]:4", "[::1]:25")),
        ("[2001:db8::1]:4", Some("192.0.2.9:25"), ("[2001:db8::1]:4", "192.0.2.9:25")),
        ("192.0.2.1:4", None, ("192.0.2.1:4", "0.0.0.0:0")),
    ] {
        let (from, to) = (from.parse().unwrap(), to.map(|to| to.parse().unwrap()));
        let source = client(told.0, told.1);
        for header in [v1(from, to), proxied(from, to, "session", None), proxied(from, to, "s", Some(&tls))] {
            assert_eq!(read(&header), Ok(Start::Header { len: header.len(), source }), "{header:?}");
        }
    }
    for version in [Version::One, Version::Two] {
        let header = local(version, None);
        assert_eq!(read(&header), Ok(Start::Header { len: header.len(), source: Source::Sender }));
    }
    let ends = ("192.0.2.9:5".parse().unwrap(), "192.0.2.25:25".parse().unwrap());
    assert_eq!(local(Version::One, Some(ends)), b"PROXY TCP4 192.0.2.9 192.0.2.25 5 25\r\n");
    assert_eq!(local(Version::Two, Some(ends)), local(Version::Two, None));
}

#[test]
fn what_is_no_header_is_told_at_its_first_strange_octet() {
    for input in [&b"E"[..], b"EHLO x\r\n", b"PRO\r\n", b"\r\n\r\nx", b"proxy ", b"\x16\x03\x01", b"PROXY\t"]
    {
        assert_eq!(read(input), Ok(Start::Other), "{input:?}");
    }
    assert_eq!(read(b""), Ok(Start::Open));
}
