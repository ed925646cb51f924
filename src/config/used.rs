//! The configuration as used: checked, complete, in the types its users need.
//!
//! Only the check makes one, so every range named here holds. A key whose zero means "off" is an `Option`;
//! where zero is just very short or very small it is the plain value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;

use super::certificate::Certificate;
use super::choice::{
    Balance, BareNewline, ClientAddress, ListenerTls, LogFormat, Mode, OnUnknown, Profile, ProxyProtocol,
    Redact, RoutedRecipients, StageKind,
};
use super::destination::Destination;
use super::networks::Networks;
use super::pin::Pin;
use super::recipients::RecipientList;
use super::routes::{DomainPattern, Routes};
use super::secret::Secret;
use super::shared::SharedAddress;
use super::write::Shown;
use crate::proto::address::{LocalCase, Mailbox};
use crate::proto::tls::TlsVersion;

/// Everything.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name in the greeting, in EHLO to backends and in Received.
    pub hostname: Arc<str>,
    /// At least one; no two names or addresses alike.
    pub listeners: Vec<Listener>,
    /// Where mail goes.
    pub routes: Routes,
    /// Certificates shown to clients.
    pub tls: Tls,
    /// What is remembered about recipients.
    pub cache: Cache,
    /// Where it outlives this process.
    pub store: Store,
    /// What a client may ask of us.
    pub limits: Limits,
    /// What happens to clients that guess recipients.
    pub harvest: Harvest,
    /// How long anything may take.
    pub timeouts: Timeouts,
    /// What DNS is asked, and where.
    pub dns: Dns,
    /// The admin endpoint, if there is one.
    pub admin: Option<Admin>,
    /// What is logged, and how.
    pub log: Log,
    /// The settings it was made of, each with its origin: to be shown, and nothing else.
    pub shown: Arc<[Shown]>,
}

/// What DNS is asked, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The name servers; empty where the system's are asked.
    pub servers: Vec<SocketAddr>,
    /// Whether the names of clients are looked up for backends that are told them.
    pub client_names: bool,
}

/// A set of sockets clients connect to.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// At least one. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Whether connections begin with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Whether trusted clients may use XCLIENT.
    pub xclient: bool,
    /// Who is believed about the client; not empty when anyone is to be.
    pub trusted: Networks,
    /// Whether connections meant for other addresses are taken.
    pub transparent: bool,
    /// Whether other processes may listen on the same addresses.
    pub reuse_port: bool,
    /// Other than off only where there is a certificate.
    pub tls: ListenerTls,
}

/// Certificates shown to clients.
#[derive(Debug, Clone)]
pub struct Tls {
    /// As they were when they were checked; the first is the default.
    pub certificates: Vec<Certificate>,
    /// The oldest version spoken.
    pub min_version: TlsVersion,
}

/// The domains of one mail store.
#[derive(Debug, Clone)]
pub struct Route {
    /// Its name in logs and metrics; no two alike.
    pub name: Arc<str>,
    /// At least one; no other route has any of them.
    pub domains: Vec<DomainPattern>,
    /// Who takes the mail; at least one.
    pub backends: Vec<Destination>,
    /// Which of them is tried first.
    pub balance: Balance,
    /// What kind of server it is; the presets are in the other keys already.
    pub profile: Profile,
    /// How the backends learn the true client.
    pub client_address: ClientAddress,
    /// Whether a `Received:` line is put before each message.
    pub trace: Trace,
    /// How they, and those who are asked, are spoken to; no other route has one of them with another.
    pub tls: BackendTls,
    /// EHLO keywords never offered to clients, in capitals.
    pub hide_ehlo: Vec<String>,
    /// Connections to each backend address, probes and deliveries together; at least 2.
    pub max_connections: usize,
    /// How long a backend rests after several faults in a row; zero: not at all.
    pub eject: Duration,
    /// How long a backend may go without a session before it is greeted to see that it is well; none: for ever.
    pub check: Option<Duration>,
    /// A recipient it must accept then.
    pub canary: Option<Mailbox>,
    /// How recipients are verified.
    pub verify: Verify,
}

/// What is put before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Nothing.
    None,
    /// A `Received:` line.
    Received,
}

/// TLS with the backends of a route.
#[derive(Debug, Clone)]
pub struct BackendTls {
    /// Whether there is to be any, and with whom.
    pub policy: TlsPolicy,
    /// The name to verify instead of the backend's host.
    pub name: Option<String>,
}

/// Who a backend must prove to be.
#[derive(Debug, Clone)]
pub enum TlsPolicy {
    /// No TLS.
    Off,
    /// TLS with anyone where it can be had, else none.
    Opportunistic,
    /// TLS with anyone.
    Required,
    /// TLS with who has a certificate for the name that leads to one of these roots; not empty.
    Verify(Arc<RootCertStore>),
    /// TLS with who has one of these keys; not empty.
    Pin(Vec<Pin>),
}

