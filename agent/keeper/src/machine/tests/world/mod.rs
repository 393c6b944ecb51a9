//! A made-up world for the machine: what its effects would do, with accidents, and what must hold after every step.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::spec::{HookPoint, Restart, Strategy};

use super::*;
use crate::protocol::Phase;

mod checks;
mod effects;
mod wishes;

pub(super) use wishes::{all_ways, http, intent};

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
    /// How often users were led elsewhere before a gap.
    pub(super) announced: usize,
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
            announced: 0,
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

    /// Users were led elsewhere.
    pub(super) fn lead_elsewhere(&mut self) {
        if self.state.announced().is_some() {
            self.announced += 1;
            self.take(&Event::MayClear);
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
