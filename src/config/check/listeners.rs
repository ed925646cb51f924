//! Listeners: each with a name and addresses of its own.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config::choice::{ListenerTls, ProxyProtocol};
use crate::config::finding::Findings;
use crate::config::leaf::Leaf as _;
use crate::config::settings;
use crate::config::used::Listener;

/// Checks all listeners.
pub(super) fn check(written: &[settings::Listener], findings: &mut Findings) -> Vec<Listener> {
    if written.is_empty() {
        findings.follow(
            "listener",
            "no listener",
            "leave it out, or write [[listener]] with address = [\"[::]:25\"]",
        );
    }
    let mut names = HashSet::new();
    let mut taken = HashMap::new();
    for (at, listener) in written.iter().enumerate() {
        let name = listener.name.as_str();
        if !names.insert(name) {
            let reason = format!("another listener is named {name:?} too");
            findings.fault(
                &format!("listener[{at}].name"),
                reason,
                "write a name of its own, such as name = \"mx2\"",
            );
        }
        addresses(&format!("listener[{at}].address"), listener, &mut taken, findings);
        trust(&format!("listener[{at}]"), listener, findings);
    }
    let used = |listener: &settings::Listener| Listener {
        tls: listener.tls.unwrap_or(ListenerTls::Off),
        name: Arc::from(listener.name.as_str()),
        addresses: listener.address.clone(),
        proxy_protocol: listener.proxy_protocol,
        xclient: listener.xclient,
        trusted: listener.trusted.iter().copied().collect(),
        transparent: listener.transparent,
        reuse_port: listener.reuse_port,
    };
    written.iter().map(used).collect()
}

/// Checks one listener's addresses against those `taken` by name so far.
fn addresses<'l>(
    key: &str,
    listener: &'l settings::Listener,
    taken: &mut HashMap<SocketAddr, &'l str>,
    findings: &mut Findings,
) {
    if listener.address.is_empty() {
        findings.follow(key, "no address", "write address = [\"[::]:25\"]");
    }
    for &address in &listener.address {
        if let Some(other) = taken.get(&address) {
            let reason = format!("listener {other:?} has this address already");
            findings.fault_in(
                key,
                &address.to_string(),
                reason,
                "remove it, or write another address or port",
            );
        } else if let Some(other) = other_family(address).and_then(|twin| taken.get(&twin)) {
            let reason = format!("listener {other:?} has this port on all addresses of both families");
            let remedy = format!("write \"[::]:{}\" alone, which takes IPv4 too", address.port());
            findings.fault_in(key, &address.to_string(), reason, remedy);
        } else if address.port() != 0 {
            taken.insert(address, listener.name.as_str());
        }
    }
}

/// Whoever may say who the client is must be named: anyone else could be any client.
fn trust(key: &str, listener: &settings::Listener, findings: &mut Findings) {
    let wanted = match (listener.proxy_protocol, listener.xclient) {
        (ProxyProtocol::Off, false) => return,
        (ProxyProtocol::Off, true) => "xclient = true",
        (_, false) => "proxy_protocol",
        (_, true) => "proxy_protocol and xclient",
    };
    let key = format!("{key}.trusted");
    if listener.trusted.is_empty() {
        let reason = format!("{wanted} would let anyone claim to be any client");
        findings.follow(
            &key,
            reason,
            "write the networks of your balancers, such as trusted = [\"10.0.0.0/8\"]",
        );
    }
    for network in listener.trusted.iter().filter(|network| network.is_everyone()) {
        let reason = format!("{:?} lets anyone claim to be any client", network.text());
        findings.warn(&key, reason, "write the networks of your balancers alone");
    }
}

/// The other of `[::]:25` and `0.0.0.0:25`: the first is dual stack, so both cannot be bound.
fn other_family(address: SocketAddr) -> Option<SocketAddr> {
    let twin = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => return None,
    };
    Some(SocketAddr::new(twin, address.port()))
}