/// How recipients of a route are verified.
#[derive(Debug, Clone)]
pub struct Verify {
    /// What verdicts do.
    pub mode: Mode,
    /// Who knows the recipients.
    pub source: RecipientSource,
    /// Taken without asking.
    pub allow: RecipientList,
    /// Refused without asking.
    pub deny: RecipientList,
    /// Which answer counts.
    pub stage: StageKind,
    /// The sender of probes; none is the null sender.
    pub sender: Option<Mailbox>,
    /// The sender where that one is refused; none when it would be the same.
    pub fallback_sender: Option<Mailbox>,
    /// How local parts compare, here and in the lists.
    pub local_case: LocalCase,
    /// What happens when the store answers, but not about the recipient.
    pub on_unknown: OnUnknown,
    /// Longest wait for one recipient; not zero.
    pub timeout: Duration,
    /// A refusal older than this is asked again for a client with a clean record.
    pub recheck: Duration,
    /// Refusals the store is taken to endure in one session until it shows how many; at least 1.
    pub refusals_endured: u32,
}

/// Who knows the recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientSource {
    /// The mail store.
    Callout {
        /// Whom to ask; at least one.
        backends: Vec<Destination>,
    },
    /// A list in this file; it could be opened when it was checked.
    File(PathBuf),
}

/// What is remembered about recipients. A lifetime of zero remembers nothing.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Most recipients remembered; at least 1.
    pub max_entries: usize,
    /// Lifetime of a good recipient.
    pub positive_ttl: Duration,
    /// Age at which a good recipient in use is asked about again.
    pub positive_refresh: Duration,
    /// First lifetime of an unknown recipient.
    pub negative_ttl: Duration,
    /// Its longest lifetime; not below `negative_ttl`.
    pub negative_ttl_max: Duration,
    /// Lifetime of a temporary failure; zero shares it only while the probe runs.
    pub tempfail_ttl: Duration,
    /// How long what was found out about a store's truthfulness holds; not zero.
    pub blind_ttl: Duration,
    /// How long past `positive_ttl` a recipient stays good while the store cannot be asked.
    pub serve_stale: Duration,
}

/// Where verdicts outlive this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The directory of the embedded store; none keeps verdicts in memory only.
    pub path: Option<PathBuf>,
    /// What addresses are hashed with; none makes a secret by chance. Given where there is `shared`.
    pub secret: Option<Secret>,
    /// What is shared with other instances; none where this one is alone.
    pub shared: Option<Shared>,
}

/// Where instances share what they know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The server.
    pub address: SharedAddress,
    /// What keys there begin with.
    pub prefix: String,
}

/// What a client may ask of us.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of all clients together; at least 1.
    pub max_connections: usize,
    /// Connections of one client; at least 1.
    pub max_connections_per_client: usize,
    /// Recipients in one transaction; at least 1.
    pub max_recipients: usize,
    /// Largest message in octets; none leaves it to the backend.
    pub max_message_size: Option<u64>,
    /// What happens to `user%other@domain` and its like.
    pub routed_recipients: RoutedRecipients,
    /// Clients whose recipients are neither verified nor limited.
    pub bypass: Networks,
    /// Longest command line in octets; from 512 to 65536.
    pub max_command_line: usize,
    /// Wrong commands in one session before it is ended; none for any number.
    pub max_errors: Option<usize>,
    /// What happens to a bare CR or LF in a message.
    pub bare_newline: BareNewline,
    /// Clients for whom it becomes CRLF instead.
    pub bare_newline_exempt: Networks,
}

/// What happens to clients that guess recipients.
#[derive(Debug, Clone)]
pub struct Harvest {
    /// Unknown recipients in a session without an accepted one; none for any number.
    pub max_unknown_per_session: Option<u32>,
    /// Unknown recipients of one client in an hour, at most 50 000; none for any number.
    pub max_unknown_per_hour: Option<u32>,
    /// How long a banned client is sent away; not zero.
    pub ban: Duration,
    /// Clients never counted, beside those with private addresses; fronts we trust and `limits.bypass` are among them.
    pub exempt: Networks,
    /// Pause before the first refusal of a session; zero: none.
    pub tarpit: Duration,
    /// The longest pause, at most two minutes; not below `tarpit`.
    pub tarpit_max: Duration,
    /// Pause before the greeting, at most two minutes; none: nobody speaks too early.
    pub greet_delay: Option<Duration>,
    /// Most clients remembered; at least 1000.
    pub max_clients: usize,
}

/// How long anything may take; not zero unless said.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Until a client begins its next command.
    pub command: Duration,
    /// From the first octet of a command to its end.
    pub command_line: Duration,
    /// Between two pieces of a message.
    pub data: Duration,
    /// Octets per second a message must keep up; none for any pace.
    pub data_min_rate: Option<u64>,
    /// A whole session; none for any time.
    pub session: Option<Duration>,
    /// Until a PROXY header is whole.
    pub proxy_header: Duration,
    /// Until a client, or a backend, has done its part of a TLS handshake.
    pub tls_handshake: Duration,
    /// Until a backend has taken our connection.
    pub backend_connect: Duration,
    /// Until a backend has answered a command.
    pub backend_command: Duration,
    /// Until a backend has answered for a whole message.
    pub backend_end_of_data: Duration,
    /// How long new clients are served after the signal to end; may be zero.
    pub drain_delay: Duration,
    /// How long open transactions have then; may be zero.
    pub drain: Duration,
}

/// The admin endpoint.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
    /// What callers must present; without one, all but health and metrics is for loopback only.
    pub token: Option<Secret>,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// A directive that `tracing_subscriber::EnvFilter` takes.
    pub level: String,
    /// What of addresses is kept out.
    pub redact: Redact,
}
