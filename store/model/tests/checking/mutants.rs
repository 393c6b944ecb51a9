//! Every guard, and the world in which the checker finds out that it is missing.
//!
//! The product has no switch for that: a guard is left out by what the rule gets to see or by what becomes of its answer. The
//! agent's rules look at an observation in which what the guard asks for is always true; the machine steps from a record, or
//! hears a report, in which it is; the ledger stores without comparing. The properties always look at what was really so.

mod gates;

use ship_model::desired::Epoch;
use ship_model::report::AppPhase;
use ship_model::rollout::{
    Course, DeployKind, EnvState, Event, Excuse, HostProgress, PlanStep, Rollout, Switch,
};

use crate::host::AgentGuard;
use crate::properties::Property;
use crate::world::Dimension;

/// Bends what a step sees.
type Before = fn(&mut EnvState, &mut Event);
/// Bends what a step decided.
type After = fn(&EnvState, &mut EnvState);

/// A guard left out.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// The guard.
    pub without: &'static str,
    pub agent: Option<AgentGuard>,
    pub before: Option<Before>,
    pub after: Option<After>,
    /// Stores whatever stands there.
    pub blind: bool,
    /// Does not look again at what it heard when another was first.
    pub deaf: bool,
    /// Does not take in again what it heard when a step makes that mean something new.
    pub forgets: bool,
    /// Decides after each word alone.
    pub hasty: bool,
    /// Any of these tells that it is missing.
    pub kills: &'static [Property],
    pub hosts: usize,
    pub asset_host: bool,
    pub controllers: usize,
    pub gated: bool,
    pub limits: &'static [(Dimension, u8)],
}

const NONE: Mutant = Mutant {
    without: "",
    agent: None,
    before: None,
    after: None,
    blind: false,
    deaf: false,
    forgets: false,
    hasty: false,
    kills: &[],
    hosts: 2,
    asset_host: false,
    controllers: 1,
    gated: false,
    limits: &[],
};

fn agent(
    guard: AgentGuard,
    without: &'static str,
    kills: &'static [Property],
    limits: &'static [(Dimension, u8)],
) -> Mutant {
    Mutant {
        without,
        agent: Some(guard),
        kills,
        limits,
        ..NONE
    }
}

fn before(
    without: &'static str,
    bend: Before,
    kills: &'static [Property],
    limits: &'static [(Dimension, u8)],
) -> Mutant {
    Mutant {
        without,
        before: Some(bend),
        kills,
        limits,
        ..NONE
    }
}

fn after(
    without: &'static str,
    bend: After,
    kills: &'static [Property],
    limits: &'static [(Dimension, u8)],
) -> Mutant {
    Mutant {
        without,
        after: Some(bend),
        kills,
        limits,
        ..NONE
    }
}

fn promote(state: &mut EnvState) -> Option<&mut Rollout> {
    let rollout = state.rollout.as_mut().filter(|rollout| rollout.outcome.is_none());
    rollout.filter(|rollout| rollout.plan.kind == DeployKind::Promote)
}

fn hosts(state: &mut EnvState, bend: impl Fn(&mut HostProgress)) {
    if let Some(rollout) = promote(state) {
        rollout.hosts.values_mut().for_each(bend);
    }
}

pub fn all() -> Vec<Mutant> {
    let mut all = of_agents();
    all.extend(of_the_ledger());
    all.extend(of_waves());
    all.extend(of_hearing());
    all.extend(of_ends());
    all.extend(gates::of_gates());
    all
}

