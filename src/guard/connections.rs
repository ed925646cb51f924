//! How many connections there may be, in all and from one client.
//!
//! The table holds only clients that are connected, so it is bounded by the connections there may be.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::net::client_key::ClientKey;

/// The connections of all clients.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    most_per_client: usize,
    all: AtomicUsize,
    by_client: DashMap<ClientKey, usize>,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Connections>,
    client: ClientKey,
}

/// Why a client is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// There are too many connections.
    Full,
    /// This client has too many.
    Greedy,
}

impl Connections {
    /// Room for `most` connections, `most_per_client` of them from one client.
    #[must_use]
    pub fn new(most: usize, most_per_client: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_client, all: AtomicUsize::new(0), by_client: DashMap::new() })
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// [`Turned`] says which limit it met.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admission, Turned> {
        if self.all.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Full);
        }
        let client = ClientKey::of(address);
        let mut own = self.by_client.entry(client).or_insert(0);
        if *own >= self.most_per_client {
            drop(own);
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Greedy);
        }
        *own += 1;
        drop(own);
        Ok(Admission { connections: Arc::clone(self), client })
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.all.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut own) = self.connections.by_client.entry(self.client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn limits_hold_and_room_comes_back() {
        let connections = Connections::new(3, 2);
        let one = connections.admit(ip("192.0.2.1")).unwrap();
        let _two = connections.admit(ip("192.0.2.1")).unwrap();
        assert_eq!(connections.admit(ip("192.0.2.1")).unwrap_err(), Turned::Greedy);
        let _three = connections.admit(ip("192.0.2.2")).unwrap();
        assert_eq!(connections.admit(ip("192.0.2.3")).unwrap_err(), Turned::Full);
        drop(one);
        assert!(connections.admit(ip("192.0.2.1")).is_ok());
        assert_eq!(connections.by_client.len(), 2);
    }
}
