//! A program of the operator's: without a shell, with an environment of its own, as the store's user (which has no privileges
//! to give away), for as long as it may take.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use ship_model::path::escape;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// What is kept of the end of what a program prints, in bytes.
pub const KEPT: usize = 1500;
/// For the last words of one that has ended; a child of its own may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_millis(500);
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What is to be run.
#[derive(Debug)]
pub struct Task<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    /// Its environment, besides `PATH` and `LANG`. Nothing of the store's: that may hold keys.
    pub surroundings: Vec<(&'static str, String)>,
    /// Its standard input.
    pub input: &'a [u8],
    pub patience: Duration,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    /// The last lines that it printed, escaped.
    pub said: String,
}

/// Why there is no end of its own.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot start it")]
    Start(#[source] io::Error),
    #[error("cannot wait for it")]
    Wait(#[source] io::Error),
    /// It was killed, with all of its process group.
    #[error("not done within {seconds} s")]
    Slow { seconds: u64, said: String },
}

/// Runs it and waits for its end. Who stops waiting ends it, with all of its process group.
///
/// # Errors
/// [`RunError`]; an exit code is none.
pub async fn run(task: Task<'_>) -> Result<Ended, RunError> {
    let mut command = Command::new(task.program);
    command
        .args(task.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .envs(task.surroundings)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut running = Running(command.spawn().map_err(RunError::Start)?);
    let said = Said::default();
    let mut talk = JoinSet::new();
    if let Some(mut stdin) = running.0.stdin.take() {
        let input = task.input.to_vec();
        talk.spawn(async move {
            // One that does not read what it is given may still do what it should.
            let _ = stdin.write_all(&input).await;
        });
    }
    if let Some(out) = running.0.stdout.take() {
        talk.spawn(said.clone().keep(out));
    }
    if let Some(err) = running.0.stderr.take() {
        talk.spawn(said.clone().keep(err));
    }
    let Ok(ended) = timeout(task.patience, running.0.wait()).await else {
        return Err(RunError::Slow {
            seconds: task.patience.as_secs(),
            said: said.lines(),
        });
    };
    let status = ended.map_err(RunError::Wait)?;
    // What is said later than that is lost.
    let _ = timeout(LAST_WORDS, async { while talk.join_next().await.is_some() {} }).await;
    Ok(Ended {
        status,
        said: said.lines(),
    })
}

/// Ends with all its group when nobody waits for it any longer.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // None: it has ended, and its number may be another's.
        let group = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The end of what it prints.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<VecDeque<u8>>>);

impl Said {
    async fn keep(self, mut from: impl AsyncRead + Unpin) {
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(&buffer[..read]);
            let over = kept.len().saturating_sub(KEPT);
            kept.drain(..over);
        }
    }

    fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: Vec<u8> = kept.iter().copied().collect();
        let lines = kept
            .split(|byte| *byte == b'\n')
            .map(|line| escape(line.trim_ascii_end()));
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::fs;

    use super::*;

    async fn sh(script: &str, input: &[u8]) -> Result<Ended, RunError> {
        let arguments = ["-c", script].map(str::to_owned);
        let task = Task {
            program: Path::new("/bin/sh"),
            arguments: &arguments,
            surroundings: vec![("SHIP_APP", "web".to_owned())],
            input,
            patience: Duration::from_secs(120),
        };
        run(task).await
    }

    #[tokio::test]
    async fn it_gets_its_input_and_an_environment_of_its_own() {
        let ended = sh("cat; env", b"{\"seq\":1}\n").await.unwrap();
        let lines: Vec<_> = ended.said.lines().collect();
        assert_eq!(lines[0], "{\"seq\":1}");
        assert!(lines.contains(&"SHIP_APP=web"), "{lines:?}");
        assert!(
            !ended.said.contains("CARGO") && !ended.said.contains("HOME="),
            "{lines:?}"
        );
        // Closes its ends at once; the input is larger than a pipe.
        let ended = sh("exec <&- >&- 2>&-; exit 3", &vec![b'x'; 1 << 20])
            .await
            .unwrap();
        assert_eq!((ended.status.code(), &*ended.said), (Some(3), ""));
        // What it leaves behind holds the pipes.
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; echo done", pid.display());
        assert_eq!(sh(&script, b"").await.unwrap().said, "done");
        let left: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait",
            pid.display()
        );
        let started = async {
            while !pid.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = sh(&script, b"") => assert!(ended.is_ok()),
            () = started => {}
        }
        let stat = format!("/proc/{}/stat", fs::read_to_string(&pid).unwrap().trim());
        // Killed; whoever it belongs to now may not have waited for it yet.
        let is_over = || {
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            !stat.contains("(sleep)") || stat.contains(") Z ")
        };
        while !is_over() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
