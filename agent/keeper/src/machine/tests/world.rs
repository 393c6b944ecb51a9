//! A made-up world for the machine: what its effects would do, with accidents, and what must hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::spec::{Canary, Hook, HookPoint, Reexec, Reload, Restart, Standby, Strategy, Upgrade};

use super::*;
use crate::machine::GOOD_KEPT;
use crate::protocol::{Limits, ListenSpec, Phase, ProbeKind, ProbeSpec, ProcessSpec};

/// A small generator of numbers that look random and are the same each time.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64: of a plain congruential generator neighbouring rolls hang together, and some ways never meet.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as usize % sides
    }
}

pub(super) fn process(name: &str, probed: bool) -> ProcessSpec {
    ProcessSpec {
        name: name.to_owned(),
        command: vec!["x".to_owned()],
        strategy: Strategy::ListenFds,
        restart: None,
        overlap: true,
        asked_for: None,
        canary: None,
        env: BTreeMap::new(),
        env_file: None,
        listen: Vec::new(),
        probe: probed.then(|| ProbeSpec {
            kind: ProbeKind::Tcp,
            listener: "http".to_owned(),
            times: 1,
            interval_ms: 1,
            timeout_ms: 1,
        }),
        notify: probed,
        watchdog_ms: None,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: false,
        ready_timeout_ms: 5_000,
        drain_ms: 1_000,
        stop_signal: "TERM".to_owned(),
        stop_timeout_ms: 1_000,
        user: None,
        limits: Limits::default(),
    }
}

pub(super) fn intent(release: u64, epoch: u64, coexist: bool) -> Intent {
    Intent {
        release,
        id: format!("{release:x}"),
        dir: format!("/srv/web/releases/{release}").into(),
        deploy: release,
        epoch,
        environment: String::new(),
        processes: vec![process("web", true), process("worker", false)],
        coexist,
        must_coexist: false,
        soak_ms: 2_000,
        standby: None,
        hooks: std::collections::BTreeMap::new(),
    }
}

/// Every way a process can be replaced, as the machine tells them apart.
pub(super) fn all_ways() -> Vec<(Strategy, Option<Restart>)> {
    let reexec = |pause: Option<&str>| {
        Some(Restart::Reexec(Reexec {
            upgrade: "USR2".to_owned(),
            pause: pause.map(str::to_owned),
            resume: pause.map(|_| "HUP".to_owned()),
            pidfile: Some("pid".to_owned()),
        }))
    };
    let reload = Restart::Reload(Reload {
        signal: "HUP".to_owned(),
    });
    let upgrade = Restart::Command(Upgrade {
        install: vec!["x".to_owned()],
        permanent: Vec::new(),
        back: Vec::new(),
        timeout_ms: 1,
    });
    vec![
        (Strategy::ListenFds, None),
        (Strategy::StopStart, None),
        (Strategy::CutOver, None),
        (Strategy::BindJoin, None),
        (Strategy::SignalReexec, reexec(Some("WINCH"))),
        (Strategy::SignalReexec, reexec(None)),
        (Strategy::SignalReload, Some(reload)),
        (Strategy::Command, Some(upgrade)),
    ]
}

