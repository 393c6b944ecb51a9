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
                    let what = self.failed_start(generation, slot, failure.step, &failure.error);
                    self.end(generation, slot, format!("could not be started: {what}"));
                }
                // Killed before it got so far: its end says so.
                None if ended => {}
                None => self.events.push_back(Event::Started { generation, slot }),
            }
        }
    }

    /// Names the program that could not be run.
    fn failed_start(&self, generation: u64, slot: usize, step: &str, error: &io::Error) -> String {
        let found = self.state.generation(generation);
        let spec = found.and_then(|found| Some((found, found.intent.processes.get(slot)?)));
        let Some((found, spec)) = spec.filter(|_| step == processes::RUN) else {
            return format!("cannot {step}: {error}");
        };
        cannot_run(&found.intent.dir, &spec.command, error)
    }

    fn end(&mut self, generation: u64, slot: usize, how: String) {
        if let Some(running) = self.running.remove(&(generation, slot)) {
            let how = how + &running.last_words() + &self.want_of_memory(generation, slot, &running);
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
            if self.job_ended(pid, status) || self.check_ended(pid, status) {
                continue;
            }
            let place = self
                .running
                .iter()
                .find(|(_, running)| running.process.pid == pid);
            let Some((&(generation, slot), _)) = place else {
                continue;
            };
            // Its report may have come in the same moment.
            self.look_at_starts();
            if status.exit_status() == Some(0)
                && let Some(process) = self
                    .running
                    .get(&(generation, slot))
                    .map(|running| running.process)
                && self.may_be_daemon(generation, slot, process)
            {
                self.running.remove(&(generation, slot));
                continue;
            }
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
                "ended (it is no child of this keeper, so how is not known)".to_owned(),
            );
        }
    }

    pub(super) fn take_pidfd(pid: u32) -> Result<OwnedFd, String> {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no such process")?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| chain(&io::Error::from(error)))
    }
}

/// What is wrong with a command that cannot be run. A script whose interpreter is missing gets the same error as a missing
/// program.
pub(super) fn cannot_run(dir: &std::path::Path, command: &[String], error: &io::Error) -> String {
    let name = command.first().map_or("", String::as_str);
    let there = name.contains('/') && dir.join(name).is_file();
    let hint = if there && error.kind() == io::ErrorKind::NotFound {
        "; it is there, but not the interpreter that its first line names"
    } else {
        ""
    };
    format!("cannot run {name}: {error}{hint}")
}

fn is_ready(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

pub(super) fn how_ended(status: WaitStatus) -> String {
    if let Some(code) = status.exit_status() {
        return format!("ended with status {code}");
    }
    match status.terminating_signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => "ended".to_owned(),
    }
}
