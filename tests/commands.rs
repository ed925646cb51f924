//! The commands an operator types, as processes: what they print, and how they end.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::backend::{Action, Backend, Phase, Script, at};
use support::backstop::Backstop;
use support::machine::{Directory, free_address};
use support::postfix::Postfix;
use tokio_util::sync::CancellationToken;

/// Runs `backstop` with these arguments in `directory`, to its end.
async fn backstop(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().expect("it was built")).await.expect("it ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[tokio::test]
async fn check_names_every_fault_or_shows_what_is_in_force() {
    let directory = Directory::new("check");
    directory.write("bad.toml", "limit = 1\n[[route]]\ndomains = [\"a b\"]\nbackends = [\"10.0.0.1\"]\n");
    let checked = backstop(directory.path(), &["check", "--config", "bad.toml"]).await;
    assert_eq!(code(&checked), 78);
    for part in [
        "limit (bad.toml): unknown key",
        "route[0].domains[0]",
        "route[0].backends[0]",
        "write \"10.0.0.1:25\"",
    ] {
        assert!(err(&checked).contains(part), "{part} in {}", err(&checked));
    }
    directory.write("list", "# nobody yet\n");
    let listed = "[[route]]\ndomains = [\"example.org\"]\nbackends = [\"10.0.0.1:25\"]\n[route.verify]\nsource = \"file\"\nfile = \"list\"\n";
    directory.write("backstop.toml", listed);
    let checked = backstop(directory.path(), &["check"]).await;
    assert_eq!(code(&checked), 78, "{}", err(&checked));
    assert!(err(&checked).contains("list holds no address"), "{}", err(&checked));
    directory.write("list", "ann@example.org\n");
    let checked = backstop(directory.path(), &["check"]).await;
    assert_eq!(code(&checked), 0, "{}", err(&checked));
    assert!(out(&checked).contains("source = \"file\""), "{}", out(&checked));
}

#[tokio::test]
async fn the_printed_default_file_is_a_configuration() {
    let directory = Directory::new("default");
    let printed = backstop(directory.path(), &["config", "default"]).await;
    directory.write("backstop.toml", &printed.stdout);
    assert_eq!(code(&backstop(directory.path(), &["check"]).await), 0);
}

#[tokio::test]
async fn the_program_describes_itself() {
    let directory = Directory::new("describes");
    let schema = backstop(directory.path(), &["config", "schema"]).await;
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).expect("JSON");
    assert_eq!(schema["properties"]["log"]["properties"]["level"]["default"], "info");
    let man = backstop(directory.path(), &["man"]).await;
    assert!(
        out(&man).contains("\n.TH backstop 8") && out(&man).contains(".SS \"backstop run\""),
        "{}",
        out(&man)
    );
    for (shell, mark) in
        [("bash", "complete -F _backstop"), ("zsh", "#compdef backstop"), ("fish", "complete -c backstop")]
    {
        let script = backstop(directory.path(), &["completions", shell]).await;
        assert!(code(&script) == 0 && out(&script).contains(mark), "{shell}: {}", out(&script));
    }
    assert_eq!(code(&backstop(directory.path(), &["completions", "no-shell"]).await), 2);
}

