//! Who is counted, and served in turn, as one client.
//!
//! An IPv4 address or an IPv6 /64, since a single subscriber has all of the latter.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who is counted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientKey(u64);

/// The upper half of no IPv6 address anyone connects from (`ff00::/8` is multicast); the lower half is the IPv4 address.
const V4: u64 = 0xffff_ffff_0000_0000;

impl ClientKey {
    /// The client at `address`.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(V4 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self(u64::try_from(v6.to_bits() >> 64).unwrap_or_default()),
        }
    }

    /// What tells it from others.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A client of which only a hash is known.
    #[must_use]
    pub const fn hashed(hash: u64) -> Self {
        Self(hash)
    }
}

/// `192.0.2.1`, `2001:db8::/64`.
impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u32::try_from(self.0 & !V4) {
            Ok(v4) if self.0 & V4 == V4 => Ipv4Addr::from_bits(v4).fmt(f),
            _ => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(self.0) << 64)),
        }
    }
}

/// Whether no stranger can have this address: loopback, private use (RFC 1918), carrier-grade NAT (RFC 6598), unique local
/// (RFC 4193), link-local. The networks of documentation are not among them.
#[must_use]
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let key = |text: &str| ClientKey::of(ip(text));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(key("2001:db8:1:2:3::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn private_addresses_are_those_no_stranger_has() {
        for inside in ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.0.1", "169.254.1.1", "100.64.0.1"] {
            assert!(is_private(ip(inside)) && is_private(ip(&format!("::ffff:{inside}"))), "{inside}");
        }
        for inside in ["::1", "fd00::1", "fe80::1"] {
            assert!(is_private(ip(inside)), "{inside}");
        }
        for outside in
            ["192.0.2.1", "198.51.100.1", "203.0.113.1", "100.128.0.1", "172.32.0.1", "2001:db8::1"]
        {
            assert!(!is_private(ip(outside)), "{outside}");
        }
    }
}
