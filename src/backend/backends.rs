//! All destinations that routes name, and the backends behind them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::balance::Balancer;
use super::connection::{Identity, Patience};
use super::destination::Destination;
use super::pool::{Backend, Blueprint};
use super::quota::Quota;
use crate::config::{self, Balance};
use crate::net::dial::Dialer;
use crate::net::resolve::Resolver;
use crate::observe::metrics::BackendMetrics;
use crate::proto::ehlo::Extensions;

/// All destinations, in the order of their names.
#[derive(Debug)]
pub struct Backends {
    by_name: BTreeMap<config::Destination, Arc<Destination>>,
    resolver: Arc<Resolver>,
}

impl Backends {
    /// One destination for each that is named; `servers` are asked where they are, or those of the system. Of those there
    /// were `before` the ones that are to be kept are the same, and the others hand on where they lead.
    pub fn new(
        named: impl IntoIterator<Item = (config::Destination, Quota, BackendMetrics)>,
        dialer: &Dialer,
        identity: &Identity,
        patience: Patience,
        servers: &[SocketAddr],
        before: Option<&Self>,
        is_kept: impl Fn(&config::Destination) -> bool,
    ) -> Self {
        let mut quotas: BTreeMap<config::Destination, (Quota, Vec<BackendMetrics>)> = BTreeMap::new();
        for (destination, quota, series) in named {
            if let Some((least, metrics)) = quotas.get_mut(&destination) {
                least.also(quota);
                metrics.push(series);
            } else {
                quotas.insert(destination, (quota, vec![series]));
            }
        }
        let destination = |named: config::Destination, quota: Quota, metrics| {
            let old = before.and_then(|before| before.find(&named));
            if let Some(kept) = old.filter(|_| is_kept(&named)) {
                return (named, Arc::clone(kept));
            }
            let identity = Identity { header: quota.header, ..identity.clone() };
            let blueprint = Blueprint { quota, dialer: dialer.clone(), identity, patience, metrics };
            let new = match old {
                Some(old) => Destination::after(old, blueprint),
                None => Destination::new(named.clone(), blueprint),
            };
            (named, new)
        };
        let by_name = quotas.into_iter().map(|(named, (quota, metrics))| destination(named, quota, metrics));
        // Whoever follows a destination is to notice only when others are to be asked.
        let same = before.map(|before| &before.resolver).filter(|resolver| resolver.asks(servers));
        let resolver = same.cloned().unwrap_or_else(|| Resolver::new(servers));
        Self { by_name: by_name.collect(), resolver }
    }

    /// Who says where they are.
    #[must_use]
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// The destination of this name.
    #[must_use]
    pub fn find(&self, named: &config::Destination) -> Option<&Arc<Destination>> {
        self.by_name.get(named)
    }

    /// They are in force: what they may have holds.
    pub fn take_effect(&self) {
        self.iter().for_each(|backend| backend.take_effect());
    }

    /// Clients to come have `others`: those of ours that are not among them keep no session from now on.
    pub fn stand_down_but_for(&self, others: &Self) {
        let is_theirs =
            |own: &Arc<Destination>| others.find(own.named()).is_some_and(|other| Arc::ptr_eq(own, other));
        for gone in self.destinations().filter(|own| !is_theirs(own)) {
            gone.members().iter().for_each(|member| member.backend.stand_down());
        }
    }

    /// All destinations.
    pub fn destinations(&self) -> impl Iterator<Item = &Arc<Destination>> {
        self.by_name.values()
    }

    /// All backends there are now.
    pub fn iter(&self) -> impl Iterator<Item = Arc<Backend>> {
        let members: Vec<_> = self
            .by_name
            .values()
            .flat_map(|destination| {
                destination.members().iter().map(|member| Arc::clone(&member.backend)).collect::<Vec<_>>()
            })
            .collect();
        members.into_iter()
    }

    /// Who chooses among the backends of `named`.
    #[must_use]
    pub fn balancer(&self, named: &[config::Destination], balance: Balance) -> Balancer {
        Balancer::new(named.iter().filter_map(|named| self.find(named).cloned()).collect(), balance)
    }

    /// Looks every name up once; none takes longer than `patience`.
    pub async fn look_up(&self, patience: Duration) {
        join_all(self.destinations().map(|destination| destination.look_up(&self.resolver, patience))).await;
    }

    /// Follows what DNS says until `ended`, each destination as long as somebody has it. Comes back when every name was
    /// looked up once, or after `patience`.
    pub async fn follow(&self, ended: &CancellationToken, patience: Duration) {
        self.destinations().for_each(|destination| destination.follow(&self.resolver, ended, patience));
        let _ = timeout(patience, join_all(self.destinations().map(|d| d.is_looked_up()))).await;
    }

    /// Checks backends that nobody needs, or that rest, until `ended`.
    pub fn check(&self, ended: &CancellationToken) {
        for destination in self.destinations() {
            let fellows = self.destinations().filter(|other| other.shares_canary_of(destination));
            let fellows: Arc<[_]> = fellows.cloned().collect();
            let (destination, ended) = (Arc::clone(destination), ended.clone());
            tokio::spawn(async move {
                ended.run_until_cancelled(super::check::watch(&destination, &fellows)).await;
            });
        }
    }

    /// All backends are to be met as after an outage: connections are opened a few at a time.
    pub fn begin_slowly(&self) {
        self.iter().for_each(|backend| backend.budget().begin_slowly());
    }

    /// Brings the metrics up to date.
    pub fn observe(&self) {
        self.destinations().for_each(|destination| destination.observe());
    }

    /// A client's session is over: takes leave of what was introduced as its own.
    pub fn dismiss(&self, session: &str) {
        self.iter().for_each(|backend| backend.dismiss(session));
    }

    /// Takes leave of every session that is kept, and waits for those in use to end, for so long at most.
    pub async fn leave(&self, patience: Duration) {
        let backends: Vec<_> = self.iter().collect();
        let leaving = backends.iter().map(|backend| backend.leave());
        let _ = timeout(patience, join_all(leaving)).await;
    }

    /// What all backends of `named` that were ever reached announced; none when none was.
    #[must_use]
    pub fn announced_by_all<'e>(
        &self,
        named: impl Iterator<Item = &'e config::Destination>,
    ) -> Option<Extensions> {
        named.filter_map(|named| self.find(named)?.announced()).reduce(|all, one| all.intersection(&one))
    }
}
