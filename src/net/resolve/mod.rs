//! Names to addresses, with how long an answer holds.
//!
//! [`Resolver`] asks: the hosts file first, as the system does, then name servers. [`Follower`] remembers what was
//! said of one destination, so that a name server's fault takes nothing away. Nothing is cached between the two: who
//! follows asks when an answer ends, and not before. Nor are the names of clients ([`Resolver::client_names`]): caching
//! them is what name servers are for.
//!
//! The files of the system are read again when they change. Known limit: of the system's own sources of names
//! (nsswitch.conf) only `files` and `dns` are known.

mod client_names;
mod follow;
mod system;

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::sync::Semaphore;
use tokio::time::Instant;

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
    /// Places for clients that are looked up.
    clients: Semaphore,
    /// When it was said last that their names cannot be found out.
    said: Mutex<Option<Instant>>,
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
    Ptr,
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
    Ptr(String),
}

/// Records, and for how long they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Records {
    data: Vec<Data>,
    hold: Duration,
    /// Which of the names that were asked for has them.
    name: Name,
}

/// Whose records are known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    name: Name,
    /// It was said to be gone, once.
    doubted: bool,
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
        Arc::new(Self {
            servers: servers.to_vec(),
            system: Mutex::default(),
            clients: Semaphore::new(client_names::AT_ONCE),
            said: Mutex::default(),
        })
    }

    /// Whether `servers` are whom it asks.
    #[must_use]
    pub fn asks(&self, servers: &[SocketAddr]) -> bool {
        self.servers == servers
    }

    /// Asks for `question`, of which something may be known; of names that are none there are no records.
    async fn records(&self, question: &Question, known: Option<&Source>) -> Result<Records, Lack> {
        let system = self.system()?;
        let candidates = system.candidates(&question.name, question.scope)?;
        let mut lack = Lack::Absent;
        for name in candidates {
            let source = known.filter(|known| known.name == name);
            let said = match system.in_hosts(&name, question.kind) {
                Some(data) if data.is_empty() => return Err(Lack::Absent),
                Some(data) => Ok(Records { data, hold: HOSTS_HOLD, name }),
                None => look_up(&system.client, name, question.kind).await,
            };
            lack = match weigh(said, source, lack) {
                ControlFlow::Break(settled) => return settled,
                ControlFlow::Continue(lack) => lack,
            };
        }
        Err(lack)
    }

    fn said(&self) -> MutexGuard<'_, Option<Instant>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether what was `said` of one of the names that a name may stand for settles the matter, or another is to be asked;
/// `source` where this one is known to answer, `lack` what the names before it lack.
///
/// Of those that are searched a later one often answers to everything (a wildcard). It must not replace what is known
/// because the name that answered so far fails, or is said once to be gone.
fn weigh(
    said: Result<Records, Lack>,
    source: Option<&Source>,
    lack: Lack,
) -> ControlFlow<Result<Records, Lack>, Lack> {
    match (said, source) {
        (Ok(records), _) => ControlFlow::Break(Ok(records)),
        (Err(Lack::Absent), Some(source)) if !source.doubted => ControlFlow::Break(Err(lack)),
        (Err(Lack::Absent), _) => ControlFlow::Continue(lack),
        (Err(fault), Some(_)) => ControlFlow::Break(Err(fault)),
        // Another name may do, but that this one is not there nobody has said.
        (Err(fault), None) => ControlFlow::Continue(fault),
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
            Self::Ptr => RecordType::PTR,
        }
    }
}

async fn look_up(client: &TokioResolver, name: Name, kind: Kind) -> Result<Records, Lack> {
    let lookup = client.lookup(name.clone(), kind.record_type()).await.map_err(|fault| Lack::of(&fault))?;
    // What leads there (CNAME) ends, too.
    let hold = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
    let data: Vec<Data> = lookup.answers().iter().filter_map(|record| Data::of(&record.data, kind)).collect();
    if data.is_empty() {
        return Err(Lack::Absent);
    }
    Ok(Records { data, hold: Duration::from_secs(hold.into()), name })
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
            (RData::PTR(ptr), Kind::Ptr) => Some(Self::Ptr(plain(ptr)?)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    /// What is found where `a`, `b` and `c` answer so: + has records, - has none, ! fails.
    fn found(answers: &str, known: Option<(&str, bool)>) -> String {
        let known = known.map(|(source, doubted)| Source { name: name(source), doubted });
        let mut asked = ["a.", "b.", "c."].into_iter().zip(answers.chars());
        let settled = asked.try_fold(Lack::Absent, |lack, (asked, answer)| {
            let said = match answer {
                '+' => Ok(Records { data: Vec::new(), hold: HOSTS_HOLD, name: name(asked) }),
                '-' => Err(Lack::Absent),
                _ => Err(Lack::Fault(asked.to_owned())),
            };
            weigh(said, known.as_ref().filter(|known| known.name == name(asked)), lack)
        });
        match settled {
            ControlFlow::Break(Ok(records)) => records.name.to_string(),
            ControlFlow::Break(Err(Lack::Absent)) | ControlFlow::Continue(Lack::Absent) => {
                "absent".to_owned()
            }
            ControlFlow::Break(Err(Lack::Fault(fault))) | ControlFlow::Continue(Lack::Fault(fault)) => {
                format!("fault of {fault}")
            }
        }
    }

    #[test]
    fn no_other_name_of_the_search_list_replaces_one_that_is_known_before_it_is_gone() {
        let (sure, doubted) = (Some(("b.", false)), Some(("b.", true)));
        let cases = [
            ("-++", None, "b."),
            ("!-+", None, "c."),
            ("!--", None, "fault of a."),
            ("---", None, "absent"),
            // The one that answered fails: what others would say is not to the point.
            ("-!+", sure, "fault of b."),
            ("-!+", doubted, "fault of b."),
            // It is said to be gone: once, and twice.
            ("--+", sure, "absent"),
            ("--+", doubted, "c."),
            ("!-+", sure, "fault of a."),
            // One before it: its faults change nothing, its records come first.
            ("!++", sure, "b."),
            ("+++", sure, "a."),
        ];
        for (answers, known, wanted) in cases {
            assert_eq!(found(answers, known), wanted, "{answers} {known:?}");
        }
    }
}
