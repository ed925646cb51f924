//! Every key there is: its name, its meaning, its type and its default, each said once.
//!
//! This is the configuration as written. A key accepted here does something; one that another key makes
//! ineffective is warned about by the check. `deploy/backstop.toml` shows the same keys to operators, and a
//! test compares the two.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use figment::value::Value;

use super::choice::{
    Balance, BareNewline, ClientAddress, ListenerTls, LogFormat, MinVersion, Mode, OnUnknown, Profile,
    ProxyProtocol, Received, Redact, RouteTls, RoutedRecipients, SourceKind, StageKind,
};
use super::describe::{Description, Holds};
use super::destination::{Destination, NameServer};
use super::networks::Network;
use super::pin::Pin;
use super::read::{self, Reader, Section, Setting, Table};
use super::recipients::Listed;
use super::routes::DomainPattern;
use super::secret::Secret;
use super::shared::{SharedAddress, SharedPrefix};
use super::value::{Period, Rate, Size};
use super::word::{Filter, Keyword, Name};
use super::write::Writer;
use crate::proto::address::{Domain, Mailbox};

/// Declares a section: each key with its documentation, type and default.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[doc = $doc])* pub $key: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl Section for $name {
            fn read_keys(&mut self, table: &mut Table<'_, '_>) {
                $(table.key(stringify!($key), &mut self.$key);)+
            }

            fn write_keys(&self, out: &mut Writer<'_>) {
                $(self.$key.write(stringify!($key), out);)+
            }

            fn describe_keys(&self, out: &mut Description) {
                $(out.add(stringify!($key), concat!($($doc, "\n"),*), self.$key.describe());)+
            }
        }

        impl Setting for $name {
            fn read(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Self> {
                read::read_section(key, value, reader)
            }

            fn write(&self, name: &str, out: &mut Writer<'_>) {
                out.section(name, self);
            }

            fn describe(&self) -> Holds {
                Holds::Table(Description::of::<Self>())
            }
        }

        impl Setting for Vec<$name> {
            fn read(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Self> {
                read::read_sections(key, value, reader)
            }

            fn write(&self, name: &str, out: &mut Writer<'_>) {
                out.sections(name, self);
            }

            fn describe(&self) -> Holds {
                Holds::Tables(Description::of::<$name>())
            }
        }
    };
}

section! {
    /// The whole configuration.
    Settings {
        /// Our name in the greeting, in EHLO to backends and in Received. Default: the system's.
        hostname: Option<Domain> = None;
        /// Where clients connect.
        listener: Vec<Listener> = vec![Listener::default()];
        /// Where mail goes. At least one.
        route: Vec<Route> = Vec::new();
        /// Certificates shown to clients.
        tls: Tls = Tls::default();
        /// What is remembered about recipients.
        cache: Cache = Cache::default();
        /// What a client may ask of us.
        limits: Limits = Limits::default();
        /// What happens to clients that guess recipients.
        harvest: Harvest = Harvest::default();
        /// How long anything may take.
        timeouts: Timeouts = Timeouts::default();
        /// Where backends are, and what clients are called.
        dns: Dns = Dns::default();
        /// The endpoint for health, metrics and control.
        admin: Admin = Admin::default();
        /// What is logged, and how.
        log: Log = Log::default();
    }
}

section! {
    /// A set of sockets clients connect to.
    Listener {
        /// Its name in logs and metrics.
        name: Name = Name::derived("mx");
        /// Where it listens. `[::]` takes IPv4 too, and IPv4 alone on a host without IPv6; with port 0 the system chooses one.
        address: Vec<SocketAddr> = vec![SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 25)];
        /// Whether connections begin with a PROXY header that says who the client is.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// Whether clients in `trusted` may say with XCLIENT who the client is.
        xclient: bool = false;
        /// Networks that are believed when they say who the client is.
        trusted: Vec<Network> = Vec::new();
        /// Takes connections meant for other addresses, which the system redirects here (TPROXY).
        transparent: bool = false;
        /// Whether another process may listen on the same addresses meanwhile (SO_REUSEPORT): a new Backstop takes over before
        /// the old one ends. Both must write it, and run as the same user.
        reuse_port: bool = false;
        /// Whether TLS is offered, demanded, or there from the beginning. Default: offered if there is a certificate.
        tls: Option<ListenerTls> = None;
    }
}

section! {
    /// Certificates shown to clients.
    Tls {
        /// The oldest version spoken with clients.
        min_version: MinVersion = MinVersion::Tls12;
        /// Chosen by the name the client asks for; the first is for those who ask for none of them.
        certificates: Vec<CertificatePair> = Vec::new();
    }
}

section! {
    /// A certificate and its key. Both files are watched.
    CertificatePair {
        /// The certificate, then those that lead to its root, as PEM.
        chain: PathBuf = PathBuf::new();
        /// Its private key, as PEM.
        key: PathBuf = PathBuf::new();
    }
}

