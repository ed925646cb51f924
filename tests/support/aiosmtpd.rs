//! A store on Python's aiosmtpd, whose messages are kept as they came, octet for octet, with their envelopes.
//!
//! It takes DATA only: aiosmtpd has no CHUNKING. It needs Debian's python3-aiosmtpd, and the Python of the system, for
//! which that is installed. The server ends with its standard input, so none outlives a test that was killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::eventually;
use super::machine::Directory;

/// A running server. Dropping it ends it and removes its files.
pub struct Aiosmtpd {
    directory: Directory,
    address: SocketAddr,
    child: Child,
}

/// A message and its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub sender: String,
    pub recipients: Vec<String>,
    /// Its octets, newlines as CRLF, without the doubled dots.
    pub content: Vec<u8>,
}

impl Aiosmtpd {
    /// Starts a server that knows these mailboxes and refuses all others.
    pub fn start(mailboxes: &[&str]) -> Self {
        let directory = Directory::new("aiosmtpd");
        let mut child = Command::new("/usr/bin/python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/aiosmtpd_store.py"))
            .arg(directory.path())
            .args(mailboxes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the system's Python is installed");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line).expect("its output is ours");
        let port: u16 = line.trim().parse().expect("it starts: python3-aiosmtpd is installed");
        Self { directory, address: SocketAddr::from(([127, 0, 0, 1], port)), child }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All messages it took, in no particular order.
    pub fn stored(&self) -> Vec<Stored> {
        let entries = fs::read_dir(self.directory.path()).expect("our own directory");
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "envelope"))
            .map(|path| read(&path))
            .collect()
    }

    /// The messages for a mailbox, in no particular order.
    pub fn messages(&self, mailbox: &str) -> Vec<Vec<u8>> {
        let for_mailbox = |stored: &Stored| stored.recipients.iter().any(|recipient| recipient == mailbox);
        self.stored().into_iter().filter(for_mailbox).map(|stored| stored.content).collect()
    }

    /// Lets it end with the last of its sessions, and waits for that: what is stored then is all there will be.
    pub async fn settled(&mut self) {
        drop(self.child.stdin.take());
        let status = eventually("aiosmtpd to end", || self.child.try_wait().expect("our own child")).await;
        assert!(status.success(), "aiosmtpd ended with {status}");
    }
}

impl Drop for Aiosmtpd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(envelope: &Path) -> Stored {
    let text = fs::read_to_string(envelope).expect("a file of our own");
    let envelope_value: serde_json::Value = serde_json::from_str(&text).expect("it was written whole");
    let text_of = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let recipients = envelope_value["recipients"].as_array().expect("a list").iter().map(text_of).collect();
    let content = fs::read(envelope.with_extension("message")).expect("it was written before the envelope");
    Stored { sender: text_of(&envelope_value["sender"]), recipients, content }
}
