//! The sample server as a process of its own, and a client that says what it is told.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server in a release tree of its own; ended with the test.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    pub folder: TempDir,
    /// Kept open as the starter does.
    pub listener: TcpListener,
}

pub struct Start {
    pub version: &'static str,
    pub broken: bool,
    pub arguments: Vec<&'static str>,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            version: "1",
            broken: false,
            arguments: vec!["--grace-ms", "300"],
        }
    }
}

pub fn make(out: &Path, version: &str, broken: bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ship-sample"));
    command.args(["make", "--version", version, "--out"]).arg(out);
    if broken {
        command.arg("--broken");
    }
    assert!(command.status().unwrap().success());
}

/// A shell gives the listener, its standard input, the number 3 and becomes the server, so that LISTEN_PID is right.
pub fn handed_over(listener: &TcpListener, tree: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "LISTEN_FDS=1 LISTEN_PID=$$ exec bin/server serve \"$@\" 3<&0 </dev/null",
            "sh",
        ])
        .current_dir(tree)
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    command
}

impl Server {
    pub fn start(start: &Start) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        make(&tree, start.version, start.broken);
        let notify = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let child = handed_over(&listener, &tree)
            .args(&start.arguments)
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .env("SHIP_DRAIN_FILE", folder.path().join("drain"))
            .env("SHIP_ASSETS_DIR", folder.path().join("union"))
            .env("SHIP_RELEASE", format!("web@{}", start.version))
            .env("SHIP_GENERATION", "5")
            .spawn()
            .unwrap();
        let mut message = [0; 64];
        let length = notify.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1");
        Self {
            child,
            address: listener.local_addr().unwrap(),
            folder,
            listener,
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn drain(&self) -> PathBuf {
        self.folder.path().join("drain")
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    pub fn get(&self, path: &str) -> Reply {
        let mut client = self.connect();
        client.ask("GET", path);
        client.reply().unwrap()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Client(pub BufReader<TcpStream>);

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    pub fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub fn ask(&mut self, method: &str, path: &str) {
        self.send(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    }

    pub fn head(&mut self) -> Option<Reply> {
        let mut headers = String::new();
        while !headers.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut headers).ok()? == 0 {
                return None;
            }
        }
        let status = headers.split(' ').nth(1)?.parse().ok()?;
        Some(Reply {
            status,
            headers,
            body: String::new(),
        })
    }

    pub fn reply(&mut self) -> Option<Reply> {
        let mut reply = self.head()?;
        let length = reply.header("content-length")?.parse().ok()?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        reply.body = String::from_utf8(body).ok()?;
        Some(reply)
    }

    /// Whether the server has ended the connection, in order and with nothing more to say.
    pub fn ended(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 16]), Ok(0))
    }
}
