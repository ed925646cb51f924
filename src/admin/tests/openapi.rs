//! The OpenAPI document and the endpoint say the same: every path and method of the one is in the other, and answers
//! have the fields that are documented, all of them and no others.

use std::collections::BTreeSet;

use super::*;
use crate::admin::target::PLACES;
use crate::config::CertificateFiles;
use crate::net::tls::Keyring;
use crate::observe::metrics::{RecipientResult, RecipientSource, RefusalCause};
use crate::observe::record::{End, Grounds, Refusal, Said, SessionRecord};
use crate::observe::{AlarmKind, SessionId};
use crate::proto::replies;

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

/// `GET /path`, for each operation.
fn documented(document: &Value) -> BTreeSet<String> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().unwrap().keys();
        methods.map(move |method| format!("{} {path}", method.to_ascii_uppercase()))
    });
    operations.collect()
}

/// What keeps `value` from being what `schema` says.
fn misfit(document: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let named = document.pointer(reference.strip_prefix('#').unwrap());
        return misfit(document, named.unwrap_or_else(|| panic!("{reference} is nowhere")), value, place);
    }
    if let Some(either) = schema["oneOf"].as_array() {
        let faults = either.iter().map(|one| misfit(document, one, value, place));
        return faults.min_by_key(Option::is_some).flatten();
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        _ => panic!("{place} has no type: {schema}"),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number");
    if !fits {
        return Some(format!("{place} is {kind}, not {kinds:?}: {value}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Some(format!("{place} is none of the documented words: {value}"));
    }
    match value {
        Value::Array(items) => {
            items.iter().find_map(|i| misfit(document, &schema["items"], i, &format!("{place}[]")))
        }
        Value::Object(fields) => {
            let Some(properties) = schema["properties"].as_object() else {
                return fields.iter().find_map(|(name, field)| {
                    misfit(document, &schema["additionalProperties"], field, &format!("{place}.{name}"))
                });
            };
            let required = schema["required"].as_array().unwrap();
            let absent =
                required.iter().map(|name| name.as_str().unwrap()).find(|name| !fields.contains_key(*name));
            if let Some(name) = absent {
                return Some(format!("{place}.{name} is not there: {value}"));
            }
            fields.iter().find_map(|(name, field)| match properties.get(name) {
                Some(schema) => misfit(document, schema, field, &format!("{place}.{name}")),
                None => Some(format!("{place}.{name} is not documented: {field}")),
            })
        }
        _ => None,
    }
}

/// A proxy to which something of every kind has happened.
async fn lived_in() -> (Counter, SessionRecord) {
    let mut panel = panel(store().await);
    let (orders, mut arriving) = Orders::new();
    panel.orders = orders;
    tokio::spawn(async move {
        while let Some(order) = arriving.recv().await {
            if let Order::Reload(answer) = order {
                let keys = vec!["cache.max_entries".to_owned()];
                let _ = answer.send(Ok(Reloaded { generation: 2, changed: 1, restart_needed: keys }));
            }
        }
    });
    let client: SocketAddr = ([192, 0, 2, 9], 2525).into();
    let guesses = Event::Answered(Tally { unknown: 150, known: 10 }, Held::Against);
    panel.harvest.learn(ClientKey::of(client.ip()), guesses);
    panel.alarms.raise(&panel.config.routes.first().name, AlarmKind::OpenRelay, "*", "250 ok");
    let mailbox = Mailbox::parse("ann@example.org").unwrap();
    panel.verifier.keep_apart(panel.config.routes.first(), [&mailbox, &mailbox].into_iter());
    let grounds = Grounds {
        result: RecipientResult::RelayDenied,
        source: RecipientSource::Policy,
        cause: RefusalCause::NoRoute,
    };
    let (session, reply) = (SessionId::new(), &replies::NO_ROUTE);
    Refusal { session: &session, route: "", recipient: "x@y.example", reply, grounds }.tell(
        client,
        Said::Aloud,
        &panel.events,
    );
    panel.metrics.route("").refusal(RefusalCause::NoRoute);
    panel.metrics.route(&panel.config.routes.first().name).shadow_refusal(RefusalCause::Unknown);
    // Two tests of this process want one at once.
    let directory = std::env::temp_dir().join(format!("backstop-openapi-{}-{session}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    let files = CertificateFiles { chain: directory.join("chain.pem"), key: directory.join("key.pem") };
    std::fs::write(&files.chain, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    panel.keyring = Some(Arc::new(Keyring::new(&[files.load().unwrap()], panel.metrics.clone())));
    std::fs::remove_dir_all(&directory).unwrap();
    let record = SessionRecord::new("mx".into(), client, &panel.live);
    let counter = Counter(panel);
    counter.ask("POST", "/api/v1/recipients/ann@example.org/probe").await;
    (counter, record)
}

#[test]
fn every_route_is_documented_and_everything_documented_is_routed() {
    let routed = PLACES.iter().flat_map(|place| {
        let methods = place.methods.split(", ").filter(|method| *method != "HEAD");
        methods.map(|method| format!("{method} {}", place.path))
    });
    assert_eq!(documented(&document()), routed.collect());
}

#[tokio::test]
async fn every_documented_operation_answers_with_the_documented_fields() {
    let document = document();
    let (counter, _open) = lived_in().await;
    let operations = documented(&document);
    // What forgets comes last, so that there is something to tell before.
    let (forgetting, telling): (Vec<_>, Vec<_>) = operations.iter().partition(|o| o.starts_with("DELETE"));
    for operation in telling.into_iter().chain(forgetting) {
        let (method, path) = operation.split_once(' ').unwrap();
        let described = &document["paths"][path][method.to_ascii_lowercase()]["responses"];
        if path == "/api/v1/events" {
            continue;
        }
        let target = path.replace("{address}", "ann@example.org").replace("{ip}", "192.0.2.9");
        let (status, text) = counter.ask_text(method, &target).await;
        let content = &described[status.as_str()]["content"];
        assert!(content.is_object(), "{operation}: {status} is not documented: {text}");
        let Some(schema) = content["application/json"].get("schema") else { continue };
        assert!(status.is_success(), "{operation}: {status}: {text}");
        if schema.get("$ref").is_some() {
            let value = serde_json::from_str(&text).unwrap();
            assert_eq!(misfit(&document, schema, &value, operation), None);
        }
    }
    let (_, refused) = counter.ask("GET", "/api/v1/recipients/ann").await;
    assert_eq!(misfit(&document, &json!({ "$ref": "#/components/schemas/Error" }), &refused, "error"), None);
}

#[tokio::test]
async fn events_have_the_documented_fields() {
    let document = document();
    let (counter, record) = lived_in().await;
    let panel = &counter.0;
    let request = asked("GET", "/api/v1/events?rates", &[("host", "localhost")]);
    let answer = request::answer(panel, LOOPBACK.parse().unwrap(), &request).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    record.tell(End::Quit, Duration::from_secs(1), &panel.events);
    let session = SessionId::new();
    let grounds = Grounds {
        result: RecipientResult::Unknown,
        source: RecipientSource::Cache,
        cause: RefusalCause::Unknown,
    };
    let refusal = Refusal {
        session: &session,
        route: "mail",
        recipient: "a\n\nevent: forged\ndata: x@y.example",
        reply: &replies::NO_ROUTE,
        grounds,
    };
    // More than a listener may be behind, so that some are lost.
    (0..2000).for_each(|_| refusal.tell(([192, 0, 2, 9], 1).into(), Said::InShadow, &panel.events));
    let mut body = answer.into_body();
    let (mut text, mut seen) = (String::new(), BTreeSet::new());
    let reading = async {
        while seen.len() < 3 {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            text += str::from_utf8(&frame).unwrap();
            while let Some((block, rest)) = text.split_once("\n\n") {
                if let Some((name, data)) =
                    block.strip_prefix("event: ").and_then(|b| b.split_once("\ndata: "))
                {
                    let schema = match name {
                        "session" => "SessionEnded",
                        "refusal" => "RecipientRefused",
                        "rates" => "Rates",
                        "lost" => "Lost",
                        other => panic!("{other} is no event"),
                    };
                    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
                    let value = serde_json::from_str(data).unwrap();
                    assert_eq!(misfit(&document, &schema, &value, name), None);
                    seen.insert(name.to_owned());
                }
                text = rest.to_owned();
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = panel.history.follow(&panel.metrics) => {}
    }
    assert!(seen.contains("lost") && seen.contains("rates") && seen.contains("refusal"), "{seen:?}");
}

#[test]
fn what_does_not_fit_is_found() {
    let document = json!({});
    let schema = json!({
        "type": "object",
        "properties": { "a": { "type": "integer" }, "b": { "type": ["string", "null"], "enum": ["x", null] } },
        "required": ["a"],
    });
    for (value, fits) in [
        (json!({ "a": 1, "b": null }), true),
        (json!({ "a": 1, "b": "x" }), true),
        (json!({ "a": 1 }), true),
        (json!({ "a": 1, "b": "y" }), false),
        (json!({ "b": "x" }), false),
        (json!({ "a": "1" }), false),
        (json!({ "a": 1, "c": 1 }), false),
        (json!([]), false),
    ] {
        assert_eq!(misfit(&document, &schema, &value, "value").is_none(), fits, "{value}");
    }
}
