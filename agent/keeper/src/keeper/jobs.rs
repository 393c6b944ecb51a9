//! Commands of a release that run once and end: what asked for one is told how it ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Signal, WaitStatus};

use ship_model::spec::HookPoint;

use super::lives::how_ended;
use super::{Keeper, chain};
use crate::clock::now_ms;
use crate::machine::{Event, Generation, Process};
use crate::processes;

/// What a command is run for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To make the running process the slot's.
    Install { generation: u64, slot: usize },
    /// To make the running process what it was.
    Back { process: Process },
    /// To make last what is proven.
    Confirm,
    /// To ask whether the slot's process serves.
    Probe { generation: u64, slot: usize },
    /// One of the hooks of a step, by its place among them.
    Hook {
        generation: u64,
        point: HookPoint,
        index: usize,
    },
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Job {
    purpose: Purpose,
    words: String,
    process: Process,
    pidfd: OwnedFd,
    deadline: u64,
    too_long: bool,
}

impl Job {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(super) fn due(&self) -> Option<u64> {
        (!self.too_long).then_some(self.deadline)
    }
}

impl Keeper {
    /// Starts `words` in `dir`, in the surroundings of the slot's process and with `extra` variables.
    pub(super) fn run_job(
        &mut self,
        (generation, slot): (u64, usize),
        dir: &Path,
        words: &[String],
        extra: &[(&str, String)],
        timeout_ms: u64,
        purpose: Purpose,
    ) -> Result<(), String> {
        let found = self
            .state
            .generation(generation)
            .ok_or("its generation is gone")?
            .clone();
        self.run_job_of((&found, slot), dir, words, extra, timeout_ms, purpose)
    }

    /// As [`Keeper::run_job`], also for a generation that is gone.
    pub(super) fn run_job_of(
        &mut self,
        (found, slot): (&Generation, usize),
        dir: &Path,
        words: &[String],
        extra: &[(&str, String)],
        timeout_ms: u64,
        purpose: Purpose,
    ) -> Result<(), String> {
        let launch = self
            .launch_command(found, slot, dir, words, extra)
            .map_err(|error| error.to_string())?;
        let child = processes::fork(&launch).map_err(|error| chain(&error))?;
        self.writers.clear();
        self.begin_job(&child, words, timeout_ms, purpose)
    }

    /// Lets a forked command go and looks after it.
    pub(super) fn begin_job(
        &mut self,
        child: &processes::Child,
        words: &[String],
        timeout_ms: u64,
        purpose: Purpose,
    ) -> Result<(), String> {
        let pidfd = Self::take_pidfd(child.pid)?;
        let start = processes::start_ticks(child.pid).ok_or("it ended at once")?;
        let _ = rustix::io::write(&child.go, b"g");
        self.jobs.push(Job {
            purpose,
            words: words.join(" "),
            process: Process {
                pid: child.pid,
                start,
            },
            pidfd,
            deadline: now_ms() + timeout_ms,
            too_long: false,
        });
        Ok(())
    }

    /// A child ended; true when it was a command's.
    pub(super) fn job_ended(&mut self, pid: u32, status: WaitStatus) -> bool {
        let Some(index) = self.jobs.iter().position(|job| job.process.pid == pid) else {
            return false;
        };
        let job = self.jobs.remove(index);
        if let Purpose::Probe { generation, slot } = job.purpose {
            let status = (!job.too_long).then_some(status);
            self.asked_by_child(generation, slot, status);
            return true;
        }
        let result = match status.exit_status() {
            _ if job.too_long => Err(format!("`{}` took too long and was ended", job.words)),
            Some(0) => Ok(()),
            _ => Err(format!("`{}` {}", job.words, how_ended(status))),
        };
        let result = result.map_err(|reason| self.with_last_line(&job.purpose, reason));
        self.conclude_job(job.purpose, result);
        true
    }

    /// What an upgrade said last is most of what can be known of its failure.
    fn with_last_line(&mut self, purpose: &Purpose, reason: String) -> String {
        let Purpose::Install { generation, .. } = purpose else {
            return reason;
        };
        self.read_streams_of(*generation);
        match self.tails.get(generation).and_then(|tail| tail.lines().pop()) {
            Some(line) if !line.trim().is_empty() => format!("{reason}: {}", line.trim()),
            _ => reason,
        }
    }

    fn conclude_job(&mut self, purpose: Purpose, result: Result<(), String>) {
        match (purpose, result) {
            (Purpose::Install { generation, slot }, result) => self.events.push_back(Event::Asked {
                generation,
                slot,
                result: result.map(|()| None),
            }),
            (
                Purpose::Hook {
                    generation,
                    point,
                    index,
                },
                result,
            ) => self.hook_ended((generation, point, index), result),
            (Purpose::Back { .. } | Purpose::Confirm, Ok(())) | (Purpose::Probe { .. }, _) => {}
            (Purpose::Confirm, Err(reason)) => {
                self.note(format!("what runs was not made permanent: {reason}"));
            }
            (Purpose::Back { process }, Err(reason)) => {
                self.note(format!(
                    "the running process could not be brought back and is restarted: {reason}"
                ));
                processes::send(process.pid, process.start, Signal::KILL);
            }
        }
    }

    /// Ends what was begun for a purpose that is no more.
    pub(super) fn end_jobs(&mut self, is_over: impl Fn(&Purpose) -> bool) {
        for job in self.jobs.iter_mut().filter(|job| is_over(&job.purpose)) {
            job.deadline = 0;
        }
        self.look_at_jobs();
    }

    /// Ends commands that take too long, with all they started.
    pub(super) fn look_at_jobs(&mut self) {
        let now = now_ms();
        for job in &mut self.jobs {
            if job.deadline <= now && !job.too_long {
                job.too_long = true;
                for member in processes::members(&[job.process], &[], &[]) {
                    processes::send(member.pid, member.start, Signal::KILL);
                }
            }
        }
    }
}
