//! Everything that can happen to a fleet: hosts, controllers that know more or less, an operator, and faults.
//!
//! A controller does what the store's conductor does: it keeps the record in memory, steps through what it heard, and stores
//! the result only if the record is still the one it started from; if not, it reads the record and steps again. One that does
//! nothing for a while is a stale one.

mod controllers;
mod moves;
mod peace;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ship_model::digest::ReleaseId;
use ship_model::host::HostState;
use ship_model::name::{AppName, ClassName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppReport, HostReport};
use ship_model::rollout::{
    Amount, Anew, Ask, Content, DeployKind, EnvState, Gate, HostView, Pace, Plan, Policy, ReleaseInfo,
    Request, Rollout, Switch, WayStep, Wish, anew, plan,
};

use crate::host::Host;
use crate::hosts::{Became, Hosts, OnHost};
use crate::intern::Interner;
use crate::machine::{CHECK, Happens, Machine, OPERATORS, UNIT, VERDICTS, canonical};
use crate::mutants::Mutant;
use crate::properties::{
    Property, Verdict, Violation, must, newly_asked, nothing_overlooked, replaces, silent_are_left_alone,
    standings_hold,
};
use crate::rules::assets_stand;
use crate::search::{Key, Space};
use crate::world::{Budget, Controller, Dimension, HOSTS, Mind, OnItsWay, Presence, Standings, World};

/// What is searched.
#[derive(Debug, Clone)]
pub struct Setting {
    pub name: &'static str,
    /// App hosts.
    pub hosts: usize,
    /// One more host holds assets only.
    pub asset_host: bool,
    pub controllers: usize,
    /// After the first host an approval and a check must hold.
    pub gated: bool,
    pub limits: Vec<(Dimension, u8)>,
}

impl Setting {
    /// Hosts may be drained in it.
    fn drains(&self) -> bool {
        self.limits
            .iter()
            .any(|(dimension, _)| *dimension == Dimension::Drain)
    }
}

/// What happened: who, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    Hears { controller: usize, host: usize },
    Late(OnItsWay),
    HoldsBack(OnItsWay),
    FallsSilent { controller: usize, host: usize },
    Tells { controller: usize, host: usize },
    Ticks { controller: usize, back: bool },
    Operator { controller: usize, wish: Dimension },
    Resumes { controller: usize },
    AtTheGate { controller: usize, happens: Happens },
    Drains { controller: usize, host: usize },
    Retires { controller: usize, host: usize },
    ControllerCrashes(usize),
    Host { host: usize, what: OnHost },
    TimePasses,
}

/// What goes on being wrong when everything else is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Nothing,
    /// The first host is never heard.
    Silent,
    /// The first host reports and does nothing.
    Hangs,
}

