//! What a host makes of a word that reaches it, from a store or from somebody on the host, and what it still remembers then.
//!
//! Whoever carries these rules out makes what they say durable first: the word that was taken, the hold that was made.

use crate::converge::Observed;
use crate::desired::{DesiredApp, Epoch, Fence};
use crate::name::EnvName;
use crate::release::Target;
use crate::report::{AppFailure, AppPhase, LocalHold};

/// What a host makes of a desired state that is offered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It was taken before; nothing is to be done.
    Known,
    /// It is newer than all seen: make it durable, then act on it.
    Take,
    Refuse(OfferRefused),
}

/// Why a desired state is not taken, whoever sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefused {
    #[error("it is for another environment")]
    OtherEnvironment,
    #[error("its epoch was taken with other content")]
    OtherContent,
    #[error("its epoch is older than one seen")]
    OlderEpoch,
}

/// The fence: `seen` is the newest epoch that is durable here (0: none was ever taken), `taken` what came with it, where that
/// is still known.
pub fn offer(seen: Epoch, taken: Option<&DesiredApp>, offered: &DesiredApp, env: &EnvName) -> Offer {
    if taken == Some(offered) {
        return Offer::Known;
    }
    if offered.env != *env {
        return Offer::Refuse(OfferRefused::OtherEnvironment);
    }
    match Fence::check(Some(seen).filter(|seen| seen.0 > 0), offered.epoch) {
        Fence::Take => Offer::Take,
        Fence::Same if taken.is_none() => Offer::Take,
        Fence::Same => Offer::Refuse(OfferRefused::OtherContent),
        Fence::Refuse => Offer::Refuse(OfferRefused::OlderEpoch),
    }
}

/// What should run, with a revert made on this host considered.
pub fn goal(desired: Option<&DesiredApp>, held: Option<&LocalHold>) -> Option<Target> {
    let run = desired.filter(|desired| desired.runs_app);
    held.map(|held| held.to).or(run.and_then(|desired| desired.run))
}

/// Where a word on this host holds the app, when it is not there to stay, lies here and may be tried; this comes before
/// [`next_action`](crate::converge::next_action).
pub fn held_elsewhere(observed: &Observed, now_ms: u64) -> Option<Target> {
    let held = observed.held.as_ref()?.to;
    let tried = observed
        .failed
        .iter()
        .any(|failed| failed.release == held && failed.retry_at_ms.is_none_or(|at_ms| at_ms > now_ms));
    let busy = observed.phase == AppPhase::Switching;
    let there = observed.running == Some(held) && !observed.leaving;
    (!there && !tried && !busy && observed.staged.contains(&held)).then_some(held)
}

/// What a revert on this host, or a switch, makes of the way back: the release that ran when going onward; when going back,
/// the newest staged one that is older still, so that a second revert goes further back.
pub fn previous_after(running: Option<Target>, to: Target, staged: &[Target]) -> Option<Target> {
    match running {
        Some(running) if running.number <= to.number => (running != to).then_some(running),
        _ => staged
            .iter()
            .filter(|target| target.number < to.number)
            .max_by_key(|target| target.number)
            .copied(),
    }
}

impl LocalHold {
    /// Whether the hold stands against what is desired. A newer epoch ends it, unless it still wants
    /// exactly what was taken away: that is no answer to the hold, only news of something else.
    pub fn stands_against(&self, desired: &DesiredApp) -> bool {
        desired.epoch <= self.epoch || (self.from.is_some() && desired.run == self.from)
    }

    /// What a revert to `to` takes away: what runs, or what is `unknown` to run where nobody can tell; where nothing does,
    /// what was `wanted`. As long as the fleet wants just that, the host stays where it was put.
    pub fn taken_away(
        running: Option<Target>,
        unknown: Option<Target>,
        wanted: Option<Target>,
        to: Target,
    ) -> Option<Target> {
        let there = running.or(unknown).or(wanted);
        there.filter(|there| *there != to)
    }
}

impl AppFailure {
    /// Whether it still counts: nothing is tried again under the epoch under which it failed for good.
    pub fn stands_under(&self, epoch: Epoch) -> bool {
        !self.transient && self.epoch == epoch
    }

    /// Whether it is told on after a newer word was taken, with its own epoch, until something works: a rollout that was
    /// turned back raises the epoch at once, and whoever looks afterwards must find what stopped it.
    pub const fn outlives_its_epoch(&self) -> bool {
        !self.transient
    }

    /// Whether `running`, which serves as it should under `epoch`, answers it: a failure of an older epoch, of that release
    /// or an older one.
    pub fn is_answered_by(&self, running: Target, epoch: Epoch) -> bool {
        self.epoch < epoch && self.release.number <= running.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::DeployNumber;
    use crate::digest::ReleaseId;
    use crate::name::AppName;
    use crate::release::ReleaseNumber;

    fn release(number: u64) -> Target {
        Target {
            number: ReleaseNumber(number),
            id: ReleaseId::of(&number.to_le_bytes()),
        }
    }

    fn desired(env: &str, epoch: u64, run: u64) -> DesiredApp {
        DesiredApp {
            app: AppName::new("web").unwrap(),
            env: EnvName::new(env).unwrap(),
            epoch: Epoch(epoch),
            deploy: DeployNumber(1),
            run: Some(release(run)),
            runs_app: true,
            stage: Vec::new(),
            assets: Vec::new(),
        }
    }

    #[test]
    fn what_is_offered_is_taken_once_and_never_from_the_past() {
        use OfferRefused::{OlderEpoch, OtherContent, OtherEnvironment};
        let taken = desired("prod", 5, 2);
        let env = EnvName::new("prod").unwrap();
        for (offered, verdict) in [
            (desired("prod", 5, 2), Offer::Known),
            (desired("prod", 6, 2), Offer::Take),
            (desired("prod", 5, 3), Offer::Refuse(OtherContent)),
            (desired("prod", 4, 2), Offer::Refuse(OlderEpoch)),
            (desired("stage", 9, 2), Offer::Refuse(OtherEnvironment)),
        ] {
            assert_eq!(
                offer(Epoch(5), Some(&taken), &offered, &env),
                verdict,
                "{offered:?}"
            );
        }
        // The record was lost and the keeper remembers the epoch.
        assert_eq!(offer(Epoch(5), None, &desired("prod", 5, 3), &env), Offer::Take);
        assert_eq!(offer(Epoch(0), None, &desired("prod", 0, 3), &env), Offer::Take);
    }

    #[test]
    fn a_second_revert_goes_further_back() {
        let staged = [1, 2, 3, 4].map(release);
        let after = |running: Option<u64>, to| {
            previous_after(running.map(release), release(to), &staged).map(|target| target.number.0)
        };
        assert_eq!(after(None, 1), None);
        assert_eq!(after(Some(3), 4), Some(3));
        assert_eq!(after(Some(4), 3), Some(2));
        assert_eq!(after(Some(3), 1), None);
    }
}
