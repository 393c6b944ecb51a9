//! Taking a process in that no keeper has started: its listeners are found, copied, and made groups that the next release
//! can join.
//!
//! Its own program, its output and its environment stay as they are. Killed before it is journalled, nothing was taken: an
//! option is set on its sockets that only lets others of the same user join them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

use super::requests::{check_process, refused};
use super::{Keeper, Running, chain};
use crate::listen::{self, Address, Adopted, Group, ListenError};
use crate::machine::{Event, Process, Verdict, judge_adopt};
use crate::processes;
use crate::protocol::{Intent, ListenSpec, ProcessSpec, Refusal, Reply};

/// A TCP listener of the process.
struct Found {
    socket: OwnedFd,
    inode: u64,
    /// In the words of an intent: `tcp:0.0.0.0:8080`.
    addr: String,
}

impl Keeper {
    pub(super) fn answer_adopt(&mut self, pid: u32, spec: ProcessSpec) -> Reply {
        match judge_adopt(&self.state, pid) {
            Verdict::Refuse(refusal, message) => return refused(refusal, message),
            Verdict::Already => return Reply::Already,
            Verdict::Renew | Verdict::Accept => {}
        }
        match self.take_in(pid, spec) {
            Ok(()) => Reply::Accepted,
            Err(message) => refused(Refusal::BadIntent, message),
        }
    }

    fn take_in(&mut self, pid: u32, mut spec: ProcessSpec) -> Result<(), String> {
        let process = self.stranger(pid)?;
        let pidfd = Self::take_pidfd(pid)?;
        spec.command = command_of(pid);
        let mut found = listeners_of(process)?;
        if spec.listen.is_empty() {
            spec.listen = named(&found);
        }
        check_process(&spec)?;
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd"));
        let folder = folder.map_err(|error| may_not(pid, &error))?;
        let generation = self.state.upcoming();
        let mut sockets = Vec::new();
        let mut groups = Vec::new();
        for listener in &spec.listen {
            let one = take_out(&mut found, listener, pid)?;
            sockets.push(one.inode);
            groups.push((listen::key(&spec, listener), around(one, generation, pid)?));
        }
        if !processes::is_alive(process) {
            return Err(format!("process {pid} has just ended"));
        }
        for (key, group) in groups {
            self.state.bound.insert(key.clone(), group.bound());
            self.listeners.insert(key, group);
        }
        self.remember_layout();
        self.mains.entry(generation).or_default().push(process);
        self.running
            .insert((generation, 0), Running::found(process, pidfd, None));
        self.admit(folder, spec, process, sockets, &found);
        Ok(())
    }

    fn admit(
        &mut self,
        folder: PathBuf,
        spec: ProcessSpec,
        process: Process,
        sockets: Vec<u64>,
        rest: &[Found],
    ) {
        for other in rest {
            self.note(format!(
                "process {} listens on {}, too; that is left as it is",
                process.pid, other.addr
            ));
        }
        self.tell(None, &format!("process {} is adopted", process.pid));
        let intent = Intent::adopted(folder, self.state.epoch, spec);
        self.apply(&Event::Adopted {
            intent: Box::new(intent),
            process,
            sockets,
        });
    }

    /// The process, if it is one that may be taken in.
    fn stranger(&self, pid: u32) -> Result<Process, String> {
        let start = processes::start_ticks(pid).ok_or_else(|| format!("there is no process {pid}"))?;
        let process = Process { pid, start };
        if !processes::is_alive(process) || pid == std::process::id() {
            return Err(format!("process {pid} serves nobody"));
        }
        let environment = std::fs::read(format!("/proc/{pid}/environ"));
        let environment = environment.map_err(|error| may_not(pid, &error))?;
        let mut entries = environment.split(|byte| *byte == 0);
        let kept = |entry: &[u8]| entry.starts_with(b"SHIP_DRAIN_FILE=");
        match entries.any(kept) {
            true => Err(format!(
                "process {pid} was started by a keeper; that one looks after it"
            )),
            false => Ok(process),
        }
    }
}

fn may_not(pid: u32, error: &io::Error) -> String {
    format!(
        "process {pid} may not be looked into ({error}); it belongs to another user, or kernel.yama.ptrace_scope \
         forbids it: run agent and keeper as that user, or give the keeper CAP_SYS_PTRACE"
    )
}

