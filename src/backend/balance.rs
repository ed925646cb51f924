//! In which order backends are tried for a session.
//!
//! The lowest tier (SRV priority, MX preference) first. Within one: *least-connections* takes two by chance, by their
//! weights, and of these the one that has less of its budget in use, for its weight; of two alike the faster one, by
//! the time a new session takes until it is greeted. *Round-robin* takes each in its turn, by its weight. *Failover*
//! takes them as they are written. One that failed a moment ago comes after its tier, one that rests after all tiers,
//! and one that has all its connections in use is waited for only when no other of its tier is free.

use std::cmp::Ordering as Order3;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::budget::Load;
use super::destination::{Destination, Member};
use super::health::Standing;
use super::pool::Backend;
use crate::config::Balance;

/// The backends of one user: a route, or a prober.
#[derive(Debug)]
pub struct Balancer {
    destinations: Vec<Arc<Destination>>,
    balance: Balance,
    turn: AtomicU64,
}

impl Balancer {
    /// One over all backends of `destinations`.
    #[must_use]
    pub const fn new(destinations: Vec<Arc<Destination>>, balance: Balance) -> Self {
        Self { destinations, balance, turn: AtomicU64::new(0) }
    }

    /// The backends there are now.
    pub fn backends(&self) -> impl Iterator<Item = Arc<Backend>> {
        self.destinations.iter().flat_map(|destination| {
            let members = destination.members();
            (0..members.len()).filter_map(move |at| members.get(at).map(|member| Arc::clone(&member.backend)))
        })
    }

    /// Sessions for probes that those which do not rest may be given; at least 1.
    #[must_use]
    pub fn most_probes(&self) -> usize {
        let up = self.backends().filter(|backend| backend.standing() != Standing::Resting);
        let each = up.map(|backend| backend.budget().most_probes());
        let most = match self.balance {
            // One of them is asked.
            Balance::Failover => each.max().unwrap_or_default(),
            Balance::LeastConnections | Balance::RoundRobin => each.sum(),
        };
        most.max(1)
    }

