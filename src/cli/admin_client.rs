//! Asking a running proxy through its admin endpoint.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::terminal::say;
use super::{ConfigFile, Exit};

/// Longest answer read, in octets.
const MAX_ANSWER: usize = 4 * 1024 * 1024;
/// How long an answer may take; a probe through the endpoint waits for the mail store.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the endpoint is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct AdminEndpoint {
    /// The admin endpoint [default: that of the configuration, else http://127.0.0.1:9525].
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskFault {
    #[error("{0} is no address of an admin endpoint; write http://HOST:PORT")]
    Address(String),
    #[error("{0} does not answer: {1}")]
    Connect(String, std::io::Error),
    #[error("{0} does not answer in time")]
    Timeout(String),
    #[error("{0} does not speak HTTP: {1}")]
    Http(String, Box<dyn std::error::Error + Send + Sync>),
}

/// A running proxy.
#[derive(Debug)]
pub(super) struct AdminClient {
    address: String,
    token: Option<String>,
}

impl AdminClient {
    /// The endpoint named, or that of the configuration.
    pub(super) fn new(arguments: &AdminEndpoint) -> Self {
        let configured =
            crate::config::load(&arguments.file.source()).ok().and_then(|loaded| loaded.config.admin);
        let token = configured.as_ref().and_then(|admin| Some(admin.token.as_ref()?.reveal().to_owned()));
        let address = arguments.admin.as_ref().map(|url| {
            let address = url.strip_prefix("http://").unwrap_or(url);
            address.trim_end_matches('/').to_owned()
        });
        let address = address.or_else(|| configured.map(|admin| reachable(admin.address).to_string()));
        Self { address: address.unwrap_or_else(|| "127.0.0.1:9525".to_owned()), token }
    }

    /// One request; its status and body.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<(StatusCode, String), AskFault> {
        let answer = tokio::time::timeout(PATIENCE, self.exchange(method, path)).await;
        answer.unwrap_or_else(|_| Err(AskFault::Timeout(self.address.clone())))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, String), AskFault> {
        let unreachable = |fault| AskFault::Connect(self.address.clone(), fault);
        let stream = TcpStream::connect(&self.address).await.map_err(unreachable)?;
        let not_http = |fault: hyper::Error| AskFault::Http(self.address.clone(), fault.into());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(not_http)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request =
            request.body(Empty::<Bytes>::new()).map_err(|_| AskFault::Address(self.address.clone()))?;
        let answer = sender.send_request(request).await.map_err(not_http)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|fault| AskFault::Http(self.address.clone(), fault))?;
        Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }
}

/// An endpoint that listens on all addresses is asked on loopback.
const fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            std::net::SocketAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        });
    }
    address
}

/// `backstop healthcheck`: 0 when the proxy is ready.
pub(super) async fn healthcheck(arguments: &AdminEndpoint) -> Exit {
    match AdminClient::new(arguments).ask(Method::GET, "/readyz").await {
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
