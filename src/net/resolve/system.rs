//! What this host knows of names: its name servers, the domains it searches, its hosts file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use super::{Data, Kind, Lack, NameScope};

/// The files that tell.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// Name servers that were configured here are given so long for an answer, and asked so often.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// More domains to search are not tried.
const MOST_SEARCHED: usize = 8;

/// What the files said when they were read.
#[derive(Debug)]
pub(super) struct System {
    pub(super) client: TokioResolver,
    hosts: Hosts,
    search: Vec<Name>,
    /// Names with so many dots are asked for as they are first.
    dots: usize,
    versions: [Option<Version>; 2],
}

/// When a file was changed, and how long it is.
type Version = (std::time::SystemTime, u64);

fn versions() -> [Option<Version>; 2] {
    FILES.map(|file| {
        let metadata = fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

impl System {
    /// Reads the files; `servers`, if any, are asked instead of those they name.
    pub(super) fn read(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let versions = versions();
        let (config, mut options) = if servers.is_empty() { of_system() } else { of(servers) };
        let mut search: Vec<Name> = config.domain().cloned().into_iter().collect();
        for domain in config.search() {
            if !search.contains(domain) {
                search.push(domain.clone());
            }
        }
        search.truncate(MOST_SEARCHED);
        let dots = options.ndots;
        // Whoever follows a name knows how long an answer holds, and asks for nothing before.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let client = builder.build()?;
        Ok(Self { client, hosts: Hosts::from_system().unwrap_or_default(), search, dots, versions })
    }

    /// Whether the files still are what they were.
    pub(super) fn is_current(&self) -> bool {
        self.versions == versions()
    }

    /// The whole names that `name` may stand for, in the order in which they are asked for.
    pub(super) fn candidates(&self, name: &str, scope: NameScope) -> Result<Vec<Name>, Lack> {
        let unusable = |_| Lack::Fault("not a name DNS could know".to_owned());
        let mut whole = Name::from_ascii(name).map_err(unusable)?;
        let relative = whole.clone();
        whole.set_fqdn(true);
        if scope == NameScope::Absolute {
            return Ok(vec![whole]);
        }
        let searched = self.search.iter().filter_map(|domain| relative.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = searched.collect();
        let first = name.matches('.').count() >= self.dots;
        names.insert(if first { 0 } else { names.len() }, whole);
        Ok(names)
    }

    /// What the hosts file has of this kind for `name`; none where it does not know the name.
    pub(super) fn in_hosts(&self, name: &Name, kind: Kind) -> Option<Vec<Data>> {
        let found = |kind: Kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind.record_type()))?;
            Some(lookup.answers().iter().filter_map(|r| Data::of(&r.data, kind)).collect::<Vec<_>>())
        };
        match kind {
            // Who is known has no addresses but those, of either family.
            Kind::A => found(Kind::A).or_else(|| found(Kind::Aaaa).map(|_| Vec::new())),
            Kind::Aaaa => found(Kind::Aaaa).or_else(|| found(Kind::A).map(|_| Vec::new())),
            Kind::Ptr => found(Kind::Ptr),
            Kind::Srv | Kind::Mx => None,
        }
    }
}

/// As resolv.conf says; without one the server of this host is asked, as the C library does.
fn of_system() -> (ResolverConfig, ResolverOpts) {
    system_conf::read_system_conf().unwrap_or_else(|fault| {
        tracing::debug!(%fault, "resolv.conf cannot be used");
        of(&[SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53)])
    })
}

fn of(servers: &[SocketAddr]) -> (ResolverConfig, ResolverOpts) {
    let servers = servers.iter().map(|address| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        server.connections.iter_mut().for_each(|connection| connection.port = address.port());
        server
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = (TIMEOUT, ATTEMPTS);
    (config, options)
}