#[tokio::test]
async fn verify_tells_known_unknown_and_undetermined_apart() {
    let postfix = Postfix::start(&["anna@example.org"]).await;
    let down = free_address();
    let directory = Directory::new("verify");
    let routes = [("example.org".to_owned(), postfix.address()), ("down.example".to_owned(), down)];
    directory.write("backstop.toml", Backstop::configuration_of(&routes, ""));
    let at = directory.path();

    let known = backstop(at, &["verify", "anna@example.org"]).await;
    assert_eq!((code(&known), out(&known).as_str()), (0, "anna@example.org: deliverable\n"));

    let unknown = backstop(at, &["verify", "--verbose", "anna@example.org", "nobody@example.org"]).await;
    assert_eq!(code(&unknown), 67);
    assert!(out(&unknown).contains("nobody@example.org: unknown (550 5.1.1"), "{}", out(&unknown));
    assert!(out(&unknown).contains("  > MAIL FROM:<>\n"), "{}", out(&unknown));

    let undetermined = backstop(at, &["verify", "--json", "anna@example.org", "anna@down.example"]).await;
    assert_eq!(code(&undetermined), 75);
    let lines: Vec<serde_json::Value> =
        out(&undetermined).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(
        (lines[0]["verdict"].as_str(), lines[1]["verdict"].as_str()),
        (Some("deliverable"), Some("undetermined"))
    );

    let foreign = backstop(at, &["verify", "anna@elsewhere.example", "no address"]).await;
    assert_eq!(code(&foreign), 67);
    assert!(
        out(&foreign).contains("550 5.7.1") && out(&foreign).contains("not an address"),
        "{}",
        out(&foreign)
    );
    // Every session that asked said QUIT.
    postfix.log_caught_up().await;
    assert_eq!(postfix.count(" lost connection after"), 0, "{}", postfix.log());
}

#[tokio::test]
async fn verify_asks_several_at_once_and_tells_in_order() {
    let gate = CancellationToken::new();
    let names = ["ann@slow.example", "bob@example.org", "carol@example.org"];
    let held = Script::knowing([names[0]]).on(at(Phase::Rcpt), Action::ordinary().held_by(&gate));
    let (_slow, slow) = Backend::start(held).await;
    let (backend, address) = Backend::start(Script::knowing([names[1], names[2]])).await;
    let directory = Directory::new("many");
    let routes = [("slow.example".to_owned(), slow), ("example.org".to_owned(), address)];
    directory.write("backstop.toml", Backstop::configuration_of(&routes, ""));
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
    command.args(["verify", "-"]).current_dir(directory.path());
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it was built");
    let mut input = running.stdin.take().expect("a pipe");
    // The input stays open: nobody who types waits for the end of it.
    input.write_all(names.join("\n").as_bytes()).and_then(|()| input.write_all(b"\n")).expect("it reads");
    // The first is held until the others were asked about.
    while names[1..].iter().any(|name| backend.record().rcpts_for(name) == 0) {
        tokio::time::sleep(support::LOOK_AGAIN).await;
    }
    gate.cancel();
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(running.stdout.take().expect("a pipe")).lines();
        let told: Vec<_> = lines.by_ref().take(3).map(|line| line.expect("text")).collect();
        drop(input);
        assert_eq!(lines.count(), 0);
        (told, running.wait().expect("it ends").code())
    });
    let expected = names.map(|name| format!("{name}: deliverable")).to_vec();
    assert_eq!(told.await.expect("it answers"), (expected, Some(0)));
}

#[tokio::test]
async fn cache_looks_into_a_running_proxy_and_clears_it() {
    let (backend, address) = Backend::start(Script::knowing(["anna@example.org"])).await;
    let (proxy, front) = Backstop::before(address).await;
    let admin = format!("http://{}", proxy.address("admin").await);
    let directory = Directory::new("cache");
    let cache = async |arguments: &[&str]| {
        let all = [&["cache", "--admin", &admin], arguments].concat();
        backstop(directory.path(), &all).await
    };
    let mut client = support::client::Client::greeted(front).await;
    client.command("MAIL FROM:<a@client.test>").await;
    client.command("RCPT TO:<nobody@example.org>").await;
    assert_eq!(backend.record().rcpts_for("nobody@example.org"), 1);

    let got = cache(&["get", "nobody@example.org"]).await;
    assert_eq!(code(&got), 0, "{}", err(&got));
    assert!(out(&got).contains("\"verdict\": \"unknown\""), "{}", out(&got));
    let stats = cache(&["stats"]).await;
    assert!(out(&stats).contains("\"bad\": 1"), "{}", out(&stats));
    assert_eq!(code(&cache(&["forget", "nobody@example.org"]).await), 0);
    assert!(out(&cache(&["stats"]).await).contains("\"bad\": 0"));
    assert_eq!(code(&cache(&["forget", "--domain", "example.org"]).await), 0);
    assert_eq!(code(&cache(&["clear"]).await), 0);
    let bad = cache(&["get", "nonsense"]).await;
    assert_eq!(code(&bad), 1);
    assert!(err(&bad).contains("nonsense"), "{}", err(&bad));

    let health = backstop(directory.path(), &["healthcheck", "--admin", &admin]).await;
    assert_eq!(code(&health), 0, "{}", err(&health));
    drop(proxy);
    assert_eq!(code(&cache(&["stats"]).await), 69);
    assert_eq!(code(&backstop(directory.path(), &["healthcheck", "--admin", &admin]).await), 1);
}