fn of_agents() -> Vec<Mutant> {
    use AgentGuard::{Assets, DurableFirst, Environment, Failed, Fence, Hold, HoldOutlives, Pins, Staged};
    use Dimension::{
        Abort, AgentCrash, AppCrash, Foreign, HandRevert, HeldWord, Promote, Revert, Silence, SwitchFails,
    };
    vec![
        agent(
            Fence,
            "an older epoch is refused",
            &[Property::FenceHolds, Property::PrefetchedFirst],
            &[(Promote, 1), (Abort, 1), (HeldWord, 1)],
        ),
        agent(
            Environment,
            "a word for another environment is refused",
            &[Property::OwnEnvironmentOnly],
            &[(Promote, 1), (Foreign, 1)],
        ),
        agent(
            DurableFirst,
            "a word is durable before it is acted on",
            &[Property::DurableBeforeActing],
            &[(Promote, 1), (AgentCrash, 1)],
        ),
        agent(
            Hold,
            "a revert by hand stands",
            &[Property::HandsAreNotOverruled],
            &[(Promote, 1), (HandRevert, 1)],
        ),
        agent(
            HoldOutlives,
            "a revert by hand outlives news of something else",
            &[Property::HandsAreNotOverruled],
            &[(Promote, 1), (HandRevert, 1), (SwitchFails, 1), (Abort, 1)],
        ),
        agent(
            Failed,
            "what failed is not tried again under the same epoch",
            &[Property::NoFlapping],
            &[(Promote, 1), (SwitchFails, 1)],
        ),
        agent(
            Staged,
            "only what is whole is switched to",
            &[Property::RunsOnlyWhatIsWhole],
            &[(Promote, 1), (Silence, 1)],
        ),
        Mutant {
            hosts: 1,
            ..agent(
                Pins,
                "what a revert on the host goes to is kept",
                &[Property::NothingNeededIsRemoved],
                &[(Promote, 1), (Revert, 2), (AppCrash, 1), (HandRevert, 1)],
            )
        },
        agent(
            Assets,
            "only what has its assets here is switched to",
            &[Property::AssetsReallyFirst],
            &[(Promote, 1), (Silence, 1)],
        ),
    ]
}

fn of_the_ledger() -> Vec<Mutant> {
    use Dimension::{ControllerCrash, HandRevert, LatePlan, Promote, PromoteAgain, Revert};
    vec![
        Mutant {
            without: "a record is stored only over the one it came from",
            blind: true,
            kills: &[
                Property::NothingDecidedIsLost,
                Property::OneContentPerEpoch,
                Property::EpochsOnlyGrow,
            ],
            controllers: 2,
            limits: &[(Promote, 1), (Revert, 1)],
            ..NONE
        },
        Mutant {
            without: "what was heard is looked at again when another was first",
            deaf: true,
            kills: &[Property::NoWordIsOverlooked],
            controllers: 2,
            limits: &[(Promote, 1), (ControllerCrash, 1)],
            ..NONE
        },
        Mutant {
            without: "an old word that means something new is taken in again",
            forgets: true,
            kills: &[Property::NoWordIsOverlooked, Property::Ends],
            limits: &[(Revert, 1), (HandRevert, 1)],
            ..NONE
        },
        Mutant {
            without: "everything that is there is heard before anything is decided",
            hasty: true,
            kills: &[Property::NoWordIsOverlooked],
            limits: &[(Promote, 1)],
            ..NONE
        },
        before(
            "a plan begins only on the record it was made from",
            |state, event| {
                if let Event::Start { plan, .. } = event {
                    plan.parent = state.epoch;
                }
            },
            &[Property::PlansFitWhatStands],
            &[(Promote, 1), (Revert, 1), (LatePlan, 1)],
        ),
        before(
            "a promote waits for what runs",
            |state, event| {
                if let Event::Start { plan, .. } = event {
                    plan.parent = state.epoch;
                    if plan.kind == DeployKind::Promote {
                        state.rollout = None;
                    }
                }
            },
            &[Property::OneRolloutAtOnce],
            &[(Promote, 1), (PromoteAgain, 1), (LatePlan, 1)],
        ),
        before(
            "who comes back is told nothing new",
            |state, event| {
                if let Event::HostJoined { host, .. } = event {
                    state.hosts.remove(host);
                }
            },
            &[Property::ReconnectingRestartsNothing],
            &[(Promote, 1)],
        ),
    ]
}

