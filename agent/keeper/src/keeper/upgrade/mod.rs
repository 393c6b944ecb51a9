//! The keeper becomes another program in place: the same process, with its children, its sockets and those who wait there.
//!
//! ```text
//! asked ──▶ CHECKING: the new program reads the state and says whether it can go on from it
//!               └──▶ WAITING for a switch, a command or a half-sent word to end (drain and soak go on over it)
//!                       └──▶ a shadow is forked ──▶ exec ──▶ the new program has everything, says so ──▶ the shadow ends
//!                                                     └──▶ it ends or is silent: the shadow goes on as the keeper
//! ```
//!
//! The state is in a sealed memory file, descriptors go by number. Nothing of this is in the journal, since nothing of it
//! changes what runs: killed at any point, a keeper leaves what every killed keeper leaves, and while there is a shadow that
//! one goes on. What lives in the keeper's memory alone (stored descriptors, queues at spare listeners, connections led
//! on, clients of the control socket) stays.

mod check;
mod give;
mod shadow;
mod state;
mod take;

use std::path::{Path, PathBuf};

use check::Check;
pub use give::TAKE_OVER;
pub use state::{HAND_OVER_VERSION, can_adopt};
pub use take::TakeOverError;

use super::Keeper;
use crate::clock::now_ms;
use crate::protocol::{Refusal, Reply, UpgradeStage, Upgrading};

/// An upgrade under way, or the last one that failed.
#[derive(Debug)]
pub(super) struct Upgrade {
    program: PathBuf,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Checking(Check),
    Waiting,
    Failed(String),
}

impl Keeper {
    pub(super) fn answer_upgrade(&mut self, program: PathBuf) -> Reply {
        let refused = |message: String| Reply::Refused {
            refusal: Refusal::BadRequest,
            message,
        };
        if let Some(Upgrade {
            stage: Stage::Checking(_),
            program,
        }) = &self.upgrade
        {
            let message = format!("{} is being asked at this moment; try again", program.display());
            return refused(message);
        }
        if !program.is_absolute() || !program.is_file() {
            return refused(format!("{} is no absolute path of a program", program.display()));
        }
        match self.ask_program(&program) {
            Ok(check) => {
                self.tell(None, &format!("{} is asked to take over", program.display()));
                self.enter_stage(program, Stage::Checking(check));
                Reply::Accepted
            }
            Err(error) => refused(format!("{} cannot be asked: {error}", program.display())),
        }
    }

    fn enter_stage(&mut self, program: PathBuf, stage: Stage) {
        self.upgrade = Some(Upgrade { program, stage });
        self.revision += 1;
    }

    fn upgrade_failed(&mut self, program: &Path, reason: String) {
        self.note(format!("not upgraded to {}: {reason}", program.display()));
        self.enter_stage(program.to_owned(), Stage::Failed(reason));
    }

    /// When a program that is asked is not waited for any longer.
    pub(super) fn upgrade_due(&self) -> Option<u64> {
        match &self.upgrade.as_ref()?.stage {
            Stage::Checking(check) => Some(check.deadline),
            Stage::Waiting | Stage::Failed(_) => None,
        }
    }

    /// Becomes the new program as soon as it may; returns where it did not.
    pub(super) fn advance_upgrade(&mut self) {
        self.look_at_check();
        let waiting = self
            .upgrade
            .as_ref()
            .filter(|upgrade| matches!(upgrade.stage, Stage::Waiting));
        let Some(program) = waiting.map(|upgrade| upgrade.program.clone()) else {
            return;
        };
        if self.upgrade_waits_for().is_some() {
            return;
        }
        self.tell(None, &format!("the keeper becomes {}", program.display()));
        self.control.flush();
        if let Err(reason) = self.become_next(&program) {
            self.upgrade_failed(&program, reason);
        }
    }

    /// What must end before the keeper can become another program.
    fn upgrade_waits_for(&self) -> Option<&'static str> {
        let now = now_ms();
        let starting = |running: &super::Running| running.go.is_some() || running.failure.is_some();
        let reloading = || {
            let busy = self.reloaded.iter().any(|last| !last.is_over(now));
            busy || !self.reloads.is_empty() || !self.births.is_empty()
        };
        if self.state.rising.is_some() || self.state.stopping {
            Some("the switch")
        } else if !self.jobs.is_empty() || !self.askings.is_empty() || !self.probes.is_empty() {
            Some("commands of the app")
        } else if reloading() {
            Some("a reload")
        } else if self.running.values().any(starting) || self.joins.iter().any(|join| join.told().is_none()) {
            Some("a process that starts")
        } else if self.relays.iter().any(|relay| relay.at_rest().is_none()) {
            Some("connections that are led on")
        } else {
            None
        }
    }

    pub(super) fn upgrade_status(&self) -> Option<Upgrading> {
        let upgrade = self.upgrade.as_ref()?;
        Some(Upgrading {
            program: upgrade.program.display().to_string(),
            stage: match &upgrade.stage {
                Stage::Checking(_) => UpgradeStage::Checking,
                Stage::Waiting => {
                    let what = self.upgrade_waits_for().unwrap_or("a word that is half sent");
                    UpgradeStage::Waiting(what.to_owned())
                }
                Stage::Failed(reason) => UpgradeStage::Failed(reason.clone()),
            },
        })
    }
}
