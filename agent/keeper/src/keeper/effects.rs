//! What the machine says, handed to the one that does it.

use ship_durable::fault;

use super::Keeper;
use crate::machine::{Effect, Event};

impl Keeper {
    pub(super) fn carry_out(&mut self, effect: &Effect) {
        let name = name_of(effect);
        let _ = fault::point(&format!("keeper.{name}.begin"));
        match effect {
            Effect::Bind { generation } => self.bind(*generation),
            Effect::Fork { generation, slot } => self.fork(*generation, *slot),
            Effect::Go { generation, slot } => self.go(*generation, *slot),
            Effect::Probe { generation, slot } => self.begin_probe(*generation, *slot),
            Effect::Watch { generation, slot } => self.begin_watch(*generation, *slot),
            Effect::EndProbes { generation } => {
                self.probes.retain(|probe| probe.generation != *generation);
                self.end_askings(*generation);
            }
            Effect::Link {
                generation,
                current,
                previous,
            } => {
                let result = self.link(current.as_deref(), previous.as_deref());
                if let Err(reason) = &result {
                    self.note(reason.clone());
                }
                self.events.push_back(Event::Linked {
                    generation: *generation,
                    result,
                });
            }
            Effect::Steer { generation } => {
                let result = self.steer(*generation);
                self.events.push_back(Event::Steered {
                    generation: *generation,
                    result,
                });
            }
            Effect::Share { generation, stage } => {
                let result = self.share(*generation, *stage);
                self.events.push_back(Event::Shared {
                    generation: *generation,
                    result,
                });
            }
            Effect::Hold { generation } => self.hold(*generation),
            Effect::Overrule { generation } => self.overrule(*generation),
            Effect::Unheeded { generation } => self.unheeded(*generation),
            Effect::Drain { generation } => self.drain(*generation),
            Effect::Stop { generation } => self.stop(*generation),
            Effect::Kill { generation } => self.kill(*generation),
            Effect::End {
                generation,
                slot,
                kill,
            } => self.end_one(*generation, *slot, *kill),
            Effect::Hook { generation, point } => self.begin_hooks(*generation, *point),
            Effect::Ask { generation, slot } => self.ask(*generation, *slot),
            Effect::Undo { generation, slot } => self.undo(*generation, *slot),
            Effect::Confirm { generation, slot } => self.confirm(*generation, *slot),
            Effect::Carry { from, to } => self.carry(*from, *to),
            Effect::Pause { generation } => self.pause(*generation),
            Effect::Resume { generation } => self.resume(*generation),
            Effect::Sweep {
                generation,
                slot,
                process,
            } => self.sweep(*generation, *slot, *process),
            Effect::Forget { generation } => self.forget(*generation),
            Effect::Exit => self.exit(),
        }
        let _ = fault::point(&format!("keeper.{name}.end"));
    }

    fn exit(&mut self) {
        self.tell(None, "the app is stopped; the keeper exits");
        self.control.unbind();
        let _ = std::fs::remove_file(self.notify.path());
        self.groups.leave();
        self.exiting = true;
    }
}

fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Bind { .. } => "bind",
        Effect::Fork { .. } => "fork",
        Effect::Go { .. } => "go",
        Effect::Probe { .. } => "probe",
        Effect::Watch { .. } => "watch",
        Effect::EndProbes { .. } => "endprobes",
        Effect::Link { .. } => "link",
        Effect::Steer { .. } => "steer",
        Effect::Share { .. } => "share",
        Effect::Hold { .. } => "hold",
        Effect::Overrule { .. } => "overrule",
        Effect::Unheeded { .. } => "unheeded",
        Effect::Drain { .. } => "drain",
        Effect::Stop { .. } => "stop",
        Effect::Kill { .. } => "kill",
        Effect::End { .. } => "end",
        Effect::Hook { .. } => "hook",
        Effect::Ask { .. } => "ask",
        Effect::Undo { .. } => "undo",
        Effect::Confirm { .. } => "confirm",
        Effect::Carry { .. } => "carry",
        Effect::Pause { .. } => "pause",
        Effect::Resume { .. } => "resume",
        Effect::Sweep { .. } => "sweep",
        Effect::Forget { .. } => "forget",
        Effect::Exit => "exit",
    }
}
