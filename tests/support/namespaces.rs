//! Hosts of our own: network namespaces with cables between them, where the machine lets us have them.
//!
//! Each is removed when dropped; their names hold our process id, so that two runs share a machine.

use std::io::Write as _;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// One host.
pub struct Host {
    name: String,
}

impl Host {
    /// A new host with its loopback up; none where namespaces, or the programs this takes, are not to be had. Then the
    /// terminal says which test was skipped.
    pub fn new(role: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let host = Self { name: format!("bs{}-{number}-{role}", process::id()) };
        let made = succeeds(Command::new("ip").args(["netns", "add", &host.name]))
            && succeeds(host.command("ip").args(["link", "set", "lo", "up"]))
            && succeeds(host.command("nft").args(["list", "ruleset"]));
        if made {
            return Some(host);
        }
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED, for want of network namespaces and nft: {}",
            thread::current().name().unwrap_or("a test")
        );
        None
    }

    /// Its name as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run on it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a line of shell on it.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, script: &str) {
        let output = self.command("sh").args(["-ec", script]).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {script}\n{said}", self.name);
    }

    /// Lays a cable to another host: an interface on each side, called by the other's role.
    pub fn cable(&self, here: &str, other: &Self, there: &str) {
        let script = format!(
            "ip link add {here} type veth peer name {there} netns {}; ip link set {here} up",
            other.name
        );
        self.run(&script);
        other.run(&format!("ip link set {there} up"));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        succeeds(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

fn succeeds(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
