//! The guards of gates.

use ship_model::rollout::{Ask, DeployKind, Event, Gate, PlanStep, Rollout, Verdict};

use super::{Before, Mutant, before, promote};
use crate::machine::NOW;
use crate::properties::Property;
use crate::world::Dimension::{self, Promote, Revert};

fn gate(
    without: &'static str,
    bend: Before,
    kills: &'static [Property],
    limits: &'static [(Dimension, u8)],
) -> Mutant {
    Mutant {
        gated: true,
        ..before(without, bend, kills, limits)
    }
}

/// Bends the gates that `rollout` will come to.
fn each(rollout: &mut Rollout, bend: impl Fn(&mut Gate)) {
    for step in &mut rollout.plan.steps {
        if let PlanStep::Gate { gates, .. } = step {
            gates.iter_mut().for_each(&bend);
        }
    }
}

pub(super) fn of_gates() -> Vec<Mutant> {
    vec![
        gate(
            "a step behind a gate waits for whoever is to approve",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    for step in &mut rollout.plan.steps {
                        if let PlanStep::Gate { gates, .. } = step {
                            gates.retain(|gate| gate.pace().is_some());
                        }
                    }
                }
            },
            &[Property::GatesHold],
            &[(Promote, 1)],
        ),
        gate(
            "the one who promoted does not approve",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    each(rollout, |gate| {
                        if let Ask::Approval { others, .. } = &mut gate.ask {
                            *others = false;
                        }
                    });
                }
            },
            &[Property::GatesHold],
            &[(Promote, 1)],
        ),
        gate(
            "a check passes for as long as it must",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    each(rollout, |gate| {
                        if let Ask::Command { pace, .. } = &mut gate.ask {
                            pace.for_ms = 0;
                        }
                    });
                }
            },
            &[Property::GatesHold],
            &[(Promote, 1)],
        ),
        gate(
            "unknown does not pass",
            |_, event| {
                if let Event::GateSaid { verdict, .. } = event
                    && *verdict == Verdict::Unknown
                {
                    *verdict = Verdict::Pass;
                }
            },
            &[Property::GatesHold],
            &[(Promote, 1)],
        ),
        gate(
            "unknown does not fail",
            |_, event| {
                if let Event::GateSaid { verdict, .. } = event
                    && *verdict == Verdict::Unknown
                {
                    *verdict = Verdict::Fail;
                }
            },
            &[Property::UnknownTurnsNothingBack],
            &[(Promote, 1)],
        ),
        gate(
            "a word of a check that is old counts for nothing",
            |state, _| {
                if let Some(rollout) = promote(state) {
                    rollout.gates.iter_mut().for_each(|gate| gate.heard_ms = NOW);
                }
            },
            &[Property::GatesHold],
            &[(Promote, 1)],
        ),
        gate(
            "a revert waits for no gate",
            |state, event| {
                let waits = promote(state).is_some_and(|rollout| rollout.present_gates().is_some());
                if let Event::Start { plan, .. } = event
                    && plan.kind == DeployKind::Revert
                    && waits
                {
                    *event = Event::Tick;
                }
            },
            &[Property::RevertsWaitForNoGate],
            &[(Promote, 1), (Revert, 1)],
        ),
    ]
}
