//! Answers: text for machines that scrape, JSON for everything else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};

/// What every route gives.
pub(super) type Answer = Response<Full<Bytes>>;

/// Plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

/// The text format of Prometheus.
pub(super) fn metrics(body: String) -> Answer {
    with_type(StatusCode::OK, "text/plain; version=0.0.4", body.into())
}

/// A JSON value.
pub(super) fn json(value: &Value) -> Answer {
    with_type(StatusCode::OK, "application/json", format!("{value}\n").into())
}

/// What is wrong, and what to do about it.
pub(super) fn error(status: StatusCode, what: impl std::fmt::Display) -> Answer {
    with_type(status, "application/json", format!("{}\n", json!({ "error": what.to_string() })).into())
}

/// A path that exists, with a method it does not know.
pub(super) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, format_args!("use {allowed}"));
    answer.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    answer
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}
