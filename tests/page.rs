//! The live page in a real browser, before a real proxy on real sockets.

mod support;

use std::net::SocketAddr;

use serde_json::json;
use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::browser::{Browser, VIEWS};
use support::certificate::Pair;
use support::client::Client;
use support::hostile;
use support::machine::{Directory, free_address};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const KNOWN: &str = "anna@example.org";

/// A listener that is told who the client is, so that clients come from addresses strangers have.
fn configuration(backend: SocketAddr, admin: &str, more: &str) -> String {
    format!(
        "hostname = \"mx.example.org\"\n\
         [[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n\
         proxy_protocol = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n\
         [admin]\naddress = \"127.0.0.1:0\"\n{admin}\
         [harvest]\ntarpit = \"0s\"\n\
         [[route]]\nname = \"mail\"\ndomains = [\"example.org\"]\nbackends = [\"{backend}\"]\n{more}"
    )
}

/// A client from there, greeted.
async fn client_from(source: &str, front: SocketAddr) -> Client {
    let mut client = Client::connect(front).await;
    client.send(format!("PROXY TCP4 {source} 203.0.113.25 40000 25\r\n")).await;
    client.reply().await.is("220");
    client.command("EHLO mail.sender.example").await.is("250");
    client
}

/// Has a client guess in this domain until it is banned: nobody is before more than a hundred.
async fn banned(front: SocketAddr, domain: &str) {
    for session in 0.. {
        let mut client = client_from("192.0.2.66", front).await;
        for number in 0..9 {
            let guess = format!("guess{session}.{number}@{domain}");
            if client.envelope("x@y.example", &guess).await.code == 421 {
                return;
            }
            client.command("RSET").await.is("250");
        }
    }
}

/// Clients that deliver to one who exists and ask for others who do not, until told to end.
fn load(front: SocketAddr, ended: &CancellationToken) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for number in 0..4 {
        let ended = ended.clone();
        clients.spawn(ended.run_until_cancelled_owned(async move {
            for round in 0.. {
                let mut client = client_from(&format!("198.51.100.{}", 10 + number), front).await;
                client.envelope("carol@sender.example", KNOWN).await.is("250");
                for name in 0..3 {
                    client
                        .command(&format!("RCPT TO:<ghost{number}.{round}.{name}@example.org>"))
                        .await
                        .is("550");
                }
                client.data("Subject: x\r\n\r\ny\r\n").await.is("250");
                client.quit().await;
            }
        }));
    }
    let mut all = JoinSet::new();
    all.spawn(async move { while clients.join_next().await.is_some() {} });
    all
}

#[tokio::test]
async fn the_page_moves_under_load() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let directory = Directory::new("page");
    let tls = format!(
        "[tls]\ncertificates = [{}]\n",
        Pair::alone(&["mx.example.org"]).write(&directory, "mx").entry()
    );
    let (proxy, front) = Backstop::ready(&(configuration(address, "", "") + &tls)).await;
    let mut browser = Browser::start().await;
    browser.open(proxy.address("admin").await).await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    let ended = CancellationToken::new();
    let load = load(front, &ended);
    // A client that guesses, and is banned.
    let mut guesser = client_from("192.0.2.66", front).await;
    for number in 0..9 {
        guesser.envelope("x@y.example", &format!("guess{number}@example.org")).await.is("550");
        guesser.command("RSET").await.is("250");
    }
    for positive in ["now-accepted", "now-refused", "probe-rate", "session-rate"] {
        browser.until(&format!("parseFloat(document.getElementById('{positive}').textContent) > 0")).await;
    }
    browser
        .until("document.querySelectorAll('#chart path.accepted, #chart path.refused').length === 2")
        .await;
    browser.until("document.querySelectorAll('#refusals tr').length > 20").await;
    browser.until("document.querySelector('#backends .pill')?.textContent === 'up'").await;
    browser
        .until(
            "[...document.querySelectorAll('#sessions tr')].some((r) => r.innerText.includes('192.0.2.66'))",
        )
        .await;
    browser
        .until(
            "[...document.querySelectorAll('#clients tr')].some((r) => r.innerText.includes('192.0.2.66'))",
        )
        .await;
    browser.until("document.querySelector('#certificates .pill.good')").await;
    let told = browser.text("#refusals tr").await;
    assert!(told.contains("@example.org") && told.contains("unknown"), "{told}");
    // A page opened later has the history.
    browser.open(proxy.address("admin").await).await;
    browser
        .until("document.querySelectorAll('#chart path.accepted, #chart path.refused').length === 2")
        .await;
    browser.evaluate("document.getElementById('configuration').open = true").await;
    browser.until("document.querySelectorAll('#settings tr').length > 40").await;
    let listener = browser.evaluate("[...document.querySelectorAll('#settings tr')].find((r) => r.innerText.includes('listener[0].name')).innerText").await;
    assert!(listener.as_str().expect("text").contains("backstop.toml"), "{listener}");
    browser.evaluate("document.getElementById('configuration').open = false").await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    browser.picture("load").await;
    browser.is_legible().await;
    ended.cancel();
    drop(load);
    browser.is_unharmed().await;
    for view in VIEWS {
        browser.view(view).await;
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.evaluate(fits).await, true, "{view:?}: the page itself does not scroll sideways");
    }
}

