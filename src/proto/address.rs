//! Addresses: the path of MAIL and RCPT, mailboxes, domains.
//!
//! A [`Mailbox`] keeps the text as the client wrote it (that is what goes on to the backend) and knows
//! its canonical form (that is what the cache and the lists compare). Nothing here interprets a local
//! part: routed forms such as `user%other@domain` are only *recognised*, so that policy can refuse them.
//!
//! RFC 5321 §4.1.2 (grammar), §4.5.1 (postmaster), §C (source routes), RFC 6531 §3.3 (UTF-8),
//! RFC 5891 (A-labels). Known limit: comments and folding white space (RFC 5322) are not part of SMTP and
//! are refused.

use std::fmt;

/// Longest local part taken, in octets. RFC 5321 §4.5.3.1.1 asks for 64; senders in the wild (VERP,
/// signed bounces) go beyond, and the command line limit bounds the whole.
const MAX_LOCAL_PART: usize = 256;
/// Longest domain, in octets (RFC 5321 §4.5.3.1.2).
const MAX_DOMAIN: usize = 255;

/// Why a text is not an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Missing `<` or `>`, or something between them and the parameters.
    #[error("not a path in angle brackets")]
    Brackets,
    /// Not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// The part before the last `@` is not a dot-string or quoted string.
    #[error("malformed local part")]
    LocalPart,
    /// No domain, or one that is not a domain name or address literal.
    #[error("malformed domain")]
    Domain,
    /// A source route that does not follow RFC 5321 §4.1.2 `A-d-l`.
    #[error("malformed source route")]
    SourceRoute,
    /// Longer than SMTP allows.
    #[error("too long")]
    TooLong,
}

/// Whether the case of local parts matters to the store (RFC 5321 §2.4 says it may).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalCase {
    /// `Ann@` and `ann@` are two mailboxes.
    Sensitive,
    /// They are one (Exchange).
    Insensitive,
}

/// A domain in canonical form: lower case A-labels without a trailing dot, or an address literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

impl Domain {
    /// Reads a domain name or an address literal in any accepted spelling.
    ///
    /// # Errors
    /// [`AddressFault::Domain`] when it is neither, [`AddressFault::TooLong`] above 255 octets.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        if text.starts_with('[') {
            return Self::parse_literal(text);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.len() > MAX_DOMAIN {
            return Err(AddressFault::TooLong);
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii(text).map_err(|_| AddressFault::Domain)?
        };
        if ascii.len() > MAX_DOMAIN {
            return Err(AddressFault::TooLong);
        }
        let well_formed = ascii.split('.').all(is_label);
        if well_formed { Ok(Self(ascii.into())) } else { Err(AddressFault::Domain) }
    }

    /// `[192.0.2.1]`, `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    fn parse_literal(text: &str) -> Result<Self, AddressFault> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or(AddressFault::Domain)?;
        if let Ok(v4) = inner.parse::<std::net::Ipv4Addr>() {
            return Ok(Self(format!("[{v4}]").into()));
        }
        let tag = inner.get(..5).filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        let v6 = tag.and_then(|_| inner.get(5..)?.parse::<std::net::Ipv6Addr>().ok());
        v6.map(|v6| Self(format!("[IPv6:{v6}]").into())).ok_or(AddressFault::Domain)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domain one label up (`b.c` of `a.b.c`), none for a single label or a literal.
    #[must_use]
    pub fn parent(&self) -> Option<&str> {
        if self.0.starts_with('[') { None } else { self.0.split_once('.').map(|(_, rest)| rest) }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 1123 labels plus the underscore, which real mail domains use and DNS allows.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A recipient's address, or a sender's that is not null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// As written, without angle brackets and source route.
    text: Box<str>,
    /// Octets of `text` before the `@` that parts local part and domain; the whole text without one.
    local_len: usize,
    /// None only for the bare `postmaster` (RFC 5321 §4.5.1).
    domain: Option<Domain>,
}

