//! Single values: what one key, or one element of a list, may hold.
//!
//! Every kind of value is read from text, since that is what an environment variable offers; TOML's own
//! numbers and booleans are turned into it first. A text that cannot be read comes back as a [`Misread`],
//! which says what to write instead.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::proto::address::{Domain, Mailbox};

/// Why a text is not a value of its kind, and what would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misread {
    pub(super) reason: String,
    pub(super) remedy: String,
}

impl Misread {
    pub(super) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// How a value stands in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In quotes.
    Text,
    /// In quotes, and never shown.
    Secret,
    /// In quotes with its unit; zero may stand bare.
    Quantity,
    /// Without quotes: a number, `true`, `false`.
    Bare,
}

/// A kind of single value.
pub(super) trait Leaf: Sized {
    /// How it stands in TOML.
    const FORM: Form;
    /// A value of this kind as written in TOML, for remedies.
    const EXAMPLE: &'static str;
    /// What the reference calls it.
    const KIND: &'static str = "text";
    /// The words it may be, each with its meaning, where it is one of a few.
    const WORDS: &'static [(&'static str, &'static str)] = &[];
    /// A regular expression (ECMA 262) that every text of this kind matches.
    const PATTERN: Option<&'static str> = None;

    /// The JSON schema of such a value.
    fn schema() -> Value {
        if !Self::WORDS.is_empty() {
            return json!({ "enum": Self::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>() });
        }
        let text = match Self::PATTERN {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string" }),
        };
        if Self::FORM == Form::Quantity { json!({ "anyOf": [text, { "const": 0 }] }) } else { text }
    }

    /// Reads the text of a value.
    fn parse(text: &str) -> Result<Self, Misread>;

    /// The text that reads back as this value.
    fn text(&self) -> String;
}

/// A value that may be left out by writing `""`.
impl<T: Leaf> Leaf for Option<T> {
    const FORM: Form = T::FORM;
    const EXAMPLE: &'static str = T::EXAMPLE;
    const KIND: &'static str = T::KIND;
    const WORDS: &'static [(&'static str, &'static str)] = T::WORDS;

    fn schema() -> Value {
        json!({ "anyOf": [T::schema(), { "const": "" }] })
    }

    fn parse(text: &str) -> Result<Self, Misread> {
        if text.is_empty() { Ok(None) } else { T::parse(text).map(Some) }
    }

    fn text(&self) -> String {
        self.as_ref().map(T::text).unwrap_or_default()
    }
}

impl Leaf for usize {
    const FORM: Form = Form::Bare;
    const EXAMPLE: &'static str = "100";
    const KIND: &'static str = "number";

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": 0 })
    }

    fn parse(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(|_| Misread::new("not a whole number", "write a number such as 100"))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Leaf for bool {
    const FORM: Form = Form::Bare;
    const EXAMPLE: &'static str = "true";
    const KIND: &'static str = "`true` or `false`";

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }

    fn parse(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(|_| Misread::new("neither true nor false", "write true or false"))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Leaf for PathBuf {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"/etc/backstop/recipients\"";
    const KIND: &'static str = "path";

    fn parse(text: &str) -> Result<Self, Misread> {
        Ok(Self::from(text))
    }

    fn text(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl Leaf for SocketAddr {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"[::]:25\"";
    const KIND: &'static str = "address:port";
    const PATTERN: Option<&'static str> = Some(r"^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$");

    fn parse(text: &str) -> Result<Self, Misread> {
        text.parse().map_err(|_| {
            let remedy = "write the address of an interface, such as \"[::]:25\" (all of them), \"192.0.2.1:25\" or \"127.0.0.1:9525\"";
            Misread::new("not an IP address with a port", remedy)
        })
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

impl Leaf for Domain {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"mx.example.org\"";
    const KIND: &'static str = "domain name";

    fn parse(text: &str) -> Result<Self, Misread> {
        Self::parse(text)
            .map_err(|_| Misread::new("not a domain name", "write a name such as \"mx.example.org\""))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// A sender: a mailbox in a domain. `""` in its place is the null sender.
impl Leaf for Mailbox {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"postmaster@example.org\"";
    const KIND: &'static str = "mail address";

    fn parse(text: &str) -> Result<Self, Misread> {
        let remedy = "write \"postmaster@example.org\", or \"\" for the default";
        let mailbox = Self::parse(text).map_err(|fault| Misread::new(fault.to_string(), remedy))?;
        match mailbox.domain() {
            Some(_) => Ok(mailbox),
            None => Err(Misread::new("a sender needs a domain", remedy)),
        }
    }

    fn text(&self) -> String {
        self.written().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        Destination, DomainPattern, Endpoint, Filter, Keyword, Listed, Name, NameServer, Network, Period,
        Pin, Rate, Size,
    };

    /// Whatever text a value was read from, its own text is the same value.
    fn reads_back<T: Leaf + PartialEq>(text: &str) {
        if let Ok(value) = T::parse(text) {
            let again = T::parse(&value.text());
            assert!(again.is_ok_and(|again| again == value), "{text:?} reads back as {:?}", value.text());
        }
    }

    proptest! {
        #[test]
        fn what_was_read_reads_back_the_same(text in "[a-fxABs0-9:./@*\\-\\[\\]\"=ü]{0,16}|\\PC{0,8}") {
            reads_back::<DomainPattern>(&text);
            reads_back::<Destination>(&text);
            reads_back::<Destination>(&format!("srv:_smtp._tcp.{text}"));
            reads_back::<Destination>(&format!("mx:{text}"));
            reads_back::<Endpoint>(&text);
            reads_back::<Filter>(&text);
            reads_back::<Keyword>(&text);
            reads_back::<Listed>(&text);
            reads_back::<Name>(&text);
            reads_back::<NameServer>(&text);
            reads_back::<Network>(&text);
            reads_back::<Period>(&text);
            reads_back::<Pin>(&format!("sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3{text}"));
            reads_back::<Rate>(&text);
            reads_back::<Size>(&text);
            reads_back::<SocketAddr>(&text);
            reads_back::<Option<Mailbox>>(&text);
            reads_back::<Option<Domain>>(&text);
            reads_back::<usize>(&text);
        }
    }
}
