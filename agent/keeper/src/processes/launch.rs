//! What a process of a release is given: its program, its environment, its limits.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ship_model::spec::Strategy;

use super::{Account, Binds, Environment, EnvironmentError, Launch, environment};
use crate::protocol::{Intent, ProcessSpec};

/// Set for each process by Ship alone.
const OURS: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "SHIP_LOCK_FILE",
];

/// Whose process it is and where that lives.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The app.
    pub app: &'a str,
    /// The host's name.
    pub host: &'a str,
    /// The app's folder.
    pub home: &'a Path,
    /// Its run folder.
    pub run: &'a Path,
}

/// The environment that all of a release's processes and commands have, in the working `folder`.
///
/// # Errors
/// When the environment file cannot be used.
pub fn surroundings(
    place: Place<'_>,
    intent: &Intent,
    spec: &ProcessSpec,
    folder: &Path,
    account: Option<&Account>,
) -> Result<Environment, EnvironmentError> {
    let mut all = environment(spec.env_file.as_deref(), &spec.env)?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let ours = [
        ("PWD", path(folder)),
        ("SHIP_APP", place.app.to_owned()),
        ("SHIP_HOST", place.host.to_owned()),
        ("SHIP_RELEASE", intent.release.to_string()),
        ("SHIP_RELEASE_ID", intent.id.clone()),
        ("SHIP_DEPLOY", intent.deploy.to_string()),
        ("SHIP_ENV", intent.environment.clone()),
        ("SHIP_PROCESS", spec.name.clone()),
        ("SHIP_ASSETS_DIR", path(&place.home.join("assets"))),
        ("SHIP_SHARED_DIR", path(&place.home.join("shared"))),
        ("SHIP_RUN_DIR", path(place.run)),
    ];
    all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    if let Some(account) = account {
        let own = [
            ("HOME", &account.home),
            ("USER", &account.name),
            ("LOGNAME", &account.name),
        ];
        all.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
    }
    for name in OURS {
        all.remove(name);
    }
    Ok(all)
}

/// Puts together what a process of `spec` is started with.
///
/// # Errors
/// When the program is not in its PATH, or a word holds a NUL byte.
pub fn assemble(
    spec: &ProcessSpec,
    dir: &Path,
    words: &[String],
    environment: Environment,
    account: Option<Account>,
    descriptors: Vec<RawFd>,
) -> io::Result<Launch> {
    let path = environment.get("PATH").cloned().unwrap_or_default();
    let program = find_program(dir, words, &path)?;
    let nul = |_| io::Error::other("a NUL byte in its command or environment");
    Ok(Launch {
        program: CString::new(program.as_os_str().as_bytes()).map_err(nul)?,
        arguments: words
            .iter()
            .map(|word| CString::new(word.as_str()).map_err(nul))
            .collect::<Result<_, _>>()?,
        environment: environment
            .iter()
            .map(|(name, value)| CString::new(format!("{name}={value}")).map_err(nul))
            .collect::<Result<_, _>>()?,
        listen_pid: environment.contains_key("LISTEN_FDS"),
        watchdog_pid: environment.contains_key("WATCHDOG_USEC"),
        folder: CString::new(dir.as_os_str().as_bytes()).map_err(nul)?,
        descriptors,
        nofile: spec.limits.nofile.map(|files| libc::rlimit {
            rlim_cur: files,
            rlim_max: files,
        }),
        memory: spec.limits.memory,
        no_new_privs: spec.no_new_privs,
        account,
        binds: match spec.strategy {
            _ if spec.listen.is_empty() => Binds::Untold,
            Strategy::Auto | Strategy::CutOver => Binds::ToldIfPossible,
            Strategy::BindJoin => Binds::Joined,
            _ => Binds::Untold,
        },
        group: None,
    })
}

/// A program with a slash is the release's own, another one is looked up in its PATH.
fn find_program(dir: &Path, command: &[String], path: &str) -> io::Result<PathBuf> {
    let name = command
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| io::Error::other("its command is empty"))?;
    if name.contains('/') {
        return Ok(dir.join(name));
    }
    let found = path
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| dir.join(folder).join(name));
    let executable =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    found
        .into_iter()
        .find(executable)
        .ok_or_else(|| io::Error::other(format!("{name} is not in its PATH ({path})")))
}