impl Mailbox {
    /// Reads `local@domain` as written between angle brackets, or the bare `postmaster`.
    ///
    /// # Errors
    /// The [`AddressFault`] that says which part is malformed.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self { text: text.into(), local_len: text.len(), domain: None });
        }
        let local_len = local_part_len(text)?;
        if local_len > MAX_LOCAL_PART {
            return Err(AddressFault::TooLong);
        }
        let domain = text.get(local_len..).and_then(|rest| rest.strip_prefix('@'));
        let domain = Domain::parse(domain.ok_or(AddressFault::Domain)?)?;
        Ok(Self { text: text.into(), local_len, domain: Some(domain) })
    }

    /// As the client wrote it: what is sent on.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.text
    }

    /// The local part as written, quotes included.
    #[must_use]
    pub fn local_part(&self) -> &str {
        self.text.get(..self.local_len).unwrap_or(&self.text)
    }

    /// The domain, none for the bare `postmaster`.
    #[must_use]
    pub const fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// The form that is compared: domain canonical, local part unquoted where that is equivalent.
    #[must_use]
    pub fn canonical(&self, case: LocalCase) -> String {
        let mut canonical = unquoted(self.local_part());
        if case == LocalCase::Insensitive || self.domain.is_none() {
            // ASCII only: folding more could make one of two mailboxes that a store keeps apart.
            canonical.make_ascii_lowercase();
        }
        if let Some(domain) = &self.domain {
            canonical.push('@');
            canonical.push_str(domain.as_str());
        }
        canonical
    }

    /// Whether the address needs SMTPUTF8 (RFC 6531 §3.3).
    #[must_use]
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }

    /// Whether the local part asks for relaying through the domain: a `%`, `!` or `@`, quoted or not. Backends
    /// that trust our address would follow it, and Postfix looks at what is within the quotes
    /// (`resolve_dequoted_address`). A backslash hides none of them: it stands before the octet, not for it.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.local_part().contains(['%', '!', '@'])
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Octets of the local part at the start of `text`: a dot-string or a quoted string.
fn local_part_len(text: &str) -> Result<usize, AddressFault> {
    if text.starts_with('"') {
        return quoted_len(text).ok_or(AddressFault::LocalPart);
    }
    let len = text.find('@').unwrap_or(text.len());
    let local = text.get(..len).unwrap_or_default();
    // Deviation: empty atoms ("a..b@", "a.@") are taken. Mailboxes named so exist, and the store decides.
    let well_formed = !local.is_empty() && local.bytes().all(|b| is_atext(b) || b == b'.');
    if well_formed { Ok(len) } else { Err(AddressFault::LocalPart) }
}

/// Octets of a quoted string, quotes included (RFC 5321 `Quoted-string`).
fn quoted_len(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => {
                if !matches!(bytes.get(at + 1)?, 0x20..=0x7e) {
                    return None;
                }
                at += 2;
            }
            0x20..=0x7e | 0x80.. => at += 1,
            _ => return None,
        }
    }
}

const fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || b >= 0x80
        || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~')
}

/// `"ann"` and `"a\nn"` mean `ann`; `"a b"` stays quoted, with needless backslashes removed.
fn unquoted(local: &str) -> String {
    let Some(inner) = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) else {
        return local.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    let dot_string = !plain.is_empty() && plain.bytes().all(|b| is_atext(b) || b == b'.');
    if dot_string {
        return plain;
    }
    let mut quoted = String::with_capacity(plain.len() + 2);
    quoted.push('"');
    for c in plain.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// The argument of MAIL FROM: and RCPT TO: split into path and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'l> {
    /// None is the null path `<>`.
    pub mailbox: Option<Mailbox>,
    /// What follows the closing bracket: nothing, or parameters behind white space.
    pub rest: &'l [u8],
}

impl<'l> Path<'l> {
    /// Reads `<…>` with an optional source route, which is dropped (RFC 5321 §C).
    ///
    /// # Errors
    /// The [`AddressFault`] that says what is malformed.
    pub fn parse(argument: &'l [u8]) -> Result<Self, AddressFault> {
        let inner = argument.strip_prefix(b"<").ok_or(AddressFault::Brackets)?;
        let len = closing_bracket(inner).ok_or(AddressFault::Brackets)?;
        let (path, rest) = inner.split_at(len);
        let rest = rest.get(1..).unwrap_or_default();
        if !matches!(rest.first(), None | Some(b' ')) {
            return Err(AddressFault::Brackets);
        }
        let path = std::str::from_utf8(path).map_err(|_| AddressFault::NotUtf8)?;
        if path.is_empty() {
            return Ok(Path { mailbox: None, rest });
        }
        let mailbox = Mailbox::parse(without_source_route(path)?)?;
        Ok(Path { mailbox: Some(mailbox), rest })
    }
}

