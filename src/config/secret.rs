//! Secrets: they can be compared, and nothing prints them.

use std::fmt;

use super::leaf::{Form, Leaf, Misread};

/// A text that opens something. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The text itself, for comparing and nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

impl Leaf for Secret {
    const FORM: Form = Form::Secret;
    const EXAMPLE: &'static str = "\"a-long-random-text\"";
    const KIND: &'static str = "secret";

    fn parse(text: &str) -> Result<Self, Misread> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Self(text.into()));
        }
        let remedy = "write printable ASCII without spaces, such as what `openssl rand -hex 24` prints";
        Err(Misread::new("has octets that are not printable ASCII, or none", remedy))
    }

    fn text(&self) -> String {
        "(set)".to_owned()
    }
}