/// What the effects have made of the world.
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: u64,
    pub(super) dice: Dice,
    pub(super) alive: BTreeMap<(u64, usize), Process>,
    pub(super) answers: Vec<Event>,
    pub(super) proven: BTreeSet<u64>,
    pub(super) steered: Option<u64>,
    /// Gets a share of the users.
    pub(super) shared: Option<u64>,
    /// How often users came to a canary.
    pub(super) shares: usize,
    pub(super) current: Option<std::path::PathBuf>,
    pub(super) next_pid: u32,
    pub(super) epoch: u64,
    pub(super) exited: bool,
    /// Hooks that have run well.
    pub(super) hooked: BTreeSet<(u64, HookPoint)>,
    pub(super) ways: Vec<(Strategy, Option<Restart>)>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: State {
                boot_id: "one".to_owned(),
                ..State::default()
            },
            now: 1_000_000,
            dice: Dice(seed),
            alive: BTreeMap::new(),
            answers: Vec::new(),
            proven: BTreeSet::new(),
            steered: None,
            shared: None,
            shares: 0,
            current: None,
            next_pid: 100,
            epoch: 0,
            exited: false,
            hooked: BTreeSet::new(),
            ways: vec![(Strategy::ListenFds, None)],
        }
    }

    pub(super) fn take(&mut self, event: &Event) {
        if let Event::Probed {
            generation, slot: 0, ..
        } = event
        {
            self.proven.insert(*generation);
        }
        let (next, effects) = step(&self.state, event, self.now);
        self.go_on(next, effects);
    }

    pub(super) fn go_on(&mut self, next: State, effects: Vec<Effect>) {
        // The journal: what is written is what is read again.
        let words = serde_json::to_vec(&next).unwrap();
        self.state = serde_json::from_slice(&words).unwrap();
        assert_eq!(self.state, next);
        for effect in effects {
            self.carry_out(effect);
        }
        self.check();
    }

    /// While the app holds its lock nothing is taken from it.
    fn check_lock(&self, effect: &Effect) {
        let (Some(rising), Some(active)) = (&self.state.rising, &self.state.active) else {
            return;
        };
        let locks = active.is_living()
            && active
                .intent
                .processes
                .iter()
                .any(|process| process.lock_wait_ms.is_some());
        if !locks || rising.unlocked || rising.phase == RisingPhase::Aborting || self.state.stopping {
            return;
        }
        let taken = match effect {
            Effect::Hold { generation }
            | Effect::Drain { generation }
            | Effect::Stop { generation }
            | Effect::Kill { generation }
            | Effect::End { generation, .. } => *generation == active.number,
            Effect::Steer { generation } => *generation == rising.generation.number,
            Effect::Link { current, .. } => {
                current.as_ref() == Some(&rising.generation.intent.dir)
                    && rising.generation.intent.dir != active.intent.dir
            }
            Effect::Ask { .. } => true,
            _ => false,
        };
        assert!(
            !taken,
            "{effect:?} though the app holds its lock: {:#?}",
            self.state
        );
    }

    /// The app lets itself be replaced.
    pub(super) fn unlock(&mut self) {
        if let Some(rising) = self
            .state
            .rising
            .as_ref()
            .filter(|rising| matches!(rising.phase, RisingPhase::Locked { .. }))
        {
            let generation = rising.generation.number;
            self.take(&Event::Unlocked { generation });
        }
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        self.check_lock(&effect);
        match effect {
            Effect::Bind { generation } => {
                let sockets = if self.dice.roll(20) == 0 {
                    Err("taken".to_owned())
                } else {
                    Ok(vec![vec![1], vec![]])
                };
                let tight = (self.dice.roll(12) == 0).then(|| "little".to_owned());
                self.answers.push(Event::Bound {
                    generation,
                    sockets,
                    remarks: Vec::new(),
                    tight,
                });
            }
            Effect::Fork { generation, slot } => {
                assert!(
                    !self.alive.contains_key(&(generation, slot)),
                    "two processes in slot {slot} of {generation}: {:#?}",
                    self.state
                );
                self.check_apart(generation, slot);
                let found = self.state.generation(generation).unwrap();
                assert!(!found.intent.is_adopted(), "nobody knows how it was started");
                self.check_slots(generation);
                self.next_pid += 1;
                let process = Process {
                    pid: self.next_pid,
                    start: 1,
                };
                self.alive.insert((generation, slot), process);
                self.answers.push(Event::Forked {
                    generation,
                    slot,
                    process,
                });
            }
            Effect::Go { generation, slot } => {
                let written = self
                    .state
                    .generation(generation)
                    .and_then(|found| found.slots[slot].process);
                assert!(written.is_some(), "let go before it was written down");
                if self.alive.get(&(generation, slot)).copied() != written {
                    return;
                }
                self.answers.push(Event::Started { generation, slot });
                let spec = &self.state.generation(generation).unwrap().intent.processes[slot];
                if spec.strategy == Strategy::BindJoin && self.dice.roll(3) == 0 {
                    self.answers.push(Event::Way {
                        generation,
                        slot,
                        way: Way {
                            strategy: Some(Strategy::StopStart),
                            reason: "may not be looked at".to_owned(),
                        },
                    });
                }
                if slot == 0 && self.dice.roll(8) > 0 {
                    self.answers.push(Event::Ready { generation, slot });
                }
            }
            Effect::Probe { generation, slot } => match self.dice.roll(8) {
                0 => self.answers.push(Event::ProbeFailed {
                    generation,
                    slot,
                    reason: "500".to_owned(),
                }),
                1 => {}
                _ => self.answers.push(Event::Probed {
                    generation,
                    slot,
                    first_answer_at: self.now,
                }),
            },
            Effect::Link {
                generation, current, ..
            } => {
                let result = if self.dice.roll(30) == 0 {
                    Err("full".to_owned())
                } else {
                    Ok(())
                };
                if result.is_ok() && current.is_some() {
                    self.current = current;
                }
                self.answers.push(Event::Linked { generation, result });
            }
            Effect::Steer { generation } => {
                assert!(
                    self.proven.contains(&generation),
                    "steered to {generation}, which is not proven"
                );
                let rising = self.state.rising.iter().map(|rising| &rising.generation);
                let rising = rising.filter(|rising| rising.number == generation);
                for (found, point) in rising.flat_map(|rising| {
                    [HookPoint::BeforeStart, HookPoint::BeforeSwitch].map(|point| (rising, point))
                }) {
                    let ran = self.hooked.contains(&(generation, point));
                    assert!(
                        ran || !found.intent.hooks.contains_key(&point),
                        "{point:?} did not run"
                    );
                }
                self.steered = Some(generation);
                self.shared = None;
                self.answers.push(Event::Steered {
                    generation,
                    result: Ok(()),
                });
            }
            Effect::Share { generation, .. } => {
                assert!(
                    self.proven.contains(&generation),
                    "shared with {generation}, which is not proven"
                );
                let result = match self.dice.roll(20) {
                    0 => Err("no".to_owned()),
                    1 if self.shared.is_none() => Ok(false),
                    _ => {
                        self.shared = Some(generation);
                        self.shares += 1;
                        Ok(true)
                    }
                };
                self.answers.push(Event::Shared { generation, result });
            }
            Effect::Watch { generation, slot } => {
                if self.dice.roll(6) == 0 {
                    self.answers.push(Event::ProbeFailed {
                        generation,
                        slot,
                        reason: "500".to_owned(),
                    });
                }
            }
            Effect::Stop { generation } | Effect::Kill { generation } => {
                assert_ne!(self.shared, Some(generation), "ended with users on it");
                let slots: Vec<_> = self
                    .alive
                    .keys()
                    .filter(|(number, _)| *number == generation)
                    .copied()
                    .collect();
                for (generation, slot) in slots {
                    self.die(generation, slot, "was told to");
                }
                self.answers.push(Event::Gone { generation, cut: 0 });
            }
            Effect::End { generation, slot, .. } => self.die(generation, slot, "made room"),
            Effect::Hook { generation, point } => {
                let known = |pending: &Pending| pending.is(generation, point);
                assert!(self.state.hooks.iter().any(known), "hooks of nobody");
                let result = if self.dice.roll(6) == 0 {
                    Err("no".to_owned())
                } else {
                    self.hooked.insert((generation, point));
                    Ok(())
                };
                self.answers.push(Event::Hooked {
                    generation,
                    point,
                    result,
                });
            }
            Effect::Drain { generation } => self.answers.push(Event::Idle { generation }),
            Effect::Sweep {
                generation,
                slot,
                process,
            } => {
                if self.alive.get(&(generation, slot)) == Some(&process) {
                    self.alive.remove(&(generation, slot));
                }
            }
            Effect::Forget { generation } => {
                assert!(
                    !self.alive.keys().any(|(number, _)| *number == generation),
                    "forgotten alive"
                );
                assert_ne!(
                    self.state.active.as_ref().map(|active| active.number),
                    Some(generation)
                );
            }
            Effect::Ask { generation, slot } => self.ask(generation, slot),
            Effect::Carry { from, to } => {
                let process = self.alive.remove(&from);
                if let Some(process) = process {
                    assert!(self.alive.insert(to, process).is_none(), "two in slot {to:?}");
                }
                // What was on its way to be told of it is told of its new place.
                for event in &mut self.answers {
                    if let Event::Ended { generation, slot, .. } = event
                        && (*generation, *slot) == from
                    {
                        (*generation, *slot) = to;
                    }
                }
            }
            Effect::Hold { generation } => {
                self.shared.take_if(|shared| *shared == generation);
            }
            Effect::Overrule { .. }
            | Effect::Undo { .. }
            | Effect::Confirm { .. }
            | Effect::Pause { .. }
            | Effect::Resume { .. }
            | Effect::EndProbes { .. } => {}
            Effect::Exit => {
                assert!(self.alive.is_empty(), "left behind: {:?}", self.alive);
                self.exited = true;
            }
        }
    }

    /// The running process does what it is asked, brings forth a successor, or cannot.
    fn ask(&mut self, generation: u64, slot: usize) {
        let found = self.state.generation(generation).unwrap();
        let from = found.slots[slot].heir_of.unwrap();
        let active = self.state.active.as_ref().unwrap().number;
        assert!(
            self.state.active.as_ref().unwrap().slots[from].process.is_some(),
            "nobody to ask"
        );
        let strategy = found.intent.processes[slot].strategy;
        let result = match self.dice.roll(6) {
            0 => Err("no".to_owned()),
            1 => {
                self.die(active, from, "died of it");
                return;
            }
            _ if strategy == Strategy::SignalReexec => {
                self.next_pid += 1;
                let process = Process {
                    pid: self.next_pid,
                    start: 1,
                };
                self.alive.insert((generation, slot), process);
                Ok(Some(process))
            }
            _ => Ok(None),
        };
        let fine = result.is_ok();
        self.answers.push(Event::Asked {
            generation,
            slot,
            result,
        });
        if fine && self.dice.roll(8) > 0 {
            let place = if strategy == Strategy::SignalReexec {
                (generation, slot)
            } else {
                (active, from)
            };
            let (generation, slot) = place;
            self.answers.push(Event::Ready { generation, slot });
        }
    }

    pub(super) fn die(&mut self, generation: u64, slot: usize, how: &str) {
        if self.alive.remove(&(generation, slot)).is_some() {
            self.answers.push(Event::Ended {
                generation,
                slot,
                how: how.to_owned(),
            });
        }
    }

    pub(super) fn check(&self) {
        let state = &self.state;
        assert!(
            state
                .retiring
                .iter()
                .filter(|leaving| leaving.phase.is_warm())
                .count()
                <= 1
        );
        let keeps = |found: &Generation| found.intent.standby.is_some();
        assert!(
            state.standby().is_none() || state.active.as_ref().is_some_and(keeps),
            "a standby of nobody's: {state:#?}"
        );
        assert!(
            state.phase() != Phase::Idle || state.retiring.len() <= usize::from(state.standby().is_some()),
            "not idle: {state:#?}"
        );
        let numbers: Vec<_> = state
            .generations()
            .map(|(generation, _)| generation.number)
            .collect();
        let distinct: BTreeSet<_> = numbers.iter().collect();
        assert_eq!(numbers.len(), distinct.len(), "a generation in two places");
        assert!(numbers.iter().all(|number| *number < state.next_generation));
        if let Some(active) = &state.active {
            assert!(
                self.proven.contains(&active.number),
                "users see an unproven generation"
            );
        }
        let canary = state.canary().map(|(generation, ..)| generation.number);
        assert!(
            self.shared.is_none() || self.shared == canary,
            "who is no canary keeps its share"
        );
        assert!(state.good.len() <= GOOD_KEPT);
        assert!(numbers.len() <= 5, "{numbers:?}");
    }

    /// A Gone that came too early or too late is no lie in the real world either, only late.
    pub(super) fn deliver(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let pick = if self.dice.roll(4) == 0 {
            self.dice.roll(self.answers.len())
        } else {
            0
        };
        // What happens to one process is told in its order, and a generation is gone only after its processes.
        let place = place_of(&self.answers[pick]);
        let gone = if let Event::Gone { generation, .. } = &self.answers[pick] {
            Some(*generation)
        } else {
            None
        };
        let first = self.answers.iter().position(|event| {
            place_of(event).is_some_and(|(generation, slot)| {
                Some((generation, slot)) == place || Some(generation) == gone
            })
        });
        let event = self.answers.remove(first.unwrap_or(pick));
        if let Event::Gone { generation, .. } = event
            && self.alive.keys().any(|(number, _)| *number == generation)
        {
            return;
        }
        self.take(&event);
    }

    /// Takes in a process that no keeper has started, where that is possible.
    pub(super) fn adopt(&mut self) {
        self.next_pid += 1;
        if judge_adopt(&self.state, self.next_pid) != Verdict::Accept {
            return;
        }
        let process_ = Process {
            pid: self.next_pid,
            start: 1,
        };
        let generation = self.state.upcoming();
        self.alive.insert((generation, 0), process_);
        // Users had it before.
        self.proven.insert(generation);
        let intent = Intent::adopted("/opt/web".into(), self.state.epoch, process("web", true));
        self.take(&Event::Adopted {
            intent: Box::new(intent),
            process: process_,
            sockets: vec![1],
        });
    }

    pub(super) fn request(&mut self) {
        if self.dice.roll(4) == 0 {
            self.adopt();
        }
        self.epoch += 1;
        let release = 1 + self.dice.roll(6) as u64;
        let coexist = self.dice.roll(4) > 0;
        if self.dice.roll(3) > 0 {
            let mut wanted = intent(release, self.epoch, coexist);
            wanted.processes[1].overlap = self.dice.roll(3) > 0;
            wanted.must_coexist = coexist && self.dice.roll(4) == 0;
            if self.dice.roll(3) == 0 {
                let locked = &mut wanted.processes[self.dice.roll(2)];
                locked.lock_wait_ms = Some(1 + self.dice.roll(4_000) as u64);
                locked.lock_overrule = self.dice.roll(2) == 0;
            }
            if self.dice.roll(2) == 0 {
                wanted.hooks = self.some_hooks();
            }
            let canary = coexist && self.dice.roll(4) > 0;
            let web = &mut wanted.processes[0];
            if canary {
                web.canary = Some(Canary {
                    percent: 20,
                    hold_ms: 500,
                });
                web.listen = vec![ListenSpec {
                    name: "http".to_owned(),
                    addr: "tcp:127.0.0.1:0".to_owned(),
                }];
            }
            (web.strategy, web.restart) = self.ways[self.dice.roll(self.ways.len())].clone();
            if web.strategy == Strategy::CutOver {
                let hold_ms = [None, Some(1_000), Some(4_000), Some(600_000)][self.dice.roll(4)];
                wanted.standby = Some(Standby { hold_ms });
            }
            match judge_switch(&self.state, &wanted) {
                Verdict::Accept => self.take(&Event::Switch(Box::new(wanted))),
                Verdict::Renew => self.take(&Event::Renew(Box::new(wanted))),
                Verdict::Already | Verdict::Refuse(..) => {}
            }
        } else {
            let to = (self.dice.roll(2) == 0).then_some(release);
            if judge_revert(&self.state, to, None) == Verdict::Accept {
                self.take(&Event::Revert {
                    to,
                    reason: "test".to_owned(),
                    epoch: None,
                });
            }
        }
    }

    fn some_hooks(&mut self) -> BTreeMap<HookPoint, Vec<Hook>> {
        let hook = || Hook {
            command: vec!["x".to_owned()],
            timeout_ms: 100,
        };
        let mut all = HookPoint::ALL.map(|(_, point)| (point, vec![hook()])).to_vec();
        all.retain(|_| self.dice.roll(2) == 0);
        all.into_iter().collect()
    }

    /// One that may not run beside its successor does not run beside it.
    fn check_apart(&self, generation: u64, slot: usize) {
        let here = self
            .state
            .active
            .iter()
            .chain(self.state.rising.iter().map(|rising| &rising.generation));
        let mut beside =
            here.filter(|found| found.number != generation && self.alive.contains_key(&(found.number, slot)));
        let own = self.state.generation(generation).unwrap();
        let apart =
            |found: &Generation| !found.intent.processes[slot].overlap || !own.intent.processes[slot].overlap;
        assert!(
            slot == 0 || !beside.any(apart),
            "slot {slot} of {generation} runs beside another: {:#?}",
            self.state
        );
    }

    /// With two slots no third generation is there when a wanted one begins: none is started before a standby has gone.
    fn check_slots(&self, generation: u64) {
        let rising = self.state.rising.as_ref();
        let Some(rising) = rising.filter(|rising| rising.generation.number == generation) else {
            return;
        };
        let active = self.state.active.iter().chain([&rising.generation]);
        let two = active.into_iter().any(|found| found.intent.standby.is_some());
        let waits = matches!(rising.cause, Cause::Switch | Cause::Boot);
        // An adopted one that is dead was the active one when this began.
        let dead = |leaving: &Retiring| {
            let found = &leaving.generation;
            leaving.phase == Leaving::Killing && found.intent.is_adopted() && !found.is_living()
        };
        assert!(
            !two || !waits || self.state.retiring.iter().all(dead),
            "a third generation: {:#?}",
            self.state
        );
    }

    pub(super) fn pass_time(&mut self) {
        self.now += 1 + self.dice.roll(2_000) as u64;
        self.take(&Event::Tick);
    }

    pub(super) fn crash_a_process(&mut self) {
        let index = self.dice.roll(self.alive.len().max(1));
        if let Some((generation, slot)) = self.alive.keys().nth(index).copied() {
            self.die(generation, slot, "crashed");
        }
    }

    /// The keeper dies; children that were not let go die with it.
    pub(super) fn crash_the_keeper(&mut self) {
        self.answers.clear();
        let state = &self.state;
        let let_go = |place: &(u64, usize), process: &mut Process| {
            let found = state
                .generation(place.0)
                .and_then(|found| found.slots.get(place.1));
            found.is_some_and(|slot| slot.process == Some(*process) && slot.state != SlotState::Forked)
        };
        self.alive.retain(let_go);
        let adoptable = self.dice.roll(5) > 0;
        if !adoptable {
            self.alive.clear();
        }
        let living: Vec<_> = self
            .alive
            .keys()
            .map(|(generation, slot)| Living {
                generation: *generation,
                slot: *slot,
                adopted: true,
            })
            .collect();
        let (next, effects) = recover(
            &self.state,
            &self.state.boot_id,
            &living,
            self.current.as_deref(),
            self.now,
        );
        self.go_on(next, effects);
        // What lives and what nobody sees any more is found out by looking.
        let numbers: Vec<_> = self
            .state
            .generations()
            .map(|(generation, _)| generation.number)
            .collect();
        for generation in numbers {
            self.answers.push(Event::Gone { generation, cut: 0 });
        }
    }

    /// The host boots: nothing lives, and the link is what it was.
    pub(super) fn boot(&mut self) {
        self.answers.clear();
        self.alive.clear();
        (self.steered, self.shared) = (None, None);
        let boot = format!("boot {}", self.now);
        let (next, effects) = recover(&self.state, &boot, &[], self.current.as_deref(), self.now);
        self.go_on(next, effects);
    }

    /// Lets the world be kind until nothing more happens.
    pub(super) fn settle(&mut self) {
        for _ in 0..20_000 {
            if !self.answers.is_empty() {
                self.deliver();
                continue;
            }
            match self.state.phase() {
                Phase::Idle | Phase::Empty if self.state.queued.is_none() => {
                    let up = self.state.active.as_ref().is_none_or(Generation::is_whole);
                    if up {
                        return;
                    }
                    self.pass_time();
                }
                _ => {
                    // A real edge looks again and again whether a leaving generation is gone.
                    let numbers: Vec<_> = self
                        .state
                        .generations()
                        .map(|(generation, _)| generation.number)
                        .collect();
                    let gone = numbers
                        .into_iter()
                        .filter(|number| !self.alive.keys().any(|(living, _)| living == number))
                        .filter(|number| {
                            self.state.active.as_ref().map(|active| active.number) != Some(*number)
                        });
                    let gone: Vec<_> = gone.collect();
                    for generation in gone {
                        self.take(&Event::Gone { generation, cut: 0 });
                    }
                    self.pass_time();
                }
            }
        }
        panic!("never comes to rest: {:#?}", self.state);
    }
}

fn place_of(event: &Event) -> Option<(u64, usize)> {
    match event {
        Event::Forked { generation, slot, .. }
        | Event::Started { generation, slot }
        | Event::Ready { generation, slot }
        | Event::Ended { generation, slot, .. } => Some((*generation, *slot)),
        _ => None,
    }
}