#[tokio::test]
async fn an_address_is_tested_by_keyboard() {
    let (backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let (proxy, front) = Backstop::ready(&configuration(address, "", "")).await;
    let mut client = client_from("198.51.100.7", front).await;
    client.envelope("a@client.example", "nobody@example.org").await.is("550");
    let mut browser = Browser::start().await;
    browser.open(proxy.address("admin").await).await;
    browser.type_into("#address", "nobody@example.org").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('#answer .pill')?.textContent === 'refuse'").await;
    let told = browser.text("#answer").await;
    for part in
        ["mail (enforce)", "Remembered", "unknown, ", "cache", "550 5.1.1", "> RCPT TO:<nobody@example.org>"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    browser.picture("tester").await;
    browser.is_legible().await;
    // Probe now: the second button behind the field.
    backend.rescript(|_| Script::knowing([KNOWN, "nobody@example.org"]));
    browser.evaluate("document.getElementById('address').focus()").await;
    browser.press("Tab").await;
    browser.press("Tab").await;
    assert_eq!(browser.evaluate("document.activeElement.id").await, "probe");
    browser.press("Enter").await;
    browser.until("document.querySelector('#answer .pill')?.textContent === 'deliverable'").await;
    assert!(backend.record().rcpts_for("nobody@example.org") > 1);
    browser.until("!document.getElementById('forget').disabled").await;
    browser.evaluate("document.getElementById('probe').focus()").await;
    browser.press("Tab").await;
    browser.press(" ").await;
    browser.until("document.querySelector('#answer .pill')?.textContent === 'forgotten'").await;
    let explained = proxy.admin().await.get("/api/v1/recipients/nobody@example.org").await.is(200).json();
    assert_eq!(explained["cache"], json!(null), "{explained}");
    browser.type_into("#address", "nobody@elsewhere.example").await;
    browser.press("Enter").await;
    browser.until("document.querySelector('#answer .notice')?.textContent.includes('no route for elsewhere.example')").await;
    browser.is_unharmed().await;
}

#[tokio::test]
async fn a_ban_is_lifted_with_the_token_the_page_asks_for() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let (proxy, front) = Backstop::ready(&configuration(address, "token = \"let-me-in\"\n", "")).await;
    banned(front, "example.org").await;
    let mut browser = Browser::start().await;
    browser.open(proxy.address("admin").await).await;
    browser.until("document.querySelector('#clients button')").await;
    assert_eq!(
        browser.evaluate("document.getElementById('gate').hidden").await,
        true,
        "reading needs none here"
    );
    browser.evaluate("document.querySelector('#clients button').focus()").await;
    browser.press("Enter").await;
    browser.until("!document.getElementById('gate').hidden").await;
    assert_eq!(browser.evaluate("document.activeElement.id").await, "token");
    let stays = "refresh().then(() => !document.getElementById('gate').hidden)";
    assert_eq!(browser.evaluate(stays).await, true, "that reading needs none does not take it away");
    browser.picture("gate").await;
    browser.is_legible().await;
    browser.type_into("#token", "let-me-in").await;
    browser.press("Enter").await;
    browser.until("sessionStorage.getItem('backstop-token') === 'let-me-in'").await;
    browser.until("!document.querySelector('#clients button').disabled").await;
    browser.evaluate("document.querySelector('#clients button').click()").await;
    browser.until("!document.querySelector('#clients button')").await;
    assert_eq!(proxy.admin().await.get("/api/v1/clients").await.is(200).json()["bans"], 0);
    // The description of the API is fetched as the rest is, and kept as a file: a link could send no token.
    let saved = "new Promise((told) => {\
        const url = URL.createObjectURL, fetched = fetch;\
        window.fetch = (path, options) => fetched(path, window.options = options);\
        URL.createObjectURL = (blob) => { blob.text().then((text) => told(options.headers.Authorization + text)); return url.call(URL, blob); };\
        document.getElementById('description').click(); })";
    let saved = browser.evaluate(saved).await;
    assert!(saved.as_str().expect("text").starts_with("Bearer let-me-in{\n  \"openapi\": "), "{saved}");
    let source = browser.evaluate("document.documentElement.outerHTML").await;
    assert!(!source.as_str().expect("text").contains("let-me-in"), "the token is nowhere in the page");
    browser.is_unharmed().await;
}

#[tokio::test]
async fn without_a_stream_the_page_asks_again_and_again() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let (proxy, front) = Backstop::ready(&configuration(address, "", "")).await;
    let admin = proxy.address("admin").await;
    let mut listeners = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(admin).await.expect("it listens");
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("it reads");
        let mut first = [0; 15];
        stream.read_exact(&mut first).await.expect("it answers");
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        listeners.push(stream);
    }
    proxy.admin().await.get("/api/v1/events").await.is(503);
    let mut browser = Browser::start().await;
    browser.open(admin).await;
    browser.until("document.getElementById('link').textContent === 'every 2 s'").await;
    let mut client = client_from("198.51.100.7", front).await;
    client.envelope("a@client.example", "nobody@example.org").await.is("550");
    browser.until("document.querySelector('#refusals')?.innerText.includes('nobody@example.org')").await;
    // There is room again, and the page takes it.
    drop(listeners);
    browser.until("document.getElementById('link').textContent === 'live'").await;
    browser.is_unharmed().await;
}

