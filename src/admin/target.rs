//! What a request is about: the resource its path names, and the parameters behind it.
//!
//! RFC 3986 §2.1 (percent-encoding), §3.4. A plus sign is a plus sign: addresses have them.

/// What a path names. Addresses are still percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'p> {
    /// Does the process work?
    Live,
    /// May clients be sent here?
    Ready,
    /// What is counted.
    Metrics,
    /// The state of everything.
    Status,
    /// All recipients.
    Recipients,
    /// One recipient.
    Recipient(&'p str),
    /// Asking the store about one recipient.
    Probe(&'p str),
    /// Who guesses recipients.
    Clients,
    /// One client.
    Client(&'p str),
}

/// Whom a resource is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever can connect.
    Everybody,
    /// Who may operate the proxy.
    Operators,
}

impl<'p> Resource<'p> {
    /// The resource at `path`, none where nothing is.
    pub(super) fn at(path: &'p str) -> Option<Self> {
        match path {
            "/livez" => Some(Self::Live),
            "/readyz" => Some(Self::Ready),
            "/metrics" => Some(Self::Metrics),
            "/api/v1/status" => Some(Self::Status),
            "/api/v1/recipients" => Some(Self::Recipients),
            "/api/v1/clients" => Some(Self::Clients),
            _ => {
                if let Some(client) = path.strip_prefix("/api/v1/clients/") {
                    return (!client.contains('/')).then_some(Self::Client(client));
                }
                let below = path.strip_prefix("/api/v1/recipients/")?;
                match below.split_once('/') {
                    None => Some(Self::Recipient(below)),
                    Some((address, "probe")) => Some(Self::Probe(address)),
                    Some(_) => None,
                }
            }
        }
    }

    /// Whom it is for.
    pub(super) const fn audience(self) -> Audience {
        match self {
            Self::Live | Self::Ready | Self::Metrics => Audience::Everybody,
            Self::Status
            | Self::Recipients
            | Self::Recipient(_)
            | Self::Probe(_)
            | Self::Clients
            | Self::Client(_) => Audience::Operators,
        }
    }

    /// Its methods, as the Allow header lists them.
    pub(super) const fn methods(self) -> &'static str {
        match self {
            Self::Live | Self::Ready | Self::Metrics | Self::Status | Self::Clients => "GET, HEAD",
            Self::Recipients | Self::Client(_) => "DELETE",
            Self::Recipient(_) => "GET, HEAD, DELETE",
            Self::Probe(_) => "POST",
        }
    }
}

/// The parameters of a query, in order; none when one is wrongly encoded.
pub(super) fn parameters(query: &str) -> Option<Vec<(String, String)>> {
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let decoded = parameters.map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        Some((decoded(name)?, decoded(value)?))
    });
    decoded.collect()
}

/// `text` with every `%XX` decoded; none when one is torn, or the whole is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let (octet, behind) = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => (hex(*high)? << 4 | hex(*low)?, behind),
            (b'%', _) => return None,
            _ => (first, behind),
        };
        octets.push(octet);
        rest = behind;
    }
    String::from_utf8(octets).ok()
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_resource_or_none() {
        for (path, resource) in [
            ("/livez", Some(Resource::Live)),
            ("/livez/", None),
            ("/", None),
            ("/api/v1/recipients", Some(Resource::Recipients)),
            ("/api/v1/recipients/", Some(Resource::Recipient(""))),
            ("/api/v1/recipients/a%2Fb@c", Some(Resource::Recipient("a%2Fb@c"))),
            ("/api/v1/recipients/a@c/probe", Some(Resource::Probe("a@c"))),
            ("/api/v1/recipients/a@c/probe/", None),
            ("/api/v1/recipients/a@c/more", None),
            ("/api/v1/clients", Some(Resource::Clients)),
            ("/api/v1/clients/2001:db8::1", Some(Resource::Client("2001:db8::1"))),
            ("/api/v1/clients/2001:db8::/64", None),
        ] {
            assert_eq!(Resource::at(path), resource, "{path}");
        }
    }

    #[test]
    fn percent_encoding_is_read_exactly() {
        for (text, read) in [
            ("ann+x@example.org", Some("ann+x@example.org")),
            ("%22a%20%2fb%3F%22@%C3%A9", Some("\"a /b?\"@é")),
            ("%2541", Some("%41")),
            ("%", None),
            ("%4", None),
            ("%4g", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(text).as_deref(), read, "{text}");
        }
    }

    #[test]
    fn a_query_is_names_and_values() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let read = parameters("verbose&a=%26=b&&c=").unwrap();
        assert_eq!(read, [pair("verbose", ""), pair("a", "&=b"), pair("c", "")]);
        assert_eq!(parameters("a=%"), None);
        assert_eq!(parameters("").unwrap(), []);
    }
}
