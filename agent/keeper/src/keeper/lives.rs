//! Beginnings and ends of processes, as the kernel tells them.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitOptions, WaitStatus};

use super::{Keeper, chain};
use crate::machine::Event;
use crate::processes;

impl Keeper {
    /// Learns which forked processes run their program.
    pub(super) fn look_at_starts(&mut self) {
        let ready: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.failure.as_ref().is_some_and(is_ready))
            .map(|(place, _)| *place)
            .collect();
        for (generation, slot) in ready {
            let Some(running) = self.running.get_mut(&(generation, slot)) else {
                continue;
            };
            let Some(failure) = running.failure.take() else {
                continue;
            };
            let ended = is_ready(&running.pidfd);
            match processes::read_failure(failure) {
                Some(failure) => {
                    let how = format!("could not be started: cannot {}: {}", failure.step, failure.error);
                    self.end(generation, slot, how);
                }
                // Killed before it got so far: its end says so.
                None if ended => {}
                None => self.events.push_back(Event::Started { generation, slot }),
            }
        }
    }

    fn end(&mut self, generation: u64, slot: usize, how: String) {
        if self.running.remove(&(generation, slot)).is_some() {
            self.tell(
                Some(generation),
                &format!("process of generation {generation} {how}"),
            );
            self.events.push_back(Event::Ended {
                generation,
                slot,
                how,
            });
        }
    }

    /// Takes the exit status of children, orphans among them.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let place = self
                .running
                .iter()
                .find(|(_, running)| running.process.pid == pid && running.own_child);
            let Some((&(generation, slot), _)) = place else {
                continue;
            };
            // Its report may have come in the same moment.
            self.look_at_starts();
            self.end(generation, slot, how_ended(status));
        }
    }

    pub(super) fn look_at_adopted(&mut self) {
        let ended: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| !running.own_child && is_ready(&running.pidfd))
            .map(|(place, _)| *place)
            .collect();
        for (generation, slot) in ended {
            self.end(
                generation,
                slot,
                "ended (it was started by an earlier keeper, so how is not known)".to_owned(),
            );
        }
    }

    pub(super) fn take_pidfd(pid: u32) -> Result<OwnedFd, String> {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no such process")?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| chain(&io::Error::from(error)))
    }
}

fn is_ready(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn how_ended(status: WaitStatus) -> String {
    if let Some(code) = status.exit_status() {
        return format!("ended with status {code}");
    }
    match status.terminating_signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => "ended".to_owned(),
    }
}
