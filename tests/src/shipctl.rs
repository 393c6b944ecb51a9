//! Running `shipctl`, and reading what it says.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A command that ended.
#[derive(Debug)]
pub struct Ran {
    pub args: Vec<String>,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn new(args: &[&str], output: Output) -> Self {
        Self {
            args: args.iter().map(ToString::to_string).collect(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// # Panics
    /// When the exit code is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// The JSON on stdout.
    ///
    /// # Panics
    /// When the command failed or stdout is not JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.expect(0);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {ran}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "shipctl {} ended with {}", self.args.join(" "), self.code)?;
        write!(f, "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// Runs `shipctl` against `context` to its end.
///
/// # Panics
/// When it cannot be started.
pub fn shipctl(context: Option<&Path>, args: &[&str]) -> Ran {
    finish(command(context, args), args)
}

/// Runs a command that stands for `shipctl ARGS` to its end.
///
/// # Panics
/// When it cannot be started.
pub fn finish(mut command: Command, args: &[&str]) -> Ran {
    let output = command.stdin(Stdio::null()).output();
    Ran::new(
        args,
        output.unwrap_or_else(|error| panic!("shipctl cannot be started: {error}")),
    )
}

/// `shipctl` with its context, not yet started.
pub fn command(context: Option<&Path>, args: &[&str]) -> Command {
    command_of(&crate::bin("shipctl"), context, args)
}

/// The same with a `shipctl` that lies elsewhere.
pub fn command_of(program: &Path, context: Option<&Path>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    // What is published to a fleet is kept beside it, and goes with it.
    let beside = context
        .and_then(Path::parent)
        .map(|fleet| fleet.with_file_name("cache"));
    command
        .env_remove("SHIP_CONTEXT")
        .env("NO_COLOR", "1")
        .env(
            "XDG_CACHE_HOME",
            beside.unwrap_or_else(|| crate::bin_dir().join("cache")),
        )
        .env_remove("CARGO");
    if let Some(context) = context {
        command.arg("-c").arg(context);
    }
    command.args(args);
    command
}
