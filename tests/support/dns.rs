//! A scripted name server on UDP (RFC 1035): it says what the test told it last, or nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The server. Dropping it ends it.
pub struct NameServer {
    shared: Arc<Mutex<Shared>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    said: HashMap<(String, u16), Said>,
    asked: Vec<(String, u16)>,
}

/// What is answered to a question.
#[derive(Clone, Debug)]
pub enum Said {
    /// These records, which hold for so many seconds. None: the name has others.
    Records(u32, Vec<Data>),
    NxDomain,
    ServFail,
    /// Nothing.
    Silence,
}

/// A record without its name.
#[derive(Clone, Debug)]
pub enum Data {
    Address(IpAddr),
    Srv { priority: u16, weight: u16, port: u16, target: &'static str },
    Mx { preference: u16, exchange: &'static str },
    Ptr(&'static str),
}

pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const MX: u16 = 15;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

impl NameServer {
    /// Starts on a free port; what it was told nothing about does not exist.
    pub async fn start() -> (Self, SocketAddr) {
        Self::on(UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a port"))
    }

    /// Starts where the system's resolver asks, which knows no other port than 53: on an address of loopback that is nobody's.
    pub async fn start_for_the_system() -> (Self, SocketAddr) {
        let [a, b, ..] = std::process::id().to_ne_bytes();
        for last in 1..=254 {
            if let Ok(socket) = UdpSocket::bind((Ipv4Addr::new(127, a | 1, b, last), 53)).await {
                return Self::on(socket);
            }
        }
        panic!("root, and a free address on loopback");
    }

    fn on(socket: UdpSocket) -> (Self, SocketAddr) {
        let address = socket.local_addr().expect("it is bound");
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let serving = tokio::spawn(serve(socket, Arc::clone(&shared)));
        (Self { shared, serving }, address)
    }

    /// From now on says so.
    pub fn says(&self, name: &str, kind: u16, said: Said) {
        self.shared().said.insert((name.to_owned(), kind), said);
    }

    /// From now on the name has these IPv4 addresses, for so many seconds.
    pub fn leads(&self, name: &str, ttl: u32, addresses: &[SocketAddr]) {
        let data = addresses.iter().map(|address| Data::Address(address.ip())).collect();
        self.says(name, A, Said::Records(ttl, data));
        self.says(name, AAAA, Said::Records(ttl, Vec::new()));
    }

    /// From now on says this of every name and kind it knows.
    pub fn says_of_all(&self, said: &Said) {
        self.shared().said.values_mut().for_each(|known| *known = said.clone());
    }

    /// How often it was asked.
    pub fn asked(&self, name: &str, kind: u16) -> usize {
        self.shared().asked.iter().filter(|(n, k)| n == name && *k == kind).count()
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test panicked holding it")
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, shared: Arc<Mutex<Shared>>) {
    let mut query = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut query).await {
        let query = &query[..length];
        let Some((name, kind, end)) = question(query) else { continue };
        let said = {
            let mut shared = shared.lock().expect("no test panicked holding it");
            shared.asked.push((name.clone(), kind));
            shared.said.get(&(name, kind)).cloned().unwrap_or(Said::NxDomain)
        };
        if let Some(reply) = reply(&query[..end], &said) {
            let _ = socket.send_to(&reply, client).await;
        }
    }
}

/// Name and kind of the only question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

/// The answer to `query`, which is a header and a question.
fn reply(query: &[u8], said: &Said) -> Option<Vec<u8>> {
    let (code, ttl, records) = match said {
        Said::Records(ttl, records) => (0, *ttl, records.as_slice()),
        Said::NxDomain => (3, 0, [].as_slice()),
        Said::ServFail => (2, 0, [].as_slice()),
        Said::Silence => return None,
    };
    let mut reply = query.to_vec();
    // An answer, authoritative, with recursion; its code.
    (reply[2], reply[3]) = (0x85, 0x80 | code);
    reply[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    reply[7] = u8::try_from(records.len()).expect("few records");
    for record in records {
        let (kind, data) = record.encoded();
        // The name of the question.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

impl Data {
    fn encoded(&self) -> (u16, Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(ip)) => (A, ip.octets().to_vec()),
            Self::Address(IpAddr::V6(ip)) => (AAAA, ip.octets().to_vec()),
            Self::Srv { priority, weight, port, target } => {
                let mut data: Vec<u8> =
                    [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                data.extend(name(target));
                (SRV, data)
            }
            Self::Mx { preference, exchange } => {
                let mut data = preference.to_be_bytes().to_vec();
                data.extend(name(exchange));
                (MX, data)
            }
            Self::Ptr(target) => (PTR, name(target)),
        }
    }
}

fn name(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).expect("a label"));
        octets.extend(label.bytes());
    }
    octets.push(0);
    octets
}
