//! A message handed to a program of the operator's.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// What is kept of a program's complaint, in bytes.
const MAX_COMPLAINT: usize = 2 << 10;
/// For the complaint of one that has ended.
const COMPLAINT_PATIENCE: Duration = Duration::from_millis(200);
/// The rest of its environment is empty: the store's may hold keys that are not its business.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("cannot wait for {program}")]
    Wait { program: String, source: io::Error },
    #[error("{program} ended with {status}: {complaint}")]
    Failed {
        program: String,
        status: ExitStatus,
        complaint: String,
    },
}

/// Runs `words`, in a process group of its own, with `message` as its standard input; exit code 0 is a word that it was taken.
///
/// Who stops waiting ends the whole group.
pub async fn run(words: &[String], message: &[u8]) -> Result<(), CommandError> {
    let (program, arguments) = words.split_first().ok_or_else(|| CommandError::Start {
        program: "nothing".to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let started = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let child = started.map_err(|source| CommandError::Start {
        program: program.clone(),
        source,
    })?;
    let mut group = Group::of(child);
    let stdin = group.child.stdin.take();
    let stderr = group.child.stderr.take();
    let mut said = Vec::new();
    let status = {
        let mut talk = pin!(talk(stdin, message, stderr, &mut said));
        let mut talks = true;
        loop {
            tokio::select! {
                () = &mut talk, if talks => talks = false,
                ended = group.child.wait() => {
                    // What it left in the pipe; a child of its own may hold that for ever.
                    if talks {
                        let _ = tokio::time::timeout(COMPLAINT_PATIENCE, talk).await;
                    }
                    break ended;
                }
            }
        }
    };
    let status = status.map_err(|source| CommandError::Wait {
        program: program.clone(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    let complaint = ship_model::path::escape(String::from_utf8_lossy(&said).trim().as_bytes());
    Err(CommandError::Failed {
        program: program.clone(),
        status,
        complaint: if complaint.is_empty() {
            "it said nothing".to_owned()
        } else {
            complaint
        },
    })
}

/// Hands over the message, and hears what is complained of.
async fn talk(stdin: Option<ChildStdin>, message: &[u8], stderr: Option<ChildStderr>, said: &mut Vec<u8>) {
    let give = async {
        if let Some(mut stdin) = stdin {
            // One that does not read what it is given may still do what it should.
            let _ = stdin.write_all(message).await;
        }
    };
    let listen = async {
        if let Some(mut stderr) = stderr {
            let mut piece = [0; 512];
            while let Ok(len @ 1..) = stderr.read(&mut piece).await {
                let room = MAX_COMPLAINT.saturating_sub(said.len());
                said.extend_from_slice(&piece[..len.min(room)]);
            }
        }
    };
    tokio::join!(give, listen);
}

/// A program with all that it started: dropped before its end, they are killed.
struct Group {
    child: Child,
    group: Option<Pid>,
}

impl Group {
    fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            group: id.and_then(Pid::from_raw),
            child,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its number is its own until it was waited for.
        if let (Some(group), Ok(None)) = (self.group, self.child.try_wait()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[tokio::test]
    async fn a_program_gets_the_message_and_nothing_else_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("cat > {0}; env >> {0}", out.display());
        run(&sh(&script), b"{\"seq\":1}\n").await.unwrap();
        let got = std::fs::read_to_string(&out).unwrap();
        assert!(
            got.starts_with("{\"seq\":1}\n") && got.contains("\nPATH="),
            "{got}"
        );
        assert!(!got.contains("CARGO"), "{got}");
        let error = run(&sh("echo no such pager >&2; exit 3"), b"x")
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(said.contains("no such pager") && said.contains('3'), "{said}");
        let error = run(&["/no/such/program".to_owned()], b"x").await.unwrap_err();
        assert!(matches!(error, CommandError::Start { .. }), "{error}");
        // Closes its ends at once; the message is larger than a pipe.
        run(&sh("exec <&- >&- 2>&-; exit 0"), &vec![b'x'; 1 << 20])
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!(
            "sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait",
            pid.display()
        );
        let words = sh(&script);
        let mut running = Box::pin(run(&words, b"x"));
        let started = async {
            while !pid.exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = &mut running => {}
            () = started => {}
        }
        drop(running);
        let pid = std::fs::read_to_string(&pid).unwrap();
        let stat = format!("/proc/{}/stat", pid.trim());
        // Killed; whoever it belongs to now may not have waited for it yet.
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !gone() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}
