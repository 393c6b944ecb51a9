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
        let rate = rate.to_string();
        let mut words = vec![
            "--rate".to_owned(),
            rate.clone(),
            "--keep-alive-rate".to_owned(),
            rate,
        ];
        for target in targets {
            words.extend(["--target".to_owned(), format!("http://{target}{path}")]);
        }
        Self::with(&words)
    }

    /// Sends what these arguments of `ship-load run` say.
    ///
    /// # Panics
    /// When the generator cannot be started.
    pub fn with(words: &[String]) -> Self {
        let mut command = Command::new(crate::bin("ship-load"));
        command.arg("run").arg("--json").args(words);
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