/// Where the bracket closes; one inside a quoted string does not.
fn closing_bracket(inner: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut at = 0;
    loop {
        match *inner.get(at)? {
            b'>' if !quoted => return Some(at),
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            _ => {}
        }
        at += 1;
    }
}

/// `@a,@b:user@c` is `user@c` (RFC 5321 §4.1.2 `A-d-l`, §C).
fn without_source_route(path: &str) -> Result<&str, AddressFault> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressFault::SourceRoute)?;
    for hop in route.split(',') {
        let domain = hop.strip_prefix('@').ok_or(AddressFault::SourceRoute)?;
        Domain::parse(domain).map_err(|_| AddressFault::SourceRoute)?;
    }
    Ok(mailbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_have_one_canonical_spelling() {
        for (written, canonical) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("BüCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_spool.example", "_spool.example"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(Domain::parse(written).unwrap().as_str(), canonical, "{written}");
        }
        for bad in ["", ".", "a..b", "-a.b", "a-.b", "a b", "[192.0.2]", "[x", "a@b", "[IPv6:zz]", "a\0b"] {
            assert!(Domain::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Domain::parse(&"a.".repeat(200)).is_err());
    }

    #[test]
    fn mailboxes_keep_their_text_and_compare_canonically() {
        for (written, canonical) in [
            ("Ann@Example.org", "Ann@example.org"),
            ("\"ann\"@example.org", "ann@example.org"),
            ("\"a\\nn\"@example.org", "ann@example.org"),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("\"a\\\"b\"@example.org", "\"a\\\"b\"@example.org"),
            ("\"\"@example.org", "\"\"@example.org"),
            ("a+tag@example.org", "a+tag@example.org"),
            ("pelé@bücher.example", "pelé@xn--bcher-kva.example"),
            ("PostMaster", "postmaster"),
        ] {
            let mailbox = Mailbox::parse(written).unwrap();
            assert_eq!(mailbox.written(), written);
            assert_eq!(mailbox.canonical(LocalCase::Sensitive), canonical, "{written}");
        }
        let folded = Mailbox::parse("Ann@Example.org").unwrap().canonical(LocalCase::Insensitive);
        assert_eq!(folded, "ann@example.org");
        for bad in
            ["ann", "@example.org", "ann@", "a b@c", "\"ann@c", "a@b@c", "a\"b@c", "\"a\"b@c", "a\rb@c"]
        {
            assert!(Mailbox::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn canonical_form_is_a_fixed_point() {
        for text in ["Ann@Example.org", "\"a\\ b\"@c.d", "\"a@b\"@c.d", "x@[IPv6:::1]", "postmaster"] {
            let once = Mailbox::parse(text).unwrap().canonical(LocalCase::Sensitive);
            let twice = Mailbox::parse(&once).unwrap().canonical(LocalCase::Sensitive);
            assert_eq!(once, twice, "{text}");
        }
    }

    #[test]
    fn routed_forms_are_recognised() {
        for routed in [
            "a%b@c.d",
            "b!a@c.d",
            "\"a@b\"@c.d",
            "\"a%b\"@c.d",
            "\"b!a\"@c.d",
            "\"a\\%b\"@c.d",
            "\"\\a\\@b\"@c.d",
        ] {
            assert!(Mailbox::parse(routed).unwrap().is_routed(), "{routed}");
        }
        for plain in ["a+b@c.d", "\"a b\"@c.d", "\"a\\\"b\"@c.d", "postmaster"] {
            assert!(!Mailbox::parse(plain).unwrap().is_routed(), "{plain}");
        }
    }

    #[test]
    fn paths_drop_source_routes_and_keep_what_follows() {
        let path = Path::parse(b"<@a.example,@b.example:user@c.example> SIZE=1").unwrap();
        assert_eq!(path.mailbox.unwrap().written(), "user@c.example");
        assert_eq!(path.rest, b" SIZE=1");
        assert_eq!(Path::parse(b"<>").unwrap().mailbox, None);
        let quoted = Path::parse(b"<\"a>b\\\"c\"@d.e>").unwrap();
        assert_eq!(quoted.mailbox.unwrap().local_part(), "\"a>b\\\"c\"");
        for bad in [
            &b"user@c.example"[..],
            b"<user@c.example",
            b"<user@c.example>x",
            b"<@a.example user@c.example>",
            b"<@:user@c.example>",
            b"<us\rer@c.example>",
            b"<us\xffer@c.example>",
            b"<\"user@c.example>",
        ] {
            assert!(Path::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
