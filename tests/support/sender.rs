//! Clients we did not write: swaks and Python's smtplib.

use std::fmt;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::machine::Directory;

/// What a sender said of its attempt.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status was 0: every recipient and the message were accepted.
    pub delivered: Delivered,
    /// All it printed.
    pub transcript: String,
}

/// Whether the message was accepted for every recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    Accepted,
    Refused,
}

impl Outcome {
    /// Fails the test unless the message was accepted.
    #[track_caller]
    pub fn is_accepted(&self) -> &Self {
        assert_eq!(self.delivered, Delivered::Accepted, "{self}");
        self
    }

    /// Fails the test unless it was refused with this text.
    #[track_caller]
    pub fn is_refused_with(&self, text: &str) -> &Self {
        assert_eq!(self.delivered, Delivered::Refused, "{self}");
        assert!(self.transcript.contains(text), "expected {text:?} in {self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:\n{}", self.delivered, self.transcript)
    }
}

/// Sends a message with swaks. A final line end is added where there is none.
///
/// Deviation: swaks would double the dots itself, but its care for hand-written messages also drops a last line that is
/// a dot and replaces %TOKENS%; it is told to send what we prepared.
pub async fn swaks(server: SocketAddr, recipient: &str, message: &[u8]) -> Outcome {
    swaks_with(server, recipient, message, &[]).await
}

/// The same with more arguments.
pub async fn swaks_with(server: SocketAddr, recipient: &str, message: &[u8], arguments: &[&str]) -> Outcome {
    let directory = Directory::new("swaks");
    let data = directory.write("message", dotted(message));
    let mut command = Command::new("swaks");
    command.args(["--server", &server.ip().to_string(), "--port", &server.port().to_string()]);
    command.args(["--from", "sender@client.test", "--to", recipient, "--ehlo", "client.test"]);
    command.arg("--no-data-fixup").arg("--data").arg(format!("@{}", data.display()));
    command.args(arguments);
    let outcome = run(command, Vec::new()).await;
    drop(directory);
    outcome
}

/// Sends a message with Python's smtplib, which doubles dots and adds a final CRLF where there is none, and changes
/// nothing else.
pub async fn smtplib(server: SocketAddr, recipients: &[&str], message: &[u8]) -> Outcome {
    const PROGRAM: &str = "\
import smtplib, sys
with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), local_hostname='client.test', timeout=60) as server:
    refused = server.sendmail('sender@client.test', sys.argv[3:], sys.stdin.buffer.read())
    sys.exit(str(refused) if refused else 0)
";
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, &server.ip().to_string(), &server.port().to_string()]).args(recipients);
    run(command, message.to_vec()).await
}

/// The message as DATA carries it, up to the final dot without its line end [RFC 5321 §4.5.2].
fn dotted(message: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(message.len() + 3);
    for line in message.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            octets.push(b'.');
        }
        octets.extend_from_slice(line);
    }
    if !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    octets.push(b'.');
    octets
}

/// Runs a program with this input, off the runtime's threads, since its peer may run there.
async fn run(mut command: Command, input: Vec<u8>) -> Outcome {
    let output = tokio::task::spawn_blocking(move || {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program is installed");
        // It reads all its input before it writes more than a pipe holds.
        let _ = child.stdin.take().expect("its input is a pipe").write_all(&input);
        child.wait_with_output().expect("our own child")
    });
    let output = output.await.expect("it does not panic");
    let delivered = if output.status.success() { Delivered::Accepted } else { Delivered::Refused };
    let transcript = [output.stdout, output.stderr].concat();
    Outcome { delivered, transcript: String::from_utf8_lossy(&transcript).into_owned() }
}
