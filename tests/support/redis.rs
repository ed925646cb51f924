//! A real Redis on a loopback port of its own, without a file, and with the user whose access list the documentation shows.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::eventually;
use super::machine::{Directory, Target, free_address, signal};

/// What its user shows.
pub const PASSWORD: &str = "s3cret-of-redis";
const GUIDE: &str = include_str!("../../docs/shared-state.md");

/// A Redis. Dropping it ends it.
pub struct Redis {
    child: Child,
    address: SocketAddr,
    directory: Directory,
    more: Vec<String>,
}

impl Redis {
    /// Starts one with these options besides ours.
    pub async fn start(more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        loop {
            let (directory, address) = (Directory::new("redis"), free_address());
            let child = spawn(&directory, address, &more);
            let mut redis = Self { child, address, directory, more: more.clone() };
            // A port that was taken meanwhile ends it.
            if redis.listens().await {
                return redis;
            }
        }
    }

    async fn listens(&mut self) -> bool {
        let (child, address) = (&mut self.child, self.address);
        let up = eventually("Redis to listen or to end", || match child.try_wait() {
            Ok(Some(_)) => Some(false),
            _ => std::net::TcpStream::connect(address).is_ok().then_some(true),
        });
        up.await
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `cache.shared` is to be.
    pub fn url(&self) -> String {
        url(self.address)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again where it was, empty.
    pub async fn revive(&mut self) {
        loop {
            self.child = spawn(&self.directory, self.address, &self.more);
            if self.listens().await {
                return;
            }
        }
    }

    /// It neither answers nor ends.
    pub fn freeze(&self) {
        signal(Target::Process(self.child.id()), "STOP");
    }

    pub fn thaw(&self) {
        signal(Target::Process(self.child.id()), "CONT");
    }

    /// What `redis-cli` prints for a command.
    pub fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.address.port().to_string(), "--raw"])
            .args(arguments)
            .output()
            .expect("redis-cli is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until so many keys begin with this.
    pub async fn until_keys(&self, pattern: &str, number: usize) {
        let what = format!("{number} keys {pattern}");
        eventually(&what, || (self.command(&["KEYS", pattern]).lines().count() >= number).then_some(()))
            .await;
    }

    /// All keys and what is in them.
    pub fn dump(&self) -> String {
        let mut dump = String::new();
        for key in self.command(&["--scan"]).lines() {
            dump += key;
            dump.push('\n');
            dump += &match self.command(&["TYPE", key]).trim() {
                "string" => self.command(&["GET", key]),
                "hash" => self.command(&["HGETALL", key]),
                "zset" => self.command(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
                // It expired just now.
                "none" => String::new(),
                kind => panic!("{key} is a {kind}"),
            };
        }
        dump
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn url(address: SocketAddr) -> String {
    format!("redis://backstop:{PASSWORD}@{address}")
}

/// The access list, from the guide.
fn access_list() -> Vec<String> {
    let line = GUIDE.lines().find_map(|line| line.strip_prefix("user backstop on "));
    let list = line.expect("the guide has an access list").replace(">PASSWORD", &format!(">{PASSWORD}"));
    list.split_whitespace().map(ToOwned::to_owned).collect()
}

fn spawn(directory: &Directory, address: SocketAddr, more: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(["--user", "backstop", "on"])
        .args(access_list())
        .args(more)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// A way to a server that can be cut, and mended.
pub struct Line {
    address: SocketAddr,
    to: SocketAddr,
    whole: CancellationToken,
}

impl Line {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let mut line = Self { address, to: server, whole: CancellationToken::new() };
        line.carry(listener);
        line
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut(&self) {
        self.whole.cancel();
    }

    pub async fn mend(&mut self) {
        let address = self.address;
        let socket = eventually("the port of the line", || std::net::TcpListener::bind(address).ok()).await;
        socket.set_nonblocking(true).expect("a socket of ours");
        self.carry(TcpListener::from_std(socket).expect("a socket of ours"));
    }

    fn carry(&mut self, listener: TcpListener) {
        self.whole = CancellationToken::new();
        let (to, whole) = (self.to, self.whole.clone());
        tokio::spawn(async move {
            let mut carried = JoinSet::new();
            let carrying = async {
                while let Ok((mut near, _)) = listener.accept().await {
                    carried.spawn(async move {
                        if let Ok(mut far) = TcpStream::connect(to).await {
                            let _ = copy_bidirectional(&mut near, &mut far).await;
                        }
                    });
                }
            };
            whole.run_until_cancelled(carrying).await;
        });
    }
}
