//! From a request to its answer.

use std::fmt::Write as _;
use std::net::IpAddr;

use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer, error, wrong_method};
use super::{Panel, access, recipients, status};

/// Answers `request` from `peer`. The body, if any, is not looked at.
pub(super) async fn answer<B>(panel: &Panel, peer: IpAddr, request: &Request<B>) -> Answer {
    let (method, uri) = (request.method(), request.uri());
    let reading = *method == Method::GET || *method == Method::HEAD;
    let path = uri.path();
    match path {
        "/livez" | "/readyz" | "/metrics" if !reading => return wrong_method("GET, HEAD"),
        "/livez" => return answer::text(StatusCode::OK, "ok\n"),
        "/readyz" => return ready(panel, uri.query()),
        "/metrics" => {
            panel.verifier.observe();
            return answer::metrics(panel.metrics.render());
        }
        _ => {}
    }
    if let Some(refusal) = access::refuse(panel, peer, method, request.headers()) {
        return refusal;
    }
    match path.strip_prefix("/api/v1/") {
        Some("status") if reading => answer::json(&status::status(panel)),
        Some("status") => wrong_method("GET, HEAD"),
        Some("recipients") if *method == Method::DELETE => recipients::forget_many(panel, uri.query()),
        Some("recipients") => wrong_method("DELETE"),
        Some(rest) => match rest.strip_prefix("recipients/") {
            Some(address) => recipients::one(panel, method, address).await,
            None => nothing(path),
        },
        None => nothing(path),
    }
}

fn nothing(path: &str) -> Answer {
    error(StatusCode::NOT_FOUND, format_args!("there is nothing at {path}"))
}

/// Whether clients may be sent here. A backend that is down does not change that: taking all instances out of
/// service would turn a deferral into a refused connection.
fn ready(panel: &Panel, query: Option<&str>) -> Answer {
    let checks = [("listening", panel.serving.is_cancelled()), ("not-draining", !panel.drain.is_announced())];
    let ready = checks.iter().all(|(_, good)| *good);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if query != Some("verbose") {
        return answer::text(status, if ready { "ok\n" } else { "not ready\n" });
    }
    let mut text = String::new();
    for (check, good) in checks {
        let _ =
            writeln!(text, "{}", if good { format!("[+]{check} ok") } else { format!("[-]{check} failed") });
    }
    for backend in panel.backends.iter() {
        let _ = match backend.last_fault() {
            None => writeln!(text, "[+]backend {} ok", backend.endpoint()),
            Some(fault) => writeln!(text, "[!]backend {} {fault} (does not count)", backend.endpoint()),
        };
    }
    answer::text(status, text)
}
