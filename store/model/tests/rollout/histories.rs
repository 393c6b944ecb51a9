//! Random histories: hosts fail, fall silent, come and go, operators change their minds, clocks jump. Then
//! the faults stop, and everything must come to rest where it should.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::name::HostName;
use ship_model::release::ReleaseNumber;
use ship_model::report::{AppReport, LocalHold};
use ship_model::rollout::{
    Amount, DeployKind, EnvState, Event, HostTarget, Policy, Switch, WayStep, Wish, step,
};

use crate::fleet::{Fleet, SimHost, host, release};
use crate::invariants::{Ledger, Seen};

struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// A guard taken away: what the machine decides on, or has decided, is bent.
type Mutation = fn(&mut EnvState);

#[derive(Default)]
struct Bent {
    /// Applied before a step, for the length of that step where it only concerns what is known.
    before: Option<Mutation>,
    after: Option<Mutation>,
}

struct History {
    fleet: Fleet,
    chance: Chance,
    ledger: Ledger,
    silent: BTreeSet<HostName>,
    heard: BTreeMap<HostName, AppReport>,
    bent: Bent,
}

impl History {
    fn new(seed: u64, bent: Bent) -> Self {
        let mut history = Self {
            fleet: Fleet::new(),
            chance: Chance::new(seed),
            ledger: Ledger::default(),
            silent: BTreeSet::new(),
            heard: BTreeMap::new(),
            bent,
        };
        (1..=3).for_each(|number| history.fleet.publish(number));
        history
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        if let Some(bend) = self.bent.before {
            bend(&mut self.fleet.state);
        }
        match &event {
            Event::HostSilent { host } => drop(self.silent.insert(host.clone())),
            Event::Report { host, app } => {
                self.silent.remove(host);
                let said = app.as_ref().map(|app| (host.clone(), AppReport::clone(app)));
                self.heard.extend(said);
            }
            _ => {}
        }
        let before = self.fleet.state.clone();
        let (mut after, effects) = step(&before, event.clone(), self.fleet.now);
        if let Some(bend) = self.bent.after {
            bend(&mut after);
        }
        let verdict = self.ledger.check(&Seen {
            before: &before,
            event: &event,
            after: &after,
            effects: &effects,
            hosts: &self.fleet.hosts,
            silent: &self.silent,
            heard: &self.heard,
            now: self.fleet.now,
        });
        self.fleet.state = after;
        verdict.map_err(|what| format!("{what}, after {event:?}"))
    }

    fn join(&mut self, number: usize, asset_only: bool) -> Result<(), String> {
        let name = host(&format!("h{number}"));
        if self.fleet.hosts.contains_key(&name) {
            return Ok(());
        }
        let sim = SimHost {
            asset_only,
            ..SimHost::default()
        };
        self.fleet.hosts.insert(name.clone(), sim);
        self.step(Event::HostJoined {
            host: name,
            runs_app: !asset_only,
        })
    }

    fn any_host(&mut self) -> Option<HostName> {
        let at = self.chance.below(self.fleet.hosts.len().max(1));
        self.fleet.hosts.keys().nth(at).cloned()
    }

    fn report(&mut self, name: &HostName) -> Result<(), String> {
        let sim = self.fleet.hosts.get(name).filter(|sim| !sim.silent);
        let Some(report) = sim.map(|sim| sim.report(&self.fleet.state.app)) else {
            return Ok(());
        };
        self.step(Event::Report {
            host: name.clone(),
            app: Some(Box::new(report)),
        })
    }

    /// A host does one thing, and mostly tells of it.
    fn host_acts(&mut self) -> Result<(), String> {
        let Some(name) = self.any_host() else {
            return Ok(());
        };
        let desired = self.fleet.state.desired(&name);
        // A silent host acts all the same: it is only us that do not hear of it.
        if let (Some(sim), Some(desired)) = (self.fleet.hosts.get_mut(&name), desired) {
            sim.act(&desired);
        }
        if self.chance.one_in(5) {
            Ok(())
        } else {
            self.report(&name)
        }
    }

