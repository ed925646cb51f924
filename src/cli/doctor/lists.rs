//! Our own name and addresses on the DNS blocklists the operator named.

use std::net::IpAddr;

use crate::verify::examine::dnsbl::{self, Listing, Lookup, Subject};
use crate::verify::examine::judge::{Finding, Severity};

/// What the lists say.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) lookups: Vec<Lookup>,
    pub(super) findings: Vec<Finding>,
}

/// Looks `hostname` and its addresses, or the `addresses` given, up in each of `zones`.
pub(super) async fn look_up(hostname: &str, addresses: &[IpAddr], zones: &[String]) -> Lists {
    let mut lists = Lists::default();
    if zones.is_empty() {
        return lists;
    }
    let mut ours = addresses.to_vec();
    if ours.is_empty() {
        ours = dnsbl::resolve(hostname).await;
        ours.retain(|address| dnsbl::is_public(*address));
    }
    if ours.is_empty() {
        lists.findings.push(no_address(hostname));
    }
    let mut subjects: Vec<Subject> = ours.into_iter().map(Subject::Address).collect();
    subjects.push(Subject::Name(hostname.to_owned()));
    for zone in zones {
        lists.lookups.extend(dnsbl::look_up(zone, &subjects).await);
    }
    lists.findings.extend(lists.lookups.iter().filter_map(finding));
    // A list that is silent is so about every subject.
    lists.findings.dedup();
    lists
}

fn no_address(hostname: &str) -> Finding {
    Finding {
        id: "no-public-address",
        severity: Severity::Note,
        what: format!("{hostname} has no public address: only the name was looked up"),
        means: "Lists hold addresses as others see them".to_owned(),
        remedy: "give it: --address 192.0.2.1".to_owned(),
    }
}

fn finding(lookup: &Lookup) -> Option<Finding> {
    let Lookup { zone, subject, listing } = lookup;
    let listed = |answers: &[std::net::Ipv4Addr]| {
        answers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (id, what, means, remedy) = match listing {
        Listing::Clear => return None,
        Listing::Listed(answers) => (
            "listed",
            format!("{subject} is on {zone} ({})", listed(answers)),
            "Servers that use the list refuse mail from there; on a backscatter list, because bounces went to strangers",
            "end what put it there, then ask the list's operator to take it off; its page says what the answer means",
        ),
        Listing::Refused(answers) => (
            "list-refuses",
            format!("{zone} does not answer us about {subject} ({})", listed(answers)),
            "Whether it is listed is not known: lists refuse public resolvers and those that ask too much",
            "ask through a resolver of your own, or register with the list",
        ),
        Listing::Silent => (
            "list-silent",
            format!("{zone} does not answer, not even for the entry every list has"),
            "Whether we are listed is not known",
            "look whether the zone is written right and the resolver works",
        ),
    };
    let (means, remedy) = (means.to_owned(), remedy.to_owned());
    Some(Finding { id, severity: Severity::Warning, what, means, remedy })
}