#[tokio::test]
async fn a_page_that_was_open_for_hours_still_wakes() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let (proxy, _) = Backstop::ready(&configuration(address, "", "")).await;
    let mut browser = Browser::start().await;
    browser.open(proxy.address("admin").await).await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    // Half a day of questions; keepAsking's own pause is the one more there may be.
    let many = "Promise.all(Array.from({ length: 20000 }, () => pause(0))).then(() => wakers.size <= 1)";
    assert_eq!(browser.evaluate(many).await, true, "who has slept is forgotten");
    let woken = "(() => { const slept = pause(1e8); now(); return slept.then(() => true); })()";
    assert_eq!(browser.evaluate(woken).await, true);
    let goes_on = "(() => { const then = seen; return pause(3 * EVERY).then(() => seen > then); })()";
    assert_eq!(browser.evaluate(goes_on).await, true, "and it goes on asking");
    browser.is_unharmed().await;
}

#[tokio::test]
async fn the_empty_page_and_the_one_where_all_is_broken_say_so() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    let (empty, _) = Backstop::ready(&configuration(address, "", "")).await;
    let mut browser = Browser::start().await;
    browser.open(empty.address("admin").await).await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    for text in
        ["Nothing was refused since the start.", "Nobody is connected.", "None: clients are not offered TLS."]
    {
        browser.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }
    assert_eq!(browser.evaluate("document.getElementById('attention').hidden").await, true);
    browser.picture("empty").await;
    browser.is_legible().await;

    let directory = Directory::new("broken");
    let expired = Pair::expired(&["mx.example.org"]).write(&directory, "old").entry();
    let (_relay, relay) = Backend::start(Script::blind()).await;
    let (_shop, shop) = Backend::start(Script::knowing(["ann@shop.example"])).await;
    let more = format!(
        "[[route]]\nname = \"shop\"\ndomains = [\"shop.example\"]\nbackends = [\"{shop}\"]\n\
         [[route]]\nname = \"exchange\"\ndomains = [\"corp.example\"]\nbackends = [\"{}\"]\n\
         [[route]]\nname = \"anything\"\ndomains = [\"*\"]\nbackends = [\"{relay}\"]\n[tls]\ncertificates = [{expired}]\n\
         [cache]\nshared = \"redis://{}\"\nsecret = \"a-long-random-text\"\n",
        free_address(),
        free_address()
    );
    let (broken, front) = Backstop::ready(&configuration(free_address(), "", &more)).await;
    let mut client = client_from("198.51.100.7", front).await;
    for recipient in [KNOWN, "ann@corp.example", "x@foreign.example"] {
        client.envelope("a@client.example", recipient).await.is("451");
        client.command("RSET").await.is("250");
    }
    banned(front, "shop.example").await;
    browser.open(broken.address("admin").await).await;
    // One that is tried again and again in vain rests.
    for _ in 0..5 {
        client.envelope("a@client.example", KNOWN).await.is("451");
        client.command("RSET").await.is("250");
    }
    browser
        .until("[...document.querySelectorAll('#backends .pill.warn')].some((p) => p.textContent.startsWith('rests'))")
        .await;
    browser.until("document.querySelectorAll('#problems .pill.bad').length >= 3").await;
    browser.until("document.getElementById('problems').innerText.includes('shares nothing now')").await;
    browser
        .until("document.querySelectorAll('#backends .pill.bad, #backends .pill.warn').length === 2")
        .await;
    browser.until("document.querySelector('#clients button')").await;
    browser.until("document.querySelector('#certificates .pill.bad')?.textContent === 'expired'").await;
    browser.until("document.getElementById('refusals').innerText.includes('unreachable')").await;
    // What is selected stays so, though its age goes on.
    let select = "getSelection().selectAllChildren([...document.querySelectorAll('#problems li')]\
        .find((li) => li.innerText.includes('shares nothing now')).querySelector('small span:last-child'))";
    browser.evaluate(select).await;
    let selected = browser.evaluate("getSelection().toString()").await;
    assert!(selected.as_str().is_some_and(|text| text.starts_with("redis://")), "{selected}");
    let again = "refresh().then(refresh).then(() => getSelection().toString())";
    assert_eq!(browser.evaluate(again).await, selected);
    browser.picture("broken").await;
    browser.is_legible().await;
    browser.is_unharmed().await;
    // And the proxy itself gone.
    drop(broken);
    browser.until("document.getElementById('link').textContent.startsWith('no answer')").await;
    browser.picture("gone").await;
    browser.is_legible().await;
}