    fn fault(&mut self) -> Result<(), String> {
        let Some(name) = self.any_host() else {
            return Ok(());
        };
        let (now, kind, which) = (self.fleet.now, self.chance.below(9), self.chance.below(4));
        let number = self
            .fleet
            .releases
            .len()
            .saturating_sub(self.chance.below(3))
            .max(1) as u64;
        let Some(sim) = self.fleet.hosts.get_mut(&name) else {
            return Ok(());
        };
        match kind {
            0 | 1 => {
                sim.silent = true;
                return self.step(Event::HostSilent { host: name });
            }
            2 => sim.silent = false,
            3 => {
                let step = ["fetch", "probe", "ready", "spawn"][which];
                sim.breaks.insert(number, step.to_owned());
            }
            4 => sim.unhealthy = !sim.unhealthy,
            5 => sim.keeps_assets_back = !sim.keeps_assets_back,
            6 => sim.hangs = !sim.hangs,
            7 if which == 0 && sim.running.is_some() => {
                let to = release(sim.staged.iter().next().copied().unwrap_or(1));
                sim.held = Some(LocalHold {
                    epoch: sim.epoch,
                    from: sim.running,
                    to,
                    reason: "by hand".to_owned(),
                    at_ms: now,
                });
                sim.running = Some(to);
            }
            _ => sim.breaks.clear(),
        }
        Ok(())
    }

    fn operator(&mut self) -> Result<(), String> {
        let newest = self.fleet.releases.len();
        let who = "ann".to_owned();
        let wish = match self.chance.below(10) {
            0..=3 => Wish::Promote {
                release: Some(ReleaseNumber(1 + self.chance.below(newest) as u64)),
            },
            4 => Wish::Revert { to: None },
            5 => return self.step(Event::Abort { who }),
            6 => return self.step(Event::Pause { who }),
            7 => return self.step(Event::Resume { who }),
            8 => {
                self.fleet.publish(newest as u64 + 1);
                return Ok(());
            }
            _ => {
                let host = self.any_host().filter(|_| self.fleet.hosts.len() > 2);
                let Some(host) = host else {
                    return Ok(());
                };
                self.fleet.hosts.remove(&host);
                self.silent.remove(&host);
                return self.step(Event::HostLeft { host });
            }
        };
        let force = matches!(wish, Wish::Promote { .. }) && self.chance.one_in(2);
        match self.fleet.plan(wish, force) {
            Ok(plan) => {
                if self.chance.one_in(8) {
                    self.host_acts()?;
                }
                self.step(Event::Start {
                    plan: Box::new(plan),
                    who,
                })
            }
            Err(_) => Ok(()),
        }
    }

    fn time(&mut self) -> Result<(), String> {
        match self.chance.below(12) {
            0 => self.fleet.now = self.fleet.now.saturating_sub(50_000),
            1 => self.fleet.now += 120_000,
            _ => self.fleet.now += self.chance.below(6_000) as u64,
        }
        self.step(Event::Tick)
    }

    /// Another policy for the promotes to come.
    fn rule(&mut self) {
        let amount = |chance: &mut Chance| match chance.below(3) {
            0 => None,
            1 => Some(Amount::Count(chance.below(4) as u32)),
            _ => Some(Amount::Percent(chance.below(101) as u8)),
        };
        let steps = (0..self.chance.below(3)).map(|nth| WayStep {
            name: format!("step {nth}"),
            until: amount(&mut self.chance).unwrap_or(Amount::Percent(50)),
            class: None,
            names: match self.chance.below(3) {
                0 => vec![format!("h{}", self.chance.below(6)), "h*".to_owned()],
                _ => Vec::new(),
            },
            soak_ms: self.chance.one_in(2).then(|| self.chance.below(20_000) as u64),
            gates: Vec::new(),
        });
        let steps = steps.collect();
        let min_healthy = amount(&mut self.chance).filter(|_| self.chance.one_in(2));
        self.fleet.policy = Policy {
            max_unavailable: amount(&mut self.chance),
            min_healthy,
            wave: amount(&mut self.chance),
            soak_ms: self.chance.below(15_000) as u64,
            progress_deadline_ms: self.chance.one_in(3).then_some(90_000),
            auto_revert: !self.chance.one_in(4),
            steps,
            ..self.fleet.policy.clone()
        };
    }

