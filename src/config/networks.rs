//! Networks of clients. A client that reaches a dual-stack socket over IPv4 has an IPv4-mapped IPv6 address
//! (RFC 4291 §2.5.5.2); here it is the IPv4 address it stands for.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::leaf::{Form, Leaf, Misread};

/// A set of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether `client` is in one of the networks.
    #[must_use]
    pub fn contains(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.0.iter().any(|network| network.contains(&client))
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().map(|network| network.0).collect())
    }
}

/// One network as written: `10.0.0.0/8`, or an address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether every address of its family is in it.
    pub(super) fn is_everyone(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl Leaf for Network {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"10.0.0.0/8\"";
    const KIND: &'static str = "network";

    fn parse(text: &str) -> Result<Self, Misread> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let Ok(network) = network else {
            let remedy = "write \"10.0.0.0/8\", \"2001:db8::/32\" or an address alone";
            return Err(Misread::new("not a network", remedy));
        };
        if network != network.trunc() {
            let remedy = format!("write \"{}\"", network.trunc());
            return Err(Misread::new("has bits set outside the network", remedy));
        }
        Ok(Self(unmapped(network)))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(network: IpNet) -> IpNet {
    let v4 = match (network.addr().to_canonical(), network) {
        (IpAddr::V4(v4), IpNet::V6(v6)) => {
            v6.prefix_len().checked_sub(96).and_then(|len| Ipv4Net::new(v4, len).ok())
        }
        _ => None,
    };
    v4.map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_the_ones_they_stand_for() {
        let written = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.0/120"];
        let networks: Networks = written.iter().map(|text| Network::parse(text).unwrap()).collect();
        for (client, inside) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("198.51.100.9", true),
            ("::ffff:198.51.101.9", false),
        ] {
            assert_eq!(networks.contains(client.parse().unwrap()), inside, "{client}");
        }
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_not_a_network_says_what_to_write() {
        assert!(Network::parse("10.0.0.1/8").unwrap_err().remedy.contains("\"10.0.0.0/8\""));
        for bad in ["", "10.0.0.0/33", "example.org", "10.0.0"] {
            assert!(Network::parse(bad).unwrap_err().remedy.contains("\"10.0.0.0/8\""), "{bad}");
        }
    }
}
