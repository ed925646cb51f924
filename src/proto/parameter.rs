//! ESMTP parameters of MAIL and RCPT (RFC 5321 §4.1.2 `esmtp-param`).
//!
//! Each is checked for syntax and for having been offered, and kept as written: that is how the backend gets
//! it. Values are held to printable characters, so nothing written here can end a command line.

use std::fmt::Write as _;

use super::ehlo::{Extensions, Keyword};

/// Which command a parameter stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
}

/// What is wrong with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParameterFault {
    /// Not `keyword` or `keyword=value`, or given twice.
    #[error("malformed parameter")]
    Syntax,
    /// A known keyword with a value it cannot have.
    #[error("bad value of a parameter")]
    Value,
    /// Not offered in our answer to EHLO.
    #[error("parameter not offered")]
    NotOffered,
}

/// BODY (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyKind {
    /// 7BIT, or no BODY at all.
    #[default]
    SevenBit,
    /// 8BITMIME.
    EightBitMime,
    /// BINARYMIME: only with BDAT.
    Binary,
}

/// The parameters of one command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// As written, parted by single spaces.
    text: Box<str>,
    /// SIZE: what the client says the message has, in octets.
    pub size: Option<u64>,
    /// BODY.
    pub body: BodyKind,
    /// The extensions these parameters use.
    pub uses: Extensions,
}

