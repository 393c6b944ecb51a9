//! What reaches an app's loop: only ever the newest of each kind, so a slow loop never falls behind.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ship_model::desired::DesiredApp;
use ship_model::release::ReleaseNumber;
use ship_model::report::AppReport;
use ship_model::retention::Expired;
use tokio::sync::oneshot;

use super::expired::{Expelled, ExpireError};
use super::job::Done;
use super::rotation::PassageDone;
use crate::keeper::Seen;
use crate::revert::RevertError;

/// Commands that may wait; whoever sends more is told that the app is busy.
const MAX_COMMANDS: usize = 16;

/// What somebody on the host asks an app's loop.
#[derive(Debug)]
pub enum Command {
    Revert(RevertCommand),
    /// Look again at what lies on disk.
    Recheck,
}

#[derive(Debug)]
pub struct RevertCommand {
    /// None: the previous release.
    pub to: Option<ReleaseNumber>,
    pub reason: String,
    /// Also to a release whose files were found damaged.
    pub force: bool,
    pub reply: oneshot::Sender<Result<AppReport, RevertError>>,
}

/// What should be, in one piece: whoever has heard of a release has heard what expired when it was wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    pub app: DesiredApp,
    pub expired: Option<Expired>,
    /// The host is to stay out of rotation.
    pub drained: bool,
}

/// Everything that arrived since the last look.
#[derive(Debug, Default)]
pub struct Mail {
    pub desired: Option<Wish>,
    /// How a turn to let go of expired assets ended.
    pub expelled: Option<Result<Expelled, ExpireError>>,
    pub keeper: Option<Seen>,
    pub done: Vec<Done>,
    pub passages: Vec<PassageDone>,
    pub commands: VecDeque<Command>,
    pub stop: bool,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.desired.is_none()
            && self.expelled.is_none()
            && self.keeper.is_none()
            && self.done.is_empty()
            && self.passages.is_empty()
            && self.commands.is_empty()
            && !self.stop
    }
}

/// Where mail waits.
#[derive(Debug, Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Condvar,
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.lock());
        self.arrived.notify_all();
    }

    pub fn desire(&self, desired: Wish) {
        self.put(|mail| mail.desired = Some(desired));
    }

    pub(super) fn expelled(&self, result: Result<Expelled, ExpireError>) {
        self.put(|mail| mail.expelled = Some(result));
    }

    pub fn saw_keeper(&self, seen: Seen) {
        self.put(|mail| mail.keeper = Some(seen));
    }

    pub(super) fn done(&self, done: Done) {
        self.put(|mail| mail.done.push(done));
    }

    pub(super) fn passage(&self, done: PassageDone) {
        self.put(|mail| mail.passages.push(done));
    }

    /// Hands a command over, or back when too many wait already.
    ///
    /// # Errors
    /// The command.
    pub fn command(&self, command: Command) -> Result<(), Command> {
        let mut mail = self.lock();
        if mail.commands.len() >= MAX_COMMANDS || mail.stop {
            return Err(command);
        }
        mail.commands.push_back(command);
        drop(mail);
        self.arrived.notify_all();
        Ok(())
    }

    pub fn stop(&self) {
        self.put(|mail| mail.stop = true);
    }

    /// Waits for mail, at most until `until`, and takes all there is.
    pub fn take(&self, until: Instant) -> Mail {
        let mut mail = self.lock();
        while mail.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            mail = self
                .arrived
                .wait_timeout(mail, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(mail, _)| mail);
        }
        let stop = mail.stop;
        let taken = std::mem::take(&mut *mail);
        mail.stop = stop;
        taken
    }
}
