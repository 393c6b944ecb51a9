//! Hooks: commands of a release at the steps of its switch, one after another, in the surroundings of its first process.

use rustix::process::Signal;
use ship_model::spec::HookPoint;

use super::Keeper;
use super::jobs::Purpose;
use crate::machine::Event;
use crate::processes;

/// What stands where a process has its name in the environment of a hook, so that no process's end ends it.
const NO_PROCESS: &str = "hook";

impl Keeper {
    /// Begins at the first command. One that an earlier keeper left running is ended before.
    pub(super) fn begin_hooks(&mut self, generation: u64, point: HookPoint) {
        let mut marks = self.marks(generation, Some(NO_PROCESS));
        marks.push(format!("SHIP_HOOK={}", point.name()));
        for member in processes::members(&[], &[], &marks) {
            processes::send(member.pid, member.start, Signal::KILL);
        }
        self.run_hook(generation, point, 0);
    }

    fn run_hook(&mut self, generation: u64, point: HookPoint, index: usize) {
        // The way may have been left meanwhile: a revert, or a process that crashed.
        let pending = self
            .state
            .hooks
            .iter()
            .find(|pending| pending.is(generation, point));
        let Some(found) = pending.map(|pending| pending.generation.clone()) else {
            return;
        };
        let Some(hook) = found.intent.hooks.get(&point).and_then(|hooks| hooks.get(index)) else {
            self.hooked(generation, point, Ok(()));
            return;
        };
        let running = self.state.active.as_ref().map(|active| active.intent.release);
        let extra = [
            ("SHIP_HOOK", point.name().to_owned()),
            ("SHIP_PROCESS", NO_PROCESS.to_owned()),
            (
                "SHIP_RUNNING_RELEASE",
                running.map(|release| release.to_string()).unwrap_or_default(),
            ),
        ];
        self.tell(
            Some(generation),
            &format!("hook {}: {}", point.name(), hook.command.join(" ")),
        );
        let purpose = Purpose::Hook {
            generation,
            point,
            index,
        };
        let begun = self.run_job_of(
            (&found, 0),
            &found.intent.dir,
            &hook.command,
            &extra,
            hook.timeout_ms,
            purpose,
        );
        if let Err(reason) = begun {
            let reason = format!("`{}` could not be started: {reason}", hook.command.join(" "));
            self.hook_ended((generation, point, index), Err(reason));
        }
    }

    /// One command has ended: the next one begins, but where it can refuse, a failure is the end.
    pub(super) fn hook_ended(
        &mut self,
        (generation, point, index): (u64, HookPoint, usize),
        result: Result<(), String>,
    ) {
        let can_refuse = matches!(point, HookPoint::BeforeStart | HookPoint::BeforeSwitch);
        match result {
            Err(reason) if can_refuse => {
                let reason = format!("hook {}: {reason}", point.name());
                self.hooked(generation, point, Err(reason));
            }
            Err(reason) => {
                self.note(format!("hook {}: {reason}", point.name()));
                self.run_hook(generation, point, index + 1);
            }
            Ok(()) => self.run_hook(generation, point, index + 1),
        }
    }

    fn hooked(&mut self, generation: u64, point: HookPoint, result: Result<(), String>) {
        if self.state.generation(generation).is_none() {
            // Its pipes were opened again for what a hook writes.
            self.read_streams_of(generation);
            self.close_streams(generation);
            self.tails.remove(&generation);
        }
        self.events.push_back(Event::Hooked {
            generation,
            point,
            result,
        });
    }
}