#[tokio::test]
async fn nothing_is_looked_up_by_what_stands_in_place_of_an_address() {
    let (_backend, address) = Backend::start(Script::knowing([KNOWN])).await;
    for (redact, shown) in [("local-part", "*@example.org"), ("hash", "#"), ("none", "nobody@example.org")] {
        let more = format!("[log]\nredact = \"{redact}\"\n");
        let (proxy, front) = Backstop::ready(&configuration(address, "", &more)).await;
        let mut client = client_from("198.51.100.7", front).await;
        client.envelope("a@client.example", "nobody@example.org").await.is("550");
        let mut browser = Browser::start().await;
        browser.open(proxy.address("admin").await).await;
        // The one that was there before, and one that is told as it happens.
        browser.until("document.getElementById('link').textContent === 'live'").await;
        client.command("RCPT TO:<nobody@example.org>").await.is("550");
        browser.until("document.querySelectorAll('#refusals tr').length === 2").await;
        let told = browser.text("#refusals tr").await;
        assert!(told.contains(shown), "{redact}: {told}");
        let buttons = browser.evaluate("document.querySelectorAll('#refusals button').length").await;
        assert_eq!(buttons, if redact == "none" { 2 } else { 0 }, "{redact}");
        browser.is_legible().await;
        browser.is_unharmed().await;
    }
}

