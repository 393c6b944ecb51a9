//! A real HAProxy before servers under test, with a configuration and a runtime API of its own.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::wait;

/// A running HAProxy; killed when dropped.
#[derive(Debug)]
pub struct Haproxy {
    child: Option<Child>,
    front: SocketAddr,
    dir: tempfile::TempDir,
}

impl Haproxy {
    /// Begins to balance over `servers`, of which `check` is asked; `extra` goes into the front end, `server_words` to
    /// each server. None: it is not installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(
        servers: &[(String, SocketAddr)],
        check: &str,
        extra: &str,
        server_words: &[String],
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let mut haproxy = Self {
            child: None,
            front: free_front(),
            dir,
        };
        let text = haproxy.text(servers, check, extra, server_words);
        haproxy.write("broken", "");
        haproxy.write("haproxy.cfg", &text);
        haproxy.run().then_some(haproxy)
    }

    /// Runs a configuration that somebody else wrote: `text` gets the path of the runtime API and where users come in. None: it
    /// is not installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with(text: impl FnOnce(&Path, SocketAddr) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let mut haproxy = Self {
            child: None,
            front: free_front(),
            dir,
        };
        let text = text(&haproxy.socket(), haproxy.front);
        haproxy.write("haproxy.cfg", &text);
        haproxy.run().then_some(haproxy)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// False: it is not installed.
    fn run(&mut self) -> bool {
        let child = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(self.dir.path().join("haproxy.cfg"))
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => panic!("haproxy: {error}"),
        }
        wait::until("HAProxy to answer", || {
            self.ask("show info").filter(|said| !said.is_empty())
        });
        true
    }

    /// Starts it anew after [`Haproxy::kill`], with the same configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub fn again(&mut self) {
        assert!(self.run(), "HAProxy was there a moment ago");
    }

    /// Its runtime API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    /// Where users come in.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Nothing that would hide a lost request: no retries, no other server for one that fails.
    fn text(
        &self,
        servers: &[(String, SocketAddr)],
        check: &str,
        extra: &str,
        server_words: &[String],
    ) -> String {
        let mut text = format!(
            "global\n    maxconn 1000\n    stats socket {} level admin\n\
             defaults\n    mode http\n    retries 0\n    timeout client 60s\n    timeout server 20s\n    timeout connect 2s\n    timeout check 5s\n\
             frontend users\n    bind {}\n{extra}    http-request del-header upgrade if {{ path -f {} }}\n    \
             default_backend web\n\
             backend web\n    option httpchk GET {check}\n",
            self.socket().display(),
            self.front,
            self.broken().display(),
        );
        for (name, _) in servers {
            text.push_str(&format!(
                "    use-server {name} if {{ req.hdr(x-ship-host) {name} }}\n"
            ));
        }
        for (nth, (name, address)) in servers.iter().enumerate() {
            let words = server_words
                .get(nth)
                .map_or("check inter 100ms fall 3 rise 1", String::as_str);
            text.push_str(&format!("    server {name} {address} {words}\n"));
        }
        text
    }

    fn broken(&self) -> PathBuf {
        self.dir.path().join("broken")
    }

    /// From now on no request for `path` becomes a WebSocket, or all do again.
    ///
    /// # Panics
    /// When it is not told.
    pub fn breaks_upgrades(&self, path: &str, broken: bool) {
        let word = if broken { "add" } else { "del" };
        let command = format!("{word} acl {} {path}", self.broken().display());
        let said = self
            .ask(&command)
            .unwrap_or_else(|| panic!("{command}: no answer"));
        assert!(
            !said.to_ascii_lowercase().contains("unknown"),
            "{command}: {said}"
        );
    }

    fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }

    /// `UP`, `MAINT`, `DRAIN`, … for each server, in their order.
    #[must_use]
    pub fn states(&self) -> Vec<String> {
        let table = self.ask("show stat web 4 -1").unwrap_or_default();
        let mut lines = table.lines();
        let head = lines.next().unwrap_or_default();
        let column = head
            .split(',')
            .position(|name| name == "status")
            .unwrap_or(usize::MAX);
        lines
            .filter_map(|line| Some(line.split(',').nth(column)?.to_owned()))
            .collect()
    }

    /// Waits until every server takes users.
    pub fn all_up(&self) {
        wait::until("all servers to be up", || {
            let states = self.states();
            let up = |state: &String| state == "UP" || state == "no check";
            (!states.is_empty() && states.iter().all(up)).then_some(())
        });
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- HAProxy: {:?}", self.states());
        }
        self.kill();
    }
}

/// An address that nobody takes: on a part of the loopback net of this process's own, and with none of the ports that the kernel
/// gives away. Nobody has bound it to find it free: a process that another test is just starting would hold it still.
pub(crate) fn free_front() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 128 | a, b, c.max(1)], port))
}
