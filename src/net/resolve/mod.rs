//! Names to addresses, with how long an answer holds.
//!
//! [`Resolver`] asks: the hosts file first, as the system does, then name servers. [`Follower`] remembers what was
//! said of one destination, so that a name server's fault takes nothing away. Nothing is cached between the two: who
//! follows asks when an answer ends, and not before.
//!
//! The files of the system are read again when they change. Known limit: of the system's own sources of names
//! (nsswitch.conf) only `files` and `dns` are known.

mod follow;
mod system;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use crate::observe::Escaped;
use crate::proto::address::Domain;

pub use follow::{Answer, Follower, Found, Memory};
use system::System;

/// Answers of the hosts file are looked up again so soon: it may be edited at any time.
const HOSTS_HOLD: Duration = Duration::from_secs(5);

/// Who is asked.
#[derive(Debug)]
pub struct Resolver {
    /// Empty where the system's are asked.
    servers: Vec<SocketAddr>,
    system: Mutex<Option<Arc<System>>>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    /// Without a dot at its end.
    name: String,
    kind: Kind,
    scope: NameScope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    A,
    Aaaa,
    Srv,
    Mx,
}

/// Whether the domains the system searches may be put behind a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum NameScope {
    /// It is whole.
    Absolute,
    /// Somebody wrote it for this host.
    Local,
}

/// A record of those that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Address(IpAddr),
    Srv { priority: u16, weight: u16, port: u16, target: String },
    Mx { preference: u16, exchange: String },
}

/// Records, and for how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Records {
    data: Vec<Data>,
    hold: Duration,
}

/// Why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lack {
    /// A name server says that there are none.
    Absent,
    /// None could be asked, or it did not know.
    Fault(String),
}

impl Resolver {
    /// One that asks `servers`, or those of the system where there are none.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Arc<Self> {
        Arc::new(Self { servers: servers.to_vec(), system: Mutex::default() })
    }

    /// Whether `servers` are whom it asks.
    #[must_use]
    pub fn asks(&self, servers: &[SocketAddr]) -> bool {
        self.servers == servers
    }

    /// Asks for `question`; of names that are none there are no records.
    async fn records(&self, question: &Question) -> Result<Records, Lack> {
        let system = self.system()?;
        let mut lack = Lack::Absent;
        for name in system.candidates(&question.name, question.scope)? {
            if let Some(data) = system.in_hosts(&name, question.kind) {
                return if data.is_empty() {
                    Err(Lack::Absent)
                } else {
                    Ok(Records { data, hold: HOSTS_HOLD })
                };
            }
            match look_up(&system.client, name, question.kind).await {
                Ok(records) => return Ok(records),
                Err(Lack::Absent) => {}
                // Another name may do, but that this one is not there nobody has said.
                Err(fault @ Lack::Fault(_)) => lack = fault,
            }
        }
        Err(lack)
    }

    /// What the system says now.
    fn system(&self) -> Result<Arc<System>, Lack> {
        let mut current = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some(system) if system.is_current() => Ok(Arc::clone(system)),
            _ => {
                let system = System::read(&self.servers).map(Arc::new).map_err(|fault| Lack::of(&fault))?;
                *current = Some(Arc::clone(&system));
                Ok(system)
            }
        }
    }
}

impl Lack {
    fn of(fault: &NetError) -> Self {
        match fault {
            _ if fault.is_no_records_found() => Self::Absent,
            NetError::Timeout => Self::Fault("no name server answers in time".to_owned()),
            // What a name server sent may be in it.
            fault => Self::Fault(Escaped(&fault.to_string()).to_string()),
        }
    }
}

impl Kind {
    const fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Srv => RecordType::SRV,
            Self::Mx => RecordType::MX,
        }
    }
}

async fn look_up(client: &TokioResolver, name: Name, kind: Kind) -> Result<Records, Lack> {
    let lookup = client.lookup(name, kind.record_type()).await.map_err(|fault| Lack::of(&fault))?;
    // What leads there (CNAME) ends, too.
    let hold = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
    let data: Vec<Data> = lookup.answers().iter().filter_map(|record| Data::of(&record.data, kind)).collect();
    if data.is_empty() {
        return Err(Lack::Absent);
    }
    Ok(Records { data, hold: Duration::from_secs(hold.into()) })
}

impl Data {
    fn of(data: &RData, kind: Kind) -> Option<Self> {
        match (data, kind) {
            (RData::A(a), Kind::A) => Some(Self::Address(IpAddr::V4(a.0))),
            (RData::AAAA(aaaa), Kind::Aaaa) => Some(Self::Address(IpAddr::V6(aaaa.0))),
            (RData::SRV(srv), Kind::Srv) => Some(Self::Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: plain(&srv.target)?,
            }),
            (RData::MX(mx), Kind::Mx) => {
                Some(Self::Mx { preference: mx.preference, exchange: plain(&mx.exchange)? })
            }
            _ => None,
        }
    }
}

/// A name in small letters, without the dot at its end; the root is empty. None for what no host has: it goes into
/// logs, and TLS is to find it in a certificate.
fn plain(name: &Name) -> Option<String> {
    if name.is_root() {
        return Some(String::new());
    }
    Domain::parse(&name.to_ascii()).ok().map(|domain| domain.to_string())
}
