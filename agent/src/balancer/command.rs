//! A command that an operator configured, with a deadline.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;

/// What is kept of a command's complaint.
const MAX_COMPLAINT: u64 = 2 << 10;
/// For the complaint of one that has ended; a child of its own may hold the pipe for ever.
const COMPLAINT_PATIENCE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Error)]
pub enum CommandError {
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("{program} ended with {status}: {complaint}")]
    Failed {
        program: String,
        status: ExitStatus,
        complaint: String,
    },
    #[error("{program} did not end within {seconds} s and was killed")]
    Slow { program: String, seconds: u64 },
}

/// Runs `words` with `env` added, and waits for its end.
///
/// # Errors
/// [`CommandError`]; after [`CommandError::Slow`] nothing of its process group is left.
pub fn run(words: &[String], env: &[(&str, &str)], patience: Duration) -> Result<(), CommandError> {
    let (program, arguments) = words.split_first().ok_or_else(|| CommandError::Start {
        program: "nothing".to_owned(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let failed = |source| CommandError::Start {
        program: program.clone(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let complaint = listen(&mut child);
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let said = complaint.and_then(|said| said.recv_timeout(COMPLAINT_PATIENCE).ok());
                return Err(CommandError::Failed {
                    program: program.clone(),
                    status,
                    complaint: said
                        .filter(|said| !said.is_empty())
                        .unwrap_or_else(|| "it said nothing".to_owned()),
                });
            }
            None if Instant::now() >= deadline => {
                end(&mut child);
                return Err(CommandError::Slow {
                    program: program.clone(),
                    seconds: patience.as_secs(),
                });
            }
            None => std::thread::sleep(LOOK),
        }
    }
}

/// Reads what it complains of, so that a long complaint does not block it.
fn listen(child: &mut Child) -> Option<mpsc::Receiver<String>> {
    let mut stderr = child.stderr.take()?;
    let (tell, told) = mpsc::sync_channel(1);
    let reading = std::thread::Builder::new()
        .name("complaint".to_owned())
        .spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.by_ref().take(MAX_COMPLAINT).read_to_end(&mut said);
            let text = String::from_utf8_lossy(&said);
            // Nobody waits for it when the command went well.
            let _ = tell.send(ship_model::path::escape(text.trim().as_bytes()));
            let _ = io::copy(&mut stderr, &mut io::sink());
        });
    reading.ok().map(|_| told)
}

fn end(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn sh(script: &str, patience: Duration) -> Result<(), CommandError> {
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        run(&words, &[("SHIP_APP", "web")], patience)
    }

    #[test]
    fn commands_end_well_or_say_why_not() {
        let long = Duration::from_secs(20);
        sh("test \"$SHIP_APP\" = web", long).unwrap();
        let failed = sh("echo no such thing >&2; exit 3", long)
            .unwrap_err()
            .to_string();
        assert!(
            failed.contains("no such thing") && failed.contains('3'),
            "{failed}"
        );
        let slow = sh("sleep 60", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(slow, CommandError::Slow { .. }), "{slow}");
    }
}
