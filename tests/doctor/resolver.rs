//! A name server of the test's own: the addresses it was given, and no other name exists.

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

/// Where it listens: port 53, as the system's resolver asks no other, on an address of loopback that is nobody's.
pub(crate) fn name_server(addresses: &'static [(&str, [u8; 4])]) -> Ipv4Addr {
    let (socket, address) = (1..=254_u8)
        .find_map(|last| {
            let [a, b, ..] = std::process::id().to_ne_bytes();
            let address = Ipv4Addr::new(127, a | 1, b, last);
            Some((UdpSocket::bind((address, 53)).ok()?, address))
        })
        .expect("root, and a free address on loopback");
    let addresses: HashMap<_, _> = addresses.iter().copied().collect();
    // It ends with the test's process.
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..length], &addresses) {
                let _ = socket.send_to(&answer, client);
            }
        }
    });
    address
}

/// The answer to a query with one question (RFC 1035 §4.1).
fn answer(query: &[u8], addresses: &HashMap<&str, [u8; 4]>) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let (mut labels, mut at) = (Vec::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let question = query.get(HEADER..at + 4)?;
    let found = addresses.get(labels.join(".").as_str());
    let asks_for_a = query.get(at..at + 2)? == [0, 1];
    let record = found.filter(|_| asks_for_a);
    // Answer, recursion available; NXDOMAIN for what does not exist.
    let code = if found.is_some() { 0x80 } else { 0x83 };
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = record {
        // The name as in the question; A, IN, 60 s, four octets.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}
