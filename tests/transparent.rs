//! Addresses that are not ours, between hosts of our own: a client's connection to the backend is redirected to us (TPROXY), and ours
//! comes to the backend from the client's address. Neither side has heard of us.
//!
//! Needs root, network namespaces and nft; where they are not to be had the terminal says that it was skipped.

mod support;

use std::process::Stdio;

use support::backstop::Backstop;
use support::eventually;
use support::machine::Directory;
use support::namespaces::Host;

/// Addresses of one family: the client's, the proxy's two, and the backend's.
struct Family {
    client: &'static str,
    towards_client: &'static str,
    towards_backend: &'static str,
    backend: &'static str,
    length: u8,
    /// `ip` options, nft's word for it, the backend with its port.
    option: &'static str,
    word: &'static str,
    endpoint: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "192.0.2.7",
        towards_client: "192.0.2.1",
        towards_backend: "198.51.100.1",
        backend: "198.51.100.25",
        length: 24,
        option: "-4",
        word: "ip",
        endpoint: "198.51.100.25:25",
    },
    Family {
        client: "2001:db8:1::7",
        towards_client: "2001:db8:1::1",
        towards_backend: "2001:db8:2::1",
        backend: "2001:db8:2::25",
        length: 64,
        option: "-6",
        word: "ip6",
        endpoint: "[2001:db8:2::25]:25",
    },
];

/// The backend: it knows `anna`, and answers a message with whom it thinks it speaks to.
const BACKEND: &str = r"
import asyncio, sys
async def session(reader, writer):
    peer = writer.get_extra_info('peername')
    def say(text):
        writer.write((text + '\r\n').encode())
    say('220 store.test ESMTP')
    while line := await reader.readline():
        verb = line.decode().strip().upper()
        if verb.startswith('RCPT') and 'ANNA@' not in verb:
            say('550 5.1.1 No such user')
        elif verb == 'DATA':
            say('354 Go ahead')
            while await reader.readline() != b'.\r\n':
                pass
            say(f'250 2.0.0 Stored for {peer[0]} from port {peer[1]}')
        elif verb == 'QUIT':
            say('221 Bye')
            break
        else:
            say('250 Ok')
    writer.close()
async def main():
    server = await asyncio.start_server(session, host=sys.argv[1:], port=25)
    print('ready', flush=True)
    await server.serve_forever()
asyncio.run(main())
";

/// A client that connects to the backend, as it thinks, and says from which port it does and what it heard in the end.
const CLIENT: &str = r"
import smtplib, sys
server = smtplib.SMTP(timeout=60, local_hostname='client.test')
server.connect(sys.argv[1], 25)
server.ehlo()
print(server.mail('sender@client.test'), server.rcpt('nobody@example.org'), server.rcpt('anna@example.org'))
print(server.sock.getsockname()[1], server.data('Subject: hello\r\n\r\ntext\r\n'))
server.quit()
";

/// Client, proxy and backend in a row; each family's packets to port 25 are taken out of their way on the proxy, and so are those to
/// a socket of ours that has a client's address.
fn laid_out(client: &Host, proxy: &Host, backend: &Host) {
    client.cable("proxy", proxy, "client");
    backend.cable("proxy", proxy, "backend");
    proxy
        .run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0");
    for family in &FAMILIES {
        let Family { length, option, word, .. } = family;
        let address = |host: &Host, device: &str, address: &str| {
            let nodad = if *option == "-6" { "nodad" } else { "" };
            host.run(&format!("ip {option} address add {address}/{length} dev {device} {nodad}"));
        };
        address(client, "proxy", family.client);
        address(proxy, "client", family.towards_client);
        address(proxy, "backend", family.towards_backend);
        address(backend, "proxy", family.backend);
        client.run(&format!("ip {option} route add default via {}", family.towards_client));
        backend.run(&format!("ip {option} route add default via {}", family.towards_backend));
        proxy.run(&format!(
            "ip {option} rule add fwmark 1 lookup 100; ip {option} route add local default dev lo table 100"
        ));
        proxy.run(&format!(
            "nft add table {word} backstop
             nft add chain {word} backstop divert '{{ type filter hook prerouting priority mangle; }}'
             nft add rule {word} backstop divert meta l4proto tcp socket transparent 1 meta mark set 1 accept
             nft add rule {word} backstop divert iifname client tcp dport 25 tproxy to :2525 meta mark set 1 accept"
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_side_notices_us_over_ipv4_and_ipv6() {
    let (Some(client), Some(proxy), Some(backend)) =
        (Host::new("client"), Host::new("proxy"), Host::new("backend"))
    else {
        return;
    };
    laid_out(&client, &proxy, &backend);
    let directory = Directory::new("transparent");
    let program = directory.write("store.py", BACKEND);
    let store = backend
        .command("python3")
        .arg(program)
        .args(FAMILIES.iter().map(|family| family.backend))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(std::fs::File::create(directory.path().join("ready")).expect("our directory"))
        .spawn()
        .expect("Python is installed");
    let _store = Running(store);
    let is_ready = || std::fs::read(directory.path().join("ready")).ok().filter(|said| !said.is_empty());
    eventually("the store to listen", is_ready).await;

    let configuration = format!(
        "hostname = \"mx.example.org\"\n\
         [[listener]]\nname = \"mx\"\naddress = [\"[::]:2525\"]\ntransparent = true\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\ndomains = [\"example.org\"]\nbackends = [{:?}, {:?}]\nclient_address = \"transparent\"\n",
        FAMILIES[0].endpoint, FAMILIES[1].endpoint
    );
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", proxy.name()]);
    let backstop = Backstop::start_within(command, &configuration);
    backstop.address("admin").await;

    let program = directory.write("client.py", CLIENT);
    for family in &FAMILIES {
        let mut sender = client.command("timeout");
        sender.args(["60", "python3"]).arg(&program).arg(family.backend);
        let said =
            tokio::task::spawn_blocking(move || sender.output()).await.expect("no panic").expect("it runs");
        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(said.contains("550, b'5.1.1 No such user'"), "{said}\n{}", backstop.log());
        let port = said.lines().nth(1).and_then(|line| line.split(' ').next()).expect("a port");
        let stored = format!("2.0.0 Stored for {} from port {port}", family.client);
        assert!(said.contains(&stored), "{stored:?} in {said}\n{}", backstop.log());
        // The session's line, which names the client the socket has.
        backstop.logged(&format!("client={}", shown(family.client, port))).await;
    }
}

/// An address and a port as the log writes them.
fn shown(address: &str, port: &str) -> String {
    std::net::SocketAddr::new(address.parse().expect("an address"), port.parse().expect("a port")).to_string()
}

/// A process that ends with its test, whatever becomes of that.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
