//! Leaving the starter: its session, its process group, its terminal. The starter waits until the keeper listens.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use thiserror::Error;

/// Why the keeper could not leave its starter.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A pipe, a fork or a session was refused.
    #[error("cannot leave the starting process")]
    System(#[source] io::Error),
}

/// Who one is after [`leave`].
#[derive(Debug)]
pub enum Side {
    /// The starter: what the keeper said; nothing means that it listens.
    Starter(Result<(), String>),
    /// The keeper, which must say how its start went.
    Keeper(Starter),
}

/// The waiting starter, as the keeper sees it.
#[derive(Debug)]
pub struct Starter {
    pipe: File,
}

impl Starter {
    /// The keeper listens; the starter may end well.
    pub fn all_well(mut self) {
        let _ = self.pipe.write_all(b"+");
    }

    /// The keeper cannot start, and this is why.
    pub fn failed(mut self, reason: &str) {
        let _ = self.pipe.write_all(format!("-{reason}").as_bytes());
    }
}

/// Forks twice, so that the keeper is nobody's child and leads no session that could get a terminal.
///
/// # Errors
/// [`DaemonError`]; nothing was started then.
pub fn leave() -> Result<Side, DaemonError> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| DaemonError::System(error.into()))?;
    if let Forked::Parent(child) = fork()? {
        drop(writer);
        let answer = listen_to(File::from(reader));
        let _ = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
        return Ok(Side::Starter(answer));
    }
    drop(reader);
    rustix::process::setsid().map_err(|error| DaemonError::System(error.into()))?;
    if let Forked::Parent(_) = fork()? {
        std::process::exit(0);
    }
    let _ = rustix::process::chdir("/");
    forget_terminal().map_err(DaemonError::System)?;
    Ok(Side::Keeper(Starter { pipe: writer.into() }))
}

fn listen_to(mut pipe: File) -> Result<(), String> {
    let mut words = String::new();
    let _ = pipe.read_to_string(&mut words);
    match words.strip_prefix('-') {
        _ if words.starts_with('+') => Ok(()),
        Some(reason) => Err(reason.to_owned()),
        None => Err("the keeper ended before it listened".to_owned()),
    }
}

fn forget_terminal() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    Ok(())
}

enum Forked {
    Parent(rustix::process::Pid),
    Child,
}

#[allow(unsafe_code, reason = "fork has no safe face")]
fn fork() -> Result<Forked, DaemonError> {
    // SAFETY: there is one thread, so the child is a whole copy.
    match unsafe { libc::fork() } {
        -1 => Err(DaemonError::System(io::Error::last_os_error())),
        0 => Ok(Forked::Child),
        pid => rustix::process::Pid::from_raw(pid)
            .map(Forked::Parent)
            .ok_or_else(|| DaemonError::System(io::Error::other("fork gave no process"))),
    }
}
