//! A command that an operator runs by hand, in the surroundings of a release: its user, environment, folder and limits.
//!
//! This process itself becomes the command, so that terminal, signals and exit status are the command's own, and nobody else
//! needs to live: neither agent nor store nor keeper. The release is held by a lock on its folder while the command, or a
//! child of it, lives.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ship_keeper::processes::{
    self, Account, AccountError, EnvironmentError, Groups, GroupsAt, Place, StartFailure,
};
use ship_keeper::protocol::{Intent, ProcessSpec};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use thiserror::Error;

use crate::config::Config;
use crate::keeper::{IntentError, Order, intent};
use crate::layout::{AppLayout, HostLayout};
use crate::stage::{self, Here};
use crate::switch::Links;

/// Groups of commands have names of this kind, with the process id.
const GROUP: &str = "exec-";

/// What is to be run, and in whose surroundings.
#[derive(Debug)]
pub struct Wanted {
    pub app: AppName,
    /// None: the one that runs.
    pub release: Option<ReleaseNumber>,
    /// None: the first of those that belong on this host.
    pub process: Option<String>,
    pub words: Vec<String>,
}

/// Why a command was not run.
#[derive(Debug, Error)]
pub enum ExecError {
    #[error("{app} does not lie on this host")]
    NoApp { app: AppName },
    #[error("no release of {app} runs here; name one of {there} with --release")]
    NothingRuns { app: AppName, there: String },
    #[error("{app}@{number} does not lie here; there are: {there}")]
    NoRelease {
        app: AppName,
        number: ReleaseNumber,
        there: String,
    },
    #[error("{app}@{number} is damaged on this host: {reason}")]
    Damaged {
        app: AppName,
        number: ReleaseNumber,
        reason: String,
    },
    #[error("{app}@{number} has no process on this host, so it has no surroundings to run in")]
    NoProcess {
        app: AppName,
        number: ReleaseNumber,
        source: IntentError,
    },
    #[error("{app}@{number} has no process {wanted:?} on this host; there are: {there}")]
    UnknownProcess {
        app: AppName,
        number: ReleaseNumber,
        wanted: String,
        there: String,
    },
    #[error("cannot hold the release {} while the command runs", dir.display())]
    Hold { dir: PathBuf, source: io::Error },
    #[error("cannot make the release's environment")]
    Environment(#[source] EnvironmentError),
    #[error("cannot become the user of the release's process; run this as root")]
    User(#[source] AccountError),
    #[error("cannot find the user with id {uid}, who owns {}", home.display())]
    Owner { uid: u32, home: PathBuf },
    #[error("cannot run {program}")]
    Program { program: String, source: io::Error },
    #[error("cannot {step} for the command")]
    Prepare { step: &'static str, source: io::Error },
}

impl ExecError {
    /// As shells have it: 127 for a program that is not there, 126 for one that cannot be run, 4 for a refusal.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 126,
            Self::Program { .. } => 127,
            Self::Damaged { .. } => 4,
            _ => 1,
        }
    }
}

/// Becomes the command.
///
/// # Errors
/// [`ExecError`]; nothing was run then.
pub fn exec(config: &Config, layout: &HostLayout, wanted: &Wanted) -> Result<Infallible, ExecError> {
    let layout = layout.app(&wanted.app);
    let here = choose(&layout, wanted)?;
    let number = here.target.number;
    let record = crate::journal::peek(&layout.record).unwrap_or_default();
    let order = Order {
        target: here.target,
        epoch: record.epoch,
        deploy: record.deploy,
    };
    let intent = intent(&here.spec, order, config, &layout).map_err(|source| ExecError::NoProcess {
        app: wanted.app.clone(),
        number,
        source,
    })?;
    let spec = process(&intent, wanted, number)?;
    processes::hold(&intent.dir).map_err(|source| ExecError::Hold {
        dir: intent.dir.clone(),
        source,
    })?;
    let account = user(spec, &layout)?;
    let failure = become_it(config, &layout, &intent, spec, account, &wanted.words)?;
    Err(failed(failure, &wanted.words))
}

fn choose(layout: &AppLayout, wanted: &Wanted) -> Result<Here, ExecError> {
    let app = &wanted.app;
    let mut here = stage::list(layout).unwrap_or_default();
    if here.is_empty() {
        return Err(ExecError::NoApp { app: app.clone() });
    }
    let there = here
        .iter()
        .map(|here| here.target.number.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    let running = Links::read(layout).current;
    let is_it = |here: &Here| match wanted.release {
        Some(number) => here.target.number == number,
        None => running.as_ref() == Some(&here.target.folder()),
    };
    let Some(index) = here.iter().position(is_it) else {
        let app = app.clone();
        return Err(match wanted.release {
            Some(number) => ExecError::NoRelease { app, number, there },
            None => ExecError::NothingRuns { app, there },
        });
    };
    let found = here.swap_remove(index);
    match &found.damage {
        None => Ok(found),
        Some(reason) => Err(ExecError::Damaged {
            app: app.clone(),
            number: found.target.number,
            reason: reason.clone(),
        }),
    }
}

fn process<'a>(
    intent: &'a Intent,
    wanted: &Wanted,
    number: ReleaseNumber,
) -> Result<&'a ProcessSpec, ExecError> {
    let mut all = intent.processes.iter();
    let found = match &wanted.process {
        Some(name) => all.find(|process| process.name == *name),
        None => all.next(),
    };
    found.ok_or_else(|| ExecError::UnknownProcess {
        app: wanted.app.clone(),
        number,
        wanted: wanted.process.clone().unwrap_or_default(),
        there: intent
            .processes
            .iter()
            .map(|process| process.name.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// Whom the release's process runs as: the one it names, or the one whose keeper starts it.
fn user(spec: &ProcessSpec, layout: &AppLayout) -> Result<Option<Account>, ExecError> {
    let owner = || {
        let uid = std::fs::metadata(&layout.keeper_state).map_or(0, |found| found.uid());
        if uid == 0 || !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        name_of(uid).map(Some).ok_or_else(|| ExecError::Owner {
            uid,
            home: layout.keeper_state.clone(),
        })
    };
    let name = match &spec.user {
        Some(name) => Some(name.clone()),
        None => owner()?,
    };
    let account = name.map(|name| processes::account(&name).map_err(ExecError::User));
    Ok(account.transpose()?.flatten())
}

fn name_of(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn become_it(
    config: &Config,
    layout: &AppLayout,
    intent: &Intent,
    spec: &ProcessSpec,
    account: Option<Account>,
    words: &[String],
) -> Result<StartFailure, ExecError> {
    let place = Place {
        app: layout.app.as_str(),
        host: config.host.as_str(),
        home: &layout.home,
        run: &layout.run,
    };
    let mut environment = processes::surroundings(place, intent, spec, &intent.dir, account.as_ref())
        .map_err(ExecError::Environment)?;
    // For what speaks to the terminal.
    environment.extend(std::env::var("TERM").map(|term| ("TERM".to_owned(), term)));
    let program = || words.first().cloned().unwrap_or_default();
    let launch = processes::assemble(spec, &intent.dir, words, environment, account, Vec::new());
    let mut launch = launch.map_err(|source| ExecError::Program {
        program: program(),
        source,
    })?;
    if enter_group(spec) {
        launch.memory = None;
    }
    Ok(processes::become_command(&launch))
}

/// Puts this process into a group of its own with the limits of the release's process; true when its memory is limited there.
fn enter_group(spec: &ProcessSpec) -> bool {
    let limits = &spec.limits;
    if limits.memory.is_none() && limits.pids.is_none() && limits.cpu.is_none() {
        return false;
    }
    let pid = std::process::id();
    let groups = Groups::find(Path::new("/proc"), &GroupsAt::Auto, &format!("{GROUP}{pid}"));
    groups.tidy(GROUP);
    let held = groups.prepare(0, &spec.name, limits);
    held.memory && groups.enter(0, &spec.name, pid, false).is_ok()
}

fn failed(failure: StartFailure, words: &[String]) -> ExecError {
    let StartFailure { step, error } = failure;
    if step == processes::RUN {
        ExecError::Program {
            program: words.first().cloned().unwrap_or_default(),
            source: error,
        }
    } else {
        ExecError::Prepare { step, source: error }
    }
}
