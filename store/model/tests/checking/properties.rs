//! What must be true whatever happens, one by one. The numbers are those of the list of invariants that the project began
//! with; those of the store's disk, of signatures and of the journal are proven where they live.

#[path = "properties/gates.rs"]
mod gates;
#[path = "properties/step.rs"]
mod step;

pub use step::Step;

use std::collections::BTreeSet;

use ship_model::name::HostName;
use ship_model::report::{AppPhase, AppReport};
use ship_model::rollout::{DeployKind, EnvState, HostProgress, PlanStep, Rollout, Switch};

/// A named property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// I1, I16: a host switches only to a release that lies whole on it, and what runs goes on lying there.
    RunsOnlyWhatIsWhole,
    /// I3: what a revert on the host goes to lies on it, and stays.
    WayBackLies,
    /// I4: a revert on the host succeeds with nobody else there.
    RevertsAlone,
    /// I5: no host acts under an older epoch than one it has acted under, agent restarts included.
    FenceHolds,
    /// I5: what a host acts under is durable before.
    DurableBeforeActing,
    /// I5: the epoch of an environment only grows, and every change of what a host should have takes a newer one.
    EpochsOnlyGrow,
    /// I5: one epoch never names two contents.
    OneContentPerEpoch,
    /// I7: no more hosts are between two releases at once than policy allows, by the record.
    FewAtOnce,
    /// I7: the same, as hosts really are.
    FewReallyAtOnce,
    /// I8: a host that everybody calls silent is not switched.
    UnknownIsLeftAlone,
    /// A host that operators keep out of rotation is not switched while a promote goes on: it is no canary, and is not counted.
    DrainedAreLeftAlone,
    /// A host that leaves the fleet is ordered nothing but to stop.
    RetiredAreOrderedNothing,
    /// I8, I9: a wave ends when each of its hosts said that it runs well, and enough time has gone by since.
    WavesAreBaked,
    /// I9: a host is asked in its own wave only.
    WavesInOrder,
    /// I9: what stands behind a gate begins only when enough people said yes and every check has passed for long enough, by a
    /// word that is not old.
    GatesHold,
    /// I8: a check that comes to nothing turns no rollout back.
    UnknownTurnsNothingBack,
    /// I19: a revert that fits what stands begins, whatever is waited for.
    RevertsWaitForNoGate,
    /// I10: no host is switched before every required host said that it has the assets.
    AssetsFirst,
    /// I10: the same, as hosts really are.
    AssetsReallyFirst,
    /// A host that is asked to go forward has the release already: nothing is fetched between two releases.
    PrefetchedFirst,
    /// I11: what runs, what a revert goes to, and what is wanted is never removed from a host.
    NothingNeededIsRemoved,
    /// I3, I11: with nothing under way, every host is to keep what the fleet would revert to.
    FleetRevertNeedsNoDownload,
    /// I15: deploys are numbered upwards, and no number comes twice.
    NumbersAreNewOnes,
    /// I17: a host never runs what another environment wants.
    OwnEnvironmentOnly,
    /// I18: a promote begins only when nothing else is under way.
    OneRolloutAtOnce,
    /// I18: a plan begins on the very record it was made from.
    PlansFitWhatStands,
    /// I18: nothing that was decided is lost: a record is only ever replaced by what was decided on it.
    NothingDecidedIsLost,
    /// I19: a rollout stops once, ends once, and never goes forward again.
    TurnsBackOnce,
    /// I19: a revert goes to a release that ran well and was not taken back, in one wave without a soak.
    RevertsGoToGoodReleases,
    /// After a revert nothing goes forward until an operator says so; what runs is changed by deploys only.
    RevertsStick,
    /// While paused, no further host is asked to go forward.
    PausedMeansPaused,
    /// A failure from before a rollout does not stop it.
    OldFailuresStopNothing,
    /// No deadline stops a rollout for want of what the host has said to the one who waits.
    NoWordIsOverlooked,
    /// I24: a host counts as switched, or as back, by its own word under the epoch it was asked under, and done means all.
    ConfirmedByWord,
    /// I24: a host that counts as back is not on its way to what it was taken back from.
    BackMeansBack,
    /// No host tries again what failed under the same epoch.
    NoFlapping,
    /// What somebody took away by hand on a host does not come back there before an operator starts something, or
    /// something else is wanted.
    HandsAreNotOverruled,
    /// A host that reconnects is told nothing new for that.
    ReconnectingRestartsNothing,
    /// I20: every start, and every end, is in the audit.
    ToldToTheAudit,
    /// I22: when the faults stop, every rollout ends, and every host runs what it should or has said why not.
    Ends,
}

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub property: Property,
    pub what: String,
}

pub type Verdict = Result<(), Violation>;

pub fn must(property: Property, holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            property,
            what: what(),
        })
    }
}

/// Hosts that must serve the assets of what is promoted before anybody is switched.
pub fn required(rollout: &Rollout) -> &[HostName] {
    let hosts = rollout.plan.steps.iter().find_map(|step| match step {
        PlanStep::Assets { hosts } => Some(&hosts[..]),
        _ => None,
    });
    hosts.unwrap_or_default()
}

