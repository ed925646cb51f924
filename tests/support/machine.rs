//! What tests borrow from the machine: directories, ports, signals, and a look at a process' memory.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A directory of our own, removed when dropped. Others may enter it (Postfix works under other users).
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Creates an empty directory whose name no other test and no other run has.
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("backstop-{purpose}-{}-{number}", process::id()));
        // Left by a killed run that had our process id.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a temporary directory can be created");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content).expect("our directory is writable");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A process that is just ending may still create a file between two of our looks.
        for _ in 0..10 {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                _ => break,
            }
        }
    }
}

/// An address on loopback where nobody listens now, for a server that must be told its port.
///
/// It lies below the range from which systems take the ports of outgoing connections, so that none of those is in the
/// way later. Another process may still take it first: who listens there must be ready to try another.
pub fn free_address() -> SocketAddr {
    const PORTS: Range<u16> = 10_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(process::id() % 22_000).expect("below 22000");
    loop {
        // The stride has no divisor in common with the range: every port comes up before one comes twice.
        let turn = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * 1_009;
        let offset = (u32::from(start) * 37 + turn) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("below the length of the range");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Whom a signal goes to.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// One process.
    Process(u32),
    /// A process we started as the leader of a group, and all its children.
    Group(u32),
}

/// Sends a signal by its name ("TERM"). One that is gone already is no error.
pub fn signal(target: Target, name: &str) {
    let target = match target {
        Target::Process(pid) => pid.to_string(),
        Target::Group(pid) => format!("-{pid}"),
    };
    // The shell's own `kill`: it is on every machine, and a system call of ours would need unsafe code.
    let script = format!("kill -s {name} -- {target} 2>/dev/null");
    Command::new("sh").args(["-c", &script]).status().expect("a shell is installed");
}

/// A TCP connection over IPv4 as the kernel sees one end of it (proc(5), /proc/net/tcp).
#[derive(Clone, Copy, Debug)]
pub struct TcpEnd {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Octets sent and not yet acknowledged by the other end.
    pub unsent: u32,
    /// Octets that arrived and that the process has not read.
    pub unread: u32,
}

impl TcpEnd {
    /// All ends of connections that a process has not closed yet, listening sockets left out.
    ///
    /// The kernel walks through all of its tables for this, so those who ask at the same time are given the same look,
    /// never one that began before they asked.
    pub async fn all() -> Arc<[Self]> {
        static LATEST: Mutex<Option<(Instant, Arc<[TcpEnd]>)>> = Mutex::const_new(None);
        let asked = Instant::now();
        let mut latest = LATEST.lock().await;
        match &*latest {
            Some((began, ends)) if *began >= asked => Arc::clone(ends),
            _ => {
                let began = Instant::now();
                let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
                let ends: Arc<[Self]> = table.lines().skip(1).filter_map(Self::parse).collect();
                *latest = Some((began, Arc::clone(&ends)));
                ends
            }
        }
    }

    fn parse(line: &str) -> Option<Self> {
        const SYN_RECEIVED: &str = "03";
        const ESTABLISHED: &str = "01";
        const CLOSE_WAIT: &str = "08";
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (ipv4(fields.next()?)?, ipv4(fields.next()?)?);
        if ![ESTABLISHED, SYN_RECEIVED, CLOSE_WAIT].contains(&fields.next()?) {
            return None;
        }
        let (unsent, unread) = fields.next()?.split_once(':')?;
        let octets = |hexadecimal| u32::from_str_radix(hexadecimal, 16).ok();
        Some(Self { local, remote, unsent: octets(unsent)?, unread: octets(unread)? })
    }
}

/// An address as `/proc/net/tcp` writes it: the octets in the machine's order, then the port.
fn ipv4(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
}

/// Resident memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most since the process began, or since [`Memory::forget_peak`].
    pub peak: u64,
}

impl Memory {
    /// Of the process, as the kernel tells.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field of every process");
            let kilobytes: u64 =
                line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
            kilobytes * 1024
        };
        Self { resident: field("VmRSS:"), peak: field("VmHWM:") }
    }

    /// Makes what is resident now the peak (proc(5), clear_refs).
    pub fn forget_peak(pid: u32) {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("our own child");
    }
}
