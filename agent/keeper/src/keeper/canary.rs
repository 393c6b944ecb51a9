//! The share of new connections that a canary gets, socket by socket, and what goes on asking it meanwhile.

use super::asking::Asking;
use super::{Keeper, chain};
use crate::clock::now_ms;
use crate::listen::{self, Canary};
use crate::machine::Generation;
use crate::probe::Probe;
use crate::protocol::{Intent, ListenSpec, ProbeSpec, ProcessSpec};

/// Between two questions to a generation that has answered, at least.
const WATCH_MS: u64 = 250;

impl Keeper {
    /// Leads its share to a generation; false where no listener of it can be led to by shares.
    pub(super) fn share(&mut self, generation: u64, stage: u32) -> Result<bool, String> {
        let Some(intent) = self
            .state
            .generation(generation)
            .map(|found| found.intent.clone())
        else {
            return Err(format!("generation {generation} is gone"));
        };
        let mut any = false;
        for (process, listener) in listen::listeners_of(&intent) {
            let Some(canary) = canary_of(generation, &intent, process, stage) else {
                continue;
            };
            if let Some(group) = self.listeners.get_mut(&listen::key(process, listener)) {
                any |= group.share(canary).map_err(|error| chain(&error))?;
            }
        }
        let percent = self.state.canary_share().map_or(100, |(percent, _)| percent);
        if any {
            let words = format!("{percent} % of the clients come to release {}", intent.release);
            self.tell(Some(generation), &words);
        }
        Ok(any)
    }

    /// As the last keeper had set it at this listener.
    pub(super) fn canary_at(&self, key: &str) -> Option<Canary> {
        let (Generation { number, intent, .. }, stage, _) = self.state.canary()?;
        let is_it = |(process, listener): &(&ProcessSpec, &ListenSpec)| listen::key(process, listener) == key;
        let (process, _) = listen::listeners_of(intent).find(is_it)?;
        canary_of(*number, intent, process, stage)
    }

    pub(super) fn begin_watch(&mut self, generation: u64, slot: usize) {
        let found = self.state.generation(generation);
        let Some(process) = found.and_then(|found| found.intent.processes.get(slot)) else {
            return;
        };
        let Some(spec) = &process.probe else { return };
        let spec = ProbeSpec {
            interval_ms: spec.interval_ms.max(WATCH_MS),
            ..spec.clone()
        };
        match Self::probe_of(generation, slot, process, spec) {
            Some(Asked::Here(probe)) => self.probes.push(probe.watching()),
            Some(Asked::ByChild(asking)) => self.askings.push(asking.watching()),
            None => {}
        }
    }
}

/// Who is asked how.
pub(super) enum Asked {
    Here(Probe),
    ByChild(Asking),
}

impl Keeper {
    /// What asks the slot; none where its listener is not in the release.
    pub(super) fn probe_of(
        generation: u64,
        slot: usize,
        process: &ProcessSpec,
        spec: ProbeSpec,
    ) -> Option<Asked> {
        if spec.kind.is_asked_by_child() {
            return Some(Asked::ByChild(Asking::new(
                generation,
                slot,
                process,
                spec,
                now_ms(),
            )));
        }
        let mut listeners = process.listen.iter();
        let listener = listeners.find(|listener| listener.name == spec.listener)?;
        let key = listen::key(process, listener);
        let probe = Probe::new(generation, slot, key, spec, process.notify, now_ms());
        Some(Asked::Here(probe))
    }
}

/// The same clients are in wherever the release has the same share, and others the next time.
fn canary_of(generation: u64, intent: &Intent, process: &ProcessSpec, stage: u32) -> Option<Canary> {
    Some(Canary {
        generation,
        percent: process.canary?.share(stage),
        salt: intent.release as u32,
    })
}
