//! Configuration: [`settings::Settings`] as written, checked, becomes [`Config`] as used.
//!
//! Later places win: defaults, then the file, then the environment, then flags. Everything wrong is said in
//! one answer, each fault with its key, the value as written, the reason and what to write instead; a
//! misspelt key is a fault too. Nothing outside this module reads figment. Certificates are read with it.
//!
//! Not here: watching the file (the server does, and loads again), the contents of recipient files (the
//! verifier reads those), and looking up host names (`net::resolve` does).

mod certificate;
mod changes;
mod check;
mod choice;
mod describe;
mod destination;
mod endpoint;
mod finding;
mod leaf;
mod networks;
mod pin;
mod read;
mod recipients;
mod routes;
mod schema;
mod secret;
pub mod settings;
mod shared;
mod source;
#[cfg(test)]
mod tests;
mod used;
mod validity;
mod value;
mod word;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::Dict;

pub use certificate::{Certificate, CertificateFault, CertificateFiles, Contents, Part};
pub use changes::Changes;
pub use choice::{
    Balance, BareNewline, ClientAddress, ListenerTls, LogFormat, MinVersion, Mode, OnUnknown, Profile,
    ProxyProtocol, Received, Redact, RouteTls, RoutedRecipients, SourceKind, StageKind,
};
pub use destination::{Destination, NameServer};
pub use endpoint::{Endpoint, EndpointTls};
pub use finding::{Fault, Faults, Finding, Origin, Warning};
pub use networks::{Network, Networks};
pub use pin::Pin;
pub use recipients::{Listed, RecipientList};
pub use routes::{DomainPattern, Routes};
pub use secret::Secret;
pub use shared::{SharedAddress, SharedPrefix, SharedTls};
pub use source::{Environment, Flags, Source};
pub use used::{
    Admin, BackendTls, Cache, Config, Dns, Harvest, Limits, Listener, Log, RecipientSource, Route, Shared,
    Store, Timeouts, Tls, TlsPolicy, Trace, Verify,
};
pub use validity::Validity;
pub use value::{Period, Rate, Size};
pub use word::{Filter, Keyword, Name};
pub use write::Shown;

use describe::Description;
use settings::Settings;

/// The default file, with a comment for every key.
pub const DEFAULT_FILE: &str = include_str!("../../deploy/backstop.toml");

/// The JSON schema of the configuration file.
#[must_use]
pub fn schema() -> String {
    format!("{:#}\n", schema::document(&Description::of::<Settings>()))
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// To work with.
    pub config: Config,
    /// What should be put right all the same.
    pub warnings: Vec<Warning>,
    /// As written, what was left out filled in.
    pub settings: Settings,
    /// The file it was read from, to be watched.
    pub file: Option<PathBuf>,
    /// Where each written key stands; all others are defaults.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// The settings in force as TOML, each with its origin. Secrets read `(set)`.
    #[must_use]
    pub fn effective(&self) -> String {
        write::Writer::new(&self.origins).finish(&self.settings)
    }
}

/// Loads the configuration of this process.
///
/// # Errors
/// [`Faults`], all of them.
pub fn load(source: &Source) -> Result<Loaded, Faults> {
    load_in(source, &Environment::of_process())
}

/// Loads a configuration as [`load`] does, in a given environment.
///
/// # Errors
/// [`Faults`], all of them.
pub fn load_in(source: &Source, environment: &Environment) -> Result<Loaded, Faults> {
    let source::Gathered { figment, file } = source::gather(source, environment)?;
    let (mut settings, mut findings) = read_settings(&figment);
    let config = check::check(&mut settings, &environment.host_name, &mut findings);
    let finding::Findings { written, faults, warnings } = findings;
    match config {
        Some(mut config) if faults.is_empty() => {
            let origins = written.into_iter().map(|(key, written)| (key, written.origin)).collect();
            config.shown = write::Writer::new(&origins).settings(&settings).into();
            Ok(Loaded { config, warnings, settings, file, origins })
        }
        _ => Err(Faults { faults, warnings }),
    }
}

/// The admin endpoint as far as a configuration tells, for who asks a running proxy: see [`load_admin`].
#[derive(Debug)]
pub struct AdminFound {
    /// The endpoint; none where `admin.address` is empty. What cannot be read has its default.
    pub admin: Option<Admin>,
    /// What is wrong with the configuration as written. Files it names, but for `admin.token_file`, are not looked at.
    pub faults: Vec<Fault>,
    /// Whether the address was written anywhere, or is the default.
    pub address: AddressFrom,
}

/// Where the address of the admin endpoint comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFrom {
    /// The file or the environment has it.
    Written,
    /// There is a file, and it leaves the address out.
    LeftOut,
    /// There is no file.
    NoFile,
}

/// Finds the admin endpoint of the proxy that runs with this configuration. It may run well while the file on disk has
/// faults by now, or names files that only the proxy may read: neither keeps its endpoint from being found.
#[must_use]
pub fn load_admin(source: &Source) -> AdminFound {
    load_admin_in(source, &Environment::of_process())
}

/// Finds as [`load_admin`] does, in a given environment.
#[must_use]
pub fn load_admin_in(source: &Source, environment: &Environment) -> AdminFound {
    let (source::Gathered { figment, file }, unreadable) = source::gather_readable(source, environment);
    let (settings, mut findings) = read_settings(&figment);
    let admin = check::admin(&settings.admin, &mut findings);
    let address = match file {
        _ if findings.written.contains_key("admin.address") => AddressFrom::Written,
        Some(_) => AddressFrom::LeftOut,
        None => AddressFrom::NoFile,
    };
    let mut faults = unreadable.map_or_else(Vec::new, |unreadable| unreadable.faults);
    faults.append(&mut findings.faults);
    AdminFound { admin, faults, address }
}

/// The settings as written, what is not or cannot be used keeping its default.
fn read_settings(figment: &figment::Figment) -> (Settings, finding::Findings) {
    // Cannot fail: the layers were read before, and any value is a value.
    let merged = figment.extract::<figment::value::Value>().ok();
    let merged: Dict = merged.and_then(figment::value::Value::into_dict).unwrap_or_default();
    let mut reader = read::Reader::new(figment);
    let settings = reader.section("", merged);
    (settings, reader.findings)
}
