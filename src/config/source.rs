//! Where settings come from: a file or flags, and the environment above it.
//!
//! A variable `BACKSTOP__LIMITS__MAX_ERRORS` is the key `limits.max_errors`; lists and tables are written as
//! in TOML, in one line. The double underscore keeps out what Kubernetes sets for a service named
//! `backstop` (`BACKSTOP_PORT_25_TCP` and its like). Each variable is a layer of its own, so that every value
//! knows the very variable it came from; figment's own `Env` would know only the prefix, and would turn a
//! token of digits into a number.

use std::path::PathBuf;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::finding::{Faults, Origin};

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "BACKSTOP__";
/// What parts sections and keys in the name of a variable.
const SEPARATOR: &str = "__";

/// Where the configuration is, besides the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In this file.
    File(PathBuf),
    /// In the first of the usual files that exists.
    Search,
    /// In flags of the command line; no file is read.
    Flags(Flags),
}

/// What the command line may say in place of a file. What is left empty keeps its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// Addresses of the one listener.
    pub listen: Vec<String>,
    /// Domains of the one route.
    pub domain: Vec<String>,
    /// Backends of the one route.
    pub backend: Vec<String>,
}

/// What the process finds around it; a value, so that tests bring their own.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// All variables.
    pub variables: Vec<(String, String)>,
    /// The system's host name; empty if it has none.
    pub host_name: String,
    /// The usual places of the file, the first that exists counts.
    pub search: Vec<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .or_else(|_| std::fs::read_to_string("/etc/hostname"))
            .unwrap_or_default();
        let mut variables: Vec<_> =
            std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        // The system gives them in any order; of two that contradict each other the same shall win each time.
        variables.sort();
        Self {
            variables,
            host_name: host_name.trim().to_owned(),
            search: vec!["./backstop.toml".into(), "/etc/backstop/backstop.toml".into()],
        }
    }
}

/// Everything that was written, merged.
pub(super) struct Gathered {
    pub(super) figment: Figment,
    /// The file that was read.
    pub(super) file: Option<PathBuf>,
}

/// Reads and merges what `source` and the environment say. The fault is one of a file as a whole.
pub(super) fn gather(source: &Source, environment: &Environment) -> Result<Gathered, Faults> {
    if *source == Source::Search {
        found(environment)?;
    }
    match gather_readable(source, environment) {
        (gathered, None) => Ok(gathered),
        (_, Some(faults)) => Err(faults),
    }
}

/// What there is of [`gather`]'s when the file is missing or cannot be read; the fault of one that is there, or was named.
pub(super) fn gather_readable(source: &Source, environment: &Environment) -> (Gathered, Option<Faults>) {
    let file = match source {
        Source::File(path) => Some(path.clone()),
        Source::Search => environment.search.iter().find(|path| path.exists()).cloned(),
        Source::Flags(_) => None,
    };
    let mut figment = Figment::new();
    let mut unreadable = None;
    match file.clone().map(Layer::file) {
        Some(Ok(layer)) => figment = figment.merge(layer),
        Some(Err(faults)) => unreadable = Some(faults),
        None => {}
    }
    for (name, text) in &environment.variables {
        if let Some(key) = name.strip_prefix(PREFIX) {
            figment = figment.merge(Layer::variable(name, key, text));
        }
    }
    if let Source::Flags(flags) = source {
        figment = flags.layers().into_iter().fold(figment, Figment::merge);
    }
    (Gathered { figment, file }, unreadable)
}

/// Where a value with this metadata was written.
pub(super) fn origin(metadata: Option<&Metadata>) -> Origin {
    match metadata.and_then(|metadata| metadata.source.clone()) {
        Some(figment::Source::File(path)) => Origin::File(path),
        Some(figment::Source::Custom(name)) => Origin::Named(name),
        _ => Origin::Default,
    }
}

/// Whether there is a file to read, or a variable names the routes.
fn found(environment: &Environment) -> Result<(), Faults> {
    let routes = format!("{PREFIX}ROUTE");
    let is_named = environment.variables.iter().any(|(name, _)| *name == routes);
    if is_named || environment.search.iter().any(|path| path.exists()) {
        return Ok(());
    }
    let places: Vec<String> = environment.search.iter().map(|path| path.display().to_string()).collect();
    let reason = format!("no configuration: neither {} exists", places.join(" nor "));
    let remedy = "write one of them (`backstop config default` prints a start), name another with --config, \
                  or run with --listen, --domain and --backend";
    Err(Faults::of_file(Origin::Default, reason, remedy))
}

