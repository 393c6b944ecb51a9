//! The real step function over numbered parts: each question is asked of it once, its answer checked once.
//!
//! Time has no zero here: before a record is numbered, its times are moved so that now is always [`NOW`], and what is over is
//! as if it were over just now. The machine only ever compares times with now, so nothing is lost by that, and the clock may
//! go on for ever.

use std::collections::HashMap;
use std::rc::Rc;

use ship_model::desired::DesiredApp;
use ship_model::name::HostName;
use ship_model::report::AppReport;
use ship_model::rollout::{
    Answer, AnswerWord, EnvState, Event, Plan, Policy, Rollout, StepTime, Switch, Verdict, step_all,
};

use crate::intern::Interner;
use crate::mutants::Mutant;
use crate::properties::{Step, Violation};

/// Now.
pub const NOW: u64 = 1_000_000;
/// What every soak takes, and by how much the clock goes on at once.
pub const UNIT: u64 = 10_000;
/// The gate that is asked of a check.
pub const CHECK: &str = "errors";
/// A word of it that is as old as that counts for nothing.
const OLD_WORD: u64 = 70_000;

/// What happens to a record; hosts by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happens {
    Report(u8, u32),
    Silent(u8),
    Joined(u8),
    Drained(u8, bool),
    Retiring(u8),
    Start(u32),
    Abort,
    Pause,
    Resume,
    Tick,
    /// The check of the gate that is waited at comes to this; by its place in [`VERDICTS`].
    GateSays(u8),
    /// One of [`OPERATORS`] approves.
    Approves(u8),
}

/// What a check may come to.
pub const VERDICTS: [Verdict; 3] = [Verdict::Pass, Verdict::Fail, Verdict::Unknown];
/// The first one starts everything.
pub const OPERATORS: [&str; 2] = ["ann", "bob"];

/// A record, what happens to it, and whether by a clock that is behind.
type Asked = (u32, Vec<Happens>, bool);
/// The record after it, and what is wrong with the step.
type Outcome = (u32, Option<Rc<Violation>>);

/// See the module.
pub struct Machine {
    pub states: Interner<EnvState>,
    pub reports: Interner<AppReport>,
    pub plans: Interner<Plan>,
    pub words: Interner<DesiredApp>,
    pub names: Vec<HostName>,
    pub policy: Policy,
    /// The hosts that run the app; the others hold assets only.
    pub runs: Vec<bool>,
    pub mutant: Option<Mutant>,
    stepped: HashMap<Asked, Outcome>,
    told: HashMap<(u32, u8), Option<u32>>,
    later: HashMap<u32, u32>,
}

impl Machine {
    pub fn new(names: Vec<HostName>, runs: Vec<bool>, policy: Policy, mutant: Option<Mutant>) -> Self {
        Self {
            states: Interner::default(),
            reports: Interner::default(),
            plans: Interner::default(),
            words: Interner::default(),
            names,
            policy,
            runs,
            mutant,
            stepped: HashMap::new(),
            told: HashMap::new(),
            later: HashMap::new(),
        }
    }

    /// One step; `back`: by a clock that is a unit behind.
    pub fn step(&mut self, state: u32, happens: &[Happens], back: bool) -> Result<u32, Violation> {
        let key = (state, happens.to_vec(), back);
        if let Some((after, wrong)) = self.stepped.get(&key) {
            return wrong
                .as_ref()
                .map_or(Ok(*after), |wrong| Err(Violation::clone(wrong)));
        }
        let before = self.states.get(state);
        let now = if back { NOW - UNIT } else { NOW };
        let events: Vec<_> = happens
            .iter()
            .map(|happens| self.event(*happens, &before))
            .collect();
        let (mut bent, mut bent_events) = (EnvState::clone(&before), events.clone());
        if let Some(bend) = self.mutant.as_ref().and_then(|mutant| mutant.before) {
            bent_events.iter_mut().for_each(|event| bend(&mut bent, event));
        }
        let (mut after, effects) = step_all(&bent, bent_events, now);
        if let Some(bend) = self.mutant.as_ref().and_then(|mutant| mutant.after) {
            bend(&before, &mut after);
        }
        let wrong = Step {
            before: &before,
            events: &events,
            after: &after,
            effects: &effects,
            now,
            policy: &self.policy,
        }
        .check()
        .err()
        .map(Rc::new);
        let patience = self.policy.switch_deadline_ms;
        let id = match after == *before {
            true => state,
            false => self.states.id(canonical(after, 0, patience)),
        };
        self.stepped.insert(key, (id, wrong.clone()));
        wrong.map_or(Ok(id), |wrong| Err(Violation::clone(&wrong)))
    }

