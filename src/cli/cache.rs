//! `backstop cache`: what a running proxy remembers.

use clap::Subcommand;
use hyper::{Method, StatusCode};

use super::Exit;
use super::admin_client::{self, AdminClient};
use super::terminal::{print_line, say};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    admin: admin_client::AdminEndpoint,
}

#[derive(Debug, Subcommand)]
enum What {
    /// How much is remembered.
    Stats,
    /// What is remembered of an address.
    Get {
        /// The address.
        address: String,
    },
    /// Forget addresses, or whole domains.
    Forget {
        /// The addresses.
        #[arg(required_unless_present = "domain")]
        address: Vec<String>,
        /// A domain (may repeat).
        #[arg(long)]
        domain: Vec<String>,
    },
    /// Forget everything.
    Clear,
}

/// Asks the proxy; prints its answers.
pub(super) async fn cache(arguments: Arguments) -> Exit {
    let client = match AdminClient::new(&arguments.admin) {
        Ok(client) => client,
        Err(fault) => {
            say(fault);
            return Exit::Unavailable;
        }
    };
    let recipients = "/api/v1/recipients";
    let requests: Vec<(Method, String)> = match arguments.what {
        What::Stats => vec![(Method::GET, "/api/v1/status".to_owned())],
        What::Get { address } => vec![(Method::GET, format!("{recipients}/{}", encoded(&address)))],
        What::Forget { address, domain } => address
            .iter()
            .map(|address| (Method::DELETE, format!("{recipients}/{}", encoded(address))))
            .chain(domain.iter().map(|d| (Method::DELETE, format!("{recipients}?domain={}", encoded(d)))))
            .collect(),
        What::Clear => vec![(Method::DELETE, recipients.to_owned())],
    };
    let mut exit = Exit::Done;
    for (method, path) in requests {
        let stats = path.ends_with("/status");
        match client.ask(method, &path).await {
            Ok((status, body)) if status.is_success() => print_line(shown(&body, stats)),
            Ok((status, body)) => {
                say(format_args!("{status}: {}", error_in(&body)));
                exit =
                    if status == StatusCode::SERVICE_UNAVAILABLE { Exit::Unavailable } else { Exit::Failed };
            }
            Err(fault) => {
                say(fault);
                return Exit::Unavailable;
            }
        }
    }
    exit
}

/// An answer as a person reads it; of the whole status only the cache.
fn shown(body: &str, stats: bool) -> String {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(body) else {
        return body.trim_end().to_owned();
    };
    let value = if stats { value.get("cache").cloned().unwrap_or(value) } else { value };
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// What an answer that is a refusal says.
pub(super) fn error_in(body: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(body).ok();
    let error = value.as_ref().and_then(|value| value.get("error")?.as_str());
    error.unwrap_or(body).trim_end().to_owned()
}

/// Percent-encoded, so that any address is one path segment.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'@' | b'+') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_one_path_segment() {
        assert_eq!(encoded("ann+x@example.org"), "ann+x@example.org");
        assert_eq!(encoded("\"a /b?\"@é"), "%22a%20%2Fb%3F%22@%C3%A9");
    }

    #[test]
    fn the_statistics_are_the_cache_part_of_the_status() {
        assert_eq!(shown("{\"version\":\"1\",\"cache\":{\"good\":2}}", true), "{\n  \"good\": 2\n}");
        assert_eq!(error_in("{\"error\":\"no route\"}"), "no route");
    }
}