    fn trouble(&mut self, steps: usize) -> Result<(), String> {
        if self.chance.one_in(2) {
            self.rule();
        }
        let hosts = 1 + self.chance.below(6);
        for number in 0..hosts {
            self.join(number, number == 5)?;
        }
        for _ in 0..steps {
            match self.chance.below(40) {
                0 => self.operator()?,
                1 => self.fault()?,
                2 if self.chance.one_in(6) => {
                    let number = self.chance.below(9);
                    self.join(number, false)?;
                }
                2..=9 => self.time()?,
                _ => self.host_acts()?,
            }
        }
        Ok(())
    }

    /// Every host is well again; time goes on.
    fn peace(&mut self) -> Result<(), String> {
        for sim in self.fleet.hosts.values_mut() {
            sim.silent = false;
            sim.unhealthy = false;
            sim.keeps_assets_back = false;
            sim.hangs = false;
            sim.breaks.clear();
        }
        if self
            .fleet
            .state
            .running()
            .is_some_and(|rollout| rollout.paused.is_some())
        {
            self.step(Event::Resume { who: "ann".into() })?;
        }
        for round in 0..600 {
            let names: Vec<_> = self.fleet.hosts.keys().cloned().collect();
            for name in names {
                for _ in 0..4 {
                    let desired = self.fleet.state.desired(&name);
                    if let (Some(sim), Some(desired)) = (self.fleet.hosts.get_mut(&name), desired) {
                        sim.act(&desired);
                    }
                }
                self.report(&name)?;
            }
            self.fleet.now += 5_000;
            self.step(Event::Tick)?;
            // Where policy waits for an operator, there is one, and in the end no more patience.
            if self
                .fleet
                .state
                .running()
                .is_some_and(|rollout| rollout.paused.is_some())
            {
                let who = "ann".to_owned();
                self.step(match round {
                    0..100 => Event::Resume { who },
                    _ => Event::Abort { who },
                })?;
            }
            if self.fleet.state.running().is_none() && self.at_rest() {
                return Ok(());
            }
        }
        let state = &self.fleet.state;
        Err(format!(
            "never comes to rest: {:#?}\n{:#?}",
            state.rollout, self.fleet.hosts
        ))
    }

    /// Every host runs what it is told to, or what somebody put it on by hand.
    fn at_rest(&self) -> bool {
        self.fleet.hosts.iter().all(|(name, sim)| {
            let told: Option<&HostTarget> = self.fleet.state.hosts.get(name);
            let run = told.and_then(|told| told.run.filter(|_| told.runs_app));
            sim.held.is_some() || sim.running == run || sim.failure.is_some()
        })
    }
}

fn history(seed: u64, bent: Bent) -> Result<EnvState, String> {
    let mut history = History::new(seed, bent);
    for _ in 0..3 {
        history.trouble(150)?;
        history.peace()?;
    }
    Ok(history.fleet.state)
}

#[test]
fn invariants_hold_and_everything_ends() {
    // More for a night: `SHIP_SEEDS=100000`.
    let seeds = std::env::var("SHIP_SEEDS").map_or(150, |seeds| seeds.parse().unwrap());
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 1..=seeds {
        let state = history(seed, Bent::default()).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for entry in &state.history {
            *endings
                .entry(format!("{:?} {:?}", entry.kind, entry.end))
                .or_default() += 1;
        }
    }
    // Histories in which nothing happens would prove nothing.
    for (ending, least) in [
        ("Promote Done", 150),
        ("Promote Failed", 50),
        ("Promote Reverted", 25),
        ("Promote Partly", 5),
        ("Revert Done", 5),
        ("Revert Partly", 5),
    ] {
        let found = endings.get(ending).copied().unwrap_or_default();
        assert!(found >= least, "{ending}: {found} times only: {endings:?}");
    }
}