impl Parameters {
    /// Reads what follows the path, held against what was offered.
    ///
    /// # Errors
    /// The [`ParameterFault`] of the first one that is wrong.
    pub fn parse(rest: &[u8], of: Of, offered: &Extensions) -> Result<Self, ParameterFault> {
        let rest = std::str::from_utf8(rest).map_err(|_| ParameterFault::Syntax)?;
        let mut parameters = Self::default();
        let mut text = String::with_capacity(rest.len());
        let mut seen: Vec<&str> = Vec::new();
        for word in rest.split(' ').filter(|word| !word.is_empty()) {
            let (keyword, value) = match word.split_once('=') {
                Some((keyword, value)) => (keyword, Some(value)),
                None => (word, None),
            };
            if !is_keyword(keyword) || !value.is_none_or(is_value) {
                return Err(ParameterFault::Syntax);
            }
            if seen.iter().any(|earlier| earlier.eq_ignore_ascii_case(keyword)) {
                return Err(ParameterFault::Syntax);
            }
            seen.push(keyword);
            let extension = parameters.read(&keyword.to_ascii_uppercase(), value, of)?;
            if !offered.has(extension) {
                return Err(ParameterFault::NotOffered);
            }
            parameters.uses = parameters.uses.with(extension);
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        parameters.text = text.into();
        Ok(parameters)
    }

    /// One parameter: its value checked and noted, the extension it belongs to given.
    fn read(&mut self, keyword: &str, value: Option<&str>, of: Of) -> Result<Keyword, ParameterFault> {
        let check = |good: bool, extension| if good { Ok(extension) } else { Err(ParameterFault::Value) };
        match (of, keyword, value) {
            (Of::Mail, "SIZE", Some(value)) => {
                let digits = value.len() <= 20 && value.bytes().all(|b| b.is_ascii_digit());
                self.size = digits.then(|| value.parse().unwrap_or(u64::MAX));
                check(digits && !value.is_empty(), Keyword::Size)
            }
            (Of::Mail, "BODY", Some(value)) => self.read_body(value),
            (Of::Mail, "SMTPUTF8", value) => check(value.is_none(), Keyword::SmtpUtf8),
            (Of::Mail, "RET", Some(value)) => check(is_one_of(value, &["FULL", "HDRS"]), Keyword::Dsn),
            (Of::Mail, "ENVID", Some(value)) => check(value.len() <= 100 && is_xtext(value), Keyword::Dsn),
            (Of::Rcpt, "NOTIFY", Some(value)) => check(is_notify(value), Keyword::Dsn),
            (Of::Rcpt, "ORCPT", Some(value)) => check(is_original_recipient(value), Keyword::Dsn),
            (Of::Mail, "MT-PRIORITY", Some(value)) => {
                let priority = value.parse::<i8>().is_ok_and(|n| (-9..=9).contains(&n));
                check(priority, Keyword::MtPriority)
            }
            (Of::Mail, "SIZE" | "BODY" | "RET" | "ENVID" | "MT-PRIORITY", None)
            | (Of::Rcpt, "NOTIFY" | "ORCPT", None) => Err(ParameterFault::Value),
            _ => Err(ParameterFault::NotOffered),
        }
    }

    fn read_body(&mut self, value: &str) -> Result<Keyword, ParameterFault> {
        let (kind, extension) = match value.to_ascii_uppercase().as_str() {
            "7BIT" => (BodyKind::SevenBit, Keyword::EightBitMime),
            "8BITMIME" => (BodyKind::EightBitMime, Keyword::EightBitMime),
            "BINARYMIME" => (BodyKind::Binary, Keyword::BinaryMime),
            _ => return Err(ParameterFault::Value),
        };
        self.body = kind;
        Ok(extension)
    }

    /// Appends them, each behind a space, for a backend that announced `announced` and is given so many octets
    /// more than the client said. SIZE is left out where
    /// it was not announced, since we offer it on our own account (RFC 1870 §4); so is `BODY=7BIT`, which
    /// says what holds without it.
    ///
    /// # Errors
    /// The keyword the backend lacks.
    pub fn write(&self, announced: &Extensions, added: u64, out: &mut String) -> Result<(), Keyword> {
        for word in self.text.split(' ').filter(|word| !word.is_empty()) {
            let keyword = word.split('=').next().unwrap_or(word).to_ascii_uppercase();
            let needed = match keyword.as_str() {
                _ if !word.is_ascii() && !announced.has(Keyword::SmtpUtf8) => Keyword::SmtpUtf8,
                "SIZE" => Keyword::Size,
                "BODY" if self.body == BodyKind::Binary => Keyword::BinaryMime,
                "BODY" => Keyword::EightBitMime,
                "SMTPUTF8" => Keyword::SmtpUtf8,
                "MT-PRIORITY" => Keyword::MtPriority,
                _ => Keyword::Dsn,
            };
            if announced.has(needed) {
                out.push(' ');
                match self.size {
                    Some(size) if needed == Keyword::Size && added > 0 => {
                        let _ = write!(out, "SIZE={}", size.saturating_add(added));
                    }
                    _ => out.push_str(word),
                }
            } else if needed != Keyword::Size && !word.eq_ignore_ascii_case("BODY=7BIT") {
                return Err(needed);
            }
        }
        Ok(())
    }

    /// Whether they need SMTPUTF8: an address within may be written in UTF-8 (RFC 6533 §3).
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_keyword(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    starts && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Any printable character but `=` and space (RFC 5321 `esmtp-value`), and UTF-8 (RFC 6531 §3.3).
fn is_value(text: &str) -> bool {
    // Deviation: `=` is taken inside a value. ORCPT of signed senders holds it (RFC 3461 xtext forbids it,
    // MTAs send it), and it cannot be confused once the first one has parted keyword and value.
    !text.is_empty() && !text.chars().any(|c| c.is_control() || c == ' ')
}

fn is_one_of(value: &str, known: &[&str]) -> bool {
    known.iter().any(|k| k.eq_ignore_ascii_case(value))
}

/// RFC 3461 §4: `+` only before two upper-case hexadecimal digits.
fn is_xtext(value: &str) -> bool {
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'+', [a, b, more @ ..]) if is_hex(*a) && is_hex(*b) => more,
            (b'!'..=b'~', _) if *first != b'+' => behind,
            _ => return false,
        };
    }
    true
}

const fn is_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'A'..=b'F')
}

/// RFC 3461 §4.1: NEVER alone, or a list of the others.
fn is_notify(value: &str) -> bool {
    value.eq_ignore_ascii_case("NEVER")
        || value.split(',').all(|word| is_one_of(word, &["SUCCESS", "FAILURE", "DELAY"]))
}

