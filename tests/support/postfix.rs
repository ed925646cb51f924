//! A real Postfix as the mail store: virtual mailboxes, each a maildir, on a loopback port of its own.
//!
//! It refuses unknown recipients at RCPT with its own words ("550 5.1.1 … User unknown in virtual mailbox table") and
//! relays for nobody. All it writes is in a directory of its own, so that any number run side by side and beside the
//! system's. It needs an installed Postfix and root, as Postfix does: its daemons run under its own user.
//!
//! The conversation of every session is in its log (`debug_peer_list`), which is how RCPTs are counted while sessions
//! are still open. `master` is our child and the leader of its own process group; it ends after half an hour by itself
//! should a test be killed before it could end it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::machine::{Directory, Target, free_address, signal};
use super::{deserted, eventually};

/// A Postfix instance. Dropping it ends its processes and removes its files.
pub struct Postfix {
    directory: Directory,
    address: SocketAddr,
    master: Option<Child>,
}

/// Whom virtual mailboxes belong to. Postfix insists that it is not its own user.
const MAILBOX_OWNER: u32 = 65534;

impl Postfix {
    /// Starts an instance that knows these mailboxes and serves their domains.
    pub async fn start(mailboxes: &[&str]) -> Self {
        Self::start_with(mailboxes, &[]).await
    }

    /// The same with more `main.cf` parameters, which win over ours.
    pub async fn start_with(mailboxes: &[&str], parameters: &[(&str, &str)]) -> Self {
        loop {
            let directory = Directory::new("postfix");
            let address = free_address();
            let users = Users::of_postfix();
            lay_out(directory.path(), &users);
            directory.write("config/main.cf", main_cf(directory.path(), mailboxes, parameters));
            directory.write("config/master.cf", master_cf(address));
            let mut postfix = Self { directory, address, master: None };
            match postfix.resume().await {
                Up::Ready => return postfix,
                Up::PortTaken => {}
            }
        }
    }

