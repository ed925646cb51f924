//! Under a supervisor that hands over sockets and wants to be told: what systemd does, done here by hand.

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::machine::{Directory, Target, free_address, signal};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `backstop` with `socket` as its descriptor 3, as `sd_listen_fds(3)` wants it, and notices for `notify`.
fn start(directory: &Directory, socket: TcpListener) -> (Child, UnixDatagram) {
    let address = socket.local_addr().expect("it is bound");
    let configuration = format!(
        "hostname = \"mx.example.org\"\n[[listener]]\naddress = [\"{address}\"]\n[admin]\naddress = \"\"\n\
         [[route]]\ndomains = [\"example.org\"]\nbackends = [\"{}\"]\n[timeouts]\nbackend_connect = \"1s\"\n",
        free_address()
    );
    let file = directory.write("backstop.toml", configuration);
    let path = directory.path().join("notify");
    let notices = UnixDatagram::bind(&path).expect("our directory is writable");
    notices.set_read_timeout(Some(PATIENCE)).expect("a duration above 0");
    // The shell has the number of the process that it becomes.
    let child = Command::new("sh")
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$@\"", "sh"])
        .args([env!("CARGO_BIN_EXE_backstop"), "run", "--config"])
        .arg(file)
        .env("LISTEN_FDS", "1")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    (child, notices)
}

/// The next notice that is not `skipped`.
fn notice(notices: &UnixDatagram, skipped: &str) -> String {
    let mut buffer = [0; 256];
    loop {
        let length = notices.recv(&mut buffer).expect("it tells us something in time");
        let text = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
        if text != skipped {
            return text;
        }
    }
}

#[test]
fn a_socket_that_was_handed_over_is_served_and_the_supervisor_is_told() {
    let directory = Directory::new("activation");
    let socket = TcpListener::bind("127.0.0.1:0").expect("loopback has a port");
    let address = socket.local_addr().expect("it is bound");
    // Who comes before it runs waits in the socket's queue.
    let early = TcpStream::connect(address).expect("somebody listens");
    early.set_read_timeout(Some(PATIENCE)).expect("a duration above 0");
    let (mut child, notices) = start(&directory, socket);
    assert_eq!(notice(&notices, "WATCHDOG=1"), "READY=1");
    let mut greeting = String::new();
    BufReader::new(&early).read_line(&mut greeting).expect("it greets");
    assert!(greeting.starts_with("220 mx.example.org"), "{greeting}");
    assert_eq!(notice(&notices, ""), "WATCHDOG=1");
    assert_eq!(notice(&notices, ""), "WATCHDOG=1");
    drop(early);
    signal(Target::Process(child.id()), "TERM");
    assert_eq!(notice(&notices, "WATCHDOG=1"), "STOPPING=1");
    assert!(child.wait().expect("it is ours").success());
}