section! {
    /// The domains of one mail store.
    Route {
        /// Its name in logs and metrics. Default: the first domain.
        name: Option<Name> = None;
        /// `example.org`, `*.example.org` (everything below it), `*` (every domain not named elsewhere).
        domains: Vec<DomainPattern> = Vec::new();
        /// Who takes the mail, as `host:port`, `[ipv6]:port`, `smtps://host:465`, `srv:NAME` or `mx:DOMAIN`. Names are looked up
        /// again as their answers end.
        backends: Vec<Destination> = Vec::new();
        /// Which of them is tried first.
        balance: Balance = Balance::LeastConnections;
        /// What kind of server it is: other defaults for some keys of the route.
        profile: Profile = Profile::Standard;
        /// How the backend learns the true client.
        client_address: ClientAddress = ClientAddress::None;
        /// Whether a `Received:` line is put before each message.
        received: Received = Received::Auto;
        /// Whether backends are spoken to in TLS, and who they must prove to be. The same for probes.
        tls: RouteTls = RouteTls::Opportunistic;
        /// With tls `pin`: the SHA-256 of each key a backend may have.
        tls_pins: Vec<Pin> = Vec::new();
        /// With tls `verify`: the roots, as PEM. Default: those of the system.
        tls_ca: Option<PathBuf> = None;
        /// The name to ask for and to verify. Default: the backend's host.
        tls_name: Option<Domain> = None;
        /// EHLO keywords never offered to clients.
        hide_ehlo: Vec<Keyword> = Vec::new();
        /// Connections to each backend address, probes and deliveries together. At least 2.
        max_connections: usize = 45;
        /// How long a backend that failed several times in a row rests, doubling to 60 s. Zero: not at all.
        eject: Period = Period::seconds(5);
        /// A backend that took no session for so long is greeted, to see that it still would. Zero: never.
        check: Period = Period::seconds(30);
        /// A recipient that every backend must accept when it is so checked. Empty: none is named.
        canary: Option<Mailbox> = None;
        /// How recipients are verified.
        verify: Verify = Verify::default();
    }
}

section! {
    /// How recipients of a route are verified.
    Verify {
        /// Whether unknown recipients are refused, only reported, or not asked about.
        mode: Mode = Mode::Enforce;
        /// Who knows the recipients.
        source: SourceKind = SourceKind::Callout;
        /// With source `file`: one recipient or @domain per line.
        file: Option<PathBuf> = None;
        /// Addresses or @domains taken without asking.
        allow: Vec<Listed> = Vec::new();
        /// Addresses or @domains refused without asking.
        deny: Vec<Listed> = Vec::new();
        /// Whom to ask. Default: the route's backends.
        backends: Vec<Destination> = Vec::new();
        /// Which answer counts: the one to RCPT, to DATA, or to DATA only where RCPT proves blind.
        stage: StageKind = StageKind::Auto;
        /// The sender of probes. Default: the null sender, `<>`.
        sender: Option<Mailbox> = None;
        /// The sender used where the null sender is refused. Default: postmaster@ our host name.
        fallback_sender: Option<Mailbox> = None;
        /// Whether the store tells `Ann@` from `ann@`.
        case_sensitive: bool = true;
        /// What happens when the store answers, but not about the recipient.
        on_unknown: OnUnknown = OnUnknown::Live;
        /// Longest wait for one recipient, queueing included.
        timeout: Period = Period::seconds(25);
        /// A refusal older than this is asked again for a client with a clean record.
        recheck: Period = Period::seconds(60);
    }
}

section! {
    /// What is remembered about recipients.
    Cache {
        /// Most recipients remembered; about 100 bytes each.
        max_entries: usize = 1_000_000;
        /// How long a recipient stays good.
        positive_ttl: Period = Period::hours(24);
        /// A good recipient older than this and in use is asked about again in the background.
        positive_refresh: Period = Period::hours(12);
        /// How long a recipient stays unknown at first; doubles with each confirmation.
        negative_ttl: Period = Period::minutes(5);
        /// Where the doubling ends.
        negative_ttl_max: Period = Period::hours(2);
        /// How long a temporary failure is repeated instead of asked again.
        tempfail_ttl: Period = Period::seconds(5);
        /// How long a store that takes any recipient is held to be blind, and a truthful one truthful.
        blind_ttl: Period = Period::hours(6);
        /// How long past `positive_ttl` a recipient stays good while the store cannot be asked.
        serve_stale: Period = Period::hours(24);
        /// The directory of the embedded store, so that a restart is warm. Empty: memory only.
        path: Option<PathBuf> = None;
        /// Redis or Valkey, where instances share what they know: `redis://user:password@host:6379`. Empty: this instance alone.
        shared: Option<SharedAddress> = None;
        /// What keys there begin with; the same on all instances that share.
        shared_prefix: SharedPrefix = SharedPrefix::usual();
        /// Key of the address hashes; the same on all instances that share. Default: made by chance, and kept in `path`.
        secret: Option<Secret> = None;
        /// A file that holds the secret instead.
        secret_file: Option<PathBuf> = None;
    }
}

