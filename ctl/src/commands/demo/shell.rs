//! Types shipctl's own commands, as a person would, and reads what they answer.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::clock::{Watch, now_us};
use crate::error::{CommandError, Exit};

#[derive(Debug)]
pub struct Shell {
    exe: PathBuf,
    context: PathBuf,
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    /// Its JSON; null when there was none.
    pub json: Value,
    pub stderr: String,
    /// When it was typed: microseconds since 1970.
    pub began_us: u64,
    pub took: Duration,
}

impl Shell {
    pub fn new(context: PathBuf) -> Result<Self, CommandError> {
        let exe = std::env::current_exe()
            .map_err(|source| CommandError::internal("find the running shipctl", source))?;
        Ok(Self { exe, context })
    }

    /// Runs `shipctl -o json WORDS`, which must end with exit code `expected`.
    pub async fn run(&self, words: &[&str], expected: Exit) -> Result<Said, CommandError> {
        let (began_us, time) = (now_us(), Watch::start());
        let output = Command::new(&self.exe)
            .args(["-o", "json"])
            .args(words)
            .env("SHIP_CONTEXT", &self.context)
            .env_remove("SHIP_APP")
            .env_remove("SHIP_ENV")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| CommandError::internal("run shipctl", source))?;
        let said = Said {
            code: output.status.code(),
            json: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            began_us,
            took: time.elapsed(),
        };
        if said.code == Some(expected as i32) {
            return Ok(said);
        }
        Err(unexpected(words, &said, expected))
    }
}

fn unexpected(words: &[&str], said: &Said, expected: Exit) -> CommandError {
    let code = said.code.map_or_else(
        || "by a signal".to_owned(),
        |code| format!("with exit code {code}"),
    );
    CommandError::new(
        Exit::Error,
        format!(
            "shipctl {} ended {code}, not {} as the story has it",
            words.join(" "),
            expected as u8
        ),
    )
    .with_last_lines(said.stderr.lines().take(40))
    .hint("shipctl demo --keep leaves the folder with all logs")
}
