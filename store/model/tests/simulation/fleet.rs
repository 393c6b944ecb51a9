//! A simulated fleet and everything that befalls it, in one order for each seed.

use std::collections::BTreeMap;

use ship_model::desired::DesiredApp;
use ship_model::digest::ReleaseId;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::AppReport;
use ship_model::rollout::{Amount, DeployKind, Event, Policy, Wish};

use crate::chance::Chance;
use crate::gates;
use crate::machine::Machine;
use crate::properties::{Property, Verdict, Violation, must};
use crate::queue::Queue;
use crate::rules::assets_stand;
use crate::store::Store;

/// Between two reports of a host that has nothing new to say.
const BEAT: u64 = 5_000;
const MINUTE: u64 = 60_000;

#[derive(Debug)]
enum Happens {
    Beat(usize),
    /// It speaks out of turn: something has changed.
    Speak(usize),
    Report(usize, Box<AppReport>),
    Word(usize, DesiredApp),
    Look(usize),
    /// The controller takes up what it heard.
    Listen,
    Sweep,
    StaleTick,
    Fault,
    Operator,
    /// A check of a gate ends, or an operator comes to it.
    Gate,
    Heal(Heals),
    Peace,
}

#[derive(Debug, Clone, Copy)]
enum Heals {
    Agent(usize),
    Line(usize),
    Disk(usize),
    Pace(usize),
    Store,
}

/// How a history went.
#[derive(Debug, Default, Clone)]
pub struct Ended {
    /// Deploys by how they ended.
    pub endings: BTreeMap<String, usize>,
    pub steps: u64,
    pub happened: u64,
}

/// See the module.
pub struct Fleet {
    chance: Chance,
    queue: Queue<Happens>,
    machines: Vec<Machine>,
    places: BTreeMap<HostName, usize>,
    store: Store,
    now: u64,
    /// How far the store's clock is off.
    clock: i64,
    troubled: bool,
    /// The trouble is over then, when it is not before.
    until: u64,
    happened: u64,
    /// What checks and operators say at gates, apart from all else.
    words: Chance,
}

