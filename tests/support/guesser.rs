//! Clients that guess recipients, at all instances of a tier in turn, until each of them turns them away.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::LOOK_AGAIN;
use super::client::Client;
use super::instance::Instance;

/// Names a connection asks for before it goes on with another instance.
const SESSION: usize = 8;

/// A client in the sense of the limits.
#[derive(Clone, Copy)]
pub enum Guesser {
    /// An IPv4 address.
    Address([u8; 4]),
    /// An IPv6 /64, each connection of which has another address.
    Network(u16),
}

/// How all of them go about it.
#[derive(Clone)]
pub struct Harvest {
    /// Connections of each at once. Every second one asks for one name at a time, the others for all names of a session at once.
    pub connections: usize,
    /// The way through the network, between an answer and what is said next.
    pub pause: Duration,
    /// Ends those that are left.
    pub over: CancellationToken,
}

impl Harvest {
    /// Gives how many names of each were refused as unknown, by [`Guesser::mark`].
    pub async fn run(self, all: &Arc<[Instance; 3]>, guessers: &[Guesser]) -> HashMap<String, usize> {
        let mut guessing = JoinSet::new();
        let all_of_them =
            guessers.iter().flat_map(|guesser| (0..self.connections).map(move |n| (*guesser, n)));
        // Not all at once: that would be one burst after another.
        let apart = self.pause / u32::try_from(guessers.len() * self.connections).expect("some thousands");
        for ((guesser, number), place) in all_of_them.zip(0..) {
            let (all, harvest, delay) = (Arc::clone(all), self.clone(), apart * place);
            let connection = Connection { guesser, number, refused: 0, delay, harvest };
            guessing.spawn(async move { (guesser.mark(), connection.run(&all).await) });
        }
        let mut got: HashMap<String, usize> = HashMap::new();
        while let Some(one) = guessing.join_next().await {
            let (mark, refused) = one.expect("a guesser does not panic");
            *got.entry(mark).or_default() += refused;
        }
        got
    }
}

impl Guesser {
    /// What its names have in common.
    pub fn mark(self) -> String {
        match self {
            Self::Address([.., b, c, d]) => format!("guess4.{b}.{c}.{d}."),
            Self::Network(network) => format!("guess6.{network}."),
        }
    }

    /// Where its next connection comes from.
    fn address(self) -> String {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        match self {
            Self::Address([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
            Self::Network(network) => {
                let host = NEXT.fetch_add(1, Ordering::Relaxed);
                format!("2001:db8:0:{network:x}:{:x}::{host:x}", host.wrapping_mul(7919))
            }
        }
    }
}

/// One connection of a guesser, opened again and again.
struct Connection {
    guesser: Guesser,
    number: usize,
    refused: usize,
    /// Until it begins.
    delay: Duration,
    harvest: Harvest,
}

impl Connection {
    async fn run(mut self, all: &[Instance; 3]) -> usize {
        let over = self.harvest.over.clone();
        over.run_until_cancelled(async {
            sleep(self.delay).await;
            self.guess(all).await;
        })
        .await;
        self.refused
    }

    async fn guess(&mut self, all: &[Instance; 3]) {
        let mut open: Vec<&Instance> = all.iter().collect();
        let mut turn = self.number;
        while !open.is_empty() {
            let place = turn % open.len();
            turn += 1;
            let (client, greeting) = open[place].connect(&self.guesser.address()).await;
            sleep(self.harvest.pause).await;
            if greeting.code == 421 {
                greeting.is("421 4.7.0");
                open.remove(place);
            } else {
                self.session(client).await;
            }
        }
    }

    async fn session(&mut self, mut client: Client) {
        client.command("EHLO client.test").await.is("250");
        client.command("MAIL FROM:<sender@client.test>").await.is("250");
        let end = self.refused + SESSION;
        let at_once = if self.number.is_multiple_of(2) { 1 } else { SESSION };
        while self.refused < end {
            let names = (self.refused..self.refused + at_once).map(|n| self.rcpt(n));
            let mut ended = client.try_send(names.collect::<String>()).await.is_err();
            let mut put_off = false;
            for _ in 0..at_once {
                match client.try_reply().await.as_ref().map(|reply| reply.code) {
                    Some(550) => self.refused += 1,
                    // Too many wait for an answer.
                    Some(451) => put_off = true,
                    Some(421) | None => ended = true,
                    Some(code) => panic!("{code}"),
                }
            }
            if ended {
                return;
            }
            sleep(if put_off { self.harvest.pause.max(LOOK_AGAIN) } else { self.harvest.pause }).await;
        }
    }

    fn rcpt(&self, name: usize) -> String {
        format!("RCPT TO:<{}{}.{name}@example.org>\r\n", self.guesser.mark(), self.number)
    }
}
