//! The load generator as a child: runs until it is told to stop, then says what was lost.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::Value;

/// Requests under way at a steady rate.
#[derive(Debug)]
pub struct Load {
    child: Child,
    reader: Option<JoinHandle<()>>,
    /// What it told last.
    told: Arc<Mutex<Value>>,
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
        command.args(["run", "--json", "--progress", "200ms"]).args(words);
        // A full backlog drops who comes, and the kernel knocks again after 1, 2, 4 and 8 seconds: late is not lost.
        command.args(["--timeout", "20s", "--connect-timeout", "20s"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("ship-load: {error}"));
        let told = Arc::new(Mutex::new(Value::Null));
        let reader = child.stdout.take().map(|stdout| {
            let told = Arc::clone(&told);
            std::thread::spawn(move || listen(stdout, &told))
        });
        Self { child, reader, told }
    }

    /// Waits until users have got an answer of this release that they had not when this was asked.
    ///
    /// # Panics
    /// When none comes.
    pub fn until_answered_by(&self, release: u64) {
        let answers = || {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let answers = told.pointer(&format!("/releases/{release}/answers"));
            answers.and_then(Value::as_u64).unwrap_or(0)
        };
        let before = answers();
        crate::wait::until(&format!("an answer of release {release}"), || {
            (answers() > before).then_some(())
        });
    }

    /// Ends the load and gives its summary.
    ///
    /// # Panics
    /// When it gave none.
    pub fn finish(mut self) -> Value {
        drop(self.child.stdin.take());
        let read = self.reader.take().map(JoinHandle::join);
        assert!(matches!(read, Some(Ok(()))), "the load generator was not heard");
        let _ = self.child.wait();
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(
            told["kind"], "summary",
            "the load generator gave no summary: {told}"
        );
        told
    }
}

/// Keeps the last of what it tells, as it would wait for a reader of a full pipe.
fn listen(stdout: ChildStdout, told: &Mutex<Value>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Ok(report) = serde_json::from_str(&line) {
            *told.lock().unwrap_or_else(PoisonError::into_inner) = report;
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
