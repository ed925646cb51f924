//! The built binary as a process: its configuration, what it listens on, its log, its memory and its end.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;
use tokio::time::timeout;

use super::PATIENCE;
use super::admin::Admin;
use super::machine::{Directory, Memory, Target, signal};

/// A running `backstop run`. Dropping it kills it; if the test failed, its log is shown.
pub struct Backstop {
    child: Child,
    told: watch::Receiver<Told>,
    directory: Directory,
}

/// What the process wrote until now.
#[derive(Clone, Debug, Default)]
struct Told {
    log: String,
    /// How many of its two output streams are still open: none means that it ended.
    open: usize,
}

impl Backstop {
    /// Starts it with a configuration. Give listeners and admin port 0: [`Backstop::address`] tells the real one.
    pub fn start(configuration: &str) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_backstop")), configuration)
    }

    /// The same through a command that takes the rest of its line for a command of its own.
    pub fn start_within(mut command: Command, configuration: &str) -> Self {
        command.arg(env!("CARGO_BIN_EXE_backstop"));
        Self::start_by(command, configuration)
    }

    /// The same, with `--watch`.
    pub fn start_watching(configuration: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" --watch", env!("CARGO_BIN_EXE_backstop")]);
        Self::start_by(command, configuration)
    }

    fn start_by(mut command: Command, configuration: &str) -> Self {
        let directory = Directory::new("run");
        let file = directory.write("backstop.toml", configuration);
        let mut child = command
            .arg("run")
            .arg("--config")
            .arg(file)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let (sender, told) = watch::channel(Told { log: String::new(), open: 2 });
        let sender = Arc::new(sender);
        listen_to(child.stdout.take().expect("its output is a pipe"), &sender);
        listen_to(child.stderr.take().expect("its output is a pipe"), &sender);
        Self { child, told, directory }
    }

    /// A configuration with one listener ("mx"), the admin endpoint, and one route for `example.org` to the backend.
    pub fn configuration(backend: SocketAddr) -> String {
        Self::configuration_of(&[("example.org".to_owned(), backend)], "")
    }

    /// The same with a route to a backend for each domain, and more keys in each of these routes.
    pub fn configuration_of(routes: &[(String, SocketAddr)], more: &str) -> String {
        let mut toml = String::from("hostname = \"mx.example.org\"\n");
        toml.push_str("[[listener]]\nname = \"mx\"\naddress = [\"127.0.0.1:0\"]\n");
        toml.push_str("[admin]\naddress = \"127.0.0.1:0\"\n");
        for (domain, backend) in routes {
            let _ = writeln!(toml, "[[route]]\ndomains = [\"{domain}\"]\nbackends = [\"{backend}\"]\n{more}");
        }
        toml
    }

    /// Starts it before a backend with [`Backstop::configuration`] and waits until it serves.
    pub async fn before(backend: SocketAddr) -> (Self, SocketAddr) {
        Self::before_with(backend, "").await
    }

    /// The same with more tables behind the configuration; the first may continue `[[route]]`.
    pub async fn before_with(backend: SocketAddr, more: &str) -> (Self, SocketAddr) {
        Self::ready(&(Self::configuration(backend) + more)).await
    }

    /// Starts it with a configuration that has a listener "mx" and the admin endpoint, and waits until it serves.
    pub async fn ready(configuration: &str) -> (Self, SocketAddr) {
        let backstop = Self::start(configuration);
        let address = backstop.address("mx").await;
        // Once it is ready it has greeted its backends: what a test counts afterwards is the test's own doing.
        backstop.admin().await.until_ready().await;
        (backstop, address)
    }

    /// Where the listener of this name is bound; waits until it is.
    ///
    /// # Panics
    /// When the process ends first, or does not bind it after [`PATIENCE`].
    pub async fn address(&self, name: &str) -> SocketAddr {
        let told =
            self.until(&format!("listening on … ({name})"), |told| bound(&told.log, name).is_some()).await;
        bound(&told.log, name).unwrap_or_else(|| panic!("it ended before it bound {name}:\n{}", told.log))
    }

    /// Its admin endpoint.
    pub async fn admin(&self) -> Admin {
        Admin::at(self.address("admin").await)
    }

    /// All it wrote, to standard output and standard error.
    pub fn log(&self) -> String {
        self.told.borrow().log.clone()
    }

    /// Waits until its log contains the text, or it ends.
    pub async fn logged(&self, text: &str) -> String {
        self.until(text, |told| told.log.contains(text)).await.log
    }

    /// Its resident memory.
    pub fn memory(&self) -> Memory {
        Memory::of(self.child.id())
    }

    /// Makes what is resident now the peak.
    pub fn forget_memory_peak(&self) {
        Memory::forget_peak(self.child.id());
    }

    /// Replaces its configuration file, at once. It reads it when it is asked to.
    pub fn rewrite(&self, configuration: &str) {
        let new = self.directory.write("backstop.toml.new", configuration);
        std::fs::rename(new, self.directory.path().join("backstop.toml")).expect("our directory");
    }

    /// Asks it to read its configuration and its certificates again.
    pub fn sighup(&self) {
        signal(Target::Process(self.child.id()), "HUP");
    }

    /// Asks it to drain and end.
    pub fn sigterm(&self) {
        signal(Target::Process(self.child.id()), "TERM");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it runs on after [`PATIENCE`].
    pub async fn exit(&mut self) -> ExitStatus {
        self.until("its end", |told| told.open == 0).await;
        self.child.wait().expect("our own child")
    }

    /// Waits for the condition or for its end, whichever comes first.
    async fn until(&self, what: &str, mut condition: impl FnMut(&Told) -> bool) -> Told {
        let mut told = self.told.clone();
        let waiting = timeout(PATIENCE, told.wait_for(|told| told.open == 0 || condition(told))).await;
        match waiting {
            Ok(Ok(told)) => told.clone(),
            _ => panic!("{what}: not within {PATIENCE:?}; its log:\n{}", self.log()),
        }
    }
}

impl Drop for Backstop {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the log of a failed test belongs to its output")]
            {
                eprintln!("--- log of backstop ---\n{}--- end of log ---", self.log());
            }
        }
    }
}

/// Collects an output stream in a thread of its own: the process must never wait for a reader.
fn listen_to(stream: impl Read + Send + 'static, told: &Arc<watch::Sender<Told>>) {
    let told = Arc::clone(told);
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(read_line(&mut stream, &mut line), Ok(1..)) {
            told.send_modify(|told| told.log.push_str(&String::from_utf8_lossy(&line)));
        }
        told.send_modify(|told| told.open -= 1);
    });
}

fn read_line(stream: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    stream.read_until(b'\n', line)
}

/// The address in `listening on ADDR (NAME)`, whatever stands before it in the line.
fn bound(log: &str, name: &str) -> Option<SocketAddr> {
    let end = format!(" ({name})");
    log.lines().find_map(|line| {
        let (_, rest) = line.split_once("listening on ")?;
        rest.split_once(&end)?.0.parse().ok()
    })
}
