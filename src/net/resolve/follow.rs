//! What DNS says of one destination, over time.
//!
//! An answer holds for its TTL, but for [`SHORTEST`] at least and [`LONGEST`] at most. A name server that fails (no
//! answer, SERVFAIL) takes nothing away: what was said last stands, and it is asked again, soon at first. That a name
//! or a record set does not exist is an answer, but one that name servers also give by mistake, while they load a
//! zone, or start; it would stop all mail. So it is believed only when it is said twice, [`DOUBT`] apart.
//!
//! What a fault leaves no address of at all (new targets that nobody can be asked about yet) leads where it led before.
//! Whoever follows the same destination after another goes on from its [`Memory`]: to begin anew in the middle of a
//! fault would be to forget where the backends are.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};

use super::{Data, Kind, Lack, NameScope, Question, Records, Resolver, Source};
use crate::config::Destination;

/// Answers hold at least so long: nobody is asked without pause.
const SHORTEST: Duration = Duration::from_secs(1);
/// And at most so long.
const LONGEST: Duration = Duration::from_secs(3600);
/// A record set that is said to be gone is asked for again after so long.
const DOUBT: Duration = Duration::from_secs(1);
/// Longest pause after a fault.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Addresses used of one destination.
const MOST_FOUND: usize = 64;
/// Questions under way at a time.
const AT_ONCE: usize = 8;
/// The port of mail exchangers.
const SMTP: u16 = 25;

/// One address of a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Lower ones are used first: the priority of SRV, the preference of MX.
    pub tier: u16,
    /// The name that leads to it.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Its share within the tier, as SRV has it; 1 elsewhere.
    pub weight: u16,
}

/// What is known of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its addresses, the lowest tier first.
    pub found: Vec<Found>,
    /// More addresses there were.
    pub excess: usize,
    /// Why it may not be what DNS would say; none where it is.
    pub fault: Option<String>,
    /// To be asked again after so long.
    pub again: Duration,
}

/// Follows one destination.
#[derive(Debug)]
pub struct Follower {
    resolver: Arc<Resolver>,
    destination: Destination,
    memory: Memory,
}

/// What was said of a destination so far.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    known: HashMap<Question, Known>,
    /// Where it led last.
    found: Vec<Found>,
    /// Rounds in a row with a fault, or without any address.
    faults: u32,
}

/// What was said last.
#[derive(Debug, Clone)]
struct Known {
    data: Vec<Data>,
    /// Whose it is; none where there is nothing.
    source: Option<Source>,
}

/// One round of questions.
#[derive(Debug, Default)]
struct Round {
    asked: HashSet<Question>,
    hold: Option<Duration>,
    fault: Option<String>,
}

impl Follower {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(resolver: &Arc<Resolver>, destination: &Destination) -> Self {
        Self::going_on(resolver, destination, Memory::default())
    }

    /// One that knows what another did of the same destination.
    #[must_use]
    pub fn going_on(resolver: &Arc<Resolver>, destination: &Destination, memory: Memory) -> Self {
        Self { resolver: Arc::clone(resolver), destination: destination.clone(), memory }
    }

    /// What was said so far.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// From now on asks `resolver`.
    pub fn turn_to(&mut self, resolver: Arc<Resolver>) {
        self.resolver = resolver;
    }

