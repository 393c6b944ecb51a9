//! Gates of a simulated environment: a check that comes to anything, and operators who approve when they come to it.

use std::collections::BTreeSet;

use ship_model::rollout::{Amount, Answer, AnswerWord, Ask, EnvState, Event, Gate, Pace, Verdict, WayStep};

use crate::chance::Chance;

const CHECK: &str = "errors";

/// Two steps that end with gates, in one of three histories; the chances of the others are what they were without.
pub fn way(seed: u64) -> Vec<WayStep> {
    if seed % 3 != 2 {
        return Vec::new();
    }
    let approval = Ask::Approval {
        count: 1 + (seed % 2) as u32,
        others: seed.is_multiple_of(5),
        by: BTreeSet::new(),
    };
    let check = Ask::Command {
        argv: vec![CHECK.to_owned()],
        pace: Pace {
            for_ms: (seed % 4) * 20_000,
            fails: 1 + (seed % 3) as u32,
            ..Pace::default()
        },
    };
    let gate = |name: &str, ask: &Ask| Gate {
        name: name.to_owned(),
        ask: ask.clone(),
    };
    let step = |name: &str, until, gates| WayStep {
        name: name.to_owned(),
        until,
        class: None,
        names: Vec::new(),
        soak_ms: None,
        gates,
    };
    let before = Amount::Count((seed % 2) as u32);
    vec![
        step("first", before, vec![gate(CHECK, &check)]),
        step(
            "half",
            Amount::Percent(50),
            vec![gate("go", &approval), gate(CHECK, &check)],
        ),
    ]
}

/// What somebody says at the gate that is waited at; none: nothing is, or nobody does.
pub fn word(state: &EnvState, troubled: bool, chance: &mut Chance) -> Option<Event> {
    let rollout = state
        .running()
        .filter(|rollout| rollout.present_gates().is_some())?;
    if chance.one_in(4) {
        let who = ["ann", "bob", "eve"][chance.below(3) as usize];
        let rejects = troubled && chance.one_in(20);
        return Some(Event::Answer {
            answer: Answer {
                word: match rejects {
                    true => AnswerWord::Reject,
                    false => AnswerWord::Approve,
                },
                deploy: None,
                step: None,
                note: None,
            },
            who: who.to_owned(),
        });
    }
    let verdict = match chance.below(30) {
        0 | 1 if troubled => Verdict::Fail,
        2..=8 if troubled => Verdict::Unknown,
        _ => Verdict::Pass,
    };
    Some(Event::GateSaid {
        deploy: rollout.deploy,
        step: rollout.reached,
        gate: CHECK.to_owned(),
        verdict,
        said: format!("{verdict:?}"),
    })
}
