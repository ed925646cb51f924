//! Settings as TOML text, each with the place its value comes from. The text loads again, but for secrets,
//! which read `(set)`.

use std::collections::BTreeMap;

use super::finding::Origin;
use super::read::{Section, join, without_places};

/// Writes sections one after the other.
pub(super) struct Writer<'o> {
    origins: &'o BTreeMap<String, Origin>,
    /// Of the section being written, with places: `route[0].verify`.
    path: String,
    text: String,
    shown: Vec<Shown>,
}

/// One setting in force, for whoever looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Such as `route[0].verify.timeout`.
    pub key: String,
    /// As TOML; secrets read `(set)`.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Column of the comments, beyond most values.
const COMMENT_COLUMN: usize = 44;

impl<'o> Writer<'o> {
    pub(super) const fn new(origins: &'o BTreeMap<String, Origin>) -> Self {
        Self { origins, path: String::new(), text: String::new(), shown: Vec::new() }
    }

    /// The text of a whole configuration.
    pub(super) fn finish<S: Section>(mut self, settings: &S) -> String {
        settings.write_keys(&mut self);
        self.text
    }

    /// Its settings, one by one.
    pub(super) fn settings<S: Section>(mut self, settings: &S) -> Vec<Shown> {
        settings.write_keys(&mut self);
        self.shown
    }

    /// One key of the current section; `value` is TOML.
    pub(super) fn line(&mut self, name: &str, value: &str) {
        let key = join(&self.path, name);
        let origin = self.origins.get(&key).unwrap_or(&Origin::Default);
        self.shown.push(Shown { key, value: value.to_owned(), origin: origin.clone() });
        let line = format!("{name} = {value}");
        // A path or variable name with a line break must not begin a line of its own.
        let origin = origin.to_string().replace(char::is_control, "?");
        self.text.push_str(&format!("{line:<COMMENT_COLUMN$} # {origin}\n"));
    }

    /// The table `name` of the current section.
    pub(super) fn section<S: Section>(&mut self, name: &str, section: &S) {
        let path = join(&self.path, name);
        self.text.push_str(&format!("\n[{}]\n", without_places(&path)));
        self.keys(path, section);
    }

    /// The list of tables `name` of the current section.
    pub(super) fn sections<S: Section>(&mut self, name: &str, sections: &[S]) {
        for (at, section) in sections.iter().enumerate() {
            let path = join(&self.path, &format!("{name}[{at}]"));
            self.text.push_str(&format!("\n[[{}]]\n", without_places(&path)));
            self.keys(path, section);
        }
    }

    fn keys<S: Section>(&mut self, path: String, section: &S) {
        let outer = std::mem::replace(&mut self.path, path);
        section.write_keys(self);
        self.path = outer;
    }
}
