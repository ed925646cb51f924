//! Whether our own address or name is on a DNS blocklist (RFC 5782), asked of the system's resolver.
//!
//! Only 127.0.0.0/8 is a listing; 127.255.255.0/24 is how operators of lists say that they will not answer. A name
//! that does not exist and a resolver that does not work look alike, so each list is first asked for the entry
//! every list has: without it, silence is no acquittal.

use std::net::{IpAddr, Ipv4Addr};

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An address of ours.
    Address(IpAddr),
    /// Our name.
    Name(String),
}

/// What a list says of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// On it, with these answers.
    Listed(Vec<Ipv4Addr>),
    /// Not on it.
    Clear,
    /// The list's operator does not answer us.
    Refused(Vec<Ipv4Addr>),
    /// The list does not answer at all, not even for the entry that every list has.
    Silent,
}

/// One list asked about one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// The list.
    pub zone: String,
    /// Whom it was asked about.
    pub subject: String,
    /// What it said.
    pub listing: Listing,
}

/// Asks `zone` about all of `subjects`.
pub async fn look_up(zone: &str, subjects: &[Subject]) -> Vec<Lookup> {
    let zone = zone.trim_matches('.');
    let mut answers = false;
    for entry in [Subject::Address(Ipv4Addr::new(127, 0, 0, 2).into()), Subject::Name("test".to_owned())] {
        answers = answers || judge(&resolve(&query(&entry, zone)).await) != Listing::Clear;
    }
    let mut found = Vec::new();
    for subject in subjects {
        let listing = match judge(&resolve(&query(subject, zone)).await) {
            Listing::Clear if !answers => Listing::Silent,
            listing => listing,
        };
        let subject = match subject {
            Subject::Address(address) => address.to_string(),
            Subject::Name(name) => name.clone(),
        };
        found.push(Lookup { zone: zone.to_owned(), subject, listing });
    }
    found
}

/// The addresses of `name`, by the system's resolver; none when it has none, or nobody knows.
pub async fn resolve(name: &str) -> Vec<IpAddr> {
    let addresses = tokio::net::lookup_host((name, 0)).await;
    let mut addresses: Vec<IpAddr> =
        addresses.map(|found| found.map(|address| address.ip()).collect()).unwrap_or_default();
    addresses.dedup();
    addresses
}

/// Whether a list could know of `address`: others never see one that is private.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local())
        }
    }
}

/// The name that is asked for, rooted so that no search domain is put behind it.
fn query(subject: &Subject, zone: &str) -> String {
    match subject {
        Subject::Name(name) => format!("{}.{zone}.", name.trim_end_matches('.')),
        Subject::Address(address) => match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                format!("{d}.{c}.{b}.{a}.{zone}.")
            }
            IpAddr::V6(address) => {
                let nibbles = address.octets().into_iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
                let reversed: String = nibbles.map(|nibble| format!("{nibble:x}.")).collect();
                format!("{reversed}{zone}.")
            }
        },
    }
}

fn judge(answers: &[IpAddr]) -> Listing {
    let loopback: Vec<Ipv4Addr> = answers
        .iter()
        .filter_map(|answer| match answer.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() => Some(v4),
            _ => None,
        })
        .collect();
    let (refusals, hits): (Vec<_>, Vec<_>) =
        loopback.into_iter().partition(|answer| matches!(answer.octets(), [127, 255, 255, _]));
    match (hits.is_empty(), refusals.is_empty()) {
        (false, _) => Listing::Listed(hits),
        (true, false) => Listing::Refused(refusals),
        (true, true) => Listing::Clear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subject_is_asked_for_as_lists_want_it() {
        for (subject, name) in [
            (Subject::Address(ip("192.0.2.99")), "99.2.0.192.bl.example."),
            (Subject::Address(ip("::ffff:192.0.2.99")), "99.2.0.192.bl.example."),
            (
                Subject::Address(ip("2001:db8:1:2:3:4:567:89ab")),
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example.",
            ),
            (Subject::Name("mx.example.org.".to_owned()), "mx.example.org.bl.example."),
        ] {
            assert_eq!(query(&subject, "bl.example"), name);
        }
    }

    #[test]
    fn only_a_loopback_answer_is_a_listing_and_some_are_refusals() {
        let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        for (answers, listing) in [
            (vec![], Listing::Clear),
            (vec![ip("127.0.0.4")], Listing::Listed(vec![v4("127.0.0.4")])),
            (vec![ip("192.0.2.1"), ip("::1")], Listing::Clear),
            (vec![ip("127.255.255.254")], Listing::Refused(vec![v4("127.255.255.254")])),
            (vec![ip("127.255.255.252"), ip("127.0.0.2")], Listing::Listed(vec![v4("127.0.0.2")])),
        ] {
            assert_eq!(judge(&answers), listing, "{answers:?}");
        }
    }

    #[test]
    fn private_addresses_are_nobodys_business() {
        for (address, public) in
            [("10.0.0.5", false), ("127.0.0.1", false), ("fd00::1", false), ("::", false), ("1.1.1.1", true)]
        {
            assert_eq!(is_public(ip(address)), public, "{address}");
        }
    }
}
