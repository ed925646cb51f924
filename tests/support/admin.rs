//! HTTP to the admin endpoint: one request per connection, the whole answer at once.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LOOK_AGAIN, PATIENCE};

/// The endpoint of a running Backstop.
#[derive(Clone, Copy, Debug)]
pub struct Admin {
    address: SocketAddr,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Fails the test unless the response has this status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

impl Admin {
    /// An endpoint at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request("GET", path).await
    }

    pub async fn post(&self, path: &str) -> Response {
        self.request("POST", path).await
    }

    pub async fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path).await
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Panics
    /// When it does not after [`PATIENCE`].
    pub async fn until_ready(&self) {
        let asking = async {
            while self.get("/readyz").await.status != 200 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        timeout(PATIENCE, asking).await.expect("ready in time");
    }

    /// The value of one series in `/metrics`, written as there: `name` or `name{label="value"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.get("/metrics").await.is(200).body;
        metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Waits until the series has this value.
    ///
    /// # Panics
    /// When it has not after [`PATIENCE`].
    pub async fn until_metric(&self, series: &str, value: f64) {
        let asking = async {
            while self.metric(series).await != Some(value) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{series} is not {value} in time"));
    }

    async fn request(&self, method: &str, path: &str) -> Response {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let host = self.address;
            let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await?;
            std::io::Result::Ok(response)
        };
        let response =
            timeout(PATIENCE, exchange).await.expect("an answer in time").expect("the endpoint answers");
        let response = String::from_utf8(response).expect("text");
        parse(&response).unwrap_or_else(|| panic!("no HTTP response: {response:?}"))
    }
}

fn parse(response: &str) -> Option<Response> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_owned() };
    Some(Response { status, body })
}

/// Joins the chunks of a body [RFC 9112 §7.1]; trailers are left out.
fn unchunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, behind) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(behind.get(..size)?);
        rest = behind.get(size..)?.strip_prefix("\r\n")?;
    }
}
