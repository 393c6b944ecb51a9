//! The agent's rule: what a host does next, from what it should have and what it has.
//!
//! [`next_action`] is asked again after every action, every change and every timer; it never plans ahead,
//! so that a restart at any moment, a newer wish or a failure needs no case of its own.
//!
//! The order, and why:
//! 1. the fence is durable before anything is done under it;
//! 2. what should run is staged and its assets stand; on a host that serves nothing yet, all assets, since
//!    old pages will ask it as well;
//! 3. the switch, which a revert must reach without waiting for anything it does not need;
//! 4. everything else that should lie there;
//! 5. old releases go last, when nothing else is left to do and nobody holds them.

mod word;

use crate::desired::{DesiredApp, Epoch, Fence};
use crate::release::Target;
use crate::report::{AppPhase, LocalHold};

pub use word::{Offer, OfferRefused, goal, held_elsewhere, offer, previous_after};

/// What a host has and does of one app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Newest epoch that is durable here.
    pub fence: Option<Epoch>,
    /// Releases that lie unpacked and verified.
    pub staged: Vec<Target>,
    /// Releases whose fingerprinted assets are all in the union here.
    pub assets: Vec<Target>,
    /// Releases of whose assets nothing lacks here but what has expired.
    pub faded: Vec<Target>,
    /// What runs, asked of the process; for static releases, of the link.
    pub running: Option<Target>,
    pub phase: AppPhase,
    /// The keeper is on its way from what runs, and should run, to something else, and was not called back yet.
    pub leaving: bool,
    /// What failed here and has not worked since; entries of older epochs mean nothing any more.
    pub failed: Vec<Failed>,
    pub held: Option<LocalHold>,
    /// Releases that must not be removed whatever is desired: what a revert on this host goes to, and
    /// what a generation that still drains runs.
    pub pinned: Vec<Target>,
}

/// A release that could not be staged, served or switched to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub epoch: Epoch,
    pub release: Target,
    /// When to try again, in milliseconds since 1970; none: not under this epoch.
    pub retry_at_ms: Option<u64>,
}

/// The one thing to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make this epoch durable; only then act under it.
    PersistFence(Epoch),
    /// Get what is missing, unpack aside, verify, make durable.
    FetchAndStage(Target),
    /// Put the release's fingerprinted assets into the union; one that is not staged here brings its
    /// assets alone.
    AddAssets(Target),
    /// Make it run, or stay: by the keeper, or by the link where the release is static.
    Switch(Target),
    /// Nothing should run here any more.
    Stop,
    /// Delete these, slowly.
    RemoveOld(Vec<Target>),
    /// Nothing can be done until something else happens, or until then.
    Wait(Wait),
    Nothing(Rest),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The keeper is between two generations.
    Keeper(AppPhase),
    /// Something failed that may work later.
    Retry { at_ms: u64 },
}

/// Why there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    AsDesired,
    /// Nothing was ever desired here; what runs goes on.
    NothingDesired,
    /// What is desired is older than what this host has seen.
    OldEpoch,
    /// Somebody reverted on this host; a newer wish for something else ends it.
    Held,
    /// What should run failed under this epoch.
    Failed,
}

/// What to do next.
pub fn next_action(desired: Option<&DesiredApp>, observed: &Observed, now_ms: u64) -> Action {
    let Some(desired) = desired else {
        return Action::Nothing(Rest::NothingDesired);
    };
    match Fence::check(observed.fence, desired.epoch) {
        Fence::Refuse => return Action::Nothing(Rest::OldEpoch),
        Fence::Take => return Action::PersistFence(desired.epoch),
        Fence::Same => {}
    }
    let host = Host {
        desired,
        observed,
        now_ms,
    };
    let done = host.run().or_else(|| host.fill()).or_else(|| host.clean());
    done.unwrap_or_else(|| host.rest())
}

struct Host<'a> {
    desired: &'a DesiredApp,
    observed: &'a Observed,
    now_ms: u64,
}

