//! Hosts that have IPv4 alone: `[::]`, which is the default and in all that is delivered, serves there too, and the commands that
//! ask the admin endpoint find it.
//!
//! There are two kinds: a kernel without IPv6 (`ipv6.disable=1`), which has no socket of that family, and one told not to use it
//! (`disable_ipv6`), which has no address of it. A container on a network of IPv4 alone may be either.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use support::backend::{Backend, Script};
use support::backstop::Backstop;
use support::client::Client;
use support::eventually;
use support::machine::{Directory, free_address};
use support::namespaces::Host;

const KNOWN: &str = "anna@example.org";

/// Runs the rest of its line without sockets of IPv6: a filter of system calls (seccomp(2)) gives EAFNOSUPPORT for them. Its first
/// argument is a port of which it hands over the listening socket, as systemd would; 0: none.
const WITHOUT_IPV6: &str = r#"
import ctypes, os, platform, socket, struct, sys
port = int(sys.argv[1])
if port:
    handed = socket.create_server(("0.0.0.0", port))
    os.dup2(handed.fileno(), 3, inheritable=True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
call = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, call or 0), (0x20, 0, 0, 16), (0x15, 0, 1, socket.AF_INET6), (6, 0, 0, 0x50000 + 97), (6, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc = ctypes.CDLL(None)
if call is None or libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Filter(len(steps), ctypes.addressof(code))), 0, 0):
    sys.exit("no filter of system calls can be had here")
os.execv(sys.argv[2], sys.argv[2:])
"#;

fn without_ipv6(handed: u16) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_IPV6, &handed.to_string()]);
    command
}

/// Listens on all addresses, and has its admin endpoint there.
fn configuration(backend: SocketAddr, listening: u16, admin: u16) -> String {
    Backstop::configuration(backend)
        .replace("[\"127.0.0.1:0\"]", &format!("[\"[::]:{listening}\"]"))
        .replace("\"127.0.0.1:0\"", &format!("\"[::]:{admin}\""))
}

/// How a command ends that takes all it knows from this configuration.
fn ends(mut within: Command, configuration: &str, command: &str) -> Option<i32> {
    let directory = Directory::new("ipv4-only");
    let file = directory.write("backstop.toml", configuration);
    within.args([env!("CARGO_BIN_EXE_backstop"), command, "--config"]).arg(file);
    within.output().expect("it was built").status.code()
}

const ASKING: [&str; 2] = ["healthcheck", "report"];

#[tokio::test(flavor = "multi_thread")]
async fn without_ipv6_in_the_kernel_all_addresses_are_those_of_ipv4() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let written = configuration(store, 0, 0);
    let backstop = Backstop::start_within(without_ipv6(0), &written);
    let (address, admin) = (backstop.address("mx").await, backstop.address("admin").await);
    assert_eq!((address.ip(), admin.ip()), (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()));
    backstop.admin().await.until_ready().await;
    let of_ipv4 = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    Client::greeted(of_ipv4).await.quit().await;
    backstop.logged("this host has no IPv6").await;
    for command in ASKING {
        let asked = configuration(store, 0, admin.port());
        assert_eq!(ends(without_ipv6(0), &asked, command), Some(0), "{command}");
    }
    // The socket is the one that another configuration wants, too.
    backstop.rewrite(&(written + "[limits]\nmax_recipients = 9\n"));
    backstop.sighup();
    let log = backstop.logged("a new configuration is in force").await;
    assert_eq!(log.matches("listening on ").count(), 2, "{log}");
    Client::greeted(of_ipv4).await.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ipv6_in_the_kernel_the_socket_of_ipv4_is_the_one_that_was_handed_over() {
    let (_backend, store) = Backend::start(Script::knowing([KNOWN])).await;
    let address = free_address();
    let backstop =
        Backstop::start_within(without_ipv6(address.port()), &configuration(store, address.port(), 0));
    backstop.admin().await.until_ready().await;
    Client::greeted(address).await.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_of_ipv6_the_endpoint_is_asked_over_ipv4() {
    let Some(host) = Host::new("v4") else { return };
    host.run("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6");
    let written = configuration(SocketAddr::from((Ipv4Addr::LOCALHOST, 2)), 25, 9525);
    let backstop = Backstop::start_within(host.command("env"), &written);
    assert!(backstop.address("admin").await.is_ipv6());
    eventually("ready", || (ends(host.command("env"), &written, "healthcheck") == Some(0)).then_some(()))
        .await;
    for command in ASKING {
        assert_eq!(ends(host.command("env"), &written, command), Some(0), "{command}");
    }
}
