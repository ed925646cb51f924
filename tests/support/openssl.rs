//! OpenSSL's client: TLS by an implementation that is not ours.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Runs `openssl s_client` against the server with these further arguments, sends the commands once TLS is there (the
/// last should be QUIT: `s_client` ends when the server does), and gives all it printed.
pub async fn s_client(server: SocketAddr, arguments: &[&str], commands: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "openssl", "s_client", "-connect", &server.to_string(), "-crlf", "-ign_eof"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input: String = commands.iter().map(|command| format!("{command}\n")).collect();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("OpenSSL is installed");
        // A client that could not connect reads nothing.
        let _ = child.stdin.as_mut().expect("its input is a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("our own child")
    });
    let output = output.await.expect("it does not panic");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
