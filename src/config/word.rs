//! Single words with a form of their own: names for logs and metrics, EHLO keywords, log filters.

use super::leaf::{Form, Leaf, Misread};

/// What stands for a listener or a route in logs and metrics: short printable ASCII without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Longest name; a metric label stays readable.
    const MAX: usize = 64;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name made of the start of `text`, for something that was given none.
    pub(super) fn derived(text: &str) -> Self {
        Self(text.chars().filter(char::is_ascii_graphic).take(Self::MAX).collect())
    }
}

impl Leaf for Name {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"exchange\"";
    const KIND: &'static str = "name";
    const PATTERN: Option<&'static str> = Some(r#"^[!-~]{1,64}$"#);

    fn parse(text: &str) -> Result<Self, Misread> {
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\');
        if !text.is_empty() && text.len() <= Self::MAX && text.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        let remedy = "write at most 64 letters, digits and signs without spaces, such as \"exchange\"";
        Err(Misread::new("not a name", remedy))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

/// A keyword of the EHLO reply, in capitals (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyword(String);

impl Keyword {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Leaf for Keyword {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"DSN\"";
    const KIND: &'static str = "EHLO keyword";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9][A-Za-z0-9-]*$");

    fn parse(text: &str) -> Result<Self, Misread> {
        let well_formed = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if well_formed {
            return Ok(Self(text.to_ascii_uppercase()));
        }
        Err(Misread::new("not an EHLO keyword", "write the keyword alone, such as \"DSN\""))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// Which events are logged: a level, or a tracing filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Filter {
    /// The text, for `tracing_subscriber::EnvFilter`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One level for everything.
    pub(super) fn level(level: &str) -> Self {
        Self(level.to_owned())
    }
}

impl Leaf for Filter {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"info\"";
    const KIND: &'static str = "level or filter";

    fn parse(text: &str) -> Result<Self, Misread> {
        // tracing takes a lone word it does not know as the name of a module, so "inof" would silence the log.
        let known = |part: &str| {
            part.contains(['=', '['])
                || part.trim().parse::<tracing_subscriber::filter::LevelFilter>().is_ok()
        };
        // Its parser cuts between octets: other letters can make it panic.
        if text.is_ascii()
            && text.split(',').all(known)
            && tracing_subscriber::EnvFilter::try_new(text).is_ok()
        {
            return Ok(Self(text.to_owned()));
        }
        let remedy = "write \"error\", \"warn\", \"info\", \"debug\" or \"trace\", or a filter such as \"backstop=debug,info\"";
        Err(Misread::new("neither a level nor a filter", remedy))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}