impl Host<'_> {
    fn wanted(&self) -> Option<Target> {
        self.desired.run.filter(|_| self.desired.runs_app)
    }

    fn held(&self) -> bool {
        self.observed
            .held
            .as_ref()
            .is_some_and(|held| held.stands_against(self.desired))
    }

    fn failed(&self, release: Target) -> Option<&Failed> {
        let mut failed = self.observed.failed.iter().rev();
        failed.find(|failed| failed.release == release && failed.epoch == self.desired.epoch)
    }

    /// Whether the release may be worked on now.
    fn may_try(&self, release: Target) -> bool {
        match self.failed(release).map(|failed| failed.retry_at_ms) {
            None => true,
            Some(None) => false,
            Some(Some(at_ms)) => self.now_ms >= at_ms,
        }
    }

    /// Brings what should run nearer to running.
    fn run(&self) -> Option<Action> {
        let wanted = self.wanted();
        if self.held() {
            return None;
        }
        if wanted == self.observed.running {
            // What was wanted before must not go live when this host counts as back.
            return wanted.filter(|_| self.observed.leaving).map(Action::Switch);
        }
        let keeper_is_busy = matches!(self.observed.phase, AppPhase::Switching | AppPhase::Reverting);
        let Some(wanted) = wanted else {
            return Some(match keeper_is_busy {
                true => Action::Wait(Wait::Keeper(self.observed.phase)),
                false => Action::Stop,
            });
        };
        if !self.may_try(wanted) {
            return None;
        }
        if !self.observed.staged.contains(&wanted) {
            return Some(Action::FetchAndStage(wanted));
        }
        if !self.has_assets(wanted) {
            return Some(Action::AddAssets(wanted));
        }
        if self.observed.running.is_none()
            && let Some(action) = self.missing_assets()
        {
            return Some(action);
        }
        if keeper_is_busy {
            return Some(Action::Wait(Wait::Keeper(self.observed.phase)));
        }
        Some(Action::Switch(wanted))
    }

    /// Whether its assets stand here, all that have to. What runs or lies unpacked is shown to people, so it has all of them.
    fn has_assets(&self, release: Target) -> bool {
        let shown = self.desired.run == Some(release) || self.desired.stage.contains(&release);
        self.observed.assets.contains(&release) || (!shown && self.observed.faded.contains(&release))
    }

    fn missing_assets(&self) -> Option<Action> {
        let missing = |release: &&Target| !self.has_assets(**release) && self.may_try(**release);
        self.desired
            .assets
            .iter()
            .find(missing)
            .copied()
            .map(Action::AddAssets)
    }

    /// Everything else that should lie here.
    fn fill(&self) -> Option<Action> {
        let missing = |release: &&Target| !self.observed.staged.contains(release) && self.may_try(**release);
        let stage = self.desired.stage.iter().find(missing).copied();
        stage.map(Action::FetchAndStage).or_else(|| self.missing_assets())
    }

    /// Old releases, when all else is as it should be.
    fn clean(&self) -> Option<Action> {
        let idle = self.observed.phase == AppPhase::Idle;
        if !idle || self.wanted() != self.observed.running || self.observed.held.is_some() {
            return None;
        }
        let keeps = |release: &Target| {
            self.desired.stage.contains(release)
                || self.desired.run == Some(*release)
                || self.observed.running == Some(*release)
                || self.observed.pinned.contains(release)
        };
        let staged = self.observed.staged.iter().copied();
        let old: Vec<Target> = staged.filter(|release| !keeps(release)).collect();
        (!old.is_empty()).then_some(Action::RemoveOld(old))
    }

    fn rest(&self) -> Action {
        let lacks = |release: &Target| {
            let stage = self.desired.stage.contains(release) && !self.observed.staged.contains(release);
            let assets = self.desired.assets.contains(release) && !self.has_assets(*release);
            let run = self.wanted() == Some(*release) && self.observed.running != Some(*release);
            stage || assets || (run && !self.held())
        };
        let all = self.observed.failed.iter().map(|failed| failed.release);
        let lacking = all.filter(lacks).filter_map(|release| self.failed(release));
        if let Some(at_ms) = lacking.filter_map(|failed| failed.retry_at_ms).min() {
            return Action::Wait(Wait::Retry { at_ms });
        }
        let runs = self.wanted() == self.observed.running;
        Action::Nothing(match (runs, self.held()) {
            (true, _) => Rest::AsDesired,
            (false, true) => Rest::Held,
            (false, false) => Rest::Failed,
        })
    }
}

#[cfg(test)]
mod tests;
