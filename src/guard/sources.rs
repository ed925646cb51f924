//! Notices when clients are hidden: all of them seem to come from a few private addresses, which is what source NAT in front
//! of us looks like (a Kubernetes Service with `externalTrafficPolicy: Cluster`, which shows its nodes; a balancer without
//! PROXY headers).
//!
//! A hint and no proof, so it is given once, and only after many clients over some time.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::client_key::is_private;

/// Sessions that are looked at, at least.
const SESSIONS: u32 = 300;
/// Private addresses that may hide everybody: the nodes of a small cluster.
const FEW: usize = 8;
/// For so long, at least.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// How we know of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is the other end of the socket.
    ByTheSocket,
    /// A front said so.
    ByAFront,
}

/// Where clients came from so far.
#[derive(Debug, Default)]
pub struct Sources(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Nobody,
    /// All came from these.
    Few { addresses: Vec<IpAddr>, since: Instant, sessions: u32 },
    /// One was seen that is not hidden, or they are many, or it was said.
    Settled,
}

impl Sources {
    /// Notes a client. True once, when it is time to say that all of them are one.
    pub fn note(&self, client: IpAddr, told: Told) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hidden = told == Told::ByTheSocket && is_private(client);
        match &mut *state {
            State::Settled => return false,
            State::Nobody if hidden => {
                *state = State::Few { addresses: vec![client], since: Instant::now(), sessions: 1 };
                return false;
            }
            State::Few { addresses, since, sessions }
                if hidden && (addresses.contains(&client) || addresses.len() < FEW) =>
            {
                if !addresses.contains(&client) {
                    addresses.push(client);
                }
                *sessions = sessions.saturating_add(1);
                if *sessions < SESSIONS || since.elapsed() < PERIOD {
                    return false;
                }
                *state = State::Settled;
                return true;
            }
            State::Nobody | State::Few { .. } => *state = State::Settled,
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Notes many sessions over some time; tells how often it was said.
    async fn said(sources: &Sources, client: &str, told: Told) -> usize {
        let mut said = 0;
        for _ in 0..2 * SESSIONS {
            said += usize::from(sources.note(ip(client), told));
            tokio::time::advance(PERIOD / SESSIONS).await;
        }
        said
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_private_addresses_for_all_are_said_once() {
        let sources = Sources::default();
        assert!((0..FEW).all(|node| !sources.note(ip(&format!("10.0.0.{node}")), Told::ByTheSocket)));
        assert_eq!(said(&sources, "10.0.0.1", Told::ByTheSocket).await, 1);
        let sources = Sources::default();
        assert!((0..=FEW).all(|node| !sources.note(ip(&format!("10.0.0.{node}")), Told::ByTheSocket)));
        assert_eq!(said(&sources, "10.0.0.1", Told::ByTheSocket).await, 0, "too many to be a balancer's");
    }

    #[tokio::test(start_paused = true)]
    async fn one_private_address_for_all_is_said_once() {
        for client in ["10.0.0.1", "192.168.1.1", "100.100.1.1", "fd00::1", "127.0.0.1", "::ffff:10.0.0.1"] {
            let sources = Sources::default();
            assert_eq!(said(&sources, client, Told::ByTheSocket).await, 1, "{client}");
            assert_eq!(said(&sources, client, Told::ByTheSocket).await, 0, "{client}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn public_or_different_or_forwarded_clients_are_nothing_to_speak_of() {
        assert_eq!(said(&Sources::default(), "192.0.2.1", Told::ByTheSocket).await, 0);
        assert_eq!(said(&Sources::default(), "10.0.0.1", Told::ByAFront).await, 0);
        let sources = Sources::default();
        assert!(!sources.note(ip("10.0.0.1"), Told::ByTheSocket));
        assert!(!sources.note(ip("192.0.2.2"), Told::ByTheSocket));
        assert_eq!(said(&sources, "10.0.0.1", Told::ByTheSocket).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_not_enough() {
        let sources = Sources::default();
        assert!((0..10 * SESSIONS).all(|_| !sources.note(ip("10.0.0.1"), Told::ByTheSocket)));
        tokio::time::advance(PERIOD).await;
        assert!(sources.note(ip("10.0.0.1"), Told::ByTheSocket));
    }
}
