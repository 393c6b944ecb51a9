//! A process that does nothing but hold the listeners while no process of the app accepts from them: those who wait there
//! outlive the keeper, too.
//!
//! That is so between two generations that may not run at once, and while a crashed one is about to be started again. The
//! holder's number is in the journal; the next keeper takes the sockets from it and ends it. It keeps nothing else open, and
//! ends by itself when no keeper comes.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::Keeper;
use super::adopt::copy_socket;
use crate::handed::Given;
use crate::listen::{self, Group};
use crate::machine::{Process, RisingPhase};
use crate::processes;
use crate::protocol::Steering;

/// So long a holder waits for the next keeper.
const HOLD_S: libc::time_t = 60;
/// For a holder that is killed to be gone.
const END_S: i64 = 2;

/// A living holder.
#[derive(Debug)]
pub(super) struct Holder {
    process: Process,
    /// Closed with this process; from then on it waits for the next keeper.
    _life: OwnedFd,
    /// What it holds.
    layout: BTreeMap<String, Vec<u64>>,
}

/// A socket that a holder has kept, with its inode.
pub(super) type Kept = (OwnedFd, u64);

impl Keeper {
    /// Has a holder while one is needed, and none otherwise.
    pub(super) fn mind_holder(&mut self) {
        if self.needs_holder() {
            self.begin_holding();
        } else if self.holder.is_some() || self.state.holder.is_some() {
            self.end_holding();
        }
    }

    fn needs_holder(&self) -> bool {
        let clearing = self
            .state
            .rising
            .as_ref()
            .is_some_and(|rising| matches!(rising.phase, RisingPhase::Clearing(_)));
        let active = self.state.active.as_ref();
        let nobody = active.is_some_and(|active| clearing || !active.is_living());
        let has_sockets = |group: &Group| group.steering() != Steering::Outside;
        nobody && !self.state.stopping && self.listeners.iter().any(|(_, group)| has_sockets(group))
    }

    /// Journalled before anybody is sent to wait. Without one, a keeper that dies takes along those who wait, as it is told.
    pub(super) fn begin_holding(&mut self) {
        let known = self.holder.as_ref();
        if known
            .is_some_and(|holder| holder.layout == self.state.layout && processes::is_alive(holder.process))
        {
            return;
        }
        let mut given = Given::default();
        let _ = self.listeners.hand_over(&mut given);
        match fork(given.numbers()) {
            Ok((process, life)) => {
                let holder = Holder {
                    process,
                    _life: life,
                    layout: self.state.layout.clone(),
                };
                self.holder = Some(holder);
                let before = self.state.holder.replace(process);
                self.save(Ok(()));
                // Two for a moment: nobody waits in vain when this process ends here.
                end(before);
            }
            Err(error) => self.note(format!(
                "nobody holds those who wait, should the keeper die: {error}"
            )),
        }
    }

    fn end_holding(&mut self) {
        self.holder = None;
        end(self.state.holder.take());
        self.save(Ok(()));
    }

    /// What the last keeper's holder has kept, by the key of the listener.
    pub(super) fn take_from_holder(&self) -> BTreeMap<String, Vec<Kept>> {
        let mut kept: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
        let Some(holder) = self.state.holder.filter(|holder| processes::is_alive(*holder)) else {
            return kept;
        };
        let mut wanted: Vec<(String, u64)> = Vec::new();
        for (key, inodes) in &self.state.layout {
            wanted.extend(inodes.iter().map(|inode| (key.clone(), *inode)));
        }
        for (generation, _) in self.state.generations() {
            for (spec, slot) in generation.intent.processes.iter().zip(&generation.slots) {
                let keys = spec.listen.iter().map(|listener| listen::key(spec, listener));
                wanted.extend(keys.zip(slot.sockets.iter().copied()));
            }
        }
        for (key, inode) in wanted {
            let of_key = kept.entry(key).or_default();
            let known = of_key.iter().any(|(_, known)| *known == inode);
            if let (false, Ok(Some(socket))) = (known, copy_socket(holder.pid, inode)) {
                of_key.push((socket, inode));
            }
        }
        kept
    }
}

/// Ends a holder and waits for that: a socket is closed, and its group's order changes, with the last who has it.
fn end(holder: Option<Process>) {
    let Some(holder) = holder.filter(|holder| processes::is_alive(*holder)) else {
        return;
    };
    let pidfd = Pid::from_raw(holder.pid.cast_signed())
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    processes::send(holder.pid, holder.start, Signal::KILL);
    if let Some(pidfd) = pidfd {
        let patience = Timespec {
            tv_sec: END_S,
            tv_nsec: 0,
        };
        let _ = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
    }
}

fn fork(numbers: &[RawFd]) -> io::Result<(Process, OwnedFd)> {
    let (told, life) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut numbers = numbers.to_vec();
    numbers.push(told.as_raw_fd());
    numbers.sort_unstable();
    // SAFETY: there is one thread; the child calls only what a signal handler may, and never returns.
    #[allow(unsafe_code, reason = "fork has no safe face")]
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => hold(&numbers, told.as_raw_fd()),
        pid => {
            let pid = pid.cast_unsigned();
            let start = processes::start_ticks(pid).ok_or_else(|| io::Error::other("it ended at once"))?;
            if let Some(own) = Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::setpgid(Some(own), Some(own));
            }
            Ok((Process { pid, start }, life))
        }
    }
}

/// The holder's whole life. Signals that the keeper has blocked are blocked here, too.
fn hold(numbers: &[RawFd], told: RawFd) -> ! {
    // SAFETY: plain system calls with valid arguments; nothing is allocated, locked or cleaned up.
    #[allow(unsafe_code, reason = "after fork there is only libc")]
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_NAME, c"ship-holder".as_ptr());
        let mut next: libc::c_uint = 0;
        for number in numbers {
            let number = number.cast_unsigned();
            if number > next {
                libc::syscall(libc::SYS_close_range, next, number - 1, 0);
            }
            next = number + 1;
        }
        libc::syscall(libc::SYS_close_range, next, libc::c_uint::MAX, 0);
        let mut byte = 0_u8;
        while libc::read(told, std::ptr::from_mut(&mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        let patience = libc::timespec {
            tv_sec: HOLD_S,
            tv_nsec: 0,
        };
        libc::nanosleep(&raw const patience, std::ptr::null_mut());
        libc::_exit(0)
    }
}