#[tokio::test]
async fn the_endpoint_may_be_named_behind_the_subcommand() {
    let (_backend, address) = Backend::start(Script::knowing(["anna@example.org"])).await;
    let (proxy, _) = Backstop::before(address).await;
    let admin = format!("http://{}", proxy.address("admin").await);
    let directory = Directory::new("endpoint");
    for arguments in [
        ["cache", "forget", "anna@example.org", "--admin", &admin].as_slice(),
        &["cache", "stats", "--admin", &admin],
        &["cache", "clear", "--config", "backstop.toml", "--admin", &admin],
    ] {
        let done = backstop(directory.path(), arguments).await;
        assert_eq!(code(&done), 0, "{arguments:?}: {}", err(&done));
    }
    let secure = backstop(directory.path(), &["cache", "stats", "--admin", "https://127.0.0.1:9525"]).await;
    assert_eq!(code(&secure), 69);
    assert!(err(&secure).contains("https://127.0.0.1:9525 is no address"), "{}", err(&secure));
}

#[tokio::test]
async fn a_faulty_file_neither_hides_the_endpoint_nor_its_fault() {
    let (_backend, backend) = Backend::start(Script::knowing(["anna@example.org"])).await;
    let (proxy, _) = Backstop::before(backend).await;
    let address = proxy.address("admin").await;
    let directory = Directory::new("faulty");
    let told = async |command: &[&str], file: &str| {
        directory.write("backstop.toml", file);
        let done = backstop(directory.path(), command).await;
        (code(&done), err(&done))
    };
    // It runs with an older configuration, or may read what this user may not.
    for (rest, fault) in [
        ("[limits]\nlimit = 1\n", "limits.limit (./backstop.toml): unknown key"),
        ("token_file = \"absent\"\n", "admin.token_file"),
        ("[tls]\ncertificates = [{ chain = \"absent\", key = \"absent\" }]\n", ""),
    ] {
        let file = format!("[admin]\naddress = \"{address}\"\n{rest}");
        for command in [["healthcheck"].as_slice(), &["cache", "stats"], &["report"]] {
            let (code, said) = told(command, &file).await;
            assert_eq!(code, 0, "{command:?} {rest}: {said}");
            assert_eq!(said.is_empty(), fault.is_empty(), "{said}");
            assert!(said.contains(fault), "{fault} in {said}");
        }
    }
    // Whether something listens there is the machine's affair; what counts is what is said.
    let (_, said) = told(&["cache", "stats"], "[admin\n").await;
    assert!(said.contains("fault: ") && said.contains("not valid TOML"), "{said}");
    assert!(said.contains("asking 127.0.0.1:9525"), "{said}");
    let (_, said) = told(&["cache", "stats", "--config", "absent.toml"], "").await;
    assert!(said.contains("fault: absent.toml") && said.contains("asking 127.0.0.1:9525"), "{said}");
    let (code, said) = told(&["cache", "stats"], "[admin]\naddress = \"\"\n").await;
    assert!(code == 69 && said.contains("admin.address is empty"), "{said}");
    let (code, said) = told(&["healthcheck"], "[admin]\naddress = \"\"\n").await;
    assert!(code == 1 && said.contains("admin.address is empty"), "{said}");
}

