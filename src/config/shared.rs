//! Where instances share what they know: a Redis or Valkey server, or the sentinels that know which one.
//!
//! `redis://[user:password@]host[:port][/database]`, `rediss://` for TLS, and `redis+sentinel://` or `rediss+sentinel://`
//! with `host[:port],host[:port]/service[/database]`. A Redis cluster is not among them. The password is never printed.

use std::fmt;

use super::leaf::{Form, Leaf, Misread};
use super::secret::Secret;

/// Where the shared memory is, and as whom it is used.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedAddress {
    /// Whether the server is spoken to in TLS, verified with the system's roots.
    pub tls: SharedTls,
    /// The server, or the sentinels. Never empty.
    pub hosts: Vec<(String, u16)>,
    /// What the sentinels call it; none without sentinels.
    pub service: Option<String>,
    /// The user of its access list; none is the default user.
    pub user: Option<String>,
    /// What that user shows.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u16,
}

/// Whether TLS comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedTls {
    /// It does not.
    Off,
    /// It does.
    Verified,
}

const SCHEMES: [(&str, SharedTls, Kind); 4] = [
    ("redis://", SharedTls::Off, Kind::Server),
    ("rediss://", SharedTls::Verified, Kind::Server),
    ("redis+sentinel://", SharedTls::Off, Kind::Sentinels),
    ("rediss+sentinel://", SharedTls::Verified, Kind::Sentinels),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Sentinels,
}

impl Leaf for SharedAddress {
    // A fault must not show what was written: there may be a password in it.
    const FORM: Form = Form::Secret;
    const EXAMPLE: &'static str = "\"redis://10.0.0.9:6379\"";
    const KIND: &'static str = "redis://…, rediss://…, redis+sentinel://…, rediss+sentinel://…";

    fn parse(text: &str) -> Result<Self, Misread> {
        let scheme = SCHEMES
            .into_iter()
            .find_map(|(scheme, tls, kind)| text.strip_prefix(scheme).map(|rest| (rest, tls, kind)));
        let Some((rest, tls, kind)) = scheme else {
            return Err(misread(
                "it begins with none of redis://, rediss://, redis+sentinel://, rediss+sentinel://",
            ));
        };
        if rest.contains(['?', '#']) {
            return Err(misread("? and # mean nothing here; in a password they are %3F and %23"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (None, None),
        };
        let password = match password {
            Some(password) => Some(
                Secret::parse(&password)
                    .map_err(|m| Misread::new("its password cannot be used", m.remedy))?,
            ),
            None => None,
        };
        let usual = if kind == Kind::Server { 6379 } else { 26379 };
        let hosts = hosts.split(',').map(|host| host_and_port(host, usual)).collect::<Result<Vec<_>, _>>()?;
        if kind == Kind::Server && hosts.len() > 1 {
            return Err(misread(
                "several hosts are sentinels (redis+sentinel://); a cluster is not supported",
            ));
        }
        let (service, database) = match kind {
            Kind::Server => (None, path),
            Kind::Sentinels => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err(misread(
                        "behind the sentinels the name of the service is missing: …/mymaster",
                    ));
                }
                (Some(service.to_owned()), database)
            }
        };
        let database = match database.trim_end_matches('/') {
            "" => 0,
            number => number.parse().map_err(|_| misread("the database is no number"))?,
        };
        Ok(Self { tls, hosts, service, user, password, database })
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Without its password.
impl fmt::Display for SharedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.service.is_some() { Kind::Sentinels } else { Kind::Server };
        let scheme = SCHEMES.into_iter().find(|(_, tls, of)| (*tls, *of) == (self.tls, kind));
        f.write_str(scheme.map_or("", |(scheme, ..)| scheme))?;
        match (&self.user, &self.password) {
            (Some(user), Some(_)) => write!(f, "{user}:(set)@")?,
            (Some(user), None) => write!(f, "{user}@")?,
            (None, Some(_)) => f.write_str(":(set)@")?,
            (None, None) => {}
        }
        for (at, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            if host.contains(':') {
                write!(f, "{comma}[{host}]:{port}")?;
            } else {
                write!(f, "{comma}{host}:{port}")?;
            }
        }
        if let Some(service) = &self.service {
            write!(f, "/{service}")?;
        }
        if self.database > 0 { write!(f, "/{}", self.database) } else { Ok(()) }
    }
}

impl fmt::Debug for SharedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

fn misread(reason: &str) -> Misread {
    Misread::new(reason, "write \"redis://user:password@host:6379\", or rediss:// for TLS")
}

fn host_and_port(text: &str, usual: u16) -> Result<(String, u16), Misread> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let well_formed = |host: &str| {
        host.parse::<std::net::IpAddr>().is_ok()
            || (!host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)))
    };
    if !well_formed(host) {
        return Err(misread("the host is missing, or is no host"));
    }
    let port = port.map_or(Ok(usual), |port| {
        port.parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| misread("the port is not a number from 1 to 65535"))
    })?;
    Ok((host.to_owned(), port))
}

/// Percent-decoded; none when there is nothing.
fn decoded(text: &str) -> Result<Option<String>, Misread> {
    let wrong = || misread("% is not followed by two hexadecimal digits, or what results is no UTF-8");
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            octets.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        octets.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
        rest = behind;
    }
    let text = String::from_utf8(octets).map_err(|_| wrong())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// What keys in a shared memory begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPrefix(Box<str>);

impl SharedPrefix {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is used where none is written.
    pub(super) fn usual() -> Self {
        Self("backstop".into())
    }
}

impl Leaf for SharedPrefix {
    const FORM: Form = Form::Text;
    const EXAMPLE: &'static str = "\"backstop\"";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9._-]{1,64}$");

    fn parse(text: &str) -> Result<Self, Misread> {
        // Nothing a pattern of an access list would take for more than itself.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(Misread::new(
            "not a prefix",
            "write at most 64 letters, digits, \".\", \"-\" and \"_\", such as \"backstop\"",
        ))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown_without_its_password() {
        for (written, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379"),
            ("rediss://redis.corp.example:6380/3", "rediss://redis.corp.example:6380/3"),
            ("redis://:s3cret@[::1]:7000", "redis://:(set)@[::1]:7000"),
            ("redis://backstop:s3cret%40%2F@cache", "redis://backstop:(set)@cache:6379"),
            (
                "redis+sentinel://backstop:s3cret@s1,s2:26380/mymaster/1",
                "redis+sentinel://backstop:(set)@s1:26379,s2:26380/mymaster/1",
            ),
        ] {
            let address = SharedAddress::parse(written).unwrap();
            assert_eq!(address.to_string(), shown);
            assert!(!format!("{address:?}").contains("s3cret"));
        }
        let address = SharedAddress::parse("redis://backstop:s3cret%40%2F@cache").unwrap();
        assert_eq!(address.password.unwrap().reveal(), "s3cret@/");
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for written in [
            "127.0.0.1:6379",
            "http://s3cret@cache",
            "redis://",
            "redis://s3cret@",
            "redis://cache:0",
            "redis://cache/s3cret",
            "redis://a,b",
            "redis+sentinel://a,b",
            "redis://u:s3cret%zz@cache",
            "redis://cache?s3cret",
            "redis://ca che",
        ] {
            let misread = SharedAddress::parse(written).unwrap_err();
            assert!(!format!("{misread:?}").contains("s3cret"), "{written}: {misread:?}");
        }
    }
}
