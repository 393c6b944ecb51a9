//! The load generator as a child: runs until it is told to stop, then says what was lost.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// Requests under way at a steady rate.
#[derive(Debug)]
pub struct Load {
    child: Child,
}

impl Load {
    /// Asks `targets` in turn, `rate` times a second on new connections and as often on kept ones.
    ///
    /// # Panics
    /// When the generator cannot be started.
    pub fn start(targets: &[SocketAddr], path: &str, rate: u32) -> Self {
        let mut command = Command::new(crate::bin("ship-load"));
        command.arg("run").arg("--json");
        command.args([
            "--rate",
            &rate.to_string(),
            "--keep-alive-rate",
            &rate.to_string(),
        ]);
        for target in targets {
            command.args(["--target", &format!("http://{target}{path}")]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("ship-load: {error}"));
        Self { child }
    }

    /// Ends the load and gives its summary.
    ///
    /// # Panics
    /// When it gave none.
    pub fn finish(mut self) -> Value {
        drop(self.child.stdin.take());
        let mut said = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            let _ = stdout.read_to_string(&mut said);
        }
        let _ = self.child.wait();
        let mut lines = said
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let summary = lines.rfind(|line| line["kind"] == "summary");
        summary.unwrap_or_else(|| panic!("the load generator gave no summary:\n{said}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
