//! Requests and their answers, and conversations over a socket.

mod openapi;

use std::net::SocketAddr;

use hyper::StatusCode;
use hyper::http::request::Parts;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::*;
use crate::config::{Environment, Flags, Listed, Mode, RecipientList, Route, Routes, Source, Verify};
use crate::guard::{Event, Held, Tally};
use crate::net::client_key::ClientKey;
use crate::net::dial::Dialer;
use crate::proto::address::{LocalCase, Mailbox};
use crate::server::assemble;

const LOOPBACK: &str = "127.0.0.1";
const ELSEWHERE: &str = "192.0.2.7";

/// Where nobody listens.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A mail store that knows `ann@example.org` alone.
async fn store() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let (reader, mut writer) = stream.into_split();
                writer.write_all(b"220 store\r\n").await.unwrap();
                let mut lines = BufReader::new(reader).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let known = !line.starts_with("RCPT") || line.contains("ann@");
                    let reply = if known { "250 ok\r\n" } else { "550 5.1.1 no such user\r\n" };
                    if writer.write_all(reply.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A panel before one route for `example.org`, its verification as `change` leaves it.
fn panel_with(backend: SocketAddr, token: Option<&str>, change: impl FnOnce(&mut Verify)) -> Panel {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".into()],
        domain: vec!["example.org".into()],
        backend: vec![backend.to_string()],
    };
    let variables = token.map(|token| ("BACKSTOP__ADMIN__TOKEN".into(), token.into())).into_iter().collect();
    let environment = Environment { variables, host_name: "mx.example.org".into(), search: Vec::new() };
    let mut config = crate::config::load_in(&Source::Flags(flags), &environment).unwrap().config;
    let mut route = Route::clone(config.routes.first());
    change(&mut route.verify);
    config.routes = Routes::new(vec![Arc::new(route)]).unwrap();
    let token = config.admin.as_ref().and_then(|admin| admin.token.clone());
    let context = assemble(config, &Dialer::network()).unwrap();
    Panel {
        config: context.config,
        verifier: context.verifier,
        alarms: context.alarms,
        backends: context.backends,
        metrics: context.metrics,
        history: Arc::default(),
        orders: Orders::default(),
        generation: 1,
        events: context.events,
        live: context.live,
        connections: context.connections,
        keyring: context.acceptor.map(|acceptor| Arc::clone(acceptor.keyring())),
        harvest: context.harvest,
        drain: context.drain,
        serving: CancellationToken::new(),
        token,
        started: Instant::now(),
        ended: CancellationToken::new(),
    }
}

fn panel(backend: SocketAddr) -> Panel {
    panel_with(backend, None, |_| {})
}

fn list(entry: &str) -> RecipientList {
    RecipientList::new(&[Listed::read(entry).unwrap()], LocalCase::Sensitive)
}

