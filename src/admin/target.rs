//! What a request is about: the resource its path names, and the parameters behind it.
//!
//! RFC 3986 §2.1 (percent-encoding), §3.4. A plus sign is a plus sign: addresses have them.

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    /// The live page.
    Page,
    /// Does the process work?
    Live,
    /// May clients be sent here?
    Ready,
    /// What is counted.
    Metrics,
    /// This API, as an OpenAPI document.
    Description,
    /// The state of everything.
    Status,
    /// How the numbers moved.
    History,
    /// What happens, as it happens.
    Events,
    /// Sessions that are open.
    Sessions,
    /// What was refused.
    Refusals,
    /// The settings in force.
    Configuration,
    /// All recipients.
    Recipients,
    /// One recipient.
    Recipient,
    /// Asking the store about one recipient.
    Probe,
    /// Who guesses recipients.
    Clients,
    /// One client.
    Client,
    /// Reading the configuration again.
    Reload,
    /// Ending.
    Drain,
}

/// Whom a resource is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// Whoever can connect.
    Everybody,
    /// Who may operate the proxy.
    Operators,
}

/// A resource, and where it is.
#[derive(Debug)]
pub(super) struct Place {
    /// Its path. `{…}` stands for one part of it, which is still percent-encoded.
    pub(super) path: &'static str,
    pub(super) resource: Resource,
    pub(super) audience: Audience,
    /// Its methods, as the Allow header lists them.
    pub(super) methods: &'static str,
}

/// All there are. The page holds nothing that a stranger may not know: what it shows it asks for.
pub(super) const PLACES: [Place; 18] = [
    everybodys("/", Resource::Page),
    everybodys("/livez", Resource::Live),
    everybodys("/readyz", Resource::Ready),
    everybodys("/metrics", Resource::Metrics),
    operators("/api/v1/openapi.json", Resource::Description, READ),
    operators("/api/v1/status", Resource::Status, READ),
    operators("/api/v1/history", Resource::History, READ),
    operators("/api/v1/events", Resource::Events, "GET"),
    operators("/api/v1/sessions", Resource::Sessions, READ),
    operators("/api/v1/refusals", Resource::Refusals, READ),
    operators("/api/v1/configuration", Resource::Configuration, READ),
    operators("/api/v1/recipients", Resource::Recipients, "DELETE"),
    operators("/api/v1/recipients/{address}", Resource::Recipient, "GET, HEAD, DELETE"),
    operators("/api/v1/recipients/{address}/probe", Resource::Probe, "POST"),
    operators("/api/v1/clients", Resource::Clients, READ),
    operators("/api/v1/clients/{ip}", Resource::Client, "DELETE"),
    operators("/api/v1/reload", Resource::Reload, "POST"),
    operators("/api/v1/drain", Resource::Drain, "POST"),
];

const READ: &str = "GET, HEAD";

const fn everybodys(path: &'static str, resource: Resource) -> Place {
    Place { path, resource, audience: Audience::Everybody, methods: READ }
}

const fn operators(path: &'static str, resource: Resource, methods: &'static str) -> Place {
    Place { path, resource, audience: Audience::Operators, methods }
}

impl Place {
    /// What is at `path`, with the part of it that `{…}` stands for; none where nothing is.
    pub(super) fn at(path: &str) -> Option<(&'static Self, &str)> {
        PLACES.iter().find_map(|place| Some((place, place.matched(path)?)))
    }

    fn matched<'p>(&self, path: &'p str) -> Option<&'p str> {
        let Some((before, rest)) = self.path.split_once('{') else {
            return (path == self.path).then_some("");
        };
        let (_, behind) = rest.split_once('}')?;
        let part = path.strip_prefix(before)?.strip_suffix(behind)?;
        (!part.contains('/')).then_some(part)
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
            ("/livez", Some((Resource::Live, ""))),
            ("/livez/", None),
            ("/", Some((Resource::Page, ""))),
            ("//", None),
            ("", None),
            ("/api/v1/recipients", Some((Resource::Recipients, ""))),
            ("/api/v1/recipients/", Some((Resource::Recipient, ""))),
            ("/api/v1/recipients/a%2Fb@c", Some((Resource::Recipient, "a%2Fb@c"))),
            ("/api/v1/recipients/a@c/probe", Some((Resource::Probe, "a@c"))),
            ("/api/v1/recipients/a@c/probe/", None),
            ("/api/v1/recipients/a@c/more", None),
            ("/api/v1/recipients/a{b}@c", Some((Resource::Recipient, "a{b}@c"))),
            ("/api/v1/clients", Some((Resource::Clients, ""))),
            ("/api/v1/clients/2001:db8::1", Some((Resource::Client, "2001:db8::1"))),
            ("/api/v1/clients/2001:db8::/64", None),
        ] {
            assert_eq!(Place::at(path).map(|(place, part)| (place.resource, part)), resource, "{path}");
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
