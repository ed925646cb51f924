//! What a client is called: the name its address leads to, and whether that leads back to it (RFC 8601 §2.7.3).
//!
//! Whoever has an address may let it lead to any name; that the name leads back only its owner can arrange.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::proto::rr::Name;
use tokio::time::{Instant, timeout};

use super::{Data, Kind, Lack, NameScope, Question, Resolver};
use crate::proto::client::{ClientName, ClientNames};

/// The client waits for so long at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names of one address that are looked at: anybody may give an address of theirs thousands.
const MOST_NAMES: usize = 4;
/// Clients that are looked up at a time; the names of more are not known for the moment.
pub(super) const AT_ONCE: usize = 256;
/// How often it is said that names cannot be found out.
const SAID_EVERY: Duration = Duration::from_secs(60);

impl Resolver {
    /// The names of the client at `address`, in small letters: of several the first in the alphabet, so that it is the same
    /// each time, and rather one that leads back.
    pub async fn client_names(&self, address: IpAddr) -> ClientNames {
        let Ok(_place) = self.clients.try_acquire() else {
            self.client_has_no_names(address, "too many clients are looked up at a time");
            return ClientNames::both(ClientName::TemporarilyUnavailable);
        };
        timeout(PATIENCE, self.names_of(address.to_canonical())).await.unwrap_or_else(|_| {
            self.client_has_no_names(address, "no name server answers in time");
            ClientNames::both(ClientName::TemporarilyUnavailable)
        })
    }

    async fn names_of(&self, address: IpAddr) -> ClientNames {
        let records = match self.records(&Question::name_of(address), None).await {
            Ok(records) => records,
            Err(lack) => return ClientNames::both(self.without(address, &lack)),
        };
        let mut names: Vec<&str> = records.data.iter().filter_map(Data::name).collect();
        names.sort_unstable();
        names.truncate(MOST_NAMES);
        let leading_back = names.iter().map(|name| async move {
            (*name, self.records(&Question::address_of(name, address), None).await)
        });
        let mut verified = ClientName::Unavailable;
        for (name, led) in join_all(leading_back).await {
            match led {
                Ok(records) if records.data.contains(&Data::Address(address)) => {
                    return ClientNames::both(ClientName::Known(name.into()));
                }
                Ok(_) | Err(Lack::Absent) => {}
                Err(fault) => verified = self.without(address, &fault),
            }
        }
        let reverse = names.first().map_or(ClientName::Unavailable, |name| ClientName::Known((*name).into()));
        ClientNames { verified, reverse }
    }

    /// What a client without a name is called.
    fn without(&self, address: IpAddr, lack: &Lack) -> ClientName {
        match lack {
            Lack::Absent => ClientName::Unavailable,
            Lack::Fault(fault) => {
                self.client_has_no_names(address, fault);
                ClientName::TemporarilyUnavailable
            }
        }
    }

    /// A reverse zone that fails is its owner's affair; where all of them do operators should know.
    fn client_has_no_names(&self, client: IpAddr, fault: &str) {
        let mut said = self.said();
        if said.is_none_or(|said: Instant| said.elapsed() >= SAID_EVERY) {
            *said = Some(Instant::now());
            tracing::info!(
                %client, fault,
                "a client's name cannot be found out for the moment, and its backend is told so; where that is so of every \
                 client, write dns.client_names = false, or name servers that answer"
            );
        } else {
            tracing::debug!(%client, fault, "a client's name cannot be found out for the moment");
        }
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
    /// The name an address leads to; the root is none.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Ptr(name) => Some(name.as_str()).filter(|name| !name.is_empty()),
            Self::Address(_) | Self::Srv { .. } | Self::Mx { .. } => None,
        }
    }
}