fn of_waves() -> Vec<Mutant> {
    use Dimension::{Abort, Drain, HeldReport, Pause, Promote, PromoteAgain, Retire, Silence};
    vec![
        before(
            "drained hosts are not switched",
            |state, _| {
                hosts(state, |host| {
                    if host.excused == Some(Excuse::Drained) {
                        host.excused = None;
                    }
                });
            },
            &[Property::DrainedAreLeftAlone],
            &[(Promote, 1), (Drain, 1)],
        ),
        before(
            "a rollout hears that a host is drained under way",
            |_, event| {
                if let Event::HostDrained { drained, .. } = event {
                    *drained = false;
                }
            },
            &[Property::DrainedAreLeftAlone],
            &[(Promote, 1), (Drain, 1)],
        ),
        before(
            "a host that leaves is not taken for one that comes",
            |_, event| {
                if let Event::HostRetiring { host } = event {
                    *event = Event::HostJoined {
                        host: host.clone(),
                        runs_app: true,
                    };
                }
            },
            &[Property::RetiredAreOrderedNothing],
            &[(Promote, 1), (Retire, 1)],
        ),
        after(
            "a rollout lets go of a host that leaves",
            |before, after| {
                let was = before.running().map(|rollout| rollout.hosts.clone());
                if let (Some(was), Some(rollout)) = (was, after.rollout.as_mut()) {
                    for (name, host) in was {
                        rollout.hosts.entry(name).or_insert(host);
                    }
                }
            },
            &[Property::RetiredAreOrderedNothing],
            &[(Promote, 1), (Retire, 1)],
        ),
        before(
            "silent hosts are not switched",
            |state, event| {
                if !matches!(event, Event::HostSilent { .. }) {
                    hosts(state, |host| host.silent = false);
                }
            },
            &[Property::UnknownIsLeftAlone],
            &[(Promote, 1), (Silence, 2)],
        ),
        Mutant {
            asset_host: true,
            ..before(
                "assets stand everywhere before anybody is switched",
                |state, _| hosts(state, |host| host.assets = true),
                &[Property::AssetsReallyFirst],
                &[(Promote, 1)],
            )
        },
        Mutant {
            hosts: 1,
            ..before(
                "a release lies on a host before that is switched",
                |state, _| hosts(state, |host| host.staged = true),
                &[Property::PrefetchedFirst],
                &[(Promote, 1), (Abort, 1), (PromoteAgain, 1)],
            )
        },
        Mutant {
            hosts: 3,
            ..before(
                "few hosts are switched at once",
                |state, _| {
                    if let Some(rollout) = promote(state) {
                        rollout.plan.max_unavailable = 99;
                        let all: Vec<_> = rollout.hosts.keys().cloned().collect();
                        for step in &mut rollout.plan.steps {
                            if let PlanStep::Wave { hosts, .. } = step {
                                hosts.clone_from(&all);
                            }
                        }
                    }
                },
                &[Property::FewAtOnce, Property::FewReallyAtOnce],
                &[(Promote, 1)],
            )
        },
        Mutant {
            hosts: 3,
            ..before(
                "few hosts are excused",
                |state, event| {
                    if matches!(event, Event::HostSilent { .. })
                        && let Some(rollout) = promote(state)
                    {
                        rollout.plan.max_unavailable = 99;
                    }
                },
                &[Property::FewAtOnce],
                &[(Promote, 1), (Silence, 2)],
            )
        },
        before(
            "a wave soaks",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    for step in &mut rollout.plan.steps {
                        if let PlanStep::Wave { soak_ms, .. } = step {
                            *soak_ms = 0;
                        }
                    }
                }
            },
            &[Property::WavesAreBaked],
            &[(Promote, 1)],
        ),
        before(
            "while paused nobody is asked",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    rollout.paused = None;
                }
            },
            &[Property::PausedMeansPaused],
            &[(Promote, 1), (Pause, 1)],
        ),
        before(
            "what was heard of a host from before the rollout counts for nothing",
            |_, event| {
                if let Event::Report { app: Some(app), .. } = event {
                    app.epoch = Epoch(u64::MAX);
                }
            },
            &[Property::ConfirmedByWord, Property::PrefetchedFirst],
            &[(Promote, 1), (Abort, 1), (HeldReport, 1)],
        ),
    ]
}

