//! From what figment merged to settings, without stopping at the first fault.
//!
//! Rejected: `#[derive(Deserialize)]`. serde ends at the first error, and an operator then mends a file one
//! run at a time; unknown keys, origins and remedies would each need a wrapper around every field. Here a
//! section hands its keys to a [`Table`] one by one, and what it does not ask for is unknown.

use figment::Figment;
use figment::value::{Dict, Value};

use super::describe::{Description, Holds, Kind, json};
use super::finding::{Finding, Findings, Origin, Written};
use super::leaf::{Form, Leaf, Misread};
use super::source;
use super::write::Writer;

/// Reads merged values and keeps what it finds.
pub(super) struct Reader<'f> {
    figment: &'f Figment,
    pub(super) findings: Findings,
}

/// Whatever can stand behind a key.
pub(super) trait Setting: Sized {
    /// Reads `value`. None when there is nothing to use; the fault is then with the reader.
    fn read(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Self>;

    /// Writes it as TOML.
    fn write(&self, name: &str, out: &mut Writer<'_>);

    /// What may stand there; this value where nothing does.
    fn describe(&self) -> Holds;
}

/// A table of keys.
pub(super) trait Section: Default {
    /// Takes every key of the section out of `table`.
    fn read_keys(&mut self, table: &mut Table<'_, '_>);

    /// Writes every key of the section.
    fn write_keys(&self, out: &mut Writer<'_>);

    /// Describes every key of the section.
    fn describe_keys(&self, out: &mut Description);
}

/// A section's keys that were not yet asked for.
pub(super) struct Table<'r, 'f> {
    path: &'r str,
    entries: Dict,
    known: Vec<&'static str>,
    reader: &'r mut Reader<'f>,
}

impl<'f> Reader<'f> {
    pub(super) fn new(figment: &'f Figment) -> Self {
        Self { figment, findings: Findings::default() }
    }

    /// Reads the section at `path`, what is not given keeping its default.
    pub(super) fn section<S: Section>(&mut self, path: &str, entries: Dict) -> S {
        let mut section = S::default();
        let mut table = Table { path, entries, known: Vec::new(), reader: self };
        section.read_keys(&mut table);
        table.refuse_unknown();
        section
    }

    /// Reads one table of a list. One that is no table still counts, so that later ones keep their place.
    fn listed_section<S: Section>(&mut self, key: &str, value: Value) -> S {
        let origin = self.origin(&value);
        let value = match value {
            Value::Dict(_, entries) => return self.section(key, entries),
            other => shown(&other),
        };
        self.fault(key, value, origin, Misread::new("not a table", table_remedy(key)));
        S::default()
    }

    fn origin(&self, value: &Value) -> Origin {
        source::origin(self.figment.get_metadata(value.tag()))
    }

    fn fault(&mut self, key: &str, value: String, origin: Origin, misread: Misread) {
        let Misread { reason, remedy } = misread;
        self.findings.faults.push(Finding { key: key.to_owned(), value, reason, remedy, origin });
    }

    /// Remembers that `key` was written.
    fn note(&mut self, key: &str, value: &str, origin: &Origin) {
        let written = Written { value: value.to_owned(), origin: origin.clone() };
        self.findings.written.insert(key.to_owned(), written);
    }
}

impl Table<'_, '_> {
    /// Reads the key `name` into `field`, if it was given.
    pub(super) fn key<T: Setting>(&mut self, name: &'static str, field: &mut T) {
        self.known.push(name);
        let Some(value) = self.entries.remove(name) else { return };
        let key = join(self.path, name);
        if let Some(read) = T::read(&key, value, self.reader) {
            *field = read;
        }
    }

    /// Whatever was not asked for is a fault. Its value may be a misspelt secret and is not shown.
    fn refuse_unknown(self) {
        for (name, value) in &self.entries {
            let origin = self.reader.origin(value);
            let remedy = match nearest(name, &self.known) {
                Some(near) => format!("did you mean {near:?}? Write that, or remove the line"),
                None => format!("remove it, or write one of {}", self.known.join(", ")),
            };
            let misread = Misread::new("unknown key", remedy);
            self.reader.fault(&join(self.path, name), String::new(), origin, misread);
        }
    }
}

impl<T: Leaf> Setting for T {
    fn read(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Self> {
        let origin = reader.origin(&value);
        let written = if T::FORM == Form::Secret { "(set)".to_owned() } else { shown(&value) };
        reader.note(key, &written, &origin);
        match read_leaf(&value) {
            Ok(leaf) => Some(leaf),
            Err(misread) => {
                reader.fault(key, written, origin, misread);
                None
            }
        }
    }

    fn write(&self, name: &str, out: &mut Writer<'_>) {
        out.line(name, &toml(self));
    }

    fn describe(&self) -> Holds {
        Holds::One(Kind::of::<T>(json(self)))
    }
}

impl<T: Leaf> Setting for Vec<T> {
    fn read(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Self> {
        let origin = reader.origin(&value);
        let written = shown(&value);
        reader.note(key, &written, &origin);
        let Value::Array(_, elements) = value else {
            let remedy = format!("write a list in brackets, such as [{}]", T::EXAMPLE);
            reader.fault(key, written, origin, Misread::new("not a list", remedy));
            return None;
        };
        let elements = elements.into_iter().enumerate();
        Some(elements.filter_map(|(at, element)| T::read(&format!("{key}[{at}]"), element, reader)).collect())
    }

    fn write(&self, name: &str, out: &mut Writer<'_>) {
        let elements: Vec<String> = self.iter().map(toml).collect();
        out.line(name, &format!("[{}]", elements.join(", ")));
    }

    fn describe(&self) -> Holds {
        Holds::List(Kind::of::<T>(self.iter().map(json).collect()))
    }
}

/// Reads the table behind `key`.
pub(super) fn read_section<S: Section>(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<S> {
    let origin = reader.origin(&value);
    match value {
        Value::Dict(_, entries) => Some(reader.section(key, entries)),
        other => {
            let remedy = format!("write its keys under [{}]", without_places(key));
            reader.fault(key, shown(&other), origin, Misread::new("not a table", remedy));
            None
        }
    }
}

/// Reads the list of tables behind `key`.
pub(super) fn read_sections<S: Section>(key: &str, value: Value, reader: &mut Reader<'_>) -> Option<Vec<S>> {
    let origin = reader.origin(&value);
    reader.note(key, &shown(&value), &origin);
    match value {
        Value::Array(_, tables) => {
            let tables = tables.into_iter().enumerate();
            Some(tables.map(|(at, table)| reader.listed_section(&format!("{key}[{at}]"), table)).collect())
        }
        other => {
            reader.fault(key, shown(&other), origin, Misread::new("not a list of tables", table_remedy(key)));
            None
        }
    }
}

/// How to write a list of tables, in a file and in a variable.
fn table_remedy(key: &str) -> String {
    let name = without_places(key);
    let variable = name.to_ascii_uppercase();
    format!("write [[{name}]] with its keys below, or {}{variable}='[{{key=\"value\"}}]'", source::PREFIX)
}

/// `route[0].verify` is `[route.verify]` in a file.
pub(super) fn without_places(key: &str) -> String {
    let steps = key.split('.').map(|step| step.split_once('[').map_or(step, |(name, _)| name));
    steps.collect::<Vec<_>>().join(".")
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn read_leaf<T: Leaf>(value: &Value) -> Result<T, Misread> {
    let bare = match value {
        Value::String(_, text) => return T::parse(text),
        Value::Char(_, c) => return T::parse(c.encode_utf8(&mut [0; 4])),
        Value::Num(..) | Value::Bool(..) => shown(value),
        Value::Dict(..) | Value::Array(..) | Value::Empty(..) => {
            return Err(Misread::new("not a single value", format!("write {}", T::EXAMPLE)));
        }
    };
    match T::FORM {
        Form::Text | Form::Secret => {
            Err(Misread::new("the quotes are missing", format!("write a text such as {}", T::EXAMPLE)))
        }
        Form::Quantity | Form::Bare => T::parse(&bare),
    }
}

/// A value as written, for findings. Tables and lists may hold secrets and are only hinted at.
fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Char(_, c) => format!("{:?}", c.to_string()),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, num) => {
            let whole = num.to_i128().map(|n| n.to_string()).or_else(|| num.to_u128().map(|n| n.to_string()));
            whole.or_else(|| num.to_f64().map(|n| format!("{n:?}"))).unwrap_or_default()
        }
        Value::Empty(..) => String::new(),
        Value::Dict(..) => "{…}".to_owned(),
        Value::Array(..) => "[…]".to_owned(),
    }
}

/// A value as TOML. JSON's escapes are TOML's, but for the one control character JSON lets stand.
fn toml<T: Leaf>(leaf: &T) -> String {
    let text = leaf.text();
    match T::FORM {
        Form::Bare => text,
        Form::Text | Form::Secret | Form::Quantity => {
            serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
        }
    }
}

/// The known name most like `name`, if it is like any.
fn nearest<'n>(name: &str, known: &[&'n str]) -> Option<&'n str> {
    let distances = known.iter().map(|&other| (distance(name, other), other));
    let (edits, near) = distances.min()?;
    (edits <= near.len() / 3).then_some(near)
}

/// How many letters must be changed, added or dropped to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (at, x) in a.chars().enumerate() {
        let mut left = at + 1;
        let mut next = vec![left];
        for (y, above) in b.chars().zip(row.windows(2)) {
            let &[diagonal, above] = above else { continue };
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_find_the_one_meant() {
        let known = ["max_connections", "max_recipients", "bypass", "ttl"];
        for (name, meant) in [
            ("max_recipents", Some("max_recipients")),
            ("max-connections", Some("max_connections")),
            ("bypas", Some("bypass")),
            ("til", Some("ttl")),
            ("shared", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, &known), meant, "{name}");
        }
        assert_eq!(nearest("x", &[]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