fn command_of(pid: u32) -> Vec<String> {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    if words.is_empty() {
        vec!["?".to_owned()]
    } else {
        words
    }
}

/// The TCP listeners of a process and its descendants, each once.
fn listeners_of(process: Process) -> Result<Vec<Found>, String> {
    let mut found: Vec<Found> = Vec::new();
    for member in processes::members(&[process], &[], &[]) {
        let open = pidfd_of(member.pid).map_err(|error| may_not(member.pid, &error));
        // A descendant may have ended since it was found.
        let Ok(pidfd) = open else { continue };
        let mut forbidden = None;
        processes::each_socket(member.pid, |inode, number| {
            if found.iter().any(|known| known.inode == u64::from(inode)) {
                return true;
            }
            match rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
                Ok(socket) => found.extend(listening(socket, u64::from(inode))),
                Err(rustix::io::Errno::PERM) => forbidden = Some(rustix::io::Errno::PERM),
                Err(_) => {}
            }
            forbidden.is_none()
        });
        if let Some(error) = forbidden {
            return Err(may_not(member.pid, &error.into()));
        }
    }
    match found.is_empty() {
        true => Err(format!(
            "process {} listens on no TCP port, nor does anything it has started; name its main process",
            process.pid
        )),
        false => Ok(found),
    }
}

fn pidfd_of(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// The socket as a listener, if it is a TCP one.
fn listening(socket: OwnedFd, inode: u64) -> Option<Found> {
    // The number may have come to mean another file in between.
    let same = rustix::fs::fstat(&socket).is_ok_and(|found| found.st_ino == inode);
    let accepts = sockopt::socket_acceptconn(&socket).unwrap_or(false);
    let addr = rustix::net::getsockname(&socket).ok()?;
    let addr = std::net::SocketAddr::try_from(addr).ok()?;
    (same && accepts).then(|| Found {
        socket,
        inode,
        addr: Address::Tcp(addr).to_string(),
    })
}

/// Names for listeners that no `ship.toml` names.
fn named(found: &[Found]) -> Vec<ListenSpec> {
    let port = |addr: &str| addr.rsplit(':').next().unwrap_or_default().to_owned();
    let name = |found: &Found, only: bool| match only {
        true => "http".to_owned(),
        false => format!("port-{}", port(&found.addr)),
    };
    found
        .iter()
        .map(|one| ListenSpec {
            name: name(one, found.len() == 1),
            addr: one.addr.clone(),
        })
        .collect()
}

/// The one that the release listens on, too.
fn take_out(found: &mut Vec<Found>, wanted: &ListenSpec, pid: u32) -> Result<Found, String> {
    if let Some(index) = found.iter().position(|found| found.addr == wanted.addr) {
        return Ok(found.remove(index));
    }
    let addresses: Vec<_> = found.iter().map(|found| found.addr.as_str()).collect();
    let there = addresses.join(", ");
    Err(format!(
        "the release listens on {} ({}), and process {pid} on {there}: they must be the same, so write the process's \
         address into `listen` of ship.toml and publish again",
        wanted.addr, wanted.name
    ))
}

fn around(found: Found, generation: u64, pid: u32) -> Result<Group, String> {
    let only_six = sockopt::socket_domain(&found.socket)
        .is_ok_and(|family| family == rustix::net::AddressFamily::INET6)
        && sockopt::ipv6_v6only(&found.socket).unwrap_or(false);
    if only_six {
        return Err(format!(
            "{} takes IPv6 only; a release's listener takes both, so they cannot share it",
            found.addr
        ));
    }
    own(found.socket.as_fd()).map_err(|error| may_not(pid, &error))?;
    let addr = found.addr;
    let adopted = Adopted {
        generation,
        socket: found.socket,
        inode: found.inode,
    };
    Group::around(adopted).map_err(|error| match error {
        ListenError::Taken { .. } => {
            format!("{addr} cannot be shared: another process listens there, or the socket is another user's")
        }
        other => chain(&other),
    })
}

/// Only sockets of one user can share an address; root may make it its own.
fn own(socket: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    let own = rustix::process::geteuid();
    if rustix::fs::fstat(socket)?.st_uid != own.as_raw() {
        rustix::fs::fchown(socket, Some(own), None)?;
    }
    Ok(())
}