fn of_hearing() -> Vec<Mutant> {
    use Dimension::{Abort, AppCrash, HandRevert, Promote, PromoteAgain, SwitchFails};
    vec![
        before(
            "an unhealthy host has not confirmed",
            |_, event| {
                if let Event::Report { app: Some(app), .. } = event {
                    app.healthy = true;
                }
            },
            &[Property::ConfirmedByWord],
            &[(Promote, 1), (AppCrash, 1)],
        ),
        before(
            "a host that is on its way elsewhere has not confirmed",
            |_, event| {
                if let Event::Report { app: Some(app), .. } = event {
                    app.phase = AppPhase::Idle;
                }
            },
            &[Property::BackMeansBack],
            &[(Promote, 1), (Abort, 1)],
        ),
        Mutant {
            hosts: 1,
            ..before(
                "a failure of an older epoch stops nothing",
                |_, event| {
                    if let Event::Report { app: Some(app), .. } = event
                        && let Some(failure) = &mut app.failure
                    {
                        failure.epoch = Epoch(u64::MAX);
                    }
                },
                &[Property::OldFailuresStopNothing],
                &[(Promote, 1), (PromoteAgain, 1), (SwitchFails, 1)],
            )
        },
        Mutant {
            hosts: 1,
            ..before(
                "a revert by hand from before stops nothing",
                |_, event| {
                    if let Event::Report { app: Some(app), .. } = event
                        && let Some(held) = &mut app.held
                    {
                        held.epoch = Epoch(u64::MAX);
                    }
                },
                &[Property::OldFailuresStopNothing],
                &[(Promote, 1), (HandRevert, 1)],
            )
        },
        before(
            "what stopped never goes on",
            |state, _| {
                if let Some(rollout) = promote(state).filter(|rollout| rollout.stop.is_some()) {
                    rollout.stop = None;
                    rollout.course = Course::Forward {
                        step: rollout.reached,
                    };
                    rollout.hosts.values_mut().for_each(|host| {
                        host.failure = None;
                        host.switch = Switch::Untouched;
                    });
                }
            },
            &[Property::TurnsBackOnce],
            &[(Promote, 1), (Abort, 1)],
        ),
    ]
}

fn of_ends() -> Vec<Mutant> {
    use Dimension::{Abort, Promote, Revert};
    vec![
        before(
            "a step is given up when its time is over",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    rollout.deadline_ms = u64::MAX;
                    rollout.plan.policy.prefetch_deadline_ms = u64::MAX;
                    rollout.plan.policy.barrier_deadline_ms = u64::MAX;
                }
            },
            &[Property::Ends],
            &[(Promote, 1)],
        ),
        before(
            "a host that was asked is given up when its time is over",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    rollout.deadline_ms = u64::MAX;
                    rollout.plan.policy.switch_deadline_ms = u64::MAX;
                }
            },
            &[Property::Ends],
            &[(Promote, 1)],
        ),
        before(
            "nobody waits for ever for a host that goes back",
            |state, _| {
                if let Some(rollout) = promote(state).filter(|rollout| rollout.course == Course::Back) {
                    rollout.plan.policy.switch_deadline_ms = u64::MAX;
                }
            },
            &[Property::Ends],
            &[(Promote, 1), (Abort, 1)],
        ),
        Mutant {
            hosts: 1,
            ..after(
                "what was taken back is remembered",
                |_, after| after.bad.clear(),
                &[Property::RevertsGoToGoodReleases],
                &[(Promote, 1), (Revert, 2)],
            )
        },
        after(
            "what the fleet would revert to is kept",
            |before, after| {
                if before.running().is_some() && after.running().is_none() {
                    let current = after.current;
                    for target in after.hosts.values_mut() {
                        target.stage.retain(|release| Some(*release) == current);
                    }
                }
            },
            &[Property::FleetRevertNeedsNoDownload],
            &[(Promote, 1)],
        ),
        after(
            "a change takes a newer epoch",
            |before, after| after.epoch = before.epoch,
            &[Property::EpochsOnlyGrow],
            &[(Promote, 1)],
        ),
        after(
            "a revert sticks",
            |_, after| {
                if after.running().is_none() {
                    after.held = None;
                }
            },
            &[Property::RevertsStick],
            &[(Revert, 1)],
        ),
        after(
            "a deploy takes a number of its own",
            |before, after| {
                if after.last_deploy != before.last_deploy {
                    after.last_deploy = before.last_deploy;
                    if let Some(rollout) = &mut after.rollout {
                        rollout.deploy = before.last_deploy;
                    }
                }
            },
            &[Property::NumbersAreNewOnes, Property::TurnsBackOnce],
            &[(Promote, 1), (Abort, 1)],
        ),
    ]
}
