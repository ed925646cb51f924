//! Which clients have a clean record: no unknown recipient within a day.
//!
//! Bounded: of the clients that have named unknown recipients only the most active are kept, and one that
//! falls out counts as clean again.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::net::client_key::ClientKey;

/// How long an unknown recipient is held against a client.
const HELD: Duration = Duration::from_secs(24 * 3600);
/// Clients held in mind.
const MOST: usize = 100_000;

/// What is known of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing against it.
    Clean,
    /// It named an unknown recipient within a day.
    Suspect,
}

/// The standing of all clients.
#[derive(Debug)]
pub struct Standings {
    last_unknown: Cache<ClientKey, Instant>,
}

impl Default for Standings {
    fn default() -> Self {
        Self { last_unknown: Cache::new(MOST) }
    }
}

impl Standings {
    /// How `client` stands.
    #[must_use]
    pub fn of(&self, client: ClientKey) -> Standing {
        match self.last_unknown.get(&client) {
            Some(last) if last.elapsed() < HELD => Standing::Suspect,
            _ => Standing::Clean,
        }
    }

    /// `client` named an unknown recipient.
    pub fn named_unknown(&self, client: ClientKey) {
        self.last_unknown.insert(client, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_record_is_clean_again_after_a_day() {
        let standings = Standings::default();
        let client = ClientKey::of("192.0.2.1".parse().unwrap());
        assert_eq!(standings.of(client), Standing::Clean);
        standings.named_unknown(client);
        assert_eq!(standings.of(client), Standing::Suspect);
        tokio::time::advance(HELD).await;
        assert_eq!(standings.of(client), Standing::Clean);
    }
}