/// Values of one origin.
struct Layer {
    origin: figment::Source,
    values: Dict,
}

impl Layer {
    fn file(path: PathBuf) -> Result<Self, Faults> {
        let fault =
            |reason: String, remedy: &str| Faults::of_file(Origin::File(path.clone()), reason, remedy);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            fault(
                format!("cannot be read: {error}"),
                "write it, make it readable, or name another with --config",
            )
        })?;
        // Only the place and the message: the line itself, which the error would print, may hold a secret.
        let values = Toml::from_str(&text).map_err(|error| {
            let place = error.span().map(|span| place(&text, span.start)).unwrap_or_default();
            fault(
                format!("{place}not valid TOML: {}", one_line(error.message())),
                "write TOML, as on https://toml.io",
            )
        })?;
        Ok(Self { origin: figment::Source::File(path), values })
    }

    fn variable(name: &str, key: &str, text: &str) -> Self {
        Self::nested(
            name,
            &key.to_ascii_lowercase().split(SEPARATOR).collect::<Vec<_>>(),
            variable_value(text),
        )
    }

    fn flag(name: &str, key: &str, value: Value) -> Self {
        Self::nested(name, &[key], value)
    }

    /// `value` behind the keys of `path`.
    fn nested(name: &str, path: &[&str], value: Value) -> Self {
        let nested =
            path.iter().rev().fold(value, |value, &key| Dict::from([(key.to_owned(), value)]).into());
        Self {
            origin: figment::Source::Custom(name.to_owned()),
            values: nested.into_dict().unwrap_or_default(),
        }
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::from("configuration", self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Flags {
    /// One layer for the listener and one for the route, as far as anything is said about them.
    fn layers(&self) -> Vec<Layer> {
        let list = |given: &[String]| Value::from(given.to_vec());
        let mut layers = Vec::new();
        if !self.listen.is_empty() {
            let listener = Dict::from([("address".to_owned(), list(&self.listen))]);
            layers.push(Layer::flag("--listen", "listener", vec![Value::from(listener)].into()));
        }
        if !self.domain.is_empty() || !self.backend.is_empty() {
            let domains = ("domains".to_owned(), list(&self.domain));
            let route = Dict::from([domains, ("backends".to_owned(), list(&self.backend))]);
            layers.push(Layer::flag("--domain, --backend", "route", vec![Value::from(route)].into()));
        }
        layers
    }
}

/// A list, a table or a quoted text is read as in TOML; anything else is the text itself, so that a token
/// of digits keeps its leading zeros.
fn variable_value(text: &str) -> Value {
    let text = text.trim();
    if !text.starts_with(['[', '{', '"']) {
        return Value::from(text);
    }
    let Ok(value) = text.parse();
    value
}

/// `line 3, column 5: ` for an offset in octets.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: ")
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_hold_text_unless_they_look_like_a_list_table_or_quoted_text() {
        for (text, value) in [
            ("007", Value::from("007")),
            ("true", Value::from("true")),
            (" mx.example.org\n", Value::from("mx.example.org")),
            ("\"mx.example.org\"", Value::from("mx.example.org")),
            ("[::1]:9525", Value::from("[::1]:9525")),
            ("[\"[::]:25\"]", Value::from(vec!["[::]:25"])),
            ("[10.0.0.0/8, 192.0.2.0/24]", Value::from(vec!["10.0.0.0/8", "192.0.2.0/24"])),
            ("[{a=\"b\"}]", Value::from(vec![Dict::from([("a".to_owned(), Value::from("b"))])])),
        ] {
            assert_eq!(variable_value(text), value, "{text}");
        }
    }

    #[test]
    fn places_count_lines_and_columns_from_one() {
        for (offset, expected) in
            [(0, "line 1, column 1: "), (3, "line 2, column 1: "), (5, "line 2, column 2: ")]
        {
            assert_eq!(place("ab\nüc\n", offset), expected);
        }
    }
}
