//! A real nginx before the hosts of a fleet, with its upstream in a file of its own.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::wait;

/// A running nginx; ended when dropped.
#[derive(Debug)]
pub struct Nginx {
    child: Option<Child>,
    front: SocketAddr,
    dir: tempfile::TempDir,
}

impl Nginx {
    /// Begins to balance over `servers`. None: it is not installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(servers: &[(String, SocketAddr)]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let mut nginx = Self {
            child: None,
            front: crate::haproxy::free_front(),
            dir,
        };
        nginx.write("nginx.conf", &nginx.text());
        let mut upstream = "upstream web {\n".to_owned();
        for (_, address) in servers {
            let _ = writeln!(upstream, "    server {address} max_fails=0;");
        }
        upstream.push_str("    keepalive 8;\n}\n");
        nginx.write("upstream.conf", &upstream);
        nginx.run().then_some(nginx)
    }

    /// Runs servers that somebody else wrote: `text`, which stands inside `http`, gets where users come in. None: it is
    /// not installed.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with(text: impl FnOnce(SocketAddr) -> String) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let mut nginx = Self {
            child: None,
            front: crate::haproxy::free_front(),
            dir,
        };
        let text = format!(
            "worker_processes 2;\npid nginx.pid;\nerror_log error.log;\n{}events {{ }}\nhttp {{\n    access_log off;\n{}{}\n}}\n",
            as_root(),
            temporary(),
            text(nginx.front)
        );
        nginx.write("nginx.conf", &text);
        nginx.run().then_some(nginx)
    }

    /// False: it is not installed.
    fn run(&mut self) -> bool {
        let child = Command::new("nginx")
            .args(self.words())
            .args(["-g", "daemon off;"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return false,
            Err(error) => panic!("nginx: {error}"),
        }
        wait::until("nginx to listen", || {
            std::net::TcpStream::connect(self.front).ok()
        });
        true
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn words(&self) -> [String; 4] {
        let dir = self.dir.path().display().to_string();
        let config = format!("{dir}/nginx.conf");
        ["-p".to_owned(), dir, "-c".to_owned(), config]
    }

    /// The command that has the upstream read again.
    #[must_use]
    pub fn reload(&self) -> Vec<String> {
        let mut words = vec!["nginx".to_owned()];
        words.extend(self.words());
        words.extend(["-s", "reload"].map(str::to_owned));
        words
    }

    /// The file with the servers' lines.
    #[must_use]
    pub fn upstream(&self) -> PathBuf {
        self.dir.path().join("upstream.conf")
    }

    /// How many servers are marked `down`.
    #[must_use]
    pub fn down(&self) -> usize {
        let text = std::fs::read_to_string(self.upstream()).unwrap_or_default();
        text.matches(" down;").count()
    }

    /// Where users come in.
    #[must_use]
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// Nothing that would hide a lost request, such as another server for one that fails. Users' connections are not kept:
    /// an nginx older than 1.27.4 cuts idle ones at each reload, whoever asks for it.
    fn text(&self) -> String {
        let temporary = temporary();
        format!(
            "worker_processes 2;\npid nginx.pid;\nerror_log error.log;\nevents {{ }}\n\
             http {{\n    access_log off;\n    keepalive_timeout 0;\n{temporary}    include upstream.conf;\n    \
             server {{\n        listen {};\n        location / {{\n            proxy_pass http://web;\n            \
             proxy_http_version 1.1;\n            proxy_set_header Connection \"\";\n            \
             proxy_next_upstream off;\n        }}\n    }}\n}}\n",
            self.front
        )
    }
}

/// As root its workers become somebody who may not read a temporary folder, unless they are told not to.
fn as_root() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "user root;\n"
    } else {
        ""
    }
}

/// Folders of its own for what it spools.
fn temporary() -> String {
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {kind};\n"))
        .collect()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("error.log"));
            eprintln!("--- nginx: {}", log.unwrap_or_default());
        }
        let Some(mut child) = self.child.take() else {
            return;
        };
        // The master ends its workers; killed, it would leave them.
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = child.wait();
    }
}
