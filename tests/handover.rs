//! A new Backstop takes over from an old one on the same address, while clients come without a pause.
//!
//! What stands in the queue of a socket that is closed goes to the others of its address only where the system is told
//! so (`net.ipv4.tcp_migrate_req`, ip-sysctl). That is set in a network namespace made for this, not on the machine.

#![expect(clippy::print_stdout, reason = "a test says what it did")]

mod support;

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::client::Client;
use support::machine::free_address;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const KNOWN: &str = "anna@example.org";
const MESSAGE: &[u8] = b"Subject: hello\r\n\r\ntext\r\n";
/// Times one takes over from another.
const TIMES: usize = 5;

/// What became of one client's connections.
#[derive(Debug, Default)]
struct Heard {
    delivered: usize,
    /// Told to come again: 421, at the greeting or later.
    put_off: usize,
    /// Refused, reset, or left without a word.
    lost: Vec<String>,
}

/// Set within the namespace.
const INSIDE: &str = "BACKSTOP_TEST_HANDOVER";
const NAMESPACE: &str = "ip link set lo up && echo 1 >/proc/sys/net/ipv4/tcp_migrate_req || exit 77; exec \"$0\" --exact \"$1\" --nocapture";

#[test]
fn nobody_is_refused_while_a_new_process_takes_over() {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Runtime::new().expect("a runtime").block_on(take_over());
    }
    let mut within = Command::new("unshare");
    within.args(["--net", "sh", "-c", NAMESPACE]).arg(std::env::current_exe().expect("this test"));
    let within = within.arg("nobody_is_refused_while_a_new_process_takes_over").env(INSIDE, "yes").output();
    let within = within.expect("util-linux is there");
    let said = [within.stdout, within.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match within.status.code() {
        Some(0) => println!("{said}"),
        Some(1 | 77) if !said.contains("panicked") => {
            let name = "nobody_is_refused_while_a_new_process_takes_over";
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED, for want of a network namespace with tcp_migrate_req: {name}"
            );
        }
        _ => panic!("{said}"),
    }
}

async fn take_over() {
    let (backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let address = free_address();
    let configuration = Backstop::configuration(store)
        + &format!("[[listener]]\nname = \"shared\"\naddress = [\"{address}\"]\nreuse_port = true\n")
        + "[timeouts]\ndrain_delay = \"200ms\"\n";
    let (mut old, _) = Backstop::ready(&configuration).await;
    let over = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        clients.spawn(deliver_until(over.clone(), address));
    }
    for _ in 0..TIMES {
        let (new, _) = Backstop::ready(&configuration).await;
        old.sigterm();
        assert!(old.exit().await.success());
        old = new;
    }
    over.cancel();
    let (mut delivered, mut put_off) = (0, 0);
    while let Some(heard) = clients.join_next().await {
        let heard = heard.expect("a client does not panic");
        assert!(heard.lost.is_empty(), "{heard:?}");
        delivered += heard.delivered;
        put_off += heard.put_off;
    }
    println!("{TIMES} times taken over: {delivered} delivered, {put_off} told to come again");
    assert!(delivered > TIMES, "clients came all the time: {delivered}");
    assert_eq!(backend.record().messages.len(), delivered);
}

async fn deliver_until(over: CancellationToken, address: std::net::SocketAddr) -> Heard {
    let mut heard = Heard::default();
    while !over.is_cancelled() {
        match deliver(address).await {
            Ok(true) => heard.delivered += 1,
            Ok(false) => heard.put_off += 1,
            Err(how) => heard.lost.push(how),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    heard
}

/// Whether the message was taken, rather than put off.
async fn deliver(address: std::net::SocketAddr) -> Result<bool, String> {
    let connecting = Client::try_connect_from(std::net::Ipv4Addr::LOCALHOST, address);
    let mut client = connecting.await.map_err(|fault| format!("connect: {fault}"))?;
    for line in [
        "",
        "EHLO client.test\r\n",
        "MAIL FROM:<sender@client.test>\r\n",
        &format!("RCPT TO:<{KNOWN}>\r\n"),
        "DATA\r\n",
        &format!("{}.\r\n", String::from_utf8_lossy(MESSAGE)),
    ] {
        if !line.is_empty() {
            // Who was told to come again finds nobody to say more to.
            let _ = client.try_send(line).await;
        }
        let reply = client.try_reply().await.ok_or_else(|| format!("no answer to {line:?}"))?;
        match reply.code {
            421 => return Ok(false),
            code if code < 400 => {}
            code => return Err(format!("{code} to {line:?}")),
        }
    }
    // The message is acknowledged; what is said to QUIT is one farewell or the other.
    let _ = client.try_send("QUIT\r\n").await;
    client.try_reply().await.ok_or("no farewell")?;
    Ok(true)
}