    /// In which order they are tried now; only those of the family of `client`, if there are any.
    #[must_use]
    pub fn order(&self, client: Option<SocketAddr>) -> Order {
        let mut left: Vec<Member> = Vec::with_capacity(self.destinations.len());
        for destination in &self.destinations {
            left.extend(destination.members().iter().cloned());
        }
        if let Some(client) = client {
            let own = |member: &Member| {
                member
                    .backend
                    .site()
                    .ip()
                    .is_none_or(|ip| ip.is_ipv4() == client.ip().to_canonical().is_ipv4())
            };
            if left.iter().any(own) {
                left.retain(own);
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Order { left, balance: self.balance, turn, avoided: None }
    }
}

/// Backends that were not tried yet. The next one is chosen when it is asked for.
#[derive(Debug)]
pub struct Order {
    left: Vec<Member>,
    balance: Balance,
    turn: u64,
    /// Tried when there is no other.
    avoided: Option<Arc<Backend>>,
}

impl Order {
    /// The same, with `backend`, if any, behind all that do not rest.
    #[must_use]
    pub fn avoiding(self, backend: Option<Arc<Backend>>) -> Self {
        Self { avoided: backend, ..self }
    }

    /// How many there are yet.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.left.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Among which the next one is: those of the lowest tier that are worth most.
    fn among(&self) -> Vec<usize> {
        let rank = |member: &Member| {
            let standing = member.backend.standing();
            let avoided = self.avoided.as_ref().is_some_and(|avoided| Arc::ptr_eq(avoided, &member.backend));
            (avoided || standing == Standing::Resting, member.tier, standing)
        };
        let ranks: Vec<_> = self.left.iter().map(rank).collect();
        let Some(best) = ranks.iter().min() else { return Vec::new() };
        ranks.iter().enumerate().filter(|(_, rank)| *rank == best).map(|(at, _)| at).collect()
    }

    fn choose(&self, among: &[usize]) -> Option<usize> {
        let weights: Vec<u64> =
            among.iter().filter_map(|at| self.left.get(*at)).map(|member| share(member.weight)).collect();
        let place = match (self.balance, among) {
            (_, [_]) | (Balance::Failover, _) => 0,
            (Balance::RoundRobin, _) => in_turn(self.turn, &weights),
            (Balance::LeastConnections, _) => self.less_used(among, &weights),
        };
        among.get(place).copied()
    }

    /// The place of the less used of two, or of all where those two are full.
    fn less_used(&self, among: &[usize], weights: &[u64]) -> usize {
        let used = |place: usize| {
            let member = among.get(place).and_then(|at| self.left.get(*at));
            member.map(|member| Used::of(&member.backend, weights.get(place).copied().unwrap_or(1)))
        };
        let (one, other) = two(self.turn, weights);
        let better = |a: usize, b: usize| match (used(a), used(b)) {
            (Some(first), Some(second)) if second.compared(&first) == Order3::Less => b,
            _ => a,
        };
        // The one written first where nothing tells them apart.
        let chosen = better(one.min(other), one.max(other));
        if used(chosen).is_some_and(|used| used.is_full()) {
            return (0..among.len()).reduce(better).unwrap_or(chosen);
        }
        chosen
    }
}

impl Iterator for Order {
    type Item = Arc<Backend>;

    fn next(&mut self) -> Option<Arc<Backend>> {
        if self.left.len() == 1 {
            return self.left.pop().map(|member| member.backend);
        }
        let among = self.among();
        let chosen = self.choose(&among)?;
        Some(self.left.remove(chosen).backend)
    }
}

/// How much of a backend is in use.
#[derive(Debug, Clone, Copy)]
struct Used {
    load: Load,
    weight: u64,
    latency: Duration,
}

impl Used {
    fn of(backend: &Backend, weight: u64) -> Self {
        Self { load: backend.load(), weight, latency: backend.latency() }
    }

    const fn is_full(&self) -> bool {
        self.load.used >= self.load.limit
    }

    /// Full ones last; then by what is in use of the budget, for the weight; then by latency.
    fn compared(&self, other: &Self) -> Order3 {
        // used / (limit × weight), without dividing.
        let part =
            |of: &Self, by: &Self| of.load.used as u128 * by.load.limit as u128 * u128::from(by.weight);
        self.is_full()
            .cmp(&other.is_full())
            .then_with(|| part(self, other).cmp(&part(other, self)))
            .then_with(|| self.latency.cmp(&other.latency))
    }
}

/// The share a weight stands for: one of zero is small, but not nothing (RFC 2782).
fn share(weight: u16) -> u64 {
    (u64::from(weight) * 100).max(1)
}

/// Two different places by chance, the heavier the likelier; there are two at least.
fn two(turn: u64, weights: &[u64]) -> (usize, usize) {
    if let [_, _] = weights {
        return (0, 1);
    }
    let total: u64 = weights.iter().sum();
    let first = place_of(mixed(turn, 1) % total.max(1), weights);
    let rest: Vec<u64> =
        weights.iter().enumerate().map(|(at, weight)| if at == first { 0 } else { *weight }).collect();
    let left: u64 = rest.iter().sum();
    (first, place_of(mixed(turn, 2) % left.max(1), &rest))
}

/// The place whose turn it is: with equal weights one after the other, else spread evenly by weight.
fn in_turn(turn: u64, weights: &[u64]) -> usize {
    let equal = weights.iter().all(|weight| Some(weight) == weights.first());
    let places = weights.len().max(1) as u64;
    if equal {
        return usize::try_from(turn % places).unwrap_or(0);
    }
    // Steps of the golden section of the circle: each arc is hit as often as it is long, and evenly.
    let total: u64 = weights.iter().sum();
    let point = u128::from(turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)) * u128::from(total);
    place_of(u64::try_from(point >> 64).unwrap_or(0), weights)
}

/// The place in which `point` of the sum of `weights` lies.
fn place_of(mut point: u64, weights: &[u64]) -> usize {
    for (place, weight) in weights.iter().enumerate() {
        if point < *weight {
            return place;
        }
        point -= weight;
    }
    0
}

/// Bits without a pattern, the same for the same turn (splitmix64): simulations play the same twice.
const fn mixed(turn: u64, salt: u64) -> u64 {
    let mut z = turn.wrapping_mul(2).wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backend::Use;
    use crate::backend::health::Trier;
    use crate::backend::tests::blueprint;
    use crate::config::{Endpoint, EndpointTls};
    use crate::net::dial::Site;

    /// Backends named by letters, each with its tier and its weight.
    fn members(wanted: &[(&str, u16, u16)]) -> Vec<Member> {
        let member = |&(name, tier, weight): &(&str, u16, u16)| {
            let endpoint = Endpoint { host: name.to_owned(), port: 25, tls: EndpointTls::Negotiated };
            Member { backend: Backend::new(Site::of(endpoint), &blueprint(), None), tier, weight }
        };
        wanted.iter().map(member).collect()
    }

    fn order(members: &[Member], balance: Balance, turn: u64) -> Vec<String> {
        let order = Order { left: members.to_vec(), balance, turn, avoided: None };
        order.map(|backend| backend.endpoint().host.clone()).collect()
    }

    /// How often each was first in so many turns.
    fn firsts(members: &[Member], balance: Balance, turns: u64) -> BTreeMap<String, u64> {
        let mut firsts = BTreeMap::new();
        for turn in 0..turns {
            let first = order(members, balance, turn).remove(0);
            *firsts.entry(first).or_default() += 1;
        }
        firsts
    }

    fn fails(member: &Member, times: usize) {
        (0..times).for_each(|_| drop(member.backend.health().attempt(Trier::User)));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_tier_come_before_the_next_and_each_comes_once() {
        let members = members(&[("a", 20, 1), ("b", 10, 1), ("c", 20, 1), ("d", 10, 1)]);
        for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::Failover] {
            for turn in 0..20 {
                let mut order = order(&members, balance, turn);
                order[..2].sort_unstable();
                order[2..].sort_unstable();
                assert_eq!(order, ["b", "d", "a", "c"], "{balance:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_comes_after_its_tier_and_one_that_rests_after_all() {
        let members = members(&[("a", 1, 1), ("b", 1, 1), ("c", 2, 1)]);
        fails(&members[0], 1);
        assert_eq!(order(&members, Balance::Failover, 0), ["b", "a", "c"]);
        fails(&members[0], 2);
        for balance in [Balance::LeastConnections, Balance::RoundRobin, Balance::Failover] {
            assert_eq!(order(&members, balance, 1), ["b", "c", "a"], "{balance:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_avoided_comes_after_all_that_do_not_rest() {
        let members = members(&[("a", 1, 1), ("b", 1, 1), ("c", 2, 1)]);
        let order = Order { left: members.clone(), balance: Balance::Failover, turn: 0, avoided: None };
        let order = order.avoiding(Some(Arc::clone(&members[0].backend)));
        let hosts: Vec<_> = order.map(|backend| backend.endpoint().host.clone()).collect();
        assert_eq!(hosts, ["b", "c", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_turn_is_evenly_and_by_weight() {
        let equal = members(&[("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]);
        let firsts_of = |members: &[Member], turns| firsts(members, Balance::RoundRobin, turns);
        assert_eq!(firsts_of(&equal, 30).into_values().collect::<Vec<_>>(), [10, 10, 10]);
        let weighed = members(&[("a", 0, 60), ("b", 0, 30), ("c", 0, 10), ("d", 0, 0)]);
        let firsts = firsts_of(&weighed, 1000);
        for (name, share) in [("a", 600_u64), ("b", 300), ("c", 100)] {
            assert!(firsts[name].abs_diff(share) <= 10, "{firsts:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_by_chance_the_less_used_one_is_taken() {
        let members = members(&[("a", 0, 1), ("b", 0, 1), ("c", 0, 1), ("d", 0, 1)]);
        // Whoever is taken stays in use: nobody gets ahead by more than chance of two allows.
        let mut permits = Vec::new();
        for turn in 0..24 {
            let mut order =
                Order { left: members.clone(), balance: Balance::LeastConnections, turn, avoided: None };
            permits.push(order.next().unwrap().budget().permit(Use::Greeting).await);
        }
        let used: Vec<_> = members.iter().map(|member| member.backend.budget().holders()).collect();
        assert!(used.iter().all(|used| (4..=8).contains(used)), "{used:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn weights_count_where_the_less_used_one_is_taken_too() {
        let members = members(&[("a", 0, 30), ("b", 0, 10)]);
        let mut permits = Vec::new();
        for turn in 0..8 {
            let mut order =
                Order { left: members.clone(), balance: Balance::LeastConnections, turn, avoided: None };
            permits.push(order.next().unwrap().budget().permit(Use::Greeting).await);
        }
        let used: Vec<_> = members.iter().map(|member| member.backend.budget().holders()).collect();
        assert_eq!(used, [6, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_used_alike_the_faster_one_is_taken() {
        let members = members(&[("a", 0, 1), ("b", 0, 1)]);
        members[0].backend.took(Duration::from_millis(20));
        members[1].backend.took(Duration::from_millis(10));
        assert_eq!(order(&members, Balance::LeastConnections, 0), ["b", "a"]);
        members[1].backend.took(Duration::from_secs(10));
        assert_eq!(order(&members, Balance::LeastConnections, 0), ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_full_is_left_for_one_that_is_not() {
        let members = members(&[("a", 0, 100), ("b", 0, 100), ("c", 0, 1)]);
        let mut permits = Vec::new();
        for member in &members[..2] {
            while member.backend.load().used < member.backend.load().limit {
                let probe = member.backend.load().used == 0;
                permits.push(
                    member.backend.budget().permit(if probe { Use::Probe } else { Use::Greeting }).await,
                );
            }
        }
        for turn in 0..20 {
            assert_eq!(order(&members, Balance::LeastConnections, turn)[0], "c");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_one_family_gets_backends_of_it_where_there_are_any() {
        let destination = Destination::new(crate::config::Destination::Mx("example.org".into()), blueprint());
        let found = |address: &str| crate::net::resolve::Found {
            tier: 0,
            host: "a".into(),
            address: address.parse().unwrap(),
            weight: 1,
        };
        let balancer = Balancer::new(vec![Arc::clone(&destination)], Balance::Failover);
        destination.lead_to(vec![found("10.0.0.1:25"), found("[2001:db8::1]:25")]);
        let six: SocketAddr = "[2001:db8::9]:40000".parse().unwrap();
        assert_eq!((balancer.order(None).len(), balancer.order(Some(six)).len()), (2, 1));
        assert_eq!(balancer.order(Some(six)).next().unwrap().site().ip(), "2001:db8::1".parse().ok());
        destination.lead_to(vec![found("10.0.0.1:25")]);
        assert_eq!(balancer.order(Some(six)).len(), 1, "the fault is to be told");
    }
}
