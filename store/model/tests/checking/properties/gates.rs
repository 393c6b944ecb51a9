//! What must be true of gates, by what was said and not by what the machine made of it.

use std::collections::BTreeSet;

use ship_model::rollout::{AnswerWord, Ask, Event, Gate, Pace, PlanStep, Rollout, Verdict as Word};

use super::{Property, Step, Verdict, must};

pub(super) fn check(step: &Step<'_>, before: &Rollout, after: &Rollout) -> Verdict {
    for at in before.reached..after.reached {
        let Some(PlanStep::Gate { name, .. }) = before.plan.steps.get(at) else {
            continue;
        };
        // What was ordered, whatever the plan says of it.
        let ordered = step.policy.steps.iter().filter(|ordered| ordered.name == *name);
        let mut gates = ordered.flat_map(|ordered| &ordered.gates);
        let closed = gates.find(|gate| !has_opened(step, before, at, gate));
        must(Property::GatesHold, closed.is_none(), || {
            format!("step {at} was left, and {closed:?} was not open")
        })?;
    }
    let by_itself = after
        .stop
        .as_ref()
        .filter(|stop| before.stop.is_none() && stop.step == "gate" && stop.by.is_none());
    let failed = |event: &Event| {
        matches!(
            event,
            Event::GateSaid {
                verdict: Word::Fail,
                ..
            }
        )
    };
    must(
        Property::UnknownTurnsNothingBack,
        by_itself.is_none() || step.events.iter().any(failed),
        || "a gate turned the rollout back, and no check failed".to_owned(),
    )
}

fn has_opened(step: &Step<'_>, rollout: &Rollout, at: usize, gate: &Gate) -> bool {
    match &gate.ask {
        Ask::Approval { count, others, .. } => {
            let mut yes = yes(step, rollout, at, gate, |word| *word == AnswerWord::Approve);
            yes.retain(|who| !*others || *who != rollout.who);
            yes.len() >= *count as usize
        }
        Ask::Manual { .. } => {
            let is_it = |word: &AnswerWord| *word == AnswerWord::Acknowledge(gate.name.clone());
            !yes(step, rollout, at, gate, is_it).is_empty()
        }
        Ask::Command { pace, .. } | Ask::Http { pace, .. } => has_passed(step, rollout, (at, gate), *pace),
    }
}

fn yes<'a>(
    step: &Step<'a>,
    rollout: &'a Rollout,
    at: usize,
    gate: &Gate,
    is_it: impl Fn(&AnswerWord) -> bool,
) -> BTreeSet<&'a str> {
    let known = rollout.gate(at, &gate.name).into_iter();
    let mut yes: BTreeSet<&str> = known
        .flat_map(|known| &known.words)
        .map(|word| word.who.as_str())
        .collect();
    yes.extend(step.events.iter().filter_map(|event| match event {
        Event::Answer { answer, who } if is_it(&answer.word) => Some(who.as_str()),
        _ => None,
    }));
    yes
}

fn has_passed(step: &Step<'_>, rollout: &Rollout, (at, gate): (usize, &Gate), pace: Pace) -> bool {
    let known = rollout.gate(at, &gate.name).filter(|known| {
        let age = step.now.saturating_sub(known.heard_ms);
        known.verdict == Some(Word::Pass) && age <= pace.valid_ms()
    });
    let before = known.and_then(|known| known.passing_since_ms);
    let said = step.events.iter().rev().find_map(|event| match event {
        Event::GateSaid {
            gate: of, verdict, ..
        } if *of == gate.name => Some(*verdict),
        _ => None,
    });
    let since = match said {
        None => before,
        Some(Word::Pass) => Some(before.unwrap_or(step.now)),
        Some(Word::Fail | Word::Unknown) => None,
    };
    since.is_some_and(|since| step.now.saturating_sub(since) >= pace.for_ms)
}