    /// Answers given so far are asked for again.
    pub fn forget(&mut self) {
        self.stepped.clear();
    }

    fn event(&self, happens: Happens, before: &EnvState) -> Event {
        let who = || "ann".to_owned();
        let host = |at: u8| self.names[at as usize].clone();
        match happens {
            Happens::Report(at, report) => Event::Report {
                host: host(at),
                app: Some(Box::new(AppReport::clone(&self.reports.get(report)))),
            },
            Happens::Silent(at) => Event::HostSilent { host: host(at) },
            Happens::Joined(at) => Event::HostJoined {
                host: host(at),
                runs_app: self.runs[at as usize],
            },
            Happens::Drained(at, drained) => Event::HostDrained {
                host: host(at),
                drained,
            },
            Happens::Retiring(at) => Event::HostRetiring { host: host(at) },
            Happens::Start(plan) => Event::Start {
                plan: Box::new(Plan::clone(&self.plans.get(plan))),
                who: who(),
            },
            Happens::Abort => Event::Abort { who: who() },
            Happens::Pause => Event::Pause { who: who() },
            Happens::Resume => Event::Resume { who: who() },
            Happens::Tick => Event::Tick,
            Happens::GateSays(verdict) => Event::GateSaid {
                deploy: before.last_deploy,
                step: before.running().map_or(0, |rollout| rollout.reached),
                gate: CHECK.to_owned(),
                verdict: VERDICTS[verdict as usize],
                said: String::new(),
            },
            Happens::Approves(operator) => Event::Answer {
                answer: Answer {
                    word: AnswerWord::Approve,
                    deploy: None,
                    step: None,
                    note: None,
                },
                who: OPERATORS[operator as usize].to_owned(),
            },
        }
    }

    /// What a record tells a host.
    pub fn word(&mut self, state: u32, host: usize) -> Option<u32> {
        let key = (state, host as u8);
        if let Some(known) = self.told.get(&key) {
            return *known;
        }
        let desired = self.states.get(state).desired(&self.names[host]);
        let word = desired.map(|desired| self.words.id(desired));
        self.told.insert(key, word);
        word
    }

    /// The record when the clock has gone on by a unit.
    pub fn later(&mut self, state: u32) -> u32 {
        if let Some(known) = self.later.get(&state) {
            return *known;
        }
        let patience = self.policy.switch_deadline_ms;
        let aged = canonical(EnvState::clone(&self.states.get(state)), UNIT, patience);
        let id = self.states.id(aged);
        self.later.insert(state, id);
        id
    }
}

/// A record with its times moved back by `by`; see the module.
pub fn canonical(mut state: EnvState, by: u64, patience: u64) -> EnvState {
    state.history.iter_mut().for_each(|entry| entry.when_ms = 0);
    state.bad.iter_mut().for_each(|bad| bad.at_ms = 0);
    state.held.iter_mut().for_each(|held| held.at_ms = 0);
    if let Some(rollout) = &mut state.rollout {
        let over = rollout.outcome.is_some();
        rollout.started_ms = 0;
        rollout.ended_ms = rollout.ended_ms.map(|_| 0);
        rollout.times.iter_mut().for_each(forget);
        let age = |at: u64, oldest: u64| match over {
            true => 0,
            false => at.saturating_sub(by).max(NOW - oldest),
        };
        rollout.since_ms = age(rollout.since_ms, UNIT);
        rollout.deadline_ms = age(rollout.deadline_ms, 0);
        rollout.soak_since_ms = rollout.soak_since_ms.map(|at| age(at, UNIT));
        age_switches(rollout, |at| age(at, patience));
        for gate in &mut rollout.gates {
            gate.words.iter_mut().for_each(|word| word.at_ms = 0);
            gate.heard_ms = age(gate.heard_ms, OLD_WORD);
            gate.passing_since_ms = gate.passing_since_ms.map(|at| age(at, UNIT));
        }
    }
    state
}

fn forget(time: &mut StepTime) {
    time.started_ms = 0;
    time.ended_ms = time.ended_ms.map(|_| 0);
}

fn age_switches(rollout: &mut Rollout, age: impl Fn(u64) -> u64) {
    for host in rollout.hosts.values_mut() {
        if let Switch::Asked { at_ms, .. } | Switch::BackAsked { at_ms, .. } = &mut host.switch {
            *at_ms = age(*at_ms);
        }
    }
}
