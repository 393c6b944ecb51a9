//! Probes of a rising generation: begun, carried on, answered.

use super::Keeper;
use super::canary::Asked;
use crate::clock::now_ms;
use crate::machine::Event;
use crate::probe::Progress;

impl Keeper {
    pub(super) fn begin_probe(&mut self, generation: u64, slot: usize) {
        let Some(found) = self.state.generation(generation) else {
            return;
        };
        let Some(process) = found.intent.processes.get(slot) else {
            return;
        };
        let Some(spec) = &process.probe else { return };
        match Self::probe_of(generation, slot, process, spec.clone()) {
            Some(Asked::Here(probe)) => self.probes.push(probe),
            Some(Asked::ByChild(asking)) => self.askings.push(asking),
            None => {}
        }
    }

    pub(super) fn advance_probes(&mut self) {
        let now = now_ms();
        let mut probes = std::mem::take(&mut self.probes);
        let mut listeners = std::mem::take(&mut self.listeners);
        let mut events = Vec::new();
        probes.retain_mut(|probe| {
            let (generation, slot) = (probe.generation, probe.slot);
            let Some(group) = listeners.get_mut(&probe.key) else {
                return false;
            };
            let owned = |ends| self.owns(generation, ends);
            let progress = probe.advance(group, now, owned);
            if let Some(problem) = probe.last_problem() {
                events.push(Event::ProbeProblem {
                    generation,
                    slot,
                    problem,
                });
            }
            match progress {
                Progress::Asking => true,
                Progress::Passed(first_answer_at) => {
                    events.push(Event::Probed {
                        generation,
                        slot,
                        first_answer_at,
                    });
                    false
                }
                Progress::Failed(reason) => {
                    events.push(Event::ProbeFailed {
                        generation,
                        slot,
                        reason,
                    });
                    false
                }
            }
        });
        self.listeners = listeners;
        self.events.extend(events);
        self.probes = probes;
    }
}