    /// Asks for everything once.
    pub async fn ask(&mut self) -> Answer {
        let mut round = Round::default();
        let mut found = match self.destination.clone() {
            Destination::Host(endpoint) => {
                let host = Wanted { tier: 0, weight: 1, host: endpoint.host, port: endpoint.port };
                self.addresses(vec![host], NameScope::Local, &mut round).await
            }
            Destination::Srv(name) => self.servers(name, &mut round).await,
            Destination::Mx(domain) => self.exchangers(domain, &mut round).await,
        };
        self.memory.known.retain(|question, _| round.asked.contains(question));
        found.sort_unstable();
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert(found.address));
        let excess = found.len().saturating_sub(MOST_FOUND);
        found.truncate(MOST_FOUND);
        if found.is_empty() && round.fault.is_some() {
            found.clone_from(&self.memory.found);
        }
        self.memory.found.clone_from(&found);
        if found.is_empty() && round.fault.is_none() {
            round.fault = Some(format!("DNS has no address for {}", self.destination));
        }
        let faults = if round.fault.is_some() { self.memory.faults.saturating_add(1) } else { 0 };
        self.memory.faults = faults;
        let hold = round.hold.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST);
        let again = if round.fault.is_some() { hold.min(pause(faults)) } else { hold };
        Answer { found, excess, fault: round.fault, again }
    }

    async fn servers(&mut self, name: String, round: &mut Round) -> Vec<Found> {
        let question = Question { name, kind: Kind::Srv, scope: NameScope::Local };
        let said = self.said(vec![question], round).await;
        let wanted = said.into_iter().flatten().flatten().filter_map(|data| match data {
            Data::Srv { priority, weight, port, target } if !target.is_empty() => {
                Some(Wanted { tier: priority, weight, host: target, port })
            }
            // "." says that the service is not to be had (RFC 2782).
            _ => None,
        });
        let wanted = wanted.collect();
        self.addresses(wanted, NameScope::Absolute, round).await
    }

    async fn exchangers(&mut self, domain: String, round: &mut Round) -> Vec<Found> {
        let question = Question { name: domain.clone(), kind: Kind::Mx, scope: NameScope::Absolute };
        let listed = self.said(vec![question], round).await.into_iter().next().flatten();
        let wanted = if listed.as_ref().is_some_and(Vec::is_empty) {
            // The domain is its own exchanger (RFC 5321 §5.1).
            vec![Wanted { tier: 0, weight: 1, host: domain, port: SMTP }]
        } else {
            let wanted = listed.into_iter().flatten().filter_map(|data| match data {
                Data::Mx { preference, exchange } if !exchange.is_empty() => {
                    Some(Wanted { tier: preference, weight: 1, host: exchange, port: SMTP })
                }
                // "." says that the domain takes no mail (RFC 7505).
                _ => None,
            });
            wanted.collect()
        };
        self.addresses(wanted, NameScope::Absolute, round).await
    }

    /// The addresses of hosts.
    async fn addresses(
        &mut self,
        mut wanted: Vec<Wanted>,
        scope: NameScope,
        round: &mut Round,
    ) -> Vec<Found> {
        wanted.sort_unstable_by(|one, other| (one.tier, &one.host).cmp(&(other.tier, &other.host)));
        wanted.truncate(MOST_FOUND);
        let kinds = [Kind::A, Kind::Aaaa];
        let questions: Vec<Question> = wanted
            .iter()
            .flat_map(|wanted| kinds.map(|kind| Question { name: wanted.host.clone(), kind, scope }))
            .collect();
        let said = self.said(questions, round).await;
        let hosts = wanted.iter().zip(said.chunks(kinds.len()));
        let addresses = hosts.flat_map(|(wanted, said)| {
            said.iter().flatten().flatten().filter_map(|data| match data {
                Data::Address(ip) => Some(Found {
                    tier: wanted.tier,
                    host: wanted.host.clone(),
                    address: SocketAddr::new(*ip, wanted.port),
                    weight: wanted.weight,
                }),
                _ => None,
            })
        });
        addresses.collect()
    }

    /// What is said to each of `questions` now, or was; none where nobody ever said anything.
    async fn said(&mut self, questions: Vec<Question>, round: &mut Round) -> Vec<Option<Vec<Data>>> {
        let resolver = Arc::clone(&self.resolver);
        let asking = questions.into_iter().map(|question| {
            let resolver = &resolver;
            let source = self.memory.known.get(&question).and_then(|known| known.source.clone());
            async move {
                let said = resolver.records(&question, source.as_ref()).await;
                (question, said)
            }
        });
        let answers: Vec<_> = stream::iter(asking).buffered(AT_ONCE).collect().await;
        answers.into_iter().map(|(question, said)| self.heard(question, said, round)).collect()
    }

    fn heard(
        &mut self,
        question: Question,
        said: Result<Records, Lack>,
        round: &mut Round,
    ) -> Option<Vec<Data>> {
        round.asked.insert(question.clone());
        let heard = match (said, self.memory.known.get_mut(&question)) {
            (Ok(Records { data, hold, name }), _) => {
                round.holds(hold);
                Known { data, source: Some(Source { name, doubted: false }) }
            }
            (Err(Lack::Fault(fault)), known) => {
                round.fault.get_or_insert_with(|| format!("{}: {fault}", question.name));
                return known.map(|known| known.data.clone());
            }
            (Err(Lack::Absent), Some(Known { data, source: Some(source) })) if !source.doubted => {
                source.doubted = true;
                round.holds(DOUBT);
                return Some(data.clone());
            }
            (Err(Lack::Absent), _) => Known { data: Vec::new(), source: None },
        };
        let data = heard.data.clone();
        self.memory.known.insert(question, heard);
        Some(data)
    }
}

impl Memory {
    /// Where the destination led last.
    #[must_use]
    pub fn found(&self) -> &[Found] {
        &self.found
    }
}

impl Round {
    fn holds(&mut self, hold: Duration) {
        self.hold = Some(self.hold.map_or(hold, |least| least.min(hold)));
    }
}

/// A host whose addresses are wanted.
#[derive(Debug)]
struct Wanted {
    tier: u16,
    weight: u16,
    host: String,
    port: u16,
}

/// How long is waited after so many faults in a row, at least one.
fn pause(faults: u32) -> Duration {
    let doubled = 1_u32.checked_shl(faults.saturating_sub(1)).unwrap_or(u32::MAX);
    SHORTEST.saturating_mul(doubled).min(LONGEST_PAUSE)
}
