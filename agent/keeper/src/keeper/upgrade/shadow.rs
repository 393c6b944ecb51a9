//! The old program, forked aside while the new one takes its process over: if that one ends before it has said that all is
//! well, or says nothing, the shadow goes on as the keeper, with the same sockets and the same memory.
//!
//! It is another process, so the app's processes are no children of its: their end is seen, how they ended is not.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::keeper::{Keeper, Signals};

/// For the new program to take over.
const PATIENCE_S: i64 = 10;
/// Bytes of its complaint.
const MAX_COMPLAINT: usize = 1_024;

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
        let mut answer = File::from(answer);
        let reason = match wait_for(keeper, &mut answer) {
            Ok(()) => leave(&answer),
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

fn wait_for(keeper: &OwnedFd, answer: &mut File) -> Result<(), String> {
    let mut polled = [
        PollFd::new(answer, PollFlags::IN),
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
    // One write, so one read: all is well, or why not.
    let mut said = [0_u8; MAX_COMPLAINT];
    let length = answer.read(&mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..length]);
    match said.strip_prefix('-') {
        _ if said.starts_with('+') => Ok(()),
        Some(reason) => Err(reason.to_owned()),
        None => Err("it ended before it had taken over".to_owned()),
    }
}

/// Nothing is removed or told: all of it is the new program's, which waits until `answer` is closed, the last of all: a
/// socket stays in its group, where it is, as long as anybody has it.
fn leave(answer: &File) -> ! {
    let last = answer.as_raw_fd().cast_unsigned();
    // SAFETY: plain system calls; the process ends without running anything else.
    #[allow(unsafe_code, reason = "an exit that cleans up nothing has no safe face")]
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, last - 1, 0);
        libc::syscall(libc::SYS_close_range, last + 1, libc::c_uint::MAX, 0);
        libc::_exit(0)
    }
}
