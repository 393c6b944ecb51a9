//! Asking a program whether it can go on from this keeper's state: `PROGRAM --can-adopt VERSION`, the state on its standard
//! input, `ship-keeper …` as the first word of its answer, and 0 as its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, WaitStatus};
use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};

use super::{Stage, state};
use crate::clock::now_ms;
use crate::keeper::Keeper;
use crate::keeper::lives::how_ended;

/// For the program to read the state and to answer.
const PATIENCE_MS: u64 = 10_000;
/// Bytes of its answer that are read.
const MAX_ANSWER: u64 = 1_024;
/// Begins the answer of every keeper.
pub(super) const NAME: &str = "ship-keeper";

/// A program that is being asked.
#[derive(Debug)]
pub(super) struct Check {
    pid: u32,
    said: File,
    pub(super) deadline: u64,
    ended: Option<WaitStatus>,
    too_long: bool,
}

impl Keeper {
    /// Starts the program and asks it. Its end comes as a child's.
    pub(super) fn ask_program(&self, program: &Path) -> io::Result<Check> {
        let state = state::seal(&self.estate(&mut Default::default(), None)?)?;
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)?;
        let errors: OwnedFd = writer.try_clone()?;
        let child = Command::new(program)
            .args(["--can-adopt", &state::HAND_OVER_VERSION.to_string()])
            .env_remove(FAULT_VARIABLE)
            .env_remove(TRACE_VARIABLE)
            .stdin(Stdio::from(state))
            .stdout(Stdio::from(writer))
            .stderr(Stdio::from(errors))
            .spawn()?;
        Ok(Check {
            pid: child.id(),
            said: reader.into(),
            deadline: now_ms() + PATIENCE_MS,
            ended: None,
            too_long: false,
        })
    }

    /// A child ended; true when it was the program that is asked.
    pub(in crate::keeper) fn check_ended(&mut self, pid: u32, status: WaitStatus) -> bool {
        match self.upgrade.as_mut().map(|upgrade| &mut upgrade.stage) {
            Some(Stage::Checking(check)) if check.pid == pid => {
                check.ended = Some(status);
                true
            }
            _ => false,
        }
    }

    pub(super) fn look_at_check(&mut self) {
        let Some(upgrade) = &mut self.upgrade else { return };
        let Stage::Checking(check) = &mut upgrade.stage else {
            return;
        };
        if check.ended.is_none() {
            if check.deadline <= now_ms() {
                check.give_up();
            }
            return;
        }
        let (program, answer) = (upgrade.program.clone(), check.answer());
        match answer {
            Ok(answer) => {
                self.tell(None, &format!("{} can take over: {answer}", program.display()));
                self.enter_stage(program, Stage::Waiting);
            }
            Err(reason) => self.upgrade_failed(&program, reason),
        }
    }
}

impl Check {
    fn give_up(&mut self) {
        self.too_long = true;
        self.deadline = u64::MAX;
        // Not reaped yet, so the number is still its own.
        if let Some(pid) = Pid::from_raw(self.pid.cast_signed()) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Its own words when it can, else what stands in the way.
    fn answer(&mut self) -> Result<String, String> {
        let mut said = Vec::new();
        // What it has written is all there; a descendant may still hold the other end.
        let _ = (&mut self.said).take(MAX_ANSWER).read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().replace(['\n', '\r'], "; ");
        let status = self.ended.ok_or("it has not ended")?;
        if self.too_long {
            return Err("it did not say whether it can take over".to_owned());
        }
        if status.exit_status() != Some(0) {
            let how = how_ended(status);
            return Err(match said.is_empty() {
                true => format!("asked whether it can take over, it {how}"),
                false => format!("asked whether it can take over, it {how}: {said}"),
            });
        }
        match said.split(' ').next() {
            Some(NAME) => Ok(said),
            _ => Err("it is no keeper: it did not answer as one".to_owned()),
        }
    }
}
