//! How many connections there may be, in all and from one client.
//!
//! The table holds only clients that are connected, so it is bounded by the connections there may be.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::net::client_key::ClientKey;

/// The connections of all clients.
#[derive(Debug)]
pub struct Connections {
    most: AtomicUsize,
    most_per_client: AtomicUsize,
    all: AtomicUsize,
    /// Those that wait for a header which says whose they are; counted apart.
    unread: AtomicUsize,
    /// Wakes them: they have become many.
    crowd: Notify,
    by_client: DashMap<ClientKey, usize>,
}

/// The right to one connection; given back when dropped.
#[derive(Debug)]
pub struct Admission {
    connections: Arc<Connections>,
    /// None for a front, which has as many as it has clients.
    client: Option<ClientKey>,
}

/// The right to wait for a header; given back when dropped.
#[derive(Debug)]
pub struct Unread(Arc<Connections>);

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
        Arc::new(Self {
            most: AtomicUsize::new(most),
            most_per_client: AtomicUsize::new(most_per_client),
            all: AtomicUsize::new(0),
            unread: AtomicUsize::new(0),
            crowd: Notify::new(),
            by_client: DashMap::new(),
        })
    }

    /// From now on there is room for so many; who is here stays.
    pub fn set_limits(&self, most: usize, most_per_client: usize) {
        self.most.store(most, Ordering::Relaxed);
        self.most_per_client.store(most_per_client, Ordering::Relaxed);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// [`Turned`] says which limit it met.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Admission, Turned> {
        self.count_one()?;
        let client = ClientKey::of(address);
        let mut own = self.by_client.entry(client).or_insert(0);
        if *own >= self.most_per_client.load(Ordering::Relaxed) {
            drop(own);
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Greedy);
        }
        *own += 1;
        drop(own);
        Ok(Admission { connections: Arc::clone(self), client: Some(client) })
    }

    /// Lets in a front that has not said for whom it speaks.
    ///
    /// # Errors
    /// [`Turned::Full`].
    pub fn admit_front(self: &Arc<Self>) -> Result<Admission, Turned> {
        self.count_one()?;
        Ok(Admission { connections: Arc::clone(self), client: None })
    }

    /// Lets a connection wait for the header that says whose it is: half as many as there may be connections.
    ///
    /// # Errors
    /// [`Turned::Full`].
    pub fn await_header(self: &Arc<Self>) -> Result<Unread, Turned> {
        if self.unread.fetch_add(1, Ordering::Relaxed) >= self.most().div_ceil(2) {
            self.unread.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Full);
        }
        if self.is_crowded() {
            self.crowd.notify_waiters();
        }
        Ok(Unread(Arc::clone(self)))
    }

    /// Whether half of those that may wait for a header do.
    fn is_crowded(&self) -> bool {
        self.unread.load(Ordering::Relaxed) * 2 >= self.most().div_ceil(2)
    }

    fn count_one(&self) -> Result<(), Turned> {
        if self.all.fetch_add(1, Ordering::Relaxed) >= self.most() {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Turned::Full);
        }
        Ok(())
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
        let Some(client) = self.client else { return };
        if let Entry::Occupied(mut own) = self.connections.by_client.entry(client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl Unread {
    /// Comes back once so many wait that places are scarce, not before `due`: who is slow is to make way then, or silent
    /// ones, who may all be one client's, would keep everybody else out.
    pub async fn make_way(&self, due: Instant) {
        loop {
            let mut crowd = std::pin::pin!(self.0.crowd.notified());
            crowd.as_mut().enable();
            if self.0.is_crowded() {
                if Instant::now() >= due {
                    return;
                }
                sleep_until(due).await;
            } else {
                crowd.await;
            }
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
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

    #[test]
    fn a_front_is_held_to_the_limit_of_all_alone() {
        let connections = Connections::new(3, 1);
        let fronts: Vec<_> = (0..3).map(|_| connections.admit_front().unwrap()).collect();
        assert_eq!(connections.admit_front().unwrap_err(), Turned::Full);
        drop(fronts);
        assert_eq!(connections.open(), 0);
    }

    #[test]
    fn so_many_headers_are_waited_for_and_no_more() {
        let connections = Connections::new(3, 1);
        let waiting = [connections.await_header().unwrap(), connections.await_header().unwrap()];
        assert!(connections.await_header().is_err());
        assert!(connections.admit(ip("192.0.2.1")).is_ok(), "they are counted apart");
        drop(waiting);
        assert!(connections.await_header().is_ok());
    }
}
