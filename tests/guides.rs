//! The guides before Exchange: what they tell to type is typed, before the scripted one, and says what they say. And the one to an
//! edge tier, whose balancer is a real HAProxy.
//!
//! A guide's pieces of configuration are put together as its reader would, and every command of its shell blocks is run, in
//! their order; only addresses are those of the test. What stands behind a command after `#` is held: a reply, or what is in
//! quotes. `systemctl` and `journalctl` need a machine of their own and are left out, PowerShell an Exchange.

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use support::backend::{Backend, Exchange, Script};
use support::backstop::Backstop;
use support::certificate::Authority;
use support::client::Client;
use support::haproxy::HaProxy;
use support::machine::{Directory, free_address};

#[tokio::test(flavor = "multi_thread")]
async fn before_exchange_2010() {
    let (_exchange, address) = Backend::start(brisk(Exchange::V2010, "ann@example.org")).await;
    let guide = Guide::read("exchange-2010.md", &[("10.0.0.5:25", address)]);
    assert_eq!(guide.follow(), ["swaks", "swaks", "backstop check", "backstop doctor", "backstop verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_exchange_2013_and_later() {
    let mut servers = Vec::new();
    for kind in [Exchange::Frontend, Exchange::Hub, Exchange::Frontend, Exchange::Hub] {
        servers.push(Backend::start(brisk(kind, "ann@example.org")).await);
    }
    // The longer ones first: one is the beginning of the other.
    let at = [
        ("ex1.corp.example:2525", servers[1].1),
        ("ex2.corp.example:2525", servers[3].1),
        ("ex1.corp.example:25", servers[0].1),
        ("ex2.corp.example:25", servers[2].1),
    ];
    let guide = Guide::read("exchange-2013.md", &at);
    assert_eq!(guide.follow(), ["swaks", "swaks", "backstop check", "backstop doctor", "backstop verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_exchange_online() {
    const NAME: &str = "example-com.mail.protection.outlook.com";
    let authority = Authority::new();
    let online = brisk(Exchange::Online, "ann@example.com").with_starttls(authority.issue(&[NAME]).server());
    let (_online, address) = Backend::start(online).await;
    let (_frontend, frontend) = Backend::start(brisk(Exchange::Frontend, "ann@example.org")).await;
    let (_hub, hub) = Backend::start(brisk(Exchange::Hub, "ann@example.org")).await;
    // The longer one first: the other is its beginning.
    let online = format!("{NAME}:25");
    let at = [(&*online, address), ("ex1.corp.example:2525", hub), ("ex1.corp.example:25", frontend)];
    let mut guide = Guide::read("exchange-hybrid.md", &at);
    let root = guide.directory.write("root.pem", &authority.root);
    let (on_premises, route) =
        guide.configuration.split_once("hostname").expect("the route to Exchange Online names the host");
    // The layouts are two: each is followed alone, and what is allowed without asking is so to whoever asks.
    let on_premises = Guide {
        configuration: on_premises.to_owned(),
        commands: ["backstop check", "backstop doctor", VERIFIED].map(str::to_owned).to_vec(),
        directory: Directory::new("guide"),
    };
    assert_eq!(on_premises.follow(), ["backstop check", "backstop doctor", "backstop verify"]);
    let known = format!("tls = \"verify\"\ntls_name = \"{NAME}\"\ntls_ca = \"{}\"", root.display());
    guide.configuration = format!("hostname{}", route.replace("tls = \"verify\"", &known));
    assert_eq!(guide.follow(), ["backstop check", "backstop doctor", "backstop verify"]);
}

/// What the guide before Exchange on premises says of recipients, and of one that this one adds.
const VERIFIED: &str = "backstop verify ann@example.org sales@example.org nobody-at-all@example.org";

/// Whoever follows a guide into shadow mode and takes its whole file must not refuse by it.
#[test]
fn a_guide_and_its_file_agree_on_the_mode() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut shadowed = 0;
    for entry in std::fs::read_dir(root.join("deploy/examples")).expect("there are examples") {
        let path = entry.expect("it can be read").path();
        let file = std::fs::read_to_string(&path).expect("it can be read");
        let named = file.split("(docs/").nth(1).or_else(|| file.split("docs/").nth(1));
        let page = named.and_then(|rest| rest.split_once(".md")).expect("it names its guide").0;
        let guide =
            std::fs::read_to_string(root.join(format!("docs/{page}.md"))).expect("the guide is there");
        let routes = file.matches("\n[[route]]\n").count();
        let in_shadow = file.matches("\nmode = \"shadow\"").count();
        let pieces = blocks(&guide, "toml");
        if guide.contains("shadow") {
            let asking = pieces.matches("\n[route.verify]\n").count();
            assert_eq!(pieces.matches("\nmode = \"shadow\"").count(), asking, "docs/{page}.md");
        }
        let expected = if guide.contains("shadow") { routes } else { 0 };
        assert_eq!(in_shadow, expected, "{} and docs/{page}.md", path.display());
        shadowed += in_shadow;
    }
    assert!(shadowed > 0, "no file was held to anything");
}

/// The balancer of the edge tier leads no client to an instance that ends, or is dead: each is greeted.
#[tokio::test(flavor = "multi_thread")]
async fn behind_the_balancer_of_an_edge_tier() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = |path: &str| std::fs::read_to_string(root.join(path)).expect("it is there");
    let guide = text("docs/edge-tier.md");
    let balancer = blocks(&guide, "haproxy");
    let toml = blocks(&guide, "toml");
    let delay = word_after(&toml, "drain_delay = ");
    for path in ["deploy/examples/edge-tier.toml", "deploy/compose/backstop-edge/backstop.toml"] {
        assert_eq!(word_after(&text(path), "drain_delay = "), delay, "{path}");
    }
    let number = |of: &str, before: &str| {
        let digits = word_after(of, before).trim_matches(|letter: char| !letter.is_ascii_digit());
        digits.parse::<u32>().expect("whole seconds, or times")
    };
    for of in [&balancer, &text("deploy/compose/haproxy/haproxy.cfg")] {
        let checks = of.split_once("default-server").expect("it says how it checks").1;
        let found_out = number(checks, " inter ") * number(checks, " fall ");
        assert!(number(&toml, "drain_delay = ") > found_out, "{of}");
        assert!(of.contains("\n    option redispatch 1\n"), "{of}");
    }

    let (_backend, store) = Backend::start(Script::knowing(["ann@example.org"])).await;
    let (ours, health) = ([free_address(), free_address()], [free_address(), free_address()]);
    let configuration = |number: usize| {
        format!(
            "hostname = \"{number}.example.org\"\n[[listener]]\nname = \"mx\"\naddress = [\"{}\"]\n\
             proxy_protocol = \"required\"\ntrusted = [\"127.0.0.0/8\"]\n[admin]\naddress = \"{}\"\n\
             [[route]]\ndomains = [\"example.org\"]\nbackends = [\"{store}\"]\n[timeouts]\ndrain_delay = {delay}\n",
            ours[number], health[number]
        )
    };
    let (mut first, _) = Backstop::ready(&configuration(0)).await;
    let (mut second, _) = Backstop::ready(&configuration(1)).await;
    let haproxy = HaProxy::configured(|address| {
        let mut text = balancer.replace("bind :25\n", &format!("bind {address}\n")).replace("port 9525 ", "");
        for (number, written) in ["10.0.2.5:25", "10.0.2.6:25"].into_iter().enumerate() {
            assert!(text.contains(written), "the guide no longer names {written}");
            text = text.replace(written, &format!("{} port {}", ours[number], health[number].port()));
        }
        text
    })
    .await;
    // Who greets the next client.
    let greets = async || {
        let mut client = Client::connect(haproxy.address()).await;
        let greeting = client.try_reply().await.expect("each client is greeted");
        assert_eq!(greeting.code, 220, "{}", greeting.text());
        client.quit().await;
        if greeting.text().contains("0.example.org") { 0 } else { 1 }
    };
    let until = async |number: usize| while greets().await != number {};
    until(0).await;
    until(1).await;
    first.sigterm();
    let mut exit = std::pin::pin!(first.exit());
    let ended = loop {
        tokio::select! {
            biased;
            status = &mut exit => break status,
            _ = greets() => {}
        }
    };
    assert!(ended.success());
    assert_eq!(greets().await, 1);
    let (_first, _) = Backstop::ready(&configuration(0)).await;
    until(0).await;
    second.kill();
    second.exit().await;
    for _ in 0..20 {
        assert_eq!(greets().await, 0);
    }
}

/// What stands behind `before`, to the next blank.
fn word_after<'a>(text: &'a str, before: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in\n{text}"));
    rest.split_whitespace().next().expect("something stands there")
}

/// One whose tarpit is there but short: what takes long is held elsewhere.
fn brisk(kind: Exchange, mailbox: &str) -> Script {
    let mut script = kind.knowing([mailbox]);
    script.limits.tarpit = script.limits.tarpit.min(Duration::from_millis(50));
    script
}

/// A guide's configuration and commands.
struct Guide {
    configuration: String,
    commands: Vec<String>,
    directory: Directory,
}

impl Guide {
    /// Reads the page with these addresses in place of its own.
    fn read(page: &str, addresses: &[(&str, SocketAddr)]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
        let mut text = std::fs::read_to_string(path).expect("the page is there");
        for (written, real) in addresses {
            assert!(text.contains(written), "{page} no longer names {written}");
            text = text.replace(written, &real.to_string());
        }
        let machine = ["systemctl", "journalctl"];
        let mut commands: Vec<String> = blocks(&text, "sh").lines().map(str::to_owned).collect();
        commands.retain(|line| !machine.iter().any(|word| line.starts_with(word)));
        Self { configuration: blocks(&text, "toml"), commands, directory: Directory::new("guide") }
    }

    /// Runs its commands and gives their names.
    fn follow(&self) -> Vec<&str> {
        // The state directory is the package's to make.
        let kept = self.directory.path().join("kept").display().to_string();
        self.directory.write("backstop.toml", self.configuration.replace("/var/lib/backstop", &kept));
        self.commands.iter().map(|line| self.typed(line)).collect()
    }

    /// Runs a command and holds it to what is written behind it; gives its name.
    fn typed<'a>(&self, line: &'a str) -> &'a str {
        let (command, told) = line.split_once(" #").unwrap_or((line, ""));
        let Output { status, stdout, stderr } = self.shell(command);
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        let command = command.trim_end();
        let words = command.match_indices(' ').nth(1);
        let name = words.map_or(command, |(at, _)| &command[..at]);
        let name = if name.starts_with("swaks") { "swaks" } else { name };
        let expected: &[i32] = match name {
            // 24: the recipient was refused.
            "swaks" if told.contains(" 250 ") => &[0],
            "swaks" => &[24],
            "backstop verify" => &[67],
            // There is always something to say about an Exchange; nothing of it is a fault here.
            "backstop doctor" => &[0, 1],
            _ => &[0],
        };
        assert!(status.code().is_some_and(|code| expected.contains(&code)), "{line}: {status}\n{said}");
        let held: Vec<&str> = match name {
            "swaks" => vec![told.trim()],
            "backstop doctor" => told.split('"').skip(1).step_by(2).chain([" 0 faults"]).collect(),
            "backstop verify" => vec![": deliverable", ": unknown (550 "],
            _ => Vec::new(),
        };
        for part in held {
            assert!(said.contains(part), "{line}\nsays no {part:?}, but\n{said}");
        }
        name
    }

    fn shell(&self, command: &str) -> Output {
        let binary = Path::new(env!("CARGO_BIN_EXE_backstop")).parent().expect("a file is in a directory");
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap_or_default());
        let run = Command::new("sh")
            .args(["-c", command])
            .env("PATH", path)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output();
        run.expect("there is a shell")
    }
}

/// All blocks of this language, one after another.
fn blocks(text: &str, language: &str) -> String {
    let begin = format!("\n```{language}\n");
    text.split(&begin).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}