    /// Starts an instance without mailboxes that asks `store` about each recipient of the domain
    /// (`reject_unverified_recipient`): as its documentation says, and with the shortest wait it has.
    pub async fn start_before(store: SocketAddr, domain: &str) -> Self {
        let transport = format!("relay:[{}]:{}", store.ip(), store.port());
        let parameters = [
            ("relay_domains", domain),
            ("relay_transport", &transport),
            ("smtpd_recipient_restrictions", "reject_unauth_destination, reject_unverified_recipient"),
            ("unverified_recipient_reject_code", "550"),
            ("address_verify_poll_delay", "1s"),
            ("default_process_limit", "300"),
            ("smtpd_soft_error_limit", "1000000"),
            ("smtpd_hard_error_limit", "1000000"),
            ("smtpd_junk_command_limit", "1000000"),
            ("debug_peer_list", ""),
            ("smtp_host_lookup", "native"),
        ];
        Self::start_with(&[], &parameters).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts it again, at the same address, after [`Postfix::stop`].
    pub async fn resume(&mut self) -> Up {
        self.stop();
        let child = Command::new(postconf("daemon_directory").join("master"))
            .arg("-c")
            .arg(self.path("config"))
            .args(["-d", "-e", "1800"])
            .env_clear()
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Postfix is installed");
        self.master = Some(child);
        let deadline = Instant::now() + super::PATIENCE;
        loop {
            if self.greets().await {
                return Up::Ready;
            }
            let ended = self.master.as_mut().and_then(|master| master.try_wait().ok().flatten());
            if let Some(status) = ended {
                let log = self.log();
                assert!(
                    log.contains("Address already in use"),
                    "Postfix ended with {status}; its log:\n{log}"
                );
                return Up::PortTaken;
            }
            assert!(Instant::now() < deadline, "Postfix does not start; its log:\n{}", self.log());
            sleep(super::LOOK_AGAIN).await;
        }
    }

    /// Ends it in order. Nobody listens at its address when this returns.
    pub fn stop(&mut self) {
        self.end("TERM");
    }

    /// Ends all its processes at once, as a crash would.
    pub fn kill(&mut self) {
        self.end("KILL");
    }

    /// The messages in a mailbox as stored: Postfix' own header lines first, newlines as LF. In no particular order.
    pub fn messages(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let Ok(entries) = fs::read_dir(self.path("mail").join(mailbox).join("new")) else {
            // The maildir comes into being with its first message.
            return Vec::new();
        };
        entries.filter_map(|entry| fs::read(entry.ok()?.path()).ok()).collect()
    }

    /// Removes all messages from a mailbox.
    pub fn empty(&self, mailbox: &str) {
        let _ = fs::remove_dir_all(self.path("mail").join(mailbox));
    }

    /// Waits until the mailbox holds so many messages and returns them.
    ///
    /// # Panics
    /// When they have not come after [`super::PATIENCE`].
    pub async fn wait_for_messages(&self, mailbox: &str, count: usize) -> Vec<Vec<u8>> {
        let what = format!("{count} messages for {mailbox}");
        eventually(&what, || Some(self.messages(mailbox)).filter(|messages| messages.len() >= count)).await
    }

    /// Waits until every session with it is over and all it took is in the mailboxes.
    pub async fn settled(&self) {
        deserted(self.address).await;
        // In the order in which a message passes through them: it cannot slip from one not looked at yet into one that
        // was.
        let queues = ["queue/maildrop", "queue/incoming", "queue/active"];
        let is_empty = |queue| fs::read_dir(self.path(queue)).is_ok_and(|mut files| files.next().is_none());
        eventually("Postfix to deliver", || queues.into_iter().all(is_empty).then_some(())).await;
    }

    /// Its log until now, every command and reply included.
    pub fn log(&self) -> String {
        fs::read(self.path("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Waits until the log holds everything that happened before this call: it is written by a process of its own.
    pub async fn log_caught_up(&self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("NOOP mark-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Client::greeted(self.address).await.command(&mark).await.is("250");
        eventually("its log to catch up", || (self.count(&mark) > 0).then_some(())).await;
    }

    /// How many commands in the log began with these words, as written.
    pub fn count(&self, words: &str) -> usize {
        self.log().lines().filter_map(command).filter(|command| command.starts_with(words)).count()
    }

    /// How many RCPTs in the log named the address.
    pub fn rcpts_for(&self, address: &str) -> usize {
        self.count(&format!("RCPT TO:<{address}>"))
    }

    /// How many connections are in the log. Those that found out whether it is up are among them.
    pub fn connections(&self) -> usize {
        self.log().matches(": connect from ").count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether our own instance answers at the address, not a stranger that took the port.
    async fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address).await else { return false };
        let configuration = fs::read_to_string(self.path("config/main.cf")).unwrap_or_default();
        if configuration.contains("smtpd_upstream_proxy_protocol") {
            let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 1 {}\r\n", self.address.port());
            let _ = stream.write_all(header.as_bytes()).await;
        }
        let mut greeting = String::new();
        let read = BufReader::new(stream).read_line(&mut greeting).await;
        read.is_ok() && greeting.contains(&host_name(self.directory.path()))
    }

    fn end(&mut self, with: &str) {
        let Some(mut master) = self.master.take() else { return };
        let group = Target::Group(master.id());
        signal(group, with);
        let _ = master.wait();
        // Children that were just starting may have missed it; each of them holds the listening socket.
        signal(group, "KILL");
        let deadline = Instant::now() + super::PATIENCE;
        while TcpListener::bind(self.address).is_err() && Instant::now() < deadline {
            thread::sleep(super::LOOK_AGAIN);
        }
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What came of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    Ready,
    PortTaken,
}

/// The stored message behind Postfix' and the sender's header lines: everything after the first empty line.
pub fn body(stored: &[u8]) -> &[u8] {
    let end = memchr::memmem::find(stored, b"\n\n").expect("a stored message has a header and a body");
    &stored[end + 2..]
}

/// The command in a line of the verbose log (`… < client[address]: RCPT TO:<…>`).
fn command(line: &str) -> Option<&str> {
    line.split_once(": < ")?.1.split_once("]: ").map(|(_, command)| command)
}

struct Users {
    postfix: u32,
    postdrop: u32,
}

impl Users {
    fn of_postfix() -> Self {
        let postfix =
            number("/etc/passwd", "postfix").expect("Postfix is installed: it has a user of its own");
        let postdrop =
            number("/etc/group", "postdrop").expect("Postfix is installed: it has a group of its own");
        Self { postfix, postdrop }
    }
}

/// User or group number: the third field in either file.
fn number(file: &str, name: &str) -> Option<u32> {
    let content = fs::read_to_string(file).ok()?;
    let line = content.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// A built-in default of the installed Postfix.
fn postconf(parameter: &str) -> PathBuf {
    let output =
        Command::new("postconf").args(["-d", "-h", parameter]).output().expect("Postfix is installed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// The directories as `postfix set-permissions` would make them.
fn lay_out(root: &Path, users: &Users) {
    let directory = |name: &str, mode: u32, user: u32, group: u32| {
        let path = root.join(name);
        fs::create_dir(&path).expect("a new directory in our own");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
        chown(&path, Some(user), Some(group)).expect("tests with Postfix run as root");
    };
    directory("config", 0o755, 0, 0);
    directory("data", 0o700, users.postfix, 0);
    directory("mail", 0o700, MAILBOX_OWNER, MAILBOX_OWNER);
    directory("queue", 0o755, 0, 0);
    directory("queue/pid", 0o755, 0, 0);
    for name in [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved",
        "trace",
    ] {
        directory(&format!("queue/{name}"), 0o700, users.postfix, 0);
    }
    directory("queue/maildrop", 0o730, users.postfix, users.postdrop);
    directory("queue/public", 0o710, users.postfix, users.postdrop);
}

/// No other instance has it, as no other has its directory.
fn host_name(root: &Path) -> String {
    let name = root.file_name().expect("a named directory").to_string_lossy();
    format!("{name}.test")
}

fn main_cf(root: &Path, mailboxes: &[&str], more: &[(&str, &str)]) -> String {
    let domains: Vec<_> = mailboxes.iter().filter_map(|mailbox| Some(mailbox.rsplit_once('@')?.1)).collect();
    let maps: String = mailboxes.iter().fold(String::new(), |mut maps, mailbox| {
        let _ = write!(maps, " {{ {mailbox} = {mailbox}/ }}");
        maps
    });
    let root_path = root.display().to_string();
    let mut parameters: BTreeMap<&str, String> = BTreeMap::from([
        ("compatibility_level", "3.6".to_owned()),
        ("myhostname", host_name(root)),
        ("mydestination", String::new()),
        ("inet_interfaces", "127.0.0.1".to_owned()),
        ("inet_protocols", "ipv4".to_owned()),
        // Exempt from limits per client; relaying is refused to it all the same.
        ("mynetworks", "127.0.0.0/8".to_owned()),
        ("smtpd_relay_restrictions", "reject_unauth_destination".to_owned()),
        ("queue_directory", format!("{root_path}/queue")),
        ("data_directory", format!("{root_path}/data")),
        ("command_directory", postconf("command_directory").display().to_string()),
        ("daemon_directory", postconf("daemon_directory").display().to_string()),
        ("mail_owner", "postfix".to_owned()),
        ("setgid_group", "postdrop".to_owned()),
        ("maillog_file", format!("{root_path}/log")),
        ("maillog_file_prefixes", root_path.clone()),
        ("debug_peer_list", "127.0.0.1".to_owned()),
        ("debug_peer_level", "1".to_owned()),
        ("virtual_mailbox_domains", domains.join(" ")),
        ("virtual_mailbox_maps", format!("inline:{{{maps} }}")),
        ("virtual_mailbox_base", format!("{root_path}/mail")),
        ("virtual_uid_maps", format!("static:{MAILBOX_OWNER}")),
        ("virtual_gid_maps", format!("static:{MAILBOX_OWNER}")),
        ("virtual_mailbox_limit", "0".to_owned()),
        ("message_size_limit", "0".to_owned()),
        ("alias_maps", String::new()),
        ("alias_database", String::new()),
        ("local_recipient_maps", String::new()),
        // Tests that want to see it wait set it.
        ("smtpd_error_sleep_time", "0".to_owned()),
    ]);
    parameters.extend(more.iter().map(|&(name, value)| (name, value.to_owned())));
    parameters.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}

/// Only what receiving and delivering to virtual mailboxes takes, and what a front takes that asks a store (which only
/// [`Postfix::start_before`] has relay domains for); nothing in a chroot.
fn master_cf(address: SocketAddr) -> String {
    format!(
        "{address} inet n - n - - smtpd\n\
         cleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\n\
         flush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\n\
         error unix - - n - - error\n\
         retry unix - - n - - error\n\
         virtual unix - n n - - virtual\n\
         anvil unix - - n - 1 anvil\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\n\
         postlog unix-dgram n - n - 1 postlogd\n\
         verify unix - - n - 1 verify\n\
         relay unix - - n - - smtp\n"
    )
}
