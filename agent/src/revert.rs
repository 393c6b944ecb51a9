//! Back to an earlier release by a word on the host itself: which one, and whether it is whole.
//!
//! The same rules hold when the agent lives and when `ship-agent revert` finds it dead.

use ship_keeper::AskError;
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::LocalHold;
use thiserror::Error;

use crate::balancer::PassageError;
use crate::journal::{AppRecord, Journal, OpenError, SaveError};
use crate::layout::AppLayout;
use crate::stage::Verdict;
use crate::switch::SwitchError;

/// Why a host was not taken back.
#[derive(Debug, Error)]
pub enum RevertError {
    #[error("app {app} is not on this host")]
    UnknownApp { app: AppName },
    #[error("{app}: nothing to revert to: no earlier release lies on this host")]
    Nothing { app: AppName },
    #[error("{app}@{number} does not lie on this host; there are {here}")]
    NotHere {
        app: AppName,
        number: ReleaseNumber,
        here: String,
    },
    #[error("{app}@{number} runs already")]
    Runs { app: AppName, number: ReleaseNumber },
    #[error("{app}@{number} is damaged on this host: {damage}; --force goes there all the same")]
    Damaged {
        app: AppName,
        number: ReleaseNumber,
        damage: String,
    },
    #[error("{app}: the revert could not be noted, so it was not begun")]
    Note { app: AppName, source: SaveError },
    #[error("{app}: the record cannot be opened, so the revert was not begun")]
    Record { app: AppName, source: OpenError },
    #[error(
        "{app}: the keeper could not be asked; the revert is noted, and the agent carries it out when it is back"
    )]
    Keeper { app: AppName, source: Box<AskError> },
    #[error(
        "{app}: no keeper ran and none could be started; the revert is noted, and the agent carries it out when it is back"
    )]
    Start {
        app: AppName,
        source: Box<crate::keeper::StartError>,
    },
    #[error("{app}: the links could not be moved")]
    Switch { app: AppName, source: SwitchError },
    #[error("{app}@{number} did not come up: {reason}")]
    Failed {
        app: AppName,
        number: ReleaseNumber,
        reason: String,
    },
    #[error(
        "{app}@{number} runs, but users are not sent here again; the agent goes on with that when it is back"
    )]
    Rotation {
        app: AppName,
        number: ReleaseNumber,
        source: Box<PassageError>,
    },
    #[error("{app}: the agent is busy with too many requests")]
    Busy { app: AppName },
    #[error("{app}: the revert is noted and goes on, but did not end within {seconds} s")]
    Slow { app: AppName, seconds: u64 },
}

/// Where a revert goes.
#[derive(Debug)]
pub struct Choice<'a> {
    pub layout: &'a AppLayout,
    pub asked: Option<ReleaseNumber>,
    pub running: Option<Target>,
    pub previous: Option<Target>,
    pub staged: &'a [Target],
    pub force: bool,
}

impl Choice<'_> {
    /// The release to go to: the one asked for, else the previous. Its files were looked at.
    ///
    /// # Errors
    /// [`RevertError`]; nothing was changed.
    pub fn make(&self) -> Result<Target, RevertError> {
        let app = || self.layout.app.clone();
        let target = match self.asked {
            Some(number) => self.numbered(number)?,
            None => self.previous.ok_or_else(|| RevertError::Nothing { app: app() })?,
        };
        if self.running == Some(target) {
            return Err(RevertError::Runs {
                app: app(),
                number: target.number,
            });
        }
        if self.force {
            return Ok(target);
        }
        match crate::stage::look_at(self.layout, &target) {
            Verdict::Whole => Ok(target),
            Verdict::Damaged(damage) => Err(RevertError::Damaged {
                app: app(),
                number: target.number,
                damage,
            }),
        }
    }

    fn numbered(&self, number: ReleaseNumber) -> Result<Target, RevertError> {
        let found = self.staged.iter().find(|target| target.number == number);
        found.copied().ok_or_else(|| RevertError::NotHere {
            app: self.layout.app.clone(),
            number,
            here: match self.staged {
                [] => "none".to_owned(),
                staged => {
                    let numbers: Vec<_> = staged.iter().map(|target| target.number.to_string()).collect();
                    numbers.join(", ")
                }
            },
        })
    }
}

/// Notes a hold, durable before anything is done for it. On a full disk the reserve makes room: a revert must work then, too.
///
/// # Errors
/// [`RevertError::Note`]; nothing was noted.
pub fn note(layout: &AppLayout, journal: &mut Journal, hold: &LocalHold) -> Result<(), RevertError> {
    let change = |record: &mut AppRecord| {
        record.held = Some(hold.clone());
        record.failure = None;
    };
    let first = journal.change(change);
    if first.is_err() && std::fs::remove_file(&layout.reserve).is_ok() {
        tracing::warn!(app = %layout.app, "the reserve was used to note a revert");
        return journal.change(change).map_err(|source| RevertError::Note {
            app: layout.app.clone(),
            source,
        });
    }
    first.map_err(|source| RevertError::Note {
        app: layout.app.clone(),
        source,
    })
}
