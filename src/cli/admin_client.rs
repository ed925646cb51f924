//! Asking a running proxy through its admin endpoint.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::terminal::say;
use super::{ConfigFile, Exit};
use crate::config::AddressFrom;

/// Longest answer read, in octets.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// How long an answer may take; a probe through the endpoint waits for the mail store.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the endpoint is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct AdminEndpoint {
    /// The admin endpoint [default: that of the configuration, else http://127.0.0.1:9525].
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskFault {
    #[error("{0} is no address of an admin endpoint; write http://HOST:PORT")]
    Address(String),
    #[error("the configuration has no admin endpoint (admin.address is empty); name one with --admin")]
    Nowhere,
    #[error("{0} does not answer: {1}")]
    Connect(String, io::Error),
    #[error("{0} does not answer in time")]
    Timeout(String),
    #[error("{0} does not speak HTTP: {1}")]
    Http(String, Box<dyn std::error::Error + Send + Sync>),
}

/// A running proxy.
#[derive(Debug)]
pub(super) struct AdminClient {
    /// Tried in turn, never empty.
    addresses: Vec<String>,
    token: Option<String>,
}

impl AdminClient {
    /// The endpoint named, or that of the configuration. Says what is wrong with the configuration, and where the endpoint
    /// is taken to be when nothing says it: an answer from another proxy must not pass for that of this one.
    pub(super) fn new(arguments: &AdminEndpoint) -> Result<Self, AskFault> {
        let found = crate::config::load_admin(&arguments.file.source());
        found.faults.iter().for_each(|fault| say(format_args!("fault: {fault}")));
        let token = found.admin.as_ref().and_then(|admin| Some(admin.token.as_ref()?.reveal().to_owned()));
        if let Some(url) = &arguments.admin {
            return Ok(Self { addresses: vec![host_and_port(url)?], token });
        }
        let addresses = reachable(found.admin.ok_or(AskFault::Nowhere)?.address);
        let address = addresses.join(" or ");
        match found.address {
            AddressFrom::Written => {}
            AddressFrom::NoFile => say(format_args!("without a configuration, asking {address}")),
            AddressFrom::LeftOut if found.faults.is_empty() => {}
            AddressFrom::LeftOut => say(format_args!("asking {address}")),
        }
        Ok(Self { addresses, token })
    }

    /// One request; its status and body.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String), AskFault> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(method, path)).await;
        answer.unwrap_or_else(|_| Err(AskFault::Timeout(self.addresses.join(" or "))))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, String), AskFault> {
        let (stream, address) = self.connect().await?;
        let not_http = |fault: hyper::Error| AskFault::Http(address.to_owned(), fault.into());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|_| AskFault::Address(address.to_owned()))?;
        let answer = sender.send_request(request).await.map_err(not_http)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|fault| AskFault::Http(address.to_owned(), fault))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    /// A connection to the first address that this host has. One that refuses is there, and nobody listens: whoever does
    /// at the next one is another proxy.
    async fn connect(&self) -> Result<(TcpStream, &str), AskFault> {
        let mut outcome = Err(AskFault::Nowhere);
        for address in &self.addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(fault) => {
                    let is_there = fault.kind() == io::ErrorKind::ConnectionRefused;
                    outcome = Err(AskFault::Connect(address.clone(), fault));
                    if is_there {
                        break;
                    }
                }
            }
        }
        outcome
    }
}

/// What a URL of an endpoint names; there is no TLS, and no path.
fn host_and_port(url: &str) -> Result<String, AskFault> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let parts = address.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| address.to_owned()).ok_or_else(|| AskFault::Address(url.to_owned()))
}

/// Where to ask an endpoint that listens there, the likeliest first. One that listens on all addresses is asked on loopback; one
/// of both families may be on a host that has no `::1`.
fn reachable(listening: SocketAddr) -> Vec<String> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, listening.port()));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, listening.port()));
    let addresses = match listening {
        _ if !listening.ip().is_unspecified() => vec![listening],
        SocketAddr::V4(_) => vec![v4],
        SocketAddr::V6(_) => vec![v6, v4],
    };
    addresses.iter().map(ToString::to_string).collect()
}

/// `backstop healthcheck`: 0 when the proxy is ready.
pub(super) async fn healthcheck(arguments: &AdminEndpoint) -> Exit {
    let answer = match AdminClient::new(arguments) {
        Ok(client) => client.ask(Method::GET, "/readyz").await,
        Err(fault) => Err(fault),
    };
    match answer {
        Ok((StatusCode::OK, _)) => Exit::Done,
        Ok((status, _)) => {
            say(format_args!("not ready: {status}"));
            Exit::Failed
        }
        Err(fault) => {
            say(fault);
            Exit::Failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_by_host_and_port_or_found_where_it_listens() {
        for (url, address) in [
            ("http://127.0.0.1:9525", "127.0.0.1:9525"),
            ("http://mx.example.org:80/", "mx.example.org:80"),
            ("[::1]:9525", "[::1]:9525"),
        ] {
            assert_eq!(host_and_port(url).unwrap(), address);
        }
        for (listening, asked) in [
            ("192.0.2.1:9525", vec!["192.0.2.1:9525"]),
            ("0.0.0.0:9525", vec!["127.0.0.1:9525"]),
            ("[::]:9525", vec!["[::1]:9525", "127.0.0.1:9525"]),
            ("[::1]:9525", vec!["[::1]:9525"]),
        ] {
            assert_eq!(reachable(listening.parse().unwrap()), asked);
        }
        for url in ["https://127.0.0.1:9525", "http://127.0.0.1", "127.0.0.1:x", ":9525", "http://a/b:1", ""]
        {
            assert!(matches!(host_and_port(url), Err(AskFault::Address(shown)) if shown == url), "{url}");
        }
    }
}
