//! What becomes of each effect, by chance.

use ship_model::spec::{HookPoint, Strategy};

use super::super::*;
use super::World;

impl World {
    pub(in super::super) fn carry_out(&mut self, effect: Effect) {
        self.check_lock(&effect);
        self.check_announced(&effect);
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
            | Effect::Unheeded { .. }
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
    pub(super) fn ask(&mut self, generation: u64, slot: usize) {
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
}