#[tokio::test]
async fn hostile_text_stays_text() {
    let reply = [b"550 5.1.1 ".as_slice(), &hostile::TEXTS.concat(), b"\r\n"].concat();
    let script = Script::knowing([KNOWN]).on(at(Phase::Rcpt).to("evil@example.org"), Action::bytes(reply));
    let script = script.offering("SMTPUTF8").offering("<script>ran=1</script>");
    let (_backend, address) = Backend::start(script).await;
    let greeting = [b"554 ".as_slice(), &hostile::TEXTS.concat(), b"\r\n"].concat();
    let (_rude, rude) =
        Backend::start(Script::knowing([]).on(at(Phase::Greeting), Action::bytes(greeting))).await;
    let more = format!("[[route]]\nname = \"rude\"\ndomains = [\"rude.example\"]\nbackends = [\"{rude}\"]\n");
    let (proxy, front) = Backstop::ready(&configuration(address, "", &more)).await;
    let mut browser = Browser::start().await;
    browser.open(proxy.address("admin").await).await;
    browser.until("document.getElementById('link').textContent === 'live'").await;
    let mut clients = hostile::clients(front, "PROXY TCP4 198.51.100.9 203.0.113.25 40000 25\r\n").await;
    let mut asking = client_from("198.51.100.7", front).await;
    asking.envelope("a@client.example", "evil@example.org").await;
    asking.command("RSET").await.is("250");
    asking.envelope("a@client.example", "ann@rude.example").await;
    clients.push(asking);
    for (part, text) in [
        ("refusals", "<script>ran=1</script>"),
        ("refusals", "evil@example.org"),
        ("sessions", "<img/src=x/onerror=ran=1>"),
        ("backends", "554"),
        ("problems", "554"),
    ] {
        browser
            .until(&format!("document.getElementById('{part}').textContent.includes({})", json!(text)))
            .await;
    }
    for address in ["evil@example.org", "\"<script>ran=1</script>\"@example.org"] {
        browser.type_into("#address", address).await;
        browser.press("Enter").await;
        browser
            .until(&format!("document.querySelector('#answer dd')?.textContent === {}", json!(address)))
            .await;
        browser.until("document.querySelector('#answer .talk')").await;
    }
    // An address no proxy would take, with markup in it, comes back in an error.
    browser.type_into("#address", "<img src=x onerror=ran=1>").await;
    browser.press("Enter").await;
    browser
        .until("document.querySelector('#answer .notice')?.textContent.includes('is not an address')")
        .await;
    // A refused recipient is looked up from the list, as what it is.
    browser.evaluate("[...document.querySelectorAll('#refusals button.link')].find((b) => b.textContent === 'evil@example.org').click()").await;
    browser.until("document.querySelector('#answer dd')?.textContent === 'evil@example.org'").await;
    // No element of the page came from a peer.
    let foreign = "document.querySelectorAll('main script, main img, main iframe, main b, main object, svg[onload]').length";
    assert_eq!(browser.evaluate(foreign).await, 0);
    let unseen = r"/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e]/.test(document.body.textContent)";
    assert_eq!(browser.evaluate(unseen).await, false, "control characters are shown by their number");
    browser.picture("hostile").await;
    browser.is_legible().await;
    browser.is_unharmed().await;
}
