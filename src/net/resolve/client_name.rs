//! What a client is called: the name its address leads to, if that name leads back to it (RFC 8601 §2.7.3).
//!
//! Whoever has an address may let it lead to any name; that the name leads back only its owner can arrange.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::rr::Name;
use tokio::time::timeout;

use super::{Data, Kind, Lack, NameScope, Question, Resolver};
use crate::proto::client::ClientName;

/// The client waits for so long at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names of one address that are looked at: anybody may give an address of theirs thousands.
const MOST_NAMES: usize = 4;

impl Resolver {
    /// The name of the client at `address`, in small letters: of several that lead back the first in the alphabet, so that
    /// it is the same each time.
    pub async fn client_name(&self, address: IpAddr) -> ClientName {
        let searching = self.name_that_leads_back(address.to_canonical());
        timeout(PATIENCE, searching).await.unwrap_or(ClientName::TemporarilyUnavailable)
    }

    async fn name_that_leads_back(&self, address: IpAddr) -> ClientName {
        let mut names = match self.records(&Question::name_of(address), None).await {
            Ok(records) => records.data,
            Err(lack) => return lack.into(),
        };
        names.sort_unstable_by(|one, other| one.name().cmp(&other.name()));
        let mut without = ClientName::Unavailable;
        for name in names.iter().filter_map(Data::name).take(MOST_NAMES) {
            match self.records(&Question::address_of(name, address), None).await {
                Ok(records) if records.data.contains(&Data::Address(address)) => {
                    return ClientName::Known(name.into());
                }
                Ok(_) | Err(Lack::Absent) => {}
                Err(fault) => without = fault.into(),
            }
        }
        without
    }
}

impl Question {
    fn name_of(address: IpAddr) -> Self {
        let name = Name::from(address).to_ascii().trim_end_matches('.').to_owned();
        Self { name, kind: Kind::Ptr, scope: NameScope::Absolute }
    }

    /// Of the kind `like` is of.
    fn address_of(name: &str, like: IpAddr) -> Self {
        let kind = if like.is_ipv4() { Kind::A } else { Kind::Aaaa };
        Self { name: name.to_owned(), kind, scope: NameScope::Absolute }
    }
}

impl Data {
    /// The name an address leads to.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Ptr(name) => Some(name),
            Self::Address(_) | Self::Srv { .. } | Self::Mx { .. } => None,
        }
    }
}

impl From<Lack> for ClientName {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Absent => Self::Unavailable,
            Lack::Fault(_) => Self::TemporarilyUnavailable,
        }
    }
}