/// Hosts that one step asked to run the new release.
pub fn newly_asked<'a>(before: &Rollout, after: &'a Rollout) -> Vec<&'a HostName> {
    let asked = |host: &HostProgress| matches!(host.switch, Switch::Asked { .. });
    let hosts = after.hosts.iter().filter(|(name, host)| {
        let was = before.hosts.get(*name).is_some_and(asked);
        asked(host) && !was
    });
    hosts.map(|(name, _)| name).collect()
}

/// I8, where all who could know agree that `silent` hosts are so.
pub fn silent_are_left_alone(before: &EnvState, after: &EnvState, silent: &BTreeSet<HostName>) -> Verdict {
    let (Some(before), Some(after)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    let promote = before.deploy == after.deploy && after.plan.kind == DeployKind::Promote;
    let asked = if promote {
        newly_asked(before, after)
    } else {
        Vec::new()
    };
    let unknown = asked.into_iter().find(|host| silent.contains(*host));
    must(Property::UnknownIsLeftAlone, unknown.is_none(), || {
        format!("{unknown:?} is silent and was switched")
    })
}

/// What operators want of hosts holds whatever is under way. A host that was asked before it was drained goes on.
pub fn standings_hold(
    before: &EnvState,
    after: &EnvState,
    drained: &BTreeSet<HostName>,
    retiring: &BTreeSet<HostName>,
) -> Verdict {
    let ordered = after.hosts.iter().find(|(name, target)| {
        let holds = target.run.is_some() || target.runs_app || !target.stage.is_empty();
        retiring.contains(*name) && holds
    });
    must(Property::RetiredAreOrderedNothing, ordered.is_none(), || {
        format!("{ordered:?} leaves the fleet")
    })?;
    let (Some(before), Some(after)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    let awaited = after.hosts.keys().find(|name| retiring.contains(*name));
    let over = after.outcome.is_some();
    must(
        Property::RetiredAreOrderedNothing,
        over || awaited.is_none(),
        || format!("{awaited:?} leaves the fleet and takes part"),
    )?;
    if before.deploy != after.deploy || after.plan.kind == DeployKind::Revert {
        return Ok(());
    }
    let asked = newly_asked(before, after);
    let kept_out = asked.into_iter().find(|host| drained.contains(*host));
    must(Property::DrainedAreLeftAlone, kept_out.is_none(), || {
        format!("{kept_out:?} is drained and was switched")
    })
}

/// A deadline names a host of which `word` was the last word to whoever waits.
pub fn nothing_overlooked(
    before: &EnvState,
    after: &EnvState,
    word: impl Fn(&HostName) -> Option<AppReport>,
) -> Verdict {
    let (Some(was), Some(rollout)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    if was.deploy != rollout.deploy {
        return Ok(());
    }
    let stop = rollout.stop.as_ref().filter(|_| was.stop.is_none());
    // A revert goes on without a host that it gave up.
    let given_up = rollout.hosts.iter().filter_map(|(name, host)| {
        let before = was.hosts.get(name).is_some_and(|was| was.failure.is_some());
        host.failure.as_ref().filter(|_| !before)
    });
    let mut stops = stop.into_iter().chain(given_up);
    let by_deadline = stops.find(|stop| stop.reason.starts_with("deadline"));
    let Some((stop, host)) = by_deadline.and_then(|stop| Some((stop, stop.host.as_ref()?))) else {
        return Ok(());
    };
    let to = rollout.plan.to;
    let asked = match was.hosts.get(host).map(|host| host.switch) {
        Some(Switch::Asked { epoch, .. }) => epoch,
        _ => rollout.first_epoch,
    };
    let said = word(host).is_some_and(|word| match stop.step.as_str() {
        "prefetch" => word.epoch >= asked && word.held.is_none() && word.staged.contains(&to),
        "assets" => word.epoch >= asked && word.held.is_none() && word.assets.contains(&to),
        // One whose turn has not come waits for others; one that is on its way elsewhere does not run it for long.
        _ if was
            .hosts
            .get(host)
            .is_none_or(|host| host.switch == Switch::Untouched) =>
        {
            false
        }
        _ => {
            let stays = word.phase != AppPhase::Switching;
            word.epoch >= asked && word.running == Some(to) && word.healthy && stays
        }
    });
    must(Property::NoWordIsOverlooked, !said, || {
        format!("{host} had said that it is ready: {}", stop.reason)
    })
}

/// A record was replaced: by what was decided on it, or on something older.
pub fn replaces(ledger: &EnvState, stored: &EnvState) -> Verdict {
    let lost = stored.epoch < ledger.epoch
        || stored.last_deploy < ledger.last_deploy
        || stored.history.len() < ledger.history.len();
    must(Property::NothingDecidedIsLost, !lost, || {
        format!(
            "epoch {} deploy {} over epoch {} deploy {}",
            stored.epoch, stored.last_deploy, ledger.epoch, ledger.last_deploy
        )
    })?;
    let same = stored
        .hosts
        .iter()
        .all(|(name, target)| match ledger.hosts.get(name) {
            Some(was) if was.epoch == target.epoch => was == target,
            _ => true,
        });
    must(Property::OneContentPerEpoch, same, || {
        "two contents under one epoch".to_owned()
    })
}
