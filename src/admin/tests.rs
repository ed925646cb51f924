use std::net::IpAddr;

use http_body_util::BodyExt as _;
use hyper::{Method, Request};

use super::*;
use crate::config::{Environment, Source};

/// A panel whose backend does not exist; `more` is added to the configuration.
fn panel(more: &str) -> Panel {
    let path = std::env::temp_dir().join(format!("backstop-panel-{}", crate::observe::SessionId::new()));
    let text = format!(
        "[[route]]\ndomains = [\"a.example\"]\nbackends = [\"127.0.0.1:1\"]\n[route.verify]\ndeny = [\"spam@a.example\"]\n{more}"
    );
    std::fs::write(&path, text).unwrap();
    let environment = Environment { host_name: "mx.a.example".to_owned(), ..Environment::default() };
    let loaded = crate::config::load_in(&Source::File(path.clone()), &environment).unwrap();
    std::fs::remove_file(path).unwrap();
    let token = loaded.config.admin.clone().and_then(|admin| admin.token);
    let dialer = crate::net::dial::Dialer::network();
    let config = Arc::new(loaded.config);
    let metrics = Metrics::new();
    let identity = crate::backend::Identity { hostname: "mx.a.example".into() };
    let second = Duration::from_secs(1);
    let patience = crate::backend::Patience { connect: second, command: second, end_of_data: second };
    let endpoints = config.routes.first().backends.clone();
    let series = endpoints.into_iter().map(|e| (e, 2, metrics.backend("a.example", "x")));
    let backends = Arc::new(Backends::new(series, &dialer, &identity, patience));
    let verifier = Arc::new(Verifier::new(&config, &backends, &metrics).unwrap());
    Panel {
        config,
        verifier,
        backends,
        metrics,
        drain: Drain::default(),
        serving: CancellationToken::new(),
        token,
        started: Instant::now(),
    }
}

async fn ask(
    panel: &Panel,
    peer: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String) {
    let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9525");
    for (name, value) in headers {
        request.headers_mut().unwrap().remove(*name);
        request = request.header(*name, *value);
    }
    let peer: IpAddr = peer.parse().unwrap();
    let answer = route::answer(panel, peer, &request.body(()).unwrap()).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

const LOCAL: &str = "127.0.0.1";
const REMOTE: &str = "192.0.2.1";

#[tokio::test]
async fn readiness_follows_listening_and_draining_and_not_the_backend() {
    let panel = panel("");
    assert_eq!(ask(&panel, REMOTE, Method::GET, "/livez", &[]).await.0, 200);
    assert_eq!(ask(&panel, REMOTE, Method::GET, "/readyz", &[]).await.0, 503);
    panel.serving.cancel();
    assert_eq!(ask(&panel, REMOTE, Method::GET, "/readyz", &[]).await.0, 200);
    let mailbox = crate::proto::address::Mailbox::parse("ann@a.example").unwrap();
    panel.verifier.probe(panel.config.routes.first(), &mailbox).await;
    let (status, text) = ask(&panel, REMOTE, Method::GET, "/readyz?verbose", &[]).await;
    assert_eq!(status, 200);
    assert!(text.contains("[+]listening ok") && text.contains("[!]backend 127.0.0.1:1 "), "{text}");
    panel.drain.announce();
    assert_eq!(ask(&panel, REMOTE, Method::GET, "/readyz", &[]).await.0, 503);
}

#[tokio::test]
async fn the_api_is_for_loopback_or_for_who_has_the_token() {
    let path = "/api/v1/status";
    let open = panel("");
    assert_eq!(ask(&open, LOCAL, Method::GET, path, &[]).await.0, 200);
    assert_eq!(ask(&open, "::ffff:127.0.0.1", Method::GET, path, &[]).await.0, 200);
    assert_eq!(ask(&open, REMOTE, Method::GET, path, &[]).await.0, 403);
    assert_eq!(ask(&open, LOCAL, Method::DELETE, "/api/v1/recipients", &[]).await.0, 200);

    let guarded = panel("[admin]\ntoken = \"0123456789abcdef\"\n");
    let token = [("authorization", "Bearer 0123456789abcdef")];
    assert_eq!(ask(&guarded, REMOTE, Method::GET, path, &[]).await.0, 401);
    assert_eq!(ask(&guarded, REMOTE, Method::GET, path, &[("authorization", "Bearer 0")]).await.0, 401);
    assert_eq!(ask(&guarded, REMOTE, Method::GET, path, &token).await.0, 200);
    assert_eq!(ask(&guarded, LOCAL, Method::GET, path, &[]).await.0, 200);
    assert_eq!(ask(&guarded, LOCAL, Method::DELETE, "/api/v1/recipients", &[]).await.0, 401);
    assert_eq!(ask(&guarded, LOCAL, Method::DELETE, "/api/v1/recipients", &token).await.0, 200);
    assert_eq!(ask(&guarded, REMOTE, Method::GET, "/metrics", &[]).await.0, 200);
}

#[tokio::test]
async fn a_lured_browser_is_refused() {
    let panel = panel("");
    let path = "/api/v1/status";
    let evil = [("host", "evil.example")];
    assert_eq!(ask(&panel, LOCAL, Method::GET, path, &evil).await.0, 403);
    let cross = [("origin", "http://evil.example")];
    assert_eq!(ask(&panel, LOCAL, Method::GET, path, &cross).await.0, 403);
    let same = [("origin", "http://127.0.0.1:9525")];
    assert_eq!(ask(&panel, LOCAL, Method::GET, path, &same).await.0, 200);
    let named = [("host", "mx.a.example:9525")];
    assert_eq!(ask(&panel, LOCAL, Method::GET, path, &named).await.0, 200);
}

#[tokio::test]
async fn a_recipient_is_explained_and_bad_ones_are_named() {
    let panel = panel("");
    let (status, body) = ask(&panel, LOCAL, Method::GET, "/api/v1/recipients/spam@a.example", &[]).await;
    assert_eq!(status, 200);
    assert!(body.contains("\"listed\":{\"is\":\"undeliverable\"") && body.contains("550 5.1.1"), "{body}");
    let (status, body) =
        ask(&panel, LOCAL, Method::POST, "/api/v1/recipients/ann%40a.example/probe", &[]).await;
    assert_eq!(status, 200);
    assert!(body.contains("\"cause\":\"unreachable\"") && body.contains("\"entry\":null"), "{body}");
    for (path, status, word) in [
        ("/api/v1/recipients/nonsense", 400, "not an address"),
        ("/api/v1/recipients/a%zz", 400, "percent"),
        ("/api/v1/recipients/a@other.example", 404, "no route"),
        ("/api/v1/elsewhere", 404, "nothing at"),
    ] {
        let (got, body) = ask(&panel, LOCAL, Method::GET, path, &[]).await;
        assert_eq!(got, status, "{path}");
        assert!(body.starts_with("{\"error\":") && body.contains(word), "{body}");
    }
    assert_eq!(ask(&panel, LOCAL, Method::DELETE, "/api/v1/recipients?domain=a..b", &[]).await.0, 400);
    assert_eq!(ask(&panel, LOCAL, Method::DELETE, "/api/v1/recipients?domain=a.example", &[]).await.0, 200);
    assert_eq!(ask(&panel, LOCAL, Method::POST, "/api/v1/status", &[]).await.0, 405);
}

#[tokio::test]
async fn the_endpoint_answers_over_a_real_socket() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let ended = CancellationToken::new();
    let serving = tokio::spawn(serve(socket, Arc::new(panel("")), ended.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("backstop_build_info"), "{text}");
    ended.cancel();
    serving.await.unwrap();
}
