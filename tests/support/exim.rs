//! A real Exim as the mail store: local mailboxes, each a maildir, on a loopback port of its own.
//!
//! It refuses unknown recipients at RCPT ("550 Unrouteable address"), relays for nobody and offers CHUNKING. All it
//! writes is in a directory of its own. It never has rights beyond the user it runs as, which is nobody when the tests
//! run as root: Exim delivers nothing as root.
//!
//! Debian's package of it conflicts with Postfix', so it is not installed but unpacked, by `tests/support/fetch-exim`
//! out of `tests/run`. Where that could not be done there is no Exim, and [`Exim::start`] says so on the terminal.
//!
//! The daemon is our child and the leader of its own process group; it ends after half an hour by itself should a test
//! be killed before it could end it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::machine::{Directory, Target, free_address, signal};
use super::postfix::Up;
use super::{deserted, eventually};

/// An Exim instance. Dropping it ends its processes and removes its files.
pub struct Exim {
    directory: Directory,
    address: SocketAddr,
    daemon: Option<Child>,
}

/// What `tests/support/fetch-exim` leaves.
const FILES: [&str; 2] = ["exim4", "libnss_wrapper.so"];
/// Whom it runs as where the tests run as root.
const NOBODY: u32 = 65534;

impl Exim {
    /// Starts an instance that knows these mailboxes and serves their domains; none where there is no Exim.
    pub async fn start(mailboxes: &[&str]) -> Option<Self> {
        Self::start_with(mailboxes, "").await
    }

    /// The same with more options of the main section, a line each.
    pub async fn start_with(mailboxes: &[&str], options: &str) -> Option<Self> {
        Self::start_as(|root, address| {
            options.to_owned() + &general(root, address) + &with_mailboxes(root, mailboxes)
        })
        .await
    }

    /// Starts one that has no mailboxes and asks `store` about each recipient of the domain (a callout); none where
    /// there is no Exim.
    pub async fn start_before(store: SocketAddr, domain: &str) -> Option<Self> {
        Self::start_as(|root, address| general(root, address) + &with_callout(store, domain)).await
    }

    async fn start_as(configuration: impl Fn(&Path, SocketAddr) -> String) -> Option<Self> {
        let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exim");
        if !FILES.iter().all(|file| fetched.join(file).exists()) {
            // Past the test runner, which would keep it to itself when the test passes.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED, for want of Exim (tests/support/fetch-exim): {}",
                thread::current().name().unwrap_or("a test")
            );
            return None;
        }
        loop {
            let mut exim = Self::laid_out(&fetched, &configuration);
            if exim.run().await == Up::Ready {
                return Some(exim);
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The messages in a mailbox as stored: Exim's own header lines first, newlines as LF. In no particular order.
    pub fn messages(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.path("mail").join(mailbox).join("new")) else {
            // The maildir comes into being with its first message.
            return Vec::new();
        };
        entries.filter_map(|entry| fs::read(entry.ok()?.path()).ok()).collect()
    }

    /// Waits until every session with it is over and all it took is in the mailboxes.
    pub async fn settled(&self) {
        deserted(self.address).await;
        eventually("Exim to deliver", || is_empty(&self.path("spool/input")).then_some(())).await;
    }

    /// Its logs until now.
    pub fn log(&self) -> String {
        ["main", "reject", "panic"]
            .iter()
            .filter_map(|name| fs::read(self.path("log").join(name)).ok())
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .collect()
    }

    /// Makes its directory, all of it belonging to whom it runs as.
    fn laid_out(fetched: &Path, configuration: impl Fn(&Path, SocketAddr) -> String) -> Self {
        let directory = Directory::new("exim");
        let address = free_address();
        let root = directory.path();
        for name in ["bin", "spool", "log", "mail"] {
            fs::create_dir(root.join(name)).expect("a new directory in our own");
        }
        // Where they were fetched to may be closed to the user it runs as.
        for entry in fs::read_dir(fetched).expect("it was fetched") {
            let file = entry.expect("a readable directory").path();
            fs::copy(&file, root.join("bin").join(file.file_name().expect("a named file"))).expect("a copy");
        }
        directory.write("exim.conf", configuration(root, address));
        let owner = fs::metadata(root).expect("our own").uid();
        let user = if owner == 0 { NOBODY } else { owner };
        directory.write("passwd", format!("Debian-exim:x:{user}:{user}::/nonexistent:/bin/false\n"));
        directory.write("group", format!("Debian-exim:x:{user}:\n"));
        if owner == 0 {
            for name in ["", "spool", "log", "mail"] {
                chown(root.join(name), Some(NOBODY), Some(NOBODY)).expect("root may");
            }
        }
        Self { directory, address, daemon: None }
    }

    async fn run(&mut self) -> Up {
        let bin = self.path("bin");
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "1800"])
            .arg(bin.join("exim4"))
            .arg("-C")
            .arg(self.path("exim.conf"))
            .arg("-bdf")
            .env_clear()
            .env("LD_LIBRARY_PATH", &bin)
            .env("LD_PRELOAD", bin.join("libnss_wrapper.so"))
            .env("NSS_WRAPPER_PASSWD", self.path("passwd"))
            .env("NSS_WRAPPER_GROUP", self.path("group"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if fs::metadata(self.directory.path()).expect("our own").uid() == NOBODY {
            command.uid(NOBODY).gid(NOBODY);
        }
        self.daemon = Some(command.spawn().expect("the system's timeout program"));
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            if self.greets().await {
                return Up::Ready;
            }
            let ended = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten());
            if let Some(status) = ended {
                let log = self.log();
                assert!(log.contains("Address already in use"), "Exim ended with {status}; its log:\n{log}");
                return Up::PortTaken;
            }
            assert!(Instant::now() < deadline, "Exim does not start; its log:\n{}", self.log());
            sleep(super::LOOK_AGAIN).await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether our own instance answers at the address, not a stranger that took the port.
    async fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return false };
        if fs::read_to_string(self.path("exim.conf")).unwrap_or_default().contains("hosts_proxy") {
            let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 1 {}\r\n", self.address.port());
            let _ = stream.write_all(header.as_bytes()).await;
        }
        let mut greeting = String::new();
        let read = BufReader::new(stream).read_line(&mut greeting).await;
        read.is_ok() && greeting.contains(&host_name(self.directory.path()))
    }
}

