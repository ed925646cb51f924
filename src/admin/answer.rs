//! Answers: JSON, plain text, and every refusal with its status, as `{"error": "…"}`.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::net::client_key::ClientKey;
use crate::observe::Escaped;
use crate::proto::address::{AddressFault, Domain};

/// What a caller gets.
pub(super) type Answer = Response<Body>;

/// The octets of an answer.
#[derive(Debug)]
pub(super) enum Body {
    /// All of them.
    Whole(Full<Bytes>),
    /// They come as they come.
    Stream(mpsc::Receiver<Bytes>),
}

/// Goes with an answer that is streamed: cancelled when the caller takes nothing of it any more.
#[derive(Debug, Clone)]
pub(super) struct Stalled(pub(super) CancellationToken);

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|piece| Some(Ok(Frame::data(piece?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

const JSON: &str = "application/json";
/// Plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// The text format of Prometheus.
pub(super) const METRICS: &str = "text/plain; version=0.0.4";

/// Why a request is not done. Texts of the caller are escaped and cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// No such path.
    #[error("there is nothing at {}", Escaped(.0))]
    Nowhere(String),
    /// The path has other methods.
    #[error("{} is not possible here, only {allowed}", Escaped(.method))]
    Method { method: String, allowed: &'static str },
    /// A torn `%XX`, or octets that are not UTF-8.
    #[error("{} is not UTF-8 in percent-encoding", Escaped(.0))]
    Encoding(String),
    #[error("{} is not an address: {}", Escaped(.0), .1)]
    Address(String, AddressFault),
    #[error("{} is not a domain: {}", Escaped(.0), .1)]
    Domain(String, AddressFault),
    #[error("{} is not an IP address", Escaped(.0))]
    Client(String),
    #[error("{0} is not banned")]
    NotBanned(ClientKey),
    #[error("no route for {0}")]
    NoRoute(Domain),
    /// Forgetting takes no guesses: a misspelt parameter would forget everything.
    #[error("no parameter is understood here but one domain=DOMAIN")]
    Parameters,
    #[error("this needs the token: Authorization: Bearer TOKEN")]
    Token,
    #[error("without admin.token this is for callers on loopback only, and not through a proxy")]
    Remote,
    #[error("{} is no host of ours: ask by address, as localhost or by hostname", Escaped(.0))]
    Host(String),
    #[error("not for pages of {}", Escaped(.0))]
    Origin(String),
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    #[error("{} is no number of seconds", Escaped(.0))]
    Seconds(String),
    #[error("{0} requests are under way: that is as many as may be")]
    Busy(usize),
    #[error("{0} listen already: that is as many as may")]
    Listeners(usize),
    /// All the faults of a configuration; nothing of a caller is in them.
    #[error("the configuration in force stays: {0}")]
    Configuration(String),
    #[error("the process takes no orders here: it is ending, or was not started to")]
    NobodyObeys,
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Encoding(_)
            | Self::Address(..)
            | Self::Domain(..)
            | Self::Client(_)
            | Self::Parameters
            | Self::Seconds(_) => StatusCode::BAD_REQUEST,
            Self::Busy(_) | Self::Listeners(_) | Self::NobodyObeys => StatusCode::SERVICE_UNAVAILABLE,
            Self::Configuration(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Remote | Self::Host(_) | Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::Nowhere(_) | Self::NoRoute(_) | Self::NotBanned(_) => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Deadline(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The header its status asks for (RFC 9110 §11.6.1, §15.5.6).
    const fn header(&self) -> Option<(HeaderName, &'static str)> {
        match self {
            Self::Token => Some((header::WWW_AUTHENTICATE, "Bearer")),
            Self::Method { allowed, .. } => Some((header::ALLOW, allowed)),
            _ => None,
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let body = json!({ "error": refusal.to_string() }).to_string();
        let mut answer = made(refusal.status(), JSON, body);
        if let Some((name, value)) = refusal.header() {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

/// `value` as JSON.
pub(super) fn json(value: &impl Serialize) -> Answer {
    // Fails only for maps with keys that are no text; ours are structs.
    made(StatusCode::OK, JSON, serde_json::to_string(value).unwrap_or_default())
}

/// `value` as JSON: what it tells of has only begun.
pub(super) fn accepted(value: &impl Serialize) -> Answer {
    made(StatusCode::ACCEPTED, JSON, serde_json::to_string(value).unwrap_or_default())
}

/// JSON that is written already.
pub(super) fn written_json(text: &'static str) -> Answer {
    made(StatusCode::OK, JSON, text)
}

/// A document of a kind that never changes.
pub(super) fn document(kind: &'static str, text: Bytes) -> Answer {
    made(StatusCode::OK, kind, text)
}

/// What comes piece by piece, until the caller takes no more.
pub(super) fn stream(
    kind: &'static str,
    pieces: mpsc::Receiver<Bytes>,
    stalled: CancellationToken,
) -> Answer {
    let mut answer = made(StatusCode::OK, kind, Bytes::new());
    *answer.body_mut() = Body::Stream(pieces);
    answer.extensions_mut().insert(Stalled(stalled));
    answer
}

/// Text of a kind.
pub(super) fn text(status: StatusCode, kind: &'static str, body: String) -> Answer {
    made(status, kind, body)
}

fn made(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::Whole(Full::new(body.into())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // What is true now; nobody in between is to keep it, or to guess what it is.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