#[tokio::test]
async fn report_tells_what_was_refused_and_what_would_have_been() {
    let (_backend, address) =
        Backend::start(Script::knowing(["anna@example.org", "ann@watched.example"])).await;
    let routes = [("example.org".to_owned(), address)];
    let watched = format!(
        "[[route]]\nname = \"watched\"\ndomains = [\"watched.example\"]\nbackends = [\"{address}\"]\n\
         [route.verify]\nmode = \"shadow\"\n"
    );
    let (proxy, front) =
        Backstop::ready(&(Backstop::configuration_of(&routes, "name = \"mail\"\n") + &watched)).await;
    let admin = format!("http://{}", proxy.address("admin").await);
    let directory = Directory::new("report");
    let mut client = support::client::Client::greeted(front).await;
    for (recipient, code) in [
        ("anna@example.org", "250"),
        ("nobody@example.org", "550"),
        ("nobody@example.org", "550"),
        ("x@elsewhere.example", "550"),
        // The live port is asked, and knows it as little: refused by that, and before that in shadow.
        ("nobody@watched.example", "550"),
    ] {
        client.envelope("a@client.test", recipient).await.is(code);
        client.command("RSET").await.is("250");
    }
    let told = backstop(directory.path(), &["report", "--admin", &admin]).await;
    assert_eq!(code(&told), 0, "{}", err(&told));
    for line in [
        "route mail (enforce): 1 recipients accepted",
        "2              0  unknown           the mail store does not know the recipient",
        "route watched (shadow): 0 recipients accepted",
        "1              1  unknown           the mail store does not know the recipient",
        "domains without a route:",
        "1              0  no-route          nobody here serves the domain",
    ] {
        assert!(out(&told).contains(line), "{line} in {}", out(&told));
    }
    let told = backstop(directory.path(), &["report", "--json", "--admin", &admin]).await;
    let json: serde_json::Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let watched = json["counts"].as_array().expect("a list").iter().find(|count| count["route"] == "watched");
    assert_eq!(watched.expect("it counted")["would_refuse"], 1, "{json}");
    drop(proxy);
    assert_eq!(code(&backstop(directory.path(), &["report", "--admin", &admin]).await), 69);
}

#[tokio::test]
async fn the_demo_delivers_one_and_refuses_one() {
    let directory = Directory::new("demo");
    let shown = backstop(directory.path(), &["demo", "--once"]).await;
    assert_eq!(code(&shown), 0, "{}", err(&shown));
    assert!(out(&shown).contains("S: 550 5.1.1 <nobody@demo.example>"), "{}", out(&shown));
    assert!(out(&shown).contains("S: 250 2.0.0 Ok: stored as message 1"), "{}", out(&shown));
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("it is bound").to_string();
    let directory = Directory::new("taken");
    let arguments = ["run", "--listen", &listen, "--domain", "example.org", "--backend", "127.0.0.1:1"];
    let run = backstop(directory.path(), &arguments).await;
    assert_eq!(code(&run), 71);
    assert!(err(&run).contains(&format!("cannot listen on {listen}")), "{}", err(&run));
}

#[tokio::test]
async fn a_hanging_store_is_undetermined_in_time() {
    let (_backend, address) =
        Backend::start(Script::knowing(["anna@example.org"]).on(at(Phase::Rcpt), Action::ignore())).await;
    let directory = Directory::new("hanging");
    directory.write("backstop.toml", Backstop::configuration(address) + "[route.verify]\ntimeout = \"1s\"\n");
    let verified = backstop(directory.path(), &["verify", "anna@example.org"]).await;
    assert_eq!(code(&verified), 75);
    assert!(out(&verified).contains("undetermined (timeout)"), "{}", out(&verified));
}
