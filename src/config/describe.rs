//! What may be written, as data: every key with its meaning, its kind and its default, in the order of
//! [`settings`](super::settings), where each is said once. The JSON schema and the reference page are made of it.

use serde_json::Value;

use super::leaf::{Form, Leaf};
use super::read::Section;

/// The keys of a section, in the order they are declared.
#[derive(Debug, Default)]
pub(super) struct Description {
    pub(super) keys: Vec<Key>,
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Its documentation, in one line.
    pub(super) meaning: String,
    pub(super) holds: Holds,
}

/// What stands behind a key.
#[derive(Debug)]
pub(super) enum Holds {
    /// A single value.
    One(Kind),
    /// A list of single values.
    List(Kind),
    /// A table.
    Table(Description),
    /// A list of tables.
    Tables(Description),
}

/// A kind of value, and what it is when nothing is written.
#[derive(Debug)]
pub(super) struct Kind {
    /// What it is called.
    pub(super) name: &'static str,
    /// The words it may be, each with its meaning; none when it may be more than a few words.
    pub(super) words: &'static [(&'static str, &'static str)],
    pub(super) schema: Value,
    /// What JSON writes here, TOML reads.
    pub(super) default: Value,
}

impl Description {
    /// What may be written in a section of type `S`.
    pub(super) fn of<S: Section>() -> Self {
        let mut description = Self::default();
        S::default().describe_keys(&mut description);
        description
    }

    /// Adds a key; `doc` has the lines of its documentation.
    pub(super) fn add(&mut self, name: &'static str, doc: &str, holds: Holds) {
        let meaning = doc.split_whitespace().collect::<Vec<_>>().join(" ");
        self.keys.push(Key { name, meaning, holds });
    }
}

impl Kind {
    /// The kind of `T`.
    pub(super) fn of<T: Leaf>(default: Value) -> Self {
        Self { name: T::KIND, words: T::WORDS, schema: T::schema(), default }
    }
}

/// A single value as JSON.
pub(super) fn json<T: Leaf>(value: &T) -> Value {
    let text = value.text();
    match T::FORM {
        // Numbers and booleans are JSON as they stand.
        Form::Bare => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Form::Text | Form::Secret | Form::Quantity => Value::String(text),
    }
}
