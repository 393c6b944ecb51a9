//! The giving side: everything is written down, descriptors are left open, the new program is run.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ship_durable::fault;

use super::shadow::{self, Side};
use super::state::{self, Estate, HAND_OVER_VERSION, JoinRecord, RelayRecord, RunningRecord, StreamRecord};
use crate::handed::Given;
use crate::keeper::{Keeper, Running};
use crate::log::Tail;

/// The word with which the new program is run, before the number of the state's descriptor.
pub const TAKE_OVER: &str = "take-over";

impl Keeper {
    /// Everything the next program needs. Its descriptors are noted in `given`.
    pub(super) fn estate(
        &self,
        given: &mut Given,
        ready: Option<&rustix::fd::OwnedFd>,
    ) -> io::Result<Estate> {
        let half = || io::Error::other("a request is half received");
        Ok(Estate {
            version: HAND_OVER_VERSION,
            from: env!("CARGO_PKG_VERSION").to_owned(),
            config: self.config.clone(),
            state: self.state.clone(),
            unsaved: self.unsaved,
            revision: self.revision,
            notes: self.notes.iter().cloned().collect(),
            ready: ready.map(|ready| given.give(ready)),
            lock: given.give(self.memory.lock()),
            notify: given.give(self.notify.fd()),
            notify_path: self.notify.path().to_owned(),
            control: self.control.hand_over(given).ok_or_else(half)?,
            groups: self.listeners.hand_over(given),
            running: self
                .running
                .iter()
                .map(|(place, running)| running.hand_over(*place, given))
                .collect(),
            mains: self.mains.clone(),
            streams: self
                .streams
                .iter()
                .map(|stream| StreamRecord {
                    place: (stream.generation, stream.slot),
                    name: stream.name.to_owned(),
                    pipe: given.give(stream.fd()),
                    partial: stream.partial().to_vec(),
                })
                .collect(),
            tails: self
                .tails
                .iter()
                .map(|(generation, tail)| (*generation, Tail::lines(tail)))
                .collect(),
            stored: self.store.hand_over(given),
            joins: self
                .joins
                .iter()
                .filter_map(|join| {
                    let (slot, notify) = join.told()?;
                    Some(JoinRecord {
                        place: (join.generation, slot),
                        notify: given.give(notify),
                    })
                })
                .collect(),
            relays: self
                .relays
                .iter()
                .filter_map(|relay| {
                    let (ends, finished) = relay.at_rest()?;
                    Some(RelayRecord {
                        ends: ends.map(|end| given.give(end)),
                        finished,
                    })
                })
                .collect(),
            asked: self.asked.iter().map(|(place, since)| (*place, *since)).collect(),
            cut: self.cut.clone(),
            locks: self.locks.hand_over(given),
        })
    }

    /// Runs `program` in this process. Returns only where that did not work out, with the reason: in this process when the
    /// program could not be run, in its shadow when it could and did not take over.
    pub(super) fn become_next(&mut self, program: &Path) -> Result<(), String> {
        let prepare = |error: io::Error| format!("it cannot be prepared: {error}");
        let _ = fault::point("keeper.upgrade.begin");
        self.tell_drains();
        let (answer, ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| prepare(error.into()))?;
        let mut given = Given::default();
        let estate = match self.estate(&mut given, Some(&ready)) {
            // It is tried again when the request is there.
            Err(_) => return Ok(()),
            Ok(estate) => estate,
        };
        let state = state::seal(&estate).map_err(prepare)?;
        drop(estate);
        let words = words(program, state.as_raw_fd()).map_err(prepare)?;
        let shadow = match shadow::fork().map_err(prepare)? {
            Side::Shadow(keeper) => {
                drop(ready);
                return Err(self.stand_by(&keeper, answer));
            }
            Side::Keeper(shadow) => shadow,
        };
        drop(answer);
        let _ = fault::point("keeper.upgrade.exec");
        given.give(state.as_fd());
        let error = match given.keep_open(true) {
            Ok(()) => exec(&words),
            Err(error) => error,
        };
        shadow.end();
        given.keep_open(false).map_err(prepare)?;
        Err(format!("it cannot be run: {error}"))
    }
}

impl Running {
    fn hand_over(&self, place: (u64, usize), given: &mut Given) -> RunningRecord {
        RunningRecord {
            place,
            process: self.process,
            pidfd: given.give(&self.pidfd),
            own_child: self.own_child,
            said: self.said.clone(),
            stopping: self.stopping,
            reloading: self.reloading,
            errno: self.errno,
            watchdog: self.watchdog.clone(),
            missed: self.missed.clone(),
            memory_kills: self.memory_kills,
            reload_asked_us: self.reload_asked_us,
        }
    }
}

fn words(program: &Path, state: i32) -> io::Result<[CString; 3]> {
    Ok([
        CString::new(program.as_os_str().as_bytes())?,
        CString::new(TAKE_OVER)?,
        CString::new(state.to_string())?,
    ])
}

/// Returns only with an error. The signals that are blocked here stay so, and none is lost in between.
fn exec(words: &[CString; 3]) -> io::Error {
    let pointers = [
        words[0].as_ptr(),
        words[1].as_ptr(),
        words[2].as_ptr(),
        std::ptr::null(),
    ];
    // SAFETY: the pointers lead to strings that live until the call returns, and end with a null.
    #[allow(unsafe_code, reason = "exec that keeps the signal mask has no safe face")]
    unsafe {
        libc::execv(words[0].as_ptr(), pointers.as_ptr());
    }
    io::Error::last_os_error()
}
