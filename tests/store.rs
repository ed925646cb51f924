//! The embedded store through the built binary: a restart is warm, and nothing that becomes of the store ends the
//! proxy.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::client::Client;
use support::machine::Directory;
use tokio::time::sleep;

const KNOWN: &str = "anna@example.org";
const UNKNOWN: &str = "nobody@example.org";
const REFUSAL: &str = "550 5.1.1 <nobody@example.org>";

/// A proxy before a backend, with a store that outlives it.
struct Stored {
    backend: Backend,
    address: SocketAddr,
    directory: Directory,
}

impl Stored {
    async fn new() -> Self {
        let (backend, address) = Backend::start(Script::knowing([KNOWN])).await;
        Self { backend, address, directory: Directory::new("store") }
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("cache")
    }

    fn configuration(&self, path: &Path, more: &str) -> String {
        let cache = format!("[cache]\npath = \"{}\"\n{more}", path.display());
        Backstop::configuration(self.address) + &cache
    }

    async fn start(&self) -> (Backstop, SocketAddr) {
        Backstop::ready(&self.configuration(&self.path(), "")).await
    }

    /// How often the store was asked about the recipient nobody knows.
    fn asked(&self) -> usize {
        self.backend.record().rcpts_for(UNKNOWN)
    }
}

/// Asks about both recipients, once; gives the answer about the unknown one.
async fn ask(proxy: SocketAddr) -> String {
    let mut client = Client::greeted(proxy).await;
    client.envelope("sender@client.test", KNOWN).await.is("250");
    let refusal = client.command(&format!("RCPT TO:<{UNKNOWN}>")).await;
    client.quit().await;
    refusal.to_string()
}

/// Accepted recipients that the cache vouched for.
async fn from_cache(backstop: &Backstop) -> f64 {
    let series = r#"backstop_recipients_total{result="accepted",route="example.org",source="cache"}"#;
    backstop.admin().await.metric(series).await.unwrap_or(0.0)
}

