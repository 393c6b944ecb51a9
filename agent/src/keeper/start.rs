//! Starting an app's keeper so that it outlives the agent.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use ship_keeper::processes::GroupsAt;
use ship_model::name::HostName;
use thiserror::Error;

use crate::layout::{self, AppLayout, PrepareError};

/// The keeper's program.
pub const PROGRAM: &str = "ship-keeper";
/// The starter returns when the keeper's socket listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes kept of what a keeper that does not start says.
const MAX_COMPLAINT: u64 = 4096;

/// Why a keeper could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot find {PROGRAM} beside this program, in SHIP_BIN_DIR or in PATH")]
    NoProgram,
    #[error("cannot prepare the keeper's folders")]
    Prepare(#[from] PrepareError),
    #[error("cannot run {}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("{} ended with {status}: {complaint}", program.display())]
    Failed {
        program: PathBuf,
        status: ExitStatus,
        complaint: String,
    },
    #[error("{} was not ready within {} s", program.display(), START_TIMEOUT.as_secs())]
    Slow { program: PathBuf },
}

/// Starts the keeper of an app; when this returns its control socket listens. A keeper that runs already is an error of
/// the keeper's (its lock).
///
/// It leaves this process's group and session by itself, so neither a signal to the agent nor its death reaches it.
///
/// # Errors
/// [`StartError`] with what the keeper said.
pub fn start(layout: &AppLayout, host: &HostName, groups: &GroupsAt) -> Result<(), StartError> {
    let program = ship_keeper::find::program(PROGRAM).ok_or(StartError::NoProgram)?;
    layout::make(&layout.keeper_state, 0o700)?;
    layout::make(&layout.run, 0o711)?;
    let complaints = layout.keeper_state.join("start.err");
    let failed = |source| StartError::Run {
        program: program.clone(),
        source,
    };
    // A file, not a pipe: a keeper that kept a pipe open would keep this reader waiting.
    let stderr = File::create(&complaints).map_err(failed)?;
    let mut child = Command::new(&program)
        .args([OsStr::new("run"), "--app".as_ref(), layout.app.as_str().as_ref()])
        .args(["--host".as_ref(), OsStr::new(host.as_str())])
        .args(["--home".as_ref(), layout.home.as_os_str()])
        .args(["--state".as_ref(), layout.keeper_state.as_os_str()])
        .args(["--run".as_ref(), layout.run.as_os_str()])
        .args(["--cgroups".as_ref(), groups.as_arg()])
        // Faults are injected into one process at a time: the agent's are not the keeper's.
        .env_remove(ship_durable::fault::FAULT_VARIABLE)
        .env_remove(ship_durable::fault::TRACE_VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match child.try_wait().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                return Err(StartError::Failed {
                    status,
                    complaint: complaint(&complaints),
                    program,
                });
            }
            None if Instant::now() >= deadline => {
                child.kill().map_err(failed)?;
                child.wait().map_err(failed)?;
                return Err(StartError::Slow { program });
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn complaint(path: &Path) -> String {
    let mut said = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_COMPLAINT).read_to_end(&mut said);
    }
    let said = ship_model::path::escape(String::from_utf8_lossy(&said).trim().as_bytes());
    if said.is_empty() {
        "it said nothing".to_owned()
    } else {
        said
    }
}
