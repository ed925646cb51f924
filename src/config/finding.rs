//! What is wrong with a configuration: every finding at once, each with its remedy.
//!
//! A fault keeps the configuration from being used, a warning does not; both have the same shape. Values of
//! secrets, and of keys nobody knows (a misspelt secret is one), are never part of a finding.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default holds.
    Default,
    /// In this file.
    File(PathBuf),
    /// In this environment variable, or after this command-line flag.
    Named(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// One thing to put right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key, such as `route[0].verify.timeout`; empty when it is about a file as a whole.
    pub key: String,
    /// The value as written; empty when none was.
    pub value: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
    /// Where the value was written.
    pub origin: Origin,
}

/// A finding that keeps the configuration from being used.
pub type Fault = Finding;
/// A finding that does not.
pub type Warning = Finding;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, reason, remedy, origin } = self;
        match (key.is_empty(), value.is_empty()) {
            (true, _) => {}
            (false, true) => write!(f, "{key}")?,
            (false, false) => write!(f, "{key} = {value}")?,
        }
        match (key.is_empty(), origin) {
            (_, Origin::Default) => {}
            (true, origin) => write!(f, "{origin}")?,
            (false, origin) => write!(f, " ({origin})")?,
        }
        let before = if key.is_empty() && *origin == Origin::Default { "" } else { ": " };
        write!(f, "{before}{reason}; {remedy}")
    }
}

/// Why a configuration cannot be used: all of it, not the first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    /// What must be put right; never empty.
    pub faults: Vec<Fault>,
    /// What should be.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Faults {
    /// The one fault of a file, or of there being none.
    pub(super) fn of_file(origin: Origin, reason: String, remedy: &str) -> Self {
        let (key, value) = (String::new(), String::new());
        Self {
            faults: vec![Finding { key, value, reason, remedy: remedy.to_owned(), origin }],
            warnings: Vec::new(),
        }
    }
}

/// A value as written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// As shown to the operator.
    pub(super) value: String,
    /// Where it stands.
    pub(super) origin: Origin,
}

/// What has been written and found so far, while a configuration is read and checked.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) written: BTreeMap<String, Written>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
}

impl Findings {
    /// The key cannot stay as it is.
    pub(super) fn fault(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let fault = self.finding(key, reason.into(), remedy.into());
        self.faults.push(fault);
    }

    /// One element of the list `key` cannot stay as it is.
    pub(super) fn fault_in(
        &mut self,
        key: &str,
        element: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let fault = self.finding(key, reason.into(), remedy.into());
        self.faults.push(Finding { value: format!("{element:?}"), ..fault });
    }

    /// The key cannot stay as it is, unless that only follows from a fault already found: of itself, of
    /// something under it, or of the table it is in. Mending that one may mend this one.
    pub(super) fn follow(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        if !self.faults.iter().any(|fault| is_under(&fault.key, key) || is_under(key, &fault.key)) {
            self.fault(key, reason, remedy);
        }
    }

    /// The key may stay as it is, but hardly does what was meant.
    pub(super) fn warn(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        let warning = self.finding(key, reason.into(), remedy.into());
        self.warnings.push(warning);
    }

    fn finding(&self, key: &str, reason: String, remedy: String) -> Finding {
        let written = self.written.get(key).cloned();
        let Written { value, origin } =
            written.unwrap_or_else(|| Written { value: String::new(), origin: Origin::Default });
        Finding { key: key.to_owned(), value, reason, remedy, origin }
    }
}

/// Whether `key` is `table` or something in it: `a.b[0]` is under `a.b`, `a.bc` is not.
fn is_under(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_says_what_to_write() {
        let finding = |key: &str, value: &str, origin| Finding {
            key: key.to_owned(),
            value: value.to_owned(),
            reason: "is odd".to_owned(),
            remedy: "write another".to_owned(),
            origin,
        };
        for (finding, line) in [
            (
                finding("a.b", "\"1\"", Origin::File("/x.toml".into())),
                "a.b = \"1\" (/x.toml): is odd; write another",
            ),
            (
                finding("a.b", "1", Origin::Named("BACKSTOP__A__B".into())),
                "a.b = 1 (BACKSTOP__A__B): is odd; write another",
            ),
            (finding("a.b", "", Origin::Default), "a.b: is odd; write another"),
            (finding("", "", Origin::File("/x.toml".into())), "/x.toml: is odd; write another"),
            (finding("", "", Origin::Default), "is odd; write another"),
        ] {
            assert_eq!(finding.to_string(), line);
        }
    }
}