/// RFC 3461 §4.2: `addr-type;xtext`, at most 500 octets; UTF-8 forms come with RFC 6533 §3.
fn is_original_recipient(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    value.len() <= 500
        && is_keyword(kind)
        && (kind.eq_ignore_ascii_case("utf-8") && address.chars().all(|c| !c.is_control() && c != ' ')
            || is_xtext(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Extensions {
        use Keyword::{BinaryMime, Chunking, Dsn, EightBitMime, MtPriority, Size, SmtpUtf8};
        Extensions::of(&[Size, EightBitMime, SmtpUtf8, Dsn, Chunking, BinaryMime, MtPriority])
    }

    #[test]
    fn parameters_are_checked_and_kept_as_written() {
        let parsed =
            Parameters::parse(b"  size=100 body=8bitMIME  SMTPUTF8 RET=hdrs ENVID=a+2Bb", Of::Mail, &all());
        let parsed = parsed.unwrap();
        assert_eq!(parsed.as_str(), "size=100 body=8bitMIME SMTPUTF8 RET=hdrs ENVID=a+2Bb");
        assert_eq!((parsed.size, parsed.body), (Some(100), BodyKind::EightBitMime));
        let parsed = Parameters::parse(b" NOTIFY=SUCCESS,delay ORCPT=rfc822;a+40b", Of::Rcpt, &all());
        assert!(parsed.is_ok());
    }

    #[test]
    fn each_fault_has_its_kind() {
        use ParameterFault::{NotOffered, Syntax, Value};
        for (of, text, fault) in [
            (Of::Mail, "SIZE=x", Value),
            (Of::Mail, "SIZE=", Syntax),
            (Of::Mail, "SIZE", Value),
            (Of::Mail, "SIZE=999999999999999999999", Value),
            (Of::Mail, "SIZE=1 SIZE=2", Syntax),
            (Of::Mail, "BODY=9BIT", Value),
            (Of::Mail, "SMTPUTF8=1", Value),
            (Of::Mail, "ENVID=a+2", Value),
            (Of::Mail, "ENVID=a\rb", Syntax),
            (Of::Mail, "NOTIFY=NEVER", NotOffered),
            (Of::Mail, "AUTH=<>", NotOffered),
            (Of::Mail, "XFOO=1", NotOffered),
            (Of::Mail, "-x", Syntax),
            (Of::Mail, "MT-PRIORITY=10", Value),
            (Of::Rcpt, "NOTIFY=NEVER,SUCCESS", Value),
            (Of::Rcpt, "ORCPT=rfc822", Value),
            (Of::Rcpt, "SIZE=1", NotOffered),
        ] {
            assert_eq!(Parameters::parse(text.as_bytes(), of, &all()), Err(fault), "{text:?}");
        }
        let nothing = Parameters::parse(b"BODY=8BITMIME", Of::Mail, &Extensions::default());
        assert_eq!(nothing, Err(NotOffered));
        assert_eq!(Parameters::parse(b"\xff", Of::Mail, &all()), Err(Syntax));
    }

    #[test]
    fn a_non_ascii_value_goes_to_no_backend_without_smtputf8() {
        let parsed = Parameters::parse("ORCPT=utf-8;pelé@b.c".as_bytes(), Of::Rcpt, &all()).unwrap();
        assert!(!parsed.is_ascii());
        let (mut out, dsn) = (String::new(), Extensions::of(&[Keyword::Dsn]));
        assert_eq!(parsed.write(&dsn, 0, &mut String::new()), Err(Keyword::SmtpUtf8));
        assert_eq!(parsed.write(&dsn.with(Keyword::SmtpUtf8), 0, &mut out), Ok(()));
        assert_eq!(out, " ORCPT=utf-8;pelé@b.c");
        let parsed = Parameters::parse("ENVID=é".as_bytes(), Of::Mail, &all());
        assert_eq!(parsed, Err(ParameterFault::Value));
    }

    #[test]
    fn a_backend_gets_what_it_announced() {
        let parsed = Parameters::parse(b"SIZE=5 BODY=7BIT RET=FULL", Of::Mail, &all()).unwrap();
        let mut out = String::new();
        assert_eq!(parsed.write(&Extensions::of(&[Keyword::Dsn]), 7, &mut out), Ok(()));
        assert_eq!(out, " RET=FULL");
        assert_eq!(parsed.write(&Extensions::default(), 0, &mut String::new()), Err(Keyword::Dsn));
    }
}
