//! The old program, forked aside while the new one takes its process over: if that one ends before it has said that all is
//! well, or says nothing, the shadow goes on as the keeper, with the same sockets and the same memory.
//!
//! It is another process, so the app's processes are no children of its: their end is seen, how they ended is not.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::keeper::{Keeper, Signals};

/// For the new program to take over.
const PATIENCE_S: i64 = 10;
/// Bytes of its complaint.
const MAX_COMPLAINT: u64 = 1_024;

/// Which of both one is after [`fork`].
pub(super) enum Side {
    /// The keeper's process, which runs the new program.
    Keeper(Shadow),
    /// The shadow, with the keeper's process.
    Shadow(OwnedFd),
}

/// The shadow, as the keeper sees it.
pub(super) struct Shadow {
    pid: Pid,
}

impl Shadow {
    /// It is not needed.
    pub(super) fn end(self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

pub(super) fn fork() -> io::Result<Side> {
    let keeper = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    // SAFETY: there is one thread, so the child is a whole copy.
    #[allow(unsafe_code, reason = "fork has no safe face")]
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Shadow(keeper)),
        pid => Pid::from_raw(pid)
            .map(|pid| Side::Keeper(Shadow { pid }))
            .ok_or_else(|| io::Error::other("fork gave no process")),
    }
}

impl Keeper {
    /// Waits for the new program's word; returns only when this process is the keeper now, and tells why.
    pub(super) fn stand_by(&mut self, keeper: &OwnedFd, answer: OwnedFd) -> String {
        let reason = match wait_for(keeper, answer) {
            Ok(()) => leave(),
            Err(reason) => reason,
        };
        let _ = rustix::process::pidfd_send_signal(keeper, Signal::KILL);
        let mut polled = [PollFd::new(keeper, PollFlags::IN)];
        while matches!(
            rustix::event::poll(&mut polled, None),
            Err(rustix::io::Errno::INTR)
        ) {}
        // This process's own: the parent's were about the parent's children.
        match Signals::catch() {
            Ok(signals) => self.signals = signals,
            Err(error) => self.note(super::super::chain(&error)),
        }
        for running in self.running.values_mut() {
            running.own_child = false;
        }
        self.memory.sign();
        let own = std::process::id();
        format!("{reason}; the program before goes on as process {own}")
    }
}

fn wait_for(keeper: &OwnedFd, answer: OwnedFd) -> Result<(), String> {
    let mut polled = [
        PollFd::new(&answer, PollFlags::IN),
        PollFd::new(keeper, PollFlags::IN),
    ];
    let patience = Timespec {
        tv_sec: PATIENCE_S,
        tv_nsec: 0,
    };
    if rustix::event::poll(&mut polled, Some(&patience)) == Ok(0) {
        return Err(format!(
            "it did not take over within {PATIENCE_S} s and was ended"
        ));
    }
    let ended = polled[0].revents().is_empty();
    if ended {
        return Err("it ended before it had taken over".to_owned());
    }
    let mut said = String::new();
    let _ = File::from(answer).take(MAX_COMPLAINT).read_to_string(&mut said);
    match said.strip_prefix('-') {
        _ if said.starts_with('+') => Ok(()),
        Some(reason) => Err(reason.to_owned()),
        None => Err("it ended before it had taken over".to_owned()),
    }
}

/// Nothing is closed, removed or told: all of it is the new program's.
fn leave() -> ! {
    // SAFETY: it ends the process without running anything.
    #[allow(unsafe_code, reason = "an exit that cleans up nothing has no safe face")]
    unsafe {
        libc::_exit(0)
    }
}