fn release(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

impl Fleet {
    pub fn new(seed: u64, hosts: usize) -> Self {
        let (env, app) = (
            EnvName::new("prod").expect("a name"),
            AppName::new("web").expect("a name"),
        );
        let mut chance = Chance::new(seed);
        let policy = Policy {
            max_unavailable: chance
                .one_in(3)
                .then(|| Amount::Count(u32::try_from(hosts / 3 + 1).expect("a count"))),
            prefetch_deadline_ms: 5 * MINUTE,
            barrier_deadline_ms: 3 * MINUTE,
            switch_deadline_ms: 2 * MINUTE,
            keep: u32::from(chance.one_in(2)),
            steps: gates::way(seed),
            ..Policy::default()
        };
        let names = (1..=hosts).map(|at| HostName::new(&format!("h{at}")).expect("a name"));
        let machines: Vec<_> = names.map(|name| Machine::new(name, env.clone())).collect();
        let places = machines
            .iter()
            .enumerate()
            .map(|(at, machine)| (machine.name.clone(), at));
        let mut fleet = Self {
            chance,
            queue: Queue::default(),
            places: places.collect(),
            machines,
            store: Store::new(env, app, policy),
            now: 1_000_000,
            clock: 0,
            troubled: true,
            until: 1_000_000 + 25 * MINUTE,
            happened: 0,
            words: Chance::new(seed ^ 0x6a7e),
        };
        fleet.begin();
        fleet
    }

    fn begin(&mut self) {
        for at in 0..self.machines.len() {
            let name = self.machines[at].name.clone();
            self.store.know(name, self.now);
            let first = self.now + self.chance.below(BEAT);
            self.queue.plan(first, Happens::Beat(at));
        }
        self.store.publish(release(1));
        self.queue.plan(self.now + 6_000, Happens::Operator);
        self.queue.plan(self.now + 1_000, Happens::Listen);
        self.queue.plan(self.now + 1_000, Happens::Sweep);
        self.queue.plan(self.now + 2 * MINUTE, Happens::Fault);
        self.queue.plan(self.until, Happens::Peace);
        if self.store.policy.has_gates() {
            self.queue.plan(self.now + 1_000, Happens::Gate);
        }
    }

    fn store_now(&self) -> u64 {
        self.now.saturating_add_signed(self.clock)
    }

    fn later(&mut self, least: u64, most: u64, what: Happens) {
        let at = self.now + self.chance.between(least, most);
        self.queue.plan(at, what);
    }

    /// Goes through everything until the fleet rests.
    pub fn run(mut self) -> Result<Ended, (u64, Violation)> {
        while let Some((at, what)) = self.queue.next() {
            self.now = self.now.max(at);
            self.happened += 1;
            let step = matches!(what, Happens::Listen);
            self.take(what).map_err(|violation| (self.now, violation))?;
            if step && !self.troubled && self.rests() {
                return Ok(self.ended());
            }
            let patience = self.until + 120 * MINUTE;
            must(Property::Ends, self.now < patience, || self.unrest())
                .map_err(|violation| (self.now, violation))?;
        }
        Ok(self.ended())
    }

    fn ended(&self) -> Ended {
        let mut endings: BTreeMap<String, usize> = BTreeMap::new();
        for entry in &self.store.ledger.history {
            *endings
                .entry(format!("{:?} {:?}", entry.kind, entry.end))
                .or_default() += 1;
        }
        Ended {
            endings,
            steps: self.store.steps,
            happened: self.happened,
        }
    }

    fn told(&self, at: usize) -> Option<Target> {
        let target = self.store.ledger.hosts.get(&self.machines[at].name);
        target.and_then(|target| target.run.filter(|_| target.runs_app))
    }

    fn rests(&self) -> bool {
        let here = |at: usize, machine: &Machine| {
            let target = self.store.ledger.hosts.get(&machine.name);
            target.is_none_or(|target| target.epoch == machine.host.memory.epoch)
                && machine.rests(self.told(at))
        };
        self.store.ledger.running().is_none()
            && self
                .machines
                .iter()
                .enumerate()
                .all(|(at, machine)| here(at, machine))
    }

    fn unrest(&self) -> String {
        let restless = self
            .machines
            .iter()
            .enumerate()
            .filter(|(at, machine)| !machine.rests(self.told(*at)));
        let restless: Vec<_> = restless.map(|(_, machine)| &machine.name).take(5).collect();
        let course = self
            .store
            .ledger
            .rollout
            .as_ref()
            .map(|rollout| (rollout.course, &rollout.stop));
        format!("never comes to rest: {course:?}, {restless:?}")
    }

    fn take(&mut self, what: Happens) -> Verdict {
        match what {
            Happens::Beat(at) => {
                self.later(BEAT - 500, BEAT + 500, Happens::Beat(at));
                self.speak(at);
            }
            Happens::Speak(at) => self.speak(at),
            Happens::Report(at, report) => self.hear(at, *report),
            Happens::Word(at, word) => self.word(at, word)?,
            Happens::Look(at) => self.look(at)?,
            Happens::Listen => self.listen()?,
            Happens::Sweep => {
                self.queue.plan(self.now + 1_000, Happens::Sweep);
                if self.store.up {
                    let now = self.store_now();
                    self.store.sweep(now);
                }
            }
            Happens::StaleTick => {
                let now = self.store_now();
                let told = self.store.stale_ticks(now)?;
                self.tell(&told);
            }
            Happens::Fault => self.fault(),
            Happens::Operator => self.operator()?,
            Happens::Gate => self.gate()?,
            Happens::Heal(what) => self.heal(what),
            Happens::Peace => self.peace()?,
        }
        Ok(())
    }

    /// A report leaves, if there is a line.
    fn speak(&mut self, at: usize) {
        let machine = &self.machines[at];
        if machine.up && machine.reached && self.store.up {
            let report = machine.host.report(&self.store.ledger.app);
            let slow = if self.chance.one_in(50) { 9_000 } else { 150 };
            self.later(5, slow, Happens::Report(at, Box::new(report)));
        }
    }

    fn hear(&mut self, at: usize, report: AppReport) {
        if !self.store.up {
            return;
        }
        let (name, now, epoch) = (self.machines[at].name.clone(), self.store_now(), report.epoch);
        self.store.hear(&name, report, now);
        // What should be is told on every connection, until it is known.
        if let Some(word) = self
            .store
            .ledger
            .desired(&name)
            .filter(|word| word.epoch != epoch)
        {
            self.later(5, 300, Happens::Word(at, word));
        }
    }

    fn word(&mut self, at: usize, word: DesiredApp) -> Verdict {
        let machine = &mut self.machines[at];
        if !machine.up || !machine.reached {
            return Ok(());
        }
        machine.hear(word);
        self.look(at)
    }

    fn look(&mut self, at: usize) -> Verdict {
        let now = self.now;
        let look = self.machines[at].look(now, &mut self.chance)?;
        if let Some(target) = look.ordered {
            self.ordered(target)?;
        }
        if let Some(again) = look.again_ms {
            self.queue.plan(again.max(now + 1), Happens::Look(at));
        }
        if look.changed {
            self.later(1, 50, Happens::Speak(at));
        }
        Ok(())
    }

    fn ordered(&self, target: Target) -> Verdict {
        let running = self.store.ledger.running();
        let promote =
            running.filter(|rollout| rollout.plan.kind == DeployKind::Promote && rollout.plan.to == target);
        promote.map_or(Ok(()), |rollout| {
            assets_stand(rollout, |name| {
                self.machines[self.places[name]].host.assets.contains(&target)
            })
        })
    }

    fn listen(&mut self) -> Verdict {
        let busy = self.store.ledger.running().is_some() || !self.store.changed.is_empty();
        self.later(100, if busy { 500 } else { 1_000 }, Happens::Listen);
        if !self.store.up || !busy {
            return Ok(());
        }
        let now = self.store_now();
        let told = self.store.listen(None, now)?;
        self.tell(&told);
        Ok(())
    }

    fn tell(&mut self, hosts: &[HostName]) {
        for name in hosts {
            let at = self.places[name];
            if let Some(word) = self
                .store
                .ledger
                .desired(name)
                .filter(|_| self.machines[at].reached)
            {
                self.later(5, 300, Happens::Word(at, word));
            }
        }
    }

    fn operator(&mut self) -> Verdict {
        if !self.troubled {
            return Ok(());
        }
        self.later(30_000, 5 * MINUTE, Happens::Operator);
        let (now, who) = (self.store_now(), "ann".to_owned());
        if !self.store.up {
            return Ok(());
        }
        let told = match self.chance.below(12) {
            0 | 1 => self.store.start(Wish::Revert { to: None }, false, now)?,
            2 => self.store.listen(Some(Event::Abort { who }), now)?,
            3 => self.store.listen(Some(Event::Pause { who }), now)?,
            4 | 5 => self.store.listen(Some(Event::Resume { who }), now)?,
            6 => self.store.start(Wish::Promote { release: None }, true, now)?,
            _ => {
                if self.store.ledger.running().is_none() && self.store.ledger.current.is_some() {
                    self.publish();
                }
                self.store.start(Wish::Promote { release: None }, false, now)?
            }
        };
        self.tell(&told);
        Ok(())
    }

    fn gate(&mut self) -> Verdict {
        let again = self.now + self.words.between(1_000, 12_000);
        self.queue.plan(again, Happens::Gate);
        if !self.store.up {
            return Ok(());
        }
        let word = gates::word(&self.store.ledger, self.troubled, &mut self.words);
        if word.is_some() {
            let now = self.store_now();
            let told = self.store.listen(word, now)?;
            self.tell(&told);
        }
        Ok(())
    }

    /// One more release; some do not come up, on some hosts or on all.
    fn publish(&mut self) {
        let target = release(self.store.releases.len() as u64 + 1);
        self.store.publish(target);
        let odds = match self.chance.below(6) {
            0 => 1,
            1 => 10,
            _ => return,
        };
        for machine in &mut self.machines {
            if self.chance.one_in(odds) {
                machine.broken.push(target);
            }
        }
    }

    fn fault(&mut self) {
        if !self.troubled {
            return;
        }
        self.later(2_000, 40_000, Happens::Fault);
        let at = self.chance.below(self.machines.len() as u64) as usize;
        let lasts = (1_000, 3 * MINUTE);
        match self.chance.below(12) {
            0 | 1 => {
                self.machines[at].agent_dies();
                self.later(lasts.0, lasts.1, Happens::Heal(Heals::Agent(at)));
            }
            2 => self.cut(at, 1),
            // A rack, or half of everything.
            3 => self.cut(at, self.machines.len() / 2 + 1),
            4 => {
                self.machines[at].disk_full = true;
                self.later(lasts.0, lasts.1, Happens::Heal(Heals::Disk(at)));
            }
            5 => {
                self.machines[at].slow = self.chance.between(2, 30);
                self.later(lasts.0, lasts.1, Happens::Heal(Heals::Pace(at)));
            }
            6 | 7 => {
                let lingers = self.chance.one_in(2);
                self.store.dies(lingers);
                self.later(200, 30_000, Happens::Heal(Heals::Store));
                self.later(200, 60_000, Happens::StaleTick);
            }
            8 => self.clock += self.chance.between(0, 20 * MINUTE) as i64 - 10 * MINUTE as i64,
            9 => {
                self.machines[at].host.app_crashes();
                self.later(1, 50, Happens::Look(at));
                self.later(1, 50, Happens::Speak(at));
            }
            10 => {
                self.machines[at].host.revert();
                self.later(1, 50, Happens::Look(at));
            }
            _ => self.machines[at].host.healthy ^= true,
        }
    }

    fn cut(&mut self, first: usize, count: usize) {
        let all = self.machines.len();
        for at in (first..first + count).map(|at| at % all) {
            self.machines[at].reached = false;
            self.later(1_000, 3 * MINUTE, Happens::Heal(Heals::Line(at)));
        }
    }

    fn heal(&mut self, what: Heals) {
        match what {
            Heals::Agent(at) => {
                self.machines[at].up = true;
                self.queue.plan(self.now + 1, Happens::Look(at));
                self.queue.plan(self.now + 20, Happens::Speak(at));
            }
            Heals::Line(at) => {
                self.machines[at].reached = true;
                self.queue.plan(self.now + 20, Happens::Speak(at));
            }
            Heals::Disk(at) => {
                self.machines[at].disk_full = false;
                self.queue.plan(self.now + 1, Happens::Look(at));
            }
            Heals::Pace(at) => self.machines[at].slow = 1,
            Heals::Store if !self.store.up => {
                let now = self.store_now();
                self.store.returns(now);
            }
            Heals::Store => {}
        }
    }

    /// Nothing new goes wrong; what is wrong already is mended.
    fn peace(&mut self) -> Verdict {
        self.troubled = false;
        self.store.stale = None;
        for at in 0..self.machines.len() {
            self.heal(Heals::Agent(at));
            self.heal(Heals::Line(at));
            self.heal(Heals::Disk(at));
            self.heal(Heals::Pace(at));
            let machine = &mut self.machines[at];
            machine.host.healthy = machine.host.running.is_some();
        }
        self.heal(Heals::Store);
        if self
            .store
            .ledger
            .running()
            .is_some_and(|rollout| rollout.paused.is_some())
        {
            let now = self.store_now();
            let told = self.store.listen(
                Some(Event::Resume {
                    who: "ann".to_owned(),
                }),
                now,
            )?;
            self.tell(&told);
        }
        Ok(())
    }
}