section! {
    /// What a client may ask of us.
    Limits {
        /// Connections of all clients together.
        max_connections: usize = 10_000;
        /// Connections of one client: an IPv4 address or an IPv6 /64.
        max_connections_per_client: usize = 50;
        /// Recipients in one transaction, refused ones counted.
        max_recipients: usize = 1000;
        /// Largest message. 0: what the backend takes.
        max_message_size: Size = Size::bytes(0);
        /// What happens to user%other@domain and its like.
        routed_recipients: RoutedRecipients = RoutedRecipients::Refuse;
        /// Networks whose recipients are neither verified nor limited.
        bypass: Vec<Network> = Vec::new();
        /// Longest command line in octets. At least 512 (RFC 5321 §4.5.3.1.4).
        max_command_line: usize = 2048;
        /// Wrong commands in one session before it is ended. 0: any number.
        max_errors: usize = 20;
        /// What happens to a bare CR or LF in a message.
        bare_newline: BareNewline = BareNewline::Reject;
        /// Networks for which a bare CR or LF becomes CRLF instead.
        bare_newline_exempt: Vec<Network> = Vec::new();
    }
}

section! {
    /// What happens to clients that guess recipients.
    Harvest {
        /// Unknown recipients in a session without an accepted one, then 421. 0: any number.
        max_unknown_per_session: usize = 10;
        /// Unknown recipients of one client in an hour, if they are more than 80 % of what it asked for; then it is banned.
        /// 0: any number.
        max_unknown_per_hour: usize = 100;
        /// How long a banned client gets 421 at once.
        ban: Period = Period::hours(1);
        /// Networks never counted. Private addresses, `trusted` of listeners and `limits.bypass` never are either.
        exempt: Vec<Network> = Vec::new();
        /// Pause before a refusal, doubling within a session. 0: none.
        tarpit: Period = Period::seconds(1);
        /// Where the doubling ends.
        tarpit_max: Period = Period::seconds(10);
        /// Pause before the greeting; who speaks before it is refused. 0: none.
        greet_delay: Period = Period::ZERO;
        /// Most clients remembered; about 125 bytes each, and as much again where instances share.
        max_clients: usize = 1_000_000;
    }
}

section! {
    /// How long anything may take.
    Timeouts {
        /// Until a client begins its next command.
        command: Period = Period::minutes(5);
        /// From the first octet of a command to its end.
        command_line: Period = Period::seconds(60);
        /// Between two pieces of a message.
        data: Period = Period::minutes(3);
        /// Slowest message, judged after a minute. 0: any pace.
        data_min_rate: Rate = Rate::bytes_per_second(500);
        /// A whole session. 0: any time.
        session: Period = Period::ZERO;
        /// Until a PROXY header is whole.
        proxy_header: Period = Period::seconds(5);
        /// Until a client, or a backend, has done its part of a TLS handshake.
        tls_handshake: Period = Period::seconds(10);
        /// Until a backend has taken our connection.
        backend_connect: Period = Period::seconds(3);
        /// Until a backend has answered a command.
        backend_command: Period = Period::seconds(60);
        /// Until a backend has answered for a whole message.
        backend_end_of_data: Period = Period::minutes(10);
        /// After the signal to end, new clients are still served for so long.
        drain_delay: Period = Period::ZERO;
        /// Then open transactions have so long to end.
        drain: Period = Period::seconds(30);
    }
}

section! {
    /// Who is asked for the addresses of backends, and for the names of clients.
    Dns {
        /// Name servers, as `address` or `address:port`. Default: those of the system.
        servers: Vec<NameServer> = Vec::new();
        /// Whether the names of clients are looked up for backends that are told them (XCLIENT), where no front told them to us.
        client_names: bool = true;
    }
}

section! {
    /// The endpoint for health, metrics and control.
    Admin {
        /// Where it listens. Empty: nowhere.
        address: Option<SocketAddr> = Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9525));
        /// What callers must present. Without one, all but health and metrics is for loopback only.
        token: Option<Secret> = None;
        /// A file that holds the token instead.
        token_file: Option<PathBuf> = None;
    }
}

section! {
    /// What is logged, and how.
    Log {
        /// For people or for machines.
        format: LogFormat = LogFormat::Text;
        /// A level, or a tracing filter.
        level: Filter = Filter::level("info");
        /// What of addresses is kept out of log lines, and of what the live page tells of sessions and refusals.
        redact: Redact = Redact::None;
    }
}