impl Drop for Exim {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let group = Target::Group(daemon.id());
        signal(group, "TERM");
        let _ = daemon.wait();
        // Its children are in the middle of a session or a delivery; nobody wants it any more.
        signal(group, "KILL");
        let deadline = Instant::now() + super::PATIENCE;
        while TcpListener::bind(self.address).is_err() && Instant::now() < deadline {
            thread::sleep(super::LOOK_AGAIN);
        }
    }
}

/// No other instance has it, as no other has its directory.
fn host_name(root: &Path) -> String {
    let name = root.file_name().expect("a named directory").to_string_lossy();
    format!("{name}.test")
}

/// Whether there is no file in the directory. One that was never made has none.
fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Only what receiving takes. The limits that would end a busy session are off.
fn general(root: &Path, address: SocketAddr) -> String {
    let host = host_name(root);
    let (ip, port) = (address.ip(), address.port());
    let root = root.display();
    format!(
        "primary_hostname = {host}
exim_path = {root}/bin/exim4
spool_directory = {root}/spool
log_file_path = {root}/log/%s
pid_file_path = {root}/exim.pid
keep_environment = LD_LIBRARY_PATH : LD_PRELOAD : NSS_WRAPPER_PASSWD : NSS_WRAPPER_GROUP
local_interfaces = <; {ip}
daemon_smtp_ports = {port}
deliver_drop_privilege
acl_smtp_rcpt = recipient
chunking_advertise_hosts = *
tls_advertise_hosts =
smtp_accept_max = 0
smtp_accept_max_nonmail = 1000000
smtp_accept_queue_per_connection = 0
message_size_limit = 0
log_selector = +smtp_connection
"
    )
}

/// Delivering to local mailboxes.
fn with_mailboxes(root: &Path, mailboxes: &[&str]) -> String {
    let parts = || mailboxes.iter().filter_map(|mailbox| mailbox.rsplit_once('@'));
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(" : ");
    let users = list(parts().map(|(user, _)| user).collect());
    let domains = list(parts().map(|(_, domain)| domain).collect());
    let root = root.display();
    format!(
        "
begin acl
recipient:
  accept domains = {domains}
         verify = recipient
  deny   message = relay not permitted
         domains = ! {domains}
  deny

begin routers
mailboxes:
  driver = accept
  domains = {domains}
  local_parts = {users}
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {root}/mail/$local_part_data@$domain_data
  maildir_format
  return_path_add
  envelope_to_add
  delivery_date_add
"
    )
}

/// Asking another server about each recipient while the client waits.
fn with_callout(store: SocketAddr, domain: &str) -> String {
    let (ip, port) = (store.ip(), store.port());
    format!(
        "smtp_connect_backlog = 500

begin acl
recipient:
  accept domains = {domain}
         verify = recipient/callout=30s
  deny

begin routers
store:
  driver = manualroute
  domains = {domain}
  route_list = * {ip}
  self = send
  transport = store

begin transports
store:
  driver = smtp
  port = {port}
  hosts_avoid_tls = *
"
    )
}