fn bend_hosts(state: &mut EnvState, bend: impl Fn(&mut ship_model::rollout::HostProgress)) {
    if let Some(rollout) = state.rollout.as_mut().filter(|rollout| rollout.outcome.is_none()) {
        rollout.hosts.values_mut().for_each(bend);
    }
}

fn running_promote(state: &mut EnvState) -> Option<&mut ship_model::rollout::Rollout> {
    let rollout = state.rollout.as_mut().filter(|rollout| rollout.outcome.is_none());
    rollout.filter(|rollout| rollout.plan.kind == DeployKind::Promote)
}

/// Each guard is taken away in turn: a checker that does not notice would prove nothing.
#[test]
fn every_guard_is_needed() {
    let before = |bend: Mutation| Bent {
        before: Some(bend),
        after: None,
    };
    let after = |bend: Mutation| Bent {
        before: None,
        after: Some(bend),
    };
    let mutants: Vec<(&str, Mutation, bool)> = vec![
        ("lack", |state| bend_hosts(state, |host| host.assets = true), true),
        (
            "silent and was switched",
            |state| bend_hosts(state, |host| host.silent = false),
            true,
        ),
        (
            "away at once",
            |state| {
                if let Some(rollout) = running_promote(state) {
                    rollout.plan.max_unavailable = 99;
                    let all: Vec<_> = rollout.hosts.keys().cloned().collect();
                    for step in &mut rollout.plan.steps {
                        if let ship_model::rollout::PlanStep::Wave { hosts, .. } = step {
                            hosts.clone_from(&all);
                        }
                    }
                }
            },
            true,
        ),
        (
            "is not known to run well",
            |state| {
                bend_hosts(state, |host| {
                    if let Switch::Asked { epoch, .. } = host.switch {
                        host.switch = Switch::Running { epoch };
                        host.serving = Some(true);
                        host.silent = false;
                    }
                });
                if let Some(rollout) = running_promote(state) {
                    rollout.plan.policy.soak_ms = 0;
                }
            },
            true,
        ),
        (
            "are left healthy",
            |state| {
                if let Some(rollout) = running_promote(state) {
                    rollout.plan.min_healthy = 0;
                }
            },
            true,
        ),
        (
            "ms of soak",
            |state| {
                if let Some(rollout) = running_promote(state) {
                    for step in &mut rollout.plan.steps {
                        if let ship_model::rollout::PlanStep::Wave { soak_ms, .. } = step {
                            *soak_ms = 0;
                        }
                    }
                }
            },
            true,
        ),
        (
            "turned back by itself",
            |state| {
                if let Some(rollout) = running_promote(state) {
                    rollout.plan.policy.auto_revert = true;
                }
            },
            true,
        ),
        (
            "turned back twice",
            |state| {
                if let Some(rollout) = running_promote(state).filter(|rollout| rollout.stop.is_some()) {
                    rollout.stop = None;
                    rollout.course = ship_model::rollout::Course::Forward {
                        step: rollout.reached,
                    };
                    for host in rollout.hosts.values_mut() {
                        host.failure = None;
                        host.switch = Switch::Untouched;
                    }
                }
            },
            true,
        ),
        (
            "epoch",
            |state| state.epoch = ship_model::desired::Epoch(state.epoch.0 / 2),
            false,
        ),
        (
            "without a new epoch",
            |state| {
                for target in state.hosts.values_mut() {
                    target.deploy.0 += 1;
                }
            },
            false,
        ),
        (
            "never comes to rest",
            |state| {
                if let Some(rollout) = running_promote(state) {
                    rollout.deadline_ms = u64::MAX;
                    bend_hosts(state, |host| host.assets = false);
                }
            },
            true,
        ),
    ];
    let mut survived = Vec::new();
    for (told, bend, early) in mutants {
        let caught = (1..=100).any(|seed| {
            let bent = if early { before(bend) } else { after(bend) };
            history(seed, bent).is_err_and(|what| what.contains(told))
        });
        if !caught {
            survived.push(told);
        }
    }
    assert!(survived.is_empty(), "not noticed: {survived:?}");
}