/// Waits until so many records are stored.
async fn until_stored(backstop: &Backstop, records: u64) {
    let admin = backstop.admin().await;
    for _ in 0..600 {
        let store = admin.get("/api/v1/status").await.json()["cache"]["store"].clone();
        if store["records"].as_u64() >= Some(records) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("less than {records} records were stored");
}

async fn end(mut backstop: Backstop) {
    backstop.sigterm();
    assert!(backstop.exit().await.success(), "{}", backstop.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_is_warm() {
    let stored = Stored::new().await;
    let (backstop, proxy) = stored.start().await;
    let first = ask(proxy).await;
    assert!(first.starts_with(REFUSAL), "{first}");
    assert_eq!((stored.asked(), from_cache(&backstop).await), (1, 0.0));
    end(backstop).await;
    let (backstop, proxy) = stored.start().await;
    assert_eq!(ask(proxy).await, first, "in the same words");
    assert_eq!((stored.asked(), from_cache(&backstop).await), (1, 1.0));
    // And once more, from what was stored by now.
    end(backstop).await;
    let (backstop, proxy) = stored.start().await;
    assert_eq!(ask(proxy).await, first);
    assert_eq!((stored.asked(), from_cache(&backstop).await), (1, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_loses_no_more_than_the_last_seconds() {
    let stored = Stored::new().await;
    let (mut backstop, proxy) = stored.start().await;
    ask(proxy).await;
    until_stored(&backstop, 2).await;
    backstop.kill();
    backstop.exit().await;
    let (backstop, proxy) = stored.start().await;
    ask(proxy).await;
    assert_eq!((stored.asked(), from_cache(&backstop).await), (1, 1.0), "{}", backstop.log());
    assert!(!backstop.log().contains("renamed"), "{}", backstop.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_forgotten_stays_forgotten() {
    let one = format!("/api/v1/recipients/{UNKNOWN}");
    for forget in [one.as_str(), "/api/v1/recipients?domain=example.org", "/api/v1/recipients"] {
        let stored = Stored::new().await;
        let (backstop, proxy) = stored.start().await;
        ask(proxy).await;
        until_stored(&backstop, 2).await;
        backstop.admin().await.delete(forget).await;
        end(backstop).await;
        for starts in 0..2 {
            // Asked once more, and what was learnt then is found under the same keys after another restart.
            let (backstop, proxy) = stored.start().await;
            ask(proxy).await;
            assert_eq!(stored.asked(), 2, "{forget}, start {starts}");
            end(backstop).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_used_is_put_aside_and_told() {
    let stored = Stored::new().await;
    let (backstop, proxy) = stored.start().await;
    ask(proxy).await;
    end(backstop).await;
    let file = stored.path().join("verdicts.redb");
    fs::write(&file, "not a database").unwrap();
    let (backstop, proxy) = stored.start().await;
    assert!(backstop.log().contains("was renamed"), "{}", backstop.log());
    ask(proxy).await;
    assert_eq!(stored.asked(), 2);
    end(backstop).await;
    let (backstop, proxy) = stored.start().await;
    ask(proxy).await;
    assert_eq!(stored.asked(), 2, "the new one works");
    end(backstop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_told_and_the_proxy_runs_on_memory() {
    let stored = Stored::new().await;
    let blocked = stored.directory.write("file", "in the way").join("cache");
    let configuration = stored.configuration(&blocked, "");
    let (backstop, proxy) = Backstop::ready(&configuration).await;
    assert!(backstop.log().contains("remembered in memory alone"), "{}", backstop.log());
    ask(proxy).await;
    ask(proxy).await;
    assert_eq!(stored.asked(), 1);
    let file = stored.directory.write("checked.toml", configuration);
    let checked = Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(["check", "--config"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(78), "{told}");
    assert!(told.contains("fault: cache.path: the store in "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_one_directory_is_told_so_and_serves() {
    let stored = Stored::new().await;
    let (_first, _) = stored.start().await;
    let (second, proxy) = stored.start().await;
    assert!(second.log().contains("used by another process"), "{}", second.log());
    ask(proxy).await;
    ask(proxy).await;
    assert_eq!(stored.asked(), 1);
    let status = second.admin().await.get("/api/v1/status").await.json();
    assert!(status["cache"]["store"].is_null(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_begins_anew() {
    let stored = Stored::new().await;
    let (backstop, proxy) = stored.start().await;
    ask(proxy).await;
    end(backstop).await;
    let (backstop, proxy) =
        Backstop::ready(&stored.configuration(&stored.path(), "secret = \"another\"\n")).await;
    assert!(backstop.log().contains("secret of the store has changed"), "{}", backstop.log());
    ask(proxy).await;
    assert_eq!(stored.asked(), 2);
    end(backstop).await;
}

/// A small file system of its own.
struct SmallDisk<'d>(&'d Path);

impl<'d> SmallDisk<'d> {
    /// None where that is not allowed.
    fn mount(at: &'d Path, size: &str) -> Option<Self> {
        fs::create_dir_all(at).expect("the directory is ours");
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    let stored = Stored::new().await;
    let path = stored.path();
    let Some(_disk) = SmallDisk::mount(&path, "16m") else {
        eprintln!("SKIPPED: a small file system can only be mounted by root");
        return;
    };
    let (backstop, proxy) = stored.start().await;
    let filler = path.join("filler");
    fill(&filler);
    // More than fits into what the file has already.
    for round in 0..40 {
        flood(proxy, round).await;
        if backstop.log().contains("the store cannot be written") {
            break;
        }
    }
    backstop.logged("the store cannot be written").await;
    assert!(ask(proxy).await.starts_with(REFUSAL), "the proxy serves");
    let up = "backstop_store_up";
    let admin = backstop.admin().await;
    assert_eq!(admin.metric(up).await, Some(0.0));
    fs::remove_file(&filler).unwrap();
    backstop.logged("the store is written again").await;
    assert_eq!(admin.metric(up).await, Some(1.0));
    end(backstop).await;
    let (_backstop, proxy) = stored.start().await;
    let asked = stored.asked();
    ask(proxy).await;
    assert_eq!(stored.asked(), asked, "what was learnt meanwhile was written later");
}

/// Leaves no room.
fn fill(filler: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(filler).expect("the directory is ours");
    while file.write_all(&[1; 4096]).is_ok() {}
}

/// Has a hundred recipients asked about.
async fn flood(proxy: SocketAddr, round: usize) {
    let mut client = Client::greeted(proxy).await;
    client.command("MAIL FROM:<sender@client.test>").await.is("250");
    for batch in 0..10 {
        let lines: Vec<_> =
            (0..10).map(|n| format!("RCPT TO:<flood-{round}-{batch}-{n}@example.org>")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        client.pipeline(&lines).await;
    }
    client.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_port_that_takes_anyone_is_known_as_such_after_a_restart() {
    let (_asked, asked) = Backend::start(Script::knowing([KNOWN])).await;
    let (_delivery, delivery) = Backend::start(Script::blind()).await;
    let directory = Directory::new("store");
    let path = directory.path().join("cache");
    let configuration = Backstop::configuration(delivery)
        + &format!("[route.verify]\nbackends = [\"{asked}\"]\n[cache]\npath = \"{}\"\n", path.display());
    let domain = async |backstop: &Backstop| {
        let status = backstop.admin().await.get("/api/v1/status").await.json();
        status["routes"][0]["domains_known"][0].clone()
    };
    let (backstop, proxy) = Backstop::ready(&configuration).await;
    ask(proxy).await;
    let deadline = tokio::time::Instant::now() + support::PATIENCE;
    while domain(&backstop).await["delivery"] != "blind" {
        assert!(tokio::time::Instant::now() < deadline, "{}", backstop.log());
        sleep(Duration::from_millis(20)).await;
    }
    end(backstop).await;
    let (backstop, _) = Backstop::ready(&configuration).await;
    let known = domain(&backstop).await;
    assert_eq!((&known["delivery"], &known["rcpt"]), (&"blind".into(), &"truthful".into()), "{known}");
    // So what is remembered is the only guard, and lives no longer than that allows.
    let explained = backstop.admin().await.get(&format!("/api/v1/recipients/{KNOWN}")).await.json();
    let remaining = explained["cache"]["remaining_seconds"].as_u64().expect("it is remembered");
    assert!(remaining <= 15 * 60, "{explained}");
}
