//! Text from a peer is data: what hostile clients and servers say reaches logs, metrics and the API harmless. What the
//! page makes of it is looked at in `page.rs`.

mod support;

use std::net::SocketAddr;

use serde_json::Value;
use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::client::Client;
use support::hostile;

/// The longest line of a log: every text in it is cut at 256 octets, which escaping and JSON make longer.
const LONGEST: usize = 8 * 1024;

/// A proxy that has heard all of it, from both sides.
struct Beset {
    proxy: Backstop,
    _backends: [Backend; 2],
    _clients: Vec<Client>,
}

async fn beset(log: &str) -> Beset {
    let mut script = Script::knowing(["anna@example.org"]).offering("<script>ran=1</script>");
    for (number, text) in hostile::TEXTS.iter().map(|text| text.to_vec()).chain([hostile::long()]).enumerate()
    {
        let reply = [b"550-5.1.1 first ".as_slice(), &text, b"\r\n550 5.1.1 ", &text, b"\r\n"].concat();
        let address = format!("reply{number}@example.org");
        script = script.on(at(Phase::Rcpt).to(&address), Action::bytes(reply));
    }
    let (backend, address) = Backend::start(script).await;
    let greeting = [b"554 ".as_slice(), hostile::TEXTS[7], hostile::TEXTS[0], b"\r\n"].concat();
    let rude = Script::knowing([]).on(at(Phase::Greeting), Action::bytes(greeting));
    let (rude, elsewhere) = Backend::start(rude).await;
    let routes: [(String, SocketAddr); 2] =
        [("example.org".to_owned(), address), ("rude.example".to_owned(), elsewhere)];
    let configuration = Backstop::configuration_of(&routes, "") + &format!("[log]\nformat = \"{log}\"\n");
    let (proxy, front) = Backstop::ready(&configuration).await;
    let mut clients = hostile::clients(front, "").await;
    let mut asking = Client::greeted(front).await;
    for number in 0..=hostile::TEXTS.len() {
        asking.envelope("a@client.test", &format!("reply{number}@example.org")).await;
        asking.command("RSET").await;
    }
    asking.envelope("a@client.test", "ann@rude.example").await;
    clients.push(asking);
    // The lines of sessions are written when they end.
    let mut gone = hostile::clients(front, "").await;
    let gone = gone.pop().expect("there are many");
    gone.quit().await;
    proxy.logged("end").await;
    Beset { proxy, _backends: [backend, rude], _clients: clients }
}

/// Characters a terminal obeys, or that nobody sees.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(name, value)| [vec![name.as_str()], strings(value)].concat()).collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_text_log_has_one_harmless_line_for_each_thing_that_happened() {
    let beset = beset("text").await;
    let log = beset.proxy.logged("end=\"quit\"").await;
    assert!(log.contains("ran=1"), "it was said:\n{log}");
    for line in log.lines().filter(|line| !line.starts_with("listening on ")) {
        assert!(!line.contains(is_harmful), "{line:?}");
        assert!(line.len() <= LONGEST, "{} octets: {line}", line.len());
        let time = line.get(..20).unwrap_or_default();
        assert!(time.starts_with("20") && time.contains('T'), "a forged line: {line}");
        // Quotes within a text are escaped, so no field follows that we did not write.
        assert!(!line.contains(" level=\"ERROR"), "a forged field: {line}");
    }
}

#[tokio::test]
async fn a_json_log_is_json_line_by_line() {
    let beset = beset("json").await;
    let log = beset.proxy.logged("\"quit\"").await;
    assert!(log.contains("ran=1"), "it was said:\n{log}");
    for line in log.lines().filter(|line| !line.starts_with("listening on ")) {
        assert!(line.len() <= LONGEST, "{} octets: {line}", line.len());
        let object: Value = serde_json::from_str(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
        assert!(object["level"] != "ERROR", "{line}");
        assert!(strings(&object).iter().all(|text| !text.contains(is_harmful)), "{line}");
    }
}

#[tokio::test]
async fn no_peer_is_in_a_metric() {
    let beset = beset("text").await;
    let metrics = beset.proxy.admin().await.get("/metrics").await.is(200).body;
    for peers in ["ran=1", "owned", "reply1", "sender.example", "client.test", "<b>"] {
        assert!(!metrics.contains(peers), "{peers}");
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        assert!(
            value.parse::<f64>().is_ok() && series.starts_with(|c: char| c.is_ascii_lowercase()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn the_api_tells_it_as_bounded_json() {
    let beset = beset("text").await;
    let admin = beset.proxy.admin().await;
    let explained: Vec<String> = (0..=hostile::TEXTS.len())
        .map(|number| format!("/api/v1/recipients/reply{number}@example.org"))
        .collect();
    let lists =
        ["/api/v1/status", "/api/v1/sessions", "/api/v1/refusals", "/api/v1/clients"].map(str::to_owned);
    let mut said = String::new();
    for path in lists.iter().chain(&explained) {
        let answer = admin.get(path).await.is(200);
        assert!(answer.body.len() < 256 * 1024, "{path}: {} octets", answer.body.len());
        assert!(!answer.body.contains(is_harmful), "{path}: {}", answer.body);
        let told = answer.json();
        let longest = strings(&told).iter().map(|text| text.len()).max();
        assert!(longest.is_some_and(|longest| longest <= LONGEST), "{path}: {longest:?}");
        said += &answer.body;
    }
    assert!(said.contains("<script>ran=1</script>") && said.contains("554 "), "it was said: {said}");
    // What is listed is escaped besides: a shell that prints it obeys nothing.
    for path in ["/api/v1/sessions", "/api/v1/refusals", "/api/v1/status"] {
        let told = admin.get(path).await.is(200).json();
        assert!(strings(&told).iter().all(|text| !text.contains(is_harmful)), "{path}: {told}");
    }
    // Nor is what a caller asked for handed back as it came.
    let refused = admin.get("/api/v1/recipients/%1b%5d0;x%07%3Cscript%3E@example.org").await.is(400);
    assert!(!refused.json()["error"].as_str().expect("text").contains(is_harmful), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_stay_out_of_the_log_where_that_is_wanted() {
    for (redact, shown) in [("local-part", "<*@example.org>"), ("hash", "<#")] {
        let (_backend, store) = Backend::start(Script::knowing(["anna@example.org"])).await;
        let log = format!("[log]\nlevel = \"debug\"\nredact = \"{redact}\"\n");
        let (backstop, address) = Backstop::before_with(store, &log).await;
        let mut client = Client::greeted(address).await;
        client
            .envelope("private.sender@client.test", "private.person@example.org")
            .await
            .is("550 5.1.1 <private.person");
        client.command("RCPT TO:<anna@example.org>").await.is("250");
        client.data(b"text\r\n").await.is("250");
        client.quit().await;
        let log = backstop.logged("end=\"quit\"").await;
        assert!(log.contains("recipient refused") && log.contains(shown), "{log}");
        let events = backstop.admin().await.get("/api/v1/refusals").await.body;
        for text in [&log, &events] {
            assert!(!text.contains("private.") && !text.contains("anna"), "{redact}: {text}");
        }
    }
}