fn asked(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// A panel, asked from loopback as an ordinary client would.
struct Counter(Panel);

impl Counter {
    async fn ask(&self, method: &str, target: &str) -> (StatusCode, Value) {
        let (status, body) = self.ask_text(method, target).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{target}: no JSON: {body}")))
    }

    async fn get(&self, target: &str) -> Value {
        let (status, value) = self.ask("GET", target).await;
        assert_eq!(status, 200, "{target}: {value}");
        value
    }

    async fn ask_text(&self, method: &str, target: &str) -> (StatusCode, String) {
        let request = asked(method, target, &[("host", "localhost:9525")]);
        let answer = request::answer(&self.0, LOOPBACK.parse().unwrap(), &request).await;
        (answer.status(), body(answer).await)
    }
}

async fn body(answer: answer::Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn ready_is_between_listening_and_draining() {
    let panel = panel(nobody());
    let (serving, drain) = (panel.serving.clone(), panel.drain.clone());
    let counter = Counter(panel);
    let (status, text) = counter.ask_text("GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("[-]listening failed") && text.contains("[+]draining ok"), "{text}");
    serving.cancel();
    assert_eq!(counter.ask_text("GET", "/readyz").await, (StatusCode::OK, "ok\n".to_owned()));
    drain.announce();
    let (status, text) = counter.ask_text("GET", "/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("[+]listening ok") && text.contains("[-]draining failed"), "{text}");
    assert_eq!(counter.ask_text("GET", "/livez").await.0, 200);
}

#[tokio::test]
async fn a_backend_that_is_down_is_told_and_changes_nothing() {
    let backend = nobody();
    let panel = panel(backend);
    panel.serving.cancel();
    let counter = Counter(panel);
    let told = async || counter.ask_text("GET", "/readyz?verbose").await;
    let (status, text) = told().await;
    assert_eq!(status, 200);
    assert!(text.contains(&format!("[+]backend {backend} not tried yet\n")), "{text}");
    counter.ask("POST", "/api/v1/recipients/ann@example.org/probe").await;
    let (status, text) = told().await;
    assert_eq!(status, 200);
    assert!(text.contains(&format!("[-]backend {backend} failed, not counted: ")), "{text}");
    assert!(text.ends_with("readyz check passed\n"), "{text}");
    let status = counter.get("/api/v1/status").await;
    let told = &status["routes"][0]["backends"][0];
    assert_eq!((&told["state"], &told["announced"]), (&json!("down"), &Value::Null), "{status}");
}

#[tokio::test]
async fn metrics_are_in_the_format_of_prometheus() {
    let panel = panel(nobody());
    let answer = request::answer(&panel, ELSEWHERE.parse().unwrap(), &asked("GET", "/metrics", &[])).await;
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4");
    let text = body(answer).await;
    assert!(text.contains("backstop_cache_entries{") && text.contains("backstop_build_info{"), "{text}");
}

#[tokio::test]
async fn the_status_tells_which_domains_take_one_recipient_at_a_time() {
    let panel = panel(nobody());
    let (verifier, route) = (Arc::clone(&panel.verifier), Arc::clone(panel.config.routes.first()));
    let counter = Counter(panel);
    let recipients = ["ann@example.org", "bob@example.org"].map(|text| Mailbox::parse(text).unwrap());
    verifier.keep_apart(&route, recipients.iter());
    let marks = counter.get("/api/v1/status").await["routes"][0]["one_recipient"].clone();
    assert_eq!(marks.as_array().map(Vec::len), Some(1), "{marks}");
    assert_eq!(marks[0]["domain"], "example.org");
    assert!((21_590..=21_600).contains(&marks[0]["remaining_seconds"].as_u64().unwrap()), "{marks}");
    // Whoever forgets a domain forgets this too.
    counter.ask("DELETE", "/api/v1/recipients?domain=example.org").await;
    assert_eq!(counter.get("/api/v1/status").await["routes"][0]["one_recipient"], json!([]));
}

#[tokio::test]
async fn the_status_tells_version_sizes_and_routes() {
    let backend = store().await;
    let counter = Counter(panel(backend));
    counter.ask("POST", "/api/v1/recipients/ann@example.org/probe").await;
    let status = counter.get("/api/v1/status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["state"], "starting");
    assert_eq!(status["cache"]["good"], 1);
    let route = &status["routes"][0];
    assert_eq!((&route["domains"], &route["mode"]), (&json!(["example.org"]), &json!("enforce")));
    assert_eq!(route["asked"][0]["address"], backend.to_string());
    assert_eq!((&route["asked"][0]["state"], &route["asked"][0]["announced"]), (&json!("up"), &json!([])));
    let connections = json!({
        "limit": 45,
        "configured": 45,
        "in_use": { "probe": 1, "delivery": 0 },
        "waiting": { "probe": 0, "delivery": 0 },
        "kept": 0,
        "opening_slowly": null,
        "refusals": 0,
        "pressure": false,
    });
    assert_eq!(route["asked"][0]["connections"], connections);
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_json() {
    let counter = Counter(panel(nobody()));
    for (method, target, status, says) in [
        ("GET", "/page", 404, "/page"),
        ("GET", "/api/v1/history?seconds=x", 400, "x is no number"),
        ("HEAD", "/api/v1/events", 405, "only GET"),
        ("GET", "/api/v1/nothing", 404, "/api/v1/nothing"),
        ("POST", "/readyz", 405, "POST"),
        ("DELETE", "/api/v1/status", 405, "DELETE"),
        ("GET", "/api/v1/recipients", 405, "only DELETE"),
        ("GET", "/api/v1/recipients/ann@example.org/probe", 405, "only POST"),
        ("GET", "/api/v1/recipients/ann", 400, "ann is not an address"),
        ("GET", "/api/v1/recipients/", 400, "not an address"),
        ("GET", "/api/v1/recipients/ann%ff@example.org", 400, "percent-encoding"),
        ("GET", "/api/v1/recipients/ann%0d%0a@example.org", 400, r"\r\n"),
        ("GET", "/api/v1/recipients/ann@elsewhere.test", 404, "no route for elsewhere.test"),
        ("POST", "/api/v1/recipients/ann@elsewhere.test/probe", 404, "elsewhere.test"),
        ("DELETE", "/api/v1/recipients/ann@elsewhere.test", 404, "elsewhere.test"),
        ("DELETE", "/api/v1/recipients/", 400, "not an address"),
        ("DELETE", "/api/v1/recipients?domain=elsewhere.test", 404, "elsewhere.test"),
        ("DELETE", "/api/v1/recipients?domain=", 400, "not a domain"),
        ("DELETE", "/api/v1/recipients?domian=example.org", 400, "domain=DOMAIN"),
        ("DELETE", "/api/v1/recipients?domain=example.org&domain=b.example", 400, "domain=DOMAIN"),
        ("DELETE", "/api/v1/recipients?domain=%", 400, "percent-encoding"),
    ] {
        let (got, value) = counter.ask(method, target).await;
        assert_eq!(got, status, "{method} {target}: {value}");
        let error = value["error"].as_str().unwrap();
        assert!(error.contains(says), "{method} {target}: {error}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let panel = panel(nobody());
    let wrong = asked("PUT", "/api/v1/recipients/ann@example.org", &[("host", "[::1]:9525")]);
    let answer = request::answer(&panel, LOOPBACK.parse().unwrap(), &wrong).await;
    assert_eq!(
        (answer.status(), &answer.headers()["allow"]),
        (StatusCode::METHOD_NOT_ALLOWED, &"GET, HEAD, DELETE".parse().unwrap())
    );
}

#[tokio::test]
async fn a_recipient_is_explained_in_the_order_it_would_be_judged() {
    let explained = async |change: fn(&mut Verify), address: &str| {
        Counter(panel_with(nobody(), None, change)).get(&format!("/api/v1/recipients/{address}")).await
    };
    for (change, address, listed, action, source) in [
        ((|_| {}) as fn(&mut Verify), "ann@example.org", Value::Null, "ask", "probe"),
        (|_| {}, "postmaster", Value::Null, "ask", "probe"),
        (|_| {}, "a%25b.test@example.org", Value::Null, "refuse", "policy"),
        (|verify| verify.mode = Mode::Off, "ann@example.org", Value::Null, "forward", "policy"),
        (
            |verify| verify.allow = list("ann@example.org"),
            "ann@example.org",
            json!("deliverable"),
            "forward",
            "policy",
        ),
        (
            |verify| verify.deny = list("@example.org"),
            "ann@EXAMPLE.org",
            json!("unknown"),
            "refuse",
            "policy",
        ),
        (
            |verify| (verify.deny, verify.mode) = (list("@example.org"), Mode::Shadow),
            "ann@example.org",
            json!("unknown"),
            "forward",
            "policy",
        ),
    ] {
        let value = explained(change, address).await;
        let answer = &value["answer"];
        assert_eq!((&value["listed"], &value["cache"]), (&listed, &Value::Null), "{value}");
        assert_eq!((&answer["action"], &answer["source"]), (&json!(action), &json!(source)), "{value}");
    }
}

#[tokio::test]
async fn what_was_probed_is_remembered_until_it_is_forgotten() {
    let counter = Counter(panel(store().await));
    let resource = "/api/v1/recipients/bob@example.org";
    for forget in [resource, "/api/v1/recipients?domain=Example.ORG", "/api/v1/recipients"] {
        let (status, probed) = counter.ask("POST", &format!("{resource}/probe")).await;
        assert_eq!((status, &probed["verdict"]), (StatusCode::OK, &json!("unknown")), "{probed}");
        assert_eq!(probed["reply"], "550 5.1.1 no such user");
        let said = probed["conversation"].as_array().unwrap();
        assert!(said.contains(&json!("> RCPT TO:<bob@example.org>")), "{said:?}");
        assert_eq!(counter.get(resource).await["cache"], probed["cache"]);
        assert_eq!(probed["cache"]["verdict"], "unknown");
        assert_eq!(
            (&probed["answer"]["action"], &probed["answer"]["source"]),
            (&json!("refuse"), &json!("cache"))
        );
        let (status, forgotten) = counter.ask("DELETE", forget).await;
        assert_eq!(status, 200, "{forgotten}");
        assert_eq!(counter.get(resource).await["cache"], Value::Null, "{forgotten}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_leaves_the_verdict_open() {
    let counter = Counter(panel(nobody()));
    let (status, probed) = counter.ask("POST", "/api/v1/recipients/ann@example.org/probe").await;
    assert_eq!(status, 200);
    assert_eq!((&probed["verdict"], &probed["cause"]), (&json!("undetermined"), &json!("unreachable")));
    assert_eq!((&probed["cache"], &probed["answer"]["action"]), (&Value::Null, &json!("ask")));
}

#[tokio::test]
async fn operators_are_told_from_strangers() {
    let (status, address) = ("/api/v1/status", "/api/v1/recipients/ann@example.org");
    for (token, caller, method, target, given, result) in [
        ("", LOOPBACK, "GET", status, "", 200),
        ("", LOOPBACK, "DELETE", address, "", 200),
        ("", "::ffff:127.0.0.1", "GET", status, "", 200),
        ("", ELSEWHERE, "GET", status, "", 403),
        ("", ELSEWHERE, "GET", "/nothing", "", 403),
        ("", ELSEWHERE, "GET", "/livez", "", 200),
        ("secret", ELSEWHERE, "GET", "/readyz", "", 503),
        ("secret", LOOPBACK, "GET", status, "", 200),
        ("secret", LOOPBACK, "DELETE", address, "", 401),
        ("secret", LOOPBACK, "DELETE", address, "Bearer wrong", 401),
        ("secret", LOOPBACK, "DELETE", address, "Basic secret", 401),
        ("secret", LOOPBACK, "DELETE", address, "bearer secret", 200),
        ("secret", ELSEWHERE, "GET", status, "", 401),
        ("secret", ELSEWHERE, "HEAD", address, "", 401),
        ("secret", ELSEWHERE, "GET", status, "Bearer secret", 200),
    ] {
        let panel = panel_with(nobody(), Some(token).filter(|token| !token.is_empty()), |_| {});
        let mut headers = vec![("host", "mx.example.org:9525")];
        headers.extend((!given.is_empty()).then_some(("authorization", given)));
        let caller: IpAddr = caller.parse().unwrap();
        let answer = request::answer(&panel, caller.to_canonical(), &asked(method, target, &headers)).await;
        assert_eq!(answer.status(), result, "{token:?} {caller} {method} {target} {given:?}");
        assert_eq!(answer.headers().contains_key("www-authenticate"), result == 401);
    }
}

#[tokio::test]
async fn pages_of_strangers_are_refused_by_host_and_origin() {
    let panel = panel(nobody());
    for (headers, result) in [
        (&[("host", "localhost:9525")][..], 200),
        (&[("host", "evil.test:9525")], 403),
        (&[], 403),
        (&[("host", "localhost"), ("host", "evil.test")], 403),
        (&[("host", "127.0.0.1:9525"), ("origin", "http://127.0.0.1:9525")], 200),
        (&[("host", "127.0.0.1:9525"), ("origin", "http://evil.test")], 403),
        (&[("host", "127.0.0.1:9525"), ("origin", "null")], 403),
        (&[("host", "127.0.0.1:9525"), ("x-forwarded-for", "192.0.2.9")], 403),
    ] {
        let answer =
            request::answer(&panel, LOOPBACK.parse().unwrap(), &asked("GET", "/api/v1/status", headers))
                .await;
        assert_eq!(answer.status(), result, "{headers:?}");
        let health =
            request::answer(&panel, LOOPBACK.parse().unwrap(), &asked("GET", "/livez", headers)).await;
        assert_eq!(health.status(), 200, "{headers:?}");
    }
}

/// The endpoint on a socket: its address, what ends it, and its end.
async fn served() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let panel = panel(nobody());
    let ended = panel.ended.clone();
    (address, ended, tokio::spawn(serve(socket, Arc::new(ArcSwap::from_pointee(panel)))))
}

/// What comes back for these octets, until the connection is closed.
async fn sent(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(octets).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_is_one_request_whatever_its_body() {
    let (address, ended, serving) = served().await;
    let answer = sent(address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    let head = sent(address, b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let with_body = b"DELETE /api/v1/recipients HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 2\r\n\r\n{}";
    let answer = sent(address, with_body).await;
    assert!(answer.ends_with("{\"forgotten\":\"*\"}"), "{answer}");
    ended.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_header_has_a_limit() {
    let (address, _ended, _serving) = served().await;
    // Nothing is sent beyond the limit: unread octets would reset the connection.
    let start = "GET /livez HTTP/1.1\r\nHost: x\r\nX: ";
    let header = format!("{start}{}", "x".repeat(MAX_HEADER - start.len()));
    let answer = sent(address, header.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn health_is_told_when_every_other_place_is_taken() {
    let (address, _ended, _serving) = served().await;
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS - RESERVED {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Its body never comes.
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(request).await.unwrap();
        held.push(stream);
    }
    let ask = async |path: &str| {
        sent(address, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await
    };
    while !ask("/api/v1/status").await.starts_with("HTTP/1.1 503 ") {}
    assert!(ask("/livez").await.starts_with("HTTP/1.1 200 "));
    assert!(ask("/readyz").await.contains("listening"));
    drop(held);
    while !ask("/api/v1/status").await.starts_with("HTTP/1.1 200 ") {}
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_says_nothing() {
    let (address, ended, serving) = served().await;
    let silent = TcpStream::connect(address).await.unwrap();
    sent(address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    ended.cancel();
    serving.await.unwrap();
    drop(silent);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn clients_that_guess_are_listed_and_a_ban_is_lifted() {
    let panel = panel(nobody());
    let harvest = Arc::clone(&panel.harvest);
    let client = |text: &str| ClientKey::of(text.parse().unwrap());
    let guesses = |unknown, known| Event::Answered(Tally { unknown, known }, Held::Against);
    harvest.learn(client("2001:db8::1"), guesses(150, 10));
    harvest.learn(client("192.0.2.9"), guesses(7, 3));
    let counter = Counter(panel);
    let told = counter.get("/api/v1/clients").await;
    assert_eq!(told["clients"][0]["client"], "2001:db8::/64");
    assert_eq!(told["clients"][1], json!({ "client": "192.0.2.9", "unknown": 7, "asked": 10, "ban": null }));
    assert_eq!(
        (&told["bans"], &told["known"], &told["max_clients"]),
        (&json!(1), &json!(2), &json!(1_000_000))
    );
    let ban = &told["banned"][0]["ban"];
    assert_eq!(
        (&ban["reason"], &ban["unknown"], &ban["asked"]),
        (&json!("unknown_recipients"), &json!(150), &json!(160))
    );
    assert!((3590..=3600).contains(&ban["remaining_seconds"].as_u64().unwrap()), "{ban}");
    let (status, text) = counter.ask_text("GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("backstop_harvest_bans_total 1\n") && text.contains("backstop_harvest_clients 2\n"),
        "{text}"
    );
    assert_eq!(
        counter.get("/api/v1/status").await["clients"],
        json!({ "known": 2, "max_clients": 1_000_000 })
    );

    let target = "/api/v1/clients/2001:db8::abcd";
    assert_eq!(counter.ask("DELETE", target).await, (StatusCode::OK, json!({ "pardoned": "2001:db8::/64" })));
    assert_eq!(harvest.ban(client("2001:db8::1")), None);
    let (status, told) = counter.ask("DELETE", target).await;
    assert_eq!((status, told), (StatusCode::NOT_FOUND, json!({ "error": "2001:db8::/64 is not banned" })));
    assert_eq!(counter.ask("DELETE", "/api/v1/clients/nobody").await.0, 400);
    assert_eq!(counter.ask("GET", target).await.0, 405);
}

#[tokio::test]
async fn the_page_may_run_its_own_script_and_nothing_else() {
    let panel = panel_with(nobody(), Some("secret"), |_| {});
    let answer = request::answer(&panel, ELSEWHERE.parse().unwrap(), &asked("GET", "/", &[])).await;
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"text/html; charset=utf-8".parse().unwrap())
    );
    for part in ["default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'", "connect-src 'self'"]
    {
        assert!(policy.contains(part), "{part}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert!(body(answer).await.starts_with("<!doctype html>"));
    // Its data is for operators.
    for path in ["/api/v1/events", "/api/v1/configuration", "/api/v1/openapi.json"] {
        let answer = request::answer(
            &panel,
            ELSEWHERE.parse().unwrap(),
            &asked("GET", path, &[("host", "localhost")]),
        )
        .await;
        assert_eq!(answer.status(), 401, "{path}");
    }
}

#[tokio::test]
async fn settings_are_told_with_their_origin_and_without_their_secrets() {
    let counter = Counter(panel_with(nobody(), Some("opensesame"), |_| {}));
    let (_, text) = counter.ask_text("GET", "/api/v1/configuration").await;
    assert!(!text.contains("opensesame"), "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let find =
        |key: &str| told["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(
        find("admin.token"),
        json!({ "key": "admin.token", "value": "\"(set)\"", "origin": "BACKSTOP__ADMIN__TOKEN" })
    );
    assert_eq!(find("route[0].verify.mode")["origin"], Value::Null);
    assert_eq!(find("route[0].domains")["origin"], "--domain, --backend");
}

#[tokio::test]
async fn a_stream_ends_with_the_endpoint() {
    let (address, ended, serving) = served().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    ended.cancel();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "the stream is whole: {rest}");
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_takes_nothing_is_given_up() {
    let panel = panel(nobody());
    let request = asked("GET", "/api/v1/events", &[("host", "localhost")]);
    let answer = request::answer(&panel, LOOPBACK.parse().unwrap(), &request).await;
    let Stalled(stalled) = answer.extensions().get::<Stalled>().unwrap().clone();
    let heartbeats = Duration::from_secs(300);
    assert!(tokio::time::timeout(heartbeats, stalled.cancelled()).await.is_ok(), "nothing was taken of it");
    drop(answer);
    let all: Vec<_> = (0..16).map(|_| panel.events.listen()).collect();
    assert!(all.iter().all(Option::is_some), "its place is free");
}