pub fn release(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

/// See the module.
pub struct Fleet {
    setting: Setting,
    pub machine: Machine,
    pub hosts: Hosts,
    minds: Interner<Mind>,
    mail: Interner<Vec<OnItsWay>>,
    app: AppName,
    reports: HashMap<u32, u32>,
    releases: BTreeMap<ReleaseNumber, ReleaseInfo>,
    /// The newest of them that is published.
    newest: u64,
    /// Records and hosts from which everything ends when the faults stop.
    ends: HashMap<[u32; 5], Result<(), Violation>>,
    start: Option<World>,
    /// What happens after the last state of a way is told as well.
    pub tells: Option<Vec<String>>,
}

type Found = Vec<(Label, Key)>;

impl Fleet {
    pub fn new(setting: Setting, mutant: Option<Mutant>) -> Self {
        let count = setting.hosts + usize::from(setting.asset_host);
        assert!(count <= HOSTS, "no room for {count} hosts");
        let names = (1..=count).map(|at| HostName::new(&format!("h{at}")).expect("a name"));
        let policy = Policy {
            soak_ms: UNIT,
            prefetch_deadline_ms: UNIT,
            barrier_deadline_ms: UNIT,
            switch_deadline_ms: UNIT,
            keep: 0,
            steps: if setting.gated { gated() } else { Vec::new() },
            ..Policy::default()
        };
        let runs = (0..count).map(|at| at < setting.hosts).collect();
        let mut hosts = Hosts::default();
        hosts.without = mutant.as_ref().and_then(|mutant| mutant.agent);
        let info = |number| ReleaseInfo {
            target: release(number),
            classes: [ClassName::new("web").expect("a name")].into(),
            platform: Vec::new(),
            keep: None,
            switch_waits_ms: 0,
            content: Content::Kept,
        };
        Self {
            setting,
            machine: Machine::new(names.collect(), runs, policy, mutant),
            hosts,
            minds: Interner::default(),
            mail: Interner::default(),
            app: AppName::new("web").expect("a name"),
            reports: HashMap::new(),
            releases: (1..=3)
                .map(|number| (ReleaseNumber(number), info(number)))
                .collect(),
            newest: 3,
            ends: HashMap::new(),
            start: None,
            tells: None,
        }
    }

    fn tell_of(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.tells.is_some() {
            let told = what(self);
            self.tells.iter_mut().for_each(|tells| tells.push(told.clone()));
        }
    }

    fn count(&self) -> usize {
        self.machine.names.len()
    }

    /// Parts that were told apart: records, reports, hosts.
    pub fn parts(&self) -> (usize, usize, usize) {
        (
            self.machine.states.len(),
            self.machine.reports.len(),
            self.hosts.all.len(),
        )
    }

    fn tell(&mut self, world: &mut World, controller: usize, host: usize) -> Verdict {
        let Some(word) = self.machine.word(world.controllers[controller].cache, host) else {
            return Ok(());
        };
        self.on_host(world, host, OnHost::Hears(word)).map(drop)
    }

    /// True when something came of it.
    fn on_host(&mut self, world: &mut World, at: usize, what: OnHost) -> Result<bool, Violation> {
        let became = self.hosts.after(world.hosts[at], what, &self.machine.words)?;
        let Some(Became { host, ordered }) = became else {
            return Ok(false);
        };
        world.hosts[at] = host;
        self.tell_of(|fleet| {
            let host = fleet.hosts.all.get(host);
            let (running, switching) = (host.running, host.switching.map(|order| order.target));
            let number = |target: Option<Target>| target.map_or(0, |target| target.number.0);
            let held = host.memory.held.as_ref();
            let (running, switching) = (number(running), number(switching));
            let held = held.map(|held| (held.epoch.0, number(held.from), held.to.number.0));
            let (epoch, goal) = (host.memory.epoch, number(host.memory.goal()));
            format!("    h{} {what:?}: epoch {epoch} wants {goal} runs {running} goes to {switching} held {held:?}", at + 1)
        });
        if let Some(target) = ordered {
            self.ordered(world, target)?;
        }
        Ok(true)
    }

    /// What must be true of the others when a host is switched.
    fn ordered(&self, world: &World, target: Target) -> Verdict {
        let ledger = self.machine.states.get(world.ledger);
        let promote = ledger
            .running()
            .filter(|rollout| rollout.plan.kind == DeployKind::Promote && rollout.plan.to == target);
        let Some(rollout) = promote else { return Ok(()) };
        let places: BTreeMap<&HostName, usize> = self
            .machine
            .names
            .iter()
            .enumerate()
            .map(|(at, name)| (name, at))
            .collect();
        assets_stand(rollout, |name| {
            let host = self.hosts.all.get(world.hosts[places[name]]);
            host.assets.contains(&target)
        })?;
        let away = (0..self.count())
            .filter(|other| self.is_away(world, rollout, *other))
            .count();
        let allowed = self.machine.policy.allowed_away(self.setting.hosts) as usize;
        must(Property::FewReallyAtOnce, away <= allowed, || {
            format!("{away} hosts are switched at once, {allowed} may be")
        })
    }

    fn is_away(&self, world: &World, rollout: &Rollout, at: usize) -> bool {
        let host = self.hosts.all.get(world.hosts[at]);
        let known = rollout.hosts.get(&self.machine.names[at]);
        let counts = known.is_some_and(|known| !known.late && known.excused.is_none());
        counts
            && host
                .switching
                .is_some_and(|order| order.target == rollout.plan.to)
    }

    /// Adds what `happens` makes of `world`, if it makes anything of it.
    fn add(
        &mut self,
        world: &World,
        label: Label,
        found: &mut Found,
        happens: impl FnOnce(&mut Self, &mut World) -> Verdict,
    ) -> Verdict {
        let mut next = *world;
        happens(self, &mut next)?;
        if next != *world {
            found.push((label, next.key()));
        }
        Ok(())
    }

    fn controller(&mut self, world: &World, at: usize, found: &mut Found) -> Verdict {
        for host in 0..self.count() {
            self.add(
                world,
                Label::Hears { controller: at, host },
                found,
                |fleet, next| fleet.hear(next, at, host),
            )?;
            self.add(
                world,
                Label::Tells { controller: at, host },
                found,
                |fleet, next| fleet.tell(next, at, host),
            )?;
            if !self.presence(world, at, host).silent
                && let Some(budget) = world.budget.spend(Dimension::Silence)
            {
                let label = Label::FallsSilent { controller: at, host };
                self.add(world, label, found, |fleet, next| {
                    next.budget = budget;
                    fleet.falls_silent(next, at, host)
                })?;
            }
        }
        self.ticks(world, at, found)?;
        self.operator(world, at, found)?;
        self.gates(world, at, found)?;
        self.standings(world, at, found)?;
        if let Some(budget) = world.budget.spend(Dimension::ControllerCrash) {
            self.add(world, Label::ControllerCrashes(at), found, |fleet, next| {
                let nobody = fleet.minds.id(Mind(vec![Presence::default(); fleet.count()]));
                next.budget = budget;
                next.controllers[at] = Controller {
                    cache: next.ledger,
                    mind: nobody,
                };
                Ok(())
            })?;
        }
        Ok(())
    }

    fn time(&mut self, world: &World, found: &mut Found) -> Verdict {
        self.add(world, Label::TimePasses, found, |fleet, next| {
            next.ledger = fleet.machine.later(next.ledger);
            for at in 0..fleet.setting.controllers {
                next.controllers[at].cache = fleet.machine.later(next.controllers[at].cache);
            }
            Ok(())
        })
    }
}

/// One host, then somebody else approves and a check passes for as long as a soak.
fn gated() -> Vec<WayStep> {
    let approval = Ask::Approval {
        count: 1,
        others: true,
        by: BTreeSet::new(),
    };
    let check = Ask::Command {
        argv: vec![CHECK.to_owned()],
        pace: Pace {
            every_ms: UNIT,
            for_ms: UNIT,
            timeout_ms: 1000,
            fails: 1,
        },
    };
    let gate = |name: &str, ask| Gate {
        name: name.to_owned(),
        ask,
    };
    vec![WayStep {
        name: "one".to_owned(),
        until: Amount::Count(1),
        class: None,
        names: Vec::new(),
        soak_ms: None,
        gates: vec![gate("go", approval), gate(CHECK, check)],
    }]
}

/// A record in one line.
fn brief(state: &EnvState) -> String {
    let number = |target: Option<Target>| target.map_or(0, |target| target.number.0);
    let told = state.hosts.iter().map(|(name, target)| {
        let rollout = state.rollout.as_ref().and_then(|rollout| rollout.hosts.get(name));
        let switch = rollout.map(|host| host.switch);
        format!(
            " {name} epoch {} run {} {switch:?}",
            target.epoch,
            number(target.run)
        )
    });
    let told: String = told.collect();
    let course = state.rollout.as_ref().map(|rollout| rollout.course);
    let stop = state.rollout.as_ref().and_then(|rollout| rollout.stop.as_ref());
    let stop = stop.map(|stop| &stop.reason);
    format!(
        "    stored: deploy {} {course:?} {stop:?}:{told}",
        state.last_deploy
    )
}

impl Space for Fleet {
    type Label = Label;
    type Violation = Violation;

    fn start(&mut self) -> Key {
        if self.start.is_none() {
            self.start = Some(self.settled());
        }
        let mut world = self.start.expect("just made");
        if self.setting.controllers == 1 {
            world.controllers[1] = world.controllers[0];
        }
        world.key()
    }

    fn next(&mut self, from: &Key, found: &mut Found) -> Verdict {
        let world = World::of(from);
        for at in 0..self.setting.controllers {
            self.controller(&world, at, found)?;
        }
        self.messages(&world, found)?;
        for at in 0..self.count() {
            self.host(&world, at, found)?;
        }
        self.time(&world, found)?;
        if self.setting.controllers == 1 {
            // A controller that is not there is always the same.
            for (_, key) in found.iter_mut() {
                (key[3], key[4]) = (0, 0);
            }
        }
        Ok(())
    }

    fn tell(&mut self, at: &Key) -> Vec<String> {
        self.ends.clear();
        self.tells = Some(Vec::new());
        if self.check(at).is_ok() {
            self.tells = Some(Vec::new());
        }
        self.tells.take().unwrap_or_default()
    }

    fn check(&mut self, at: &Key) -> Verdict {
        let world = World::of(at);
        let [x, y, z] = world.hosts;
        let key = [world.ledger, x, y, z, world.standings.0];
        if let Some(known) = self.ends.get(&key) {
            return known.clone();
        }
        let all = [Lasting::Nothing, Lasting::Silent, Lasting::Hangs];
        let verdict = all.into_iter().try_for_each(|lasting| {
            self.tell_of(|_| format!("  the faults stop, but for what lasts: {lasting:?}"));
            self.peace(&mut world.clone(), lasting)
        });
        self.ends.insert(key, verdict.clone());
        verdict
    }
}
