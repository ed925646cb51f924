//! PROXY headers: what the first octets of a connection are does not depend on how they come; a header that is taken is within
//! the bound, and says the same when it is written again.

#![no_main]

use backstop::proto::proxy_header::{self, MOST, Source, Start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = proxy_header::read(input);
    // Octet by octet: open until it is told, and then the same for good.
    let mut told = None;
    for end in 0..=input.len() {
        let here = proxy_header::read(&input[..end]);
        match (told, here) {
            (None, Ok(Start::Open)) => assert!(end <= MOST, "{end} octets, and still open"),
            (None, here) => told = Some(here),
            (Some(told), here) => assert_eq!(told, here, "told otherwise after {end} octets"),
        }
    }
    assert_eq!(told.unwrap_or(Ok(Start::Open)), whole);

    let Ok(Start::Header { len, source }) = whole else { return };
    assert!(len <= MOST.min(input.len()), "{len}");
    let Source::Client { address, destination } = source else { return };
    assert_eq!(address.ip(), address.ip().to_canonical());
    for written in [
        proxy_header::v1(address, Some(destination)),
        proxy_header::proxied(address, Some(destination), "0123456789ab", None),
    ] {
        let again = proxy_header::read(&written);
        assert_eq!(again, Ok(Start::Header { len: written.len(), source }), "{written:?}");
    }
});
