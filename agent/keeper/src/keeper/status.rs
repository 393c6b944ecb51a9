//! What the keeper tells.

use super::Keeper;
use crate::listen;
use crate::machine::{Generation, RisingPhase};
use crate::protocol::{
    GenerationStatus, ListenerStatus, ProcessStatus, Reply, RevertReadiness, Role, Status,
};

impl Keeper {
    pub(super) fn tell_watchers(&mut self) {
        if self.control.has_eager_watcher(self.revision) {
            let status = self.status();
            let revision = self.revision;
            self.control.tell_watchers(
                revision,
                &Reply::Status {
                    status: Box::new(status),
                },
            );
        }
        self.control.flush();
    }

    pub(super) fn status(&mut self) -> Status {
        self.refresh_counts();
        let state = &self.state;
        let rising = state
            .rising
            .as_ref()
            .filter(|rising| rising.phase != RisingPhase::Aborting);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            app: self.config.app.clone(),
            host: self.config.host.clone(),
            revision: self.revision,
            phase: state.phase(),
            epoch: state.epoch,
            running: state.active.as_ref().map(|active| active.intent.reference()),
            switching_to: rising.map(|rising| rising.generation.intent.reference()),
            queued: state.queued_reference(),
            revert: self.revert_readiness(),
            held: state.held.clone(),
            generations: state
                .generations()
                .map(|(generation, role)| self.generation(generation, role))
                .collect(),
            listeners: self.listener_statuses(),
            outcome: state.outcome.clone(),
            crash: state.crash.clone(),
            counters: state.counters.clone(),
            program: self.program(),
            upgrade: self.upgrade_status(),
            notes: self.notes.iter().cloned().collect(),
        }
    }

    /// As the kernel names it, so also when the file is replaced or gone.
    fn program(&self) -> String {
        let program = std::fs::read_link("/proc/self/exe");
        program
            .map(|program| program.display().to_string())
            .unwrap_or_default()
    }

    fn revert_readiness(&self) -> RevertReadiness {
        let adopted = self.state.adopted_to_revert_to();
        let target = self.state.revert_target().filter(|intent| intent.dir.is_dir());
        let target = target.or(adopted);
        let warm = self.state.warm().map(|warm| warm.generation.intent.release);
        RevertReadiness {
            warm: target.is_some_and(|target| warm == Some(target.release)),
            to: target.map(crate::protocol::Intent::reference),
        }
    }

    fn generation(&self, generation: &Generation, role: Role) -> GenerationStatus {
        let processes = generation
            .intent
            .processes
            .iter()
            .zip(&generation.slots)
            .enumerate();
        let processes = processes.map(|(slot, (spec, found))| {
            let place = (generation.number, slot);
            ProcessStatus {
                name: spec.name.clone(),
                pid: found.process.map(|process| process.pid),
                start_ticks: found.process.map_or(0, |process| process.start),
                state: found.told(),
                said: self
                    .running
                    .get(&place)
                    .map(|running| running.said.clone())
                    .unwrap_or_default(),
                connections: u32::try_from(self.counted.get(&place).copied().unwrap_or(0))
                    .unwrap_or(u32::MAX),
                strategy: found
                    .way
                    .as_ref()
                    .and_then(|way| way.strategy)
                    .unwrap_or(spec.strategy),
                reason: found
                    .way
                    .as_ref()
                    .map(|way| way.reason.clone())
                    .unwrap_or_default(),
            }
        });
        GenerationStatus {
            generation: generation.number,
            release: generation.intent.release,
            deploy: generation.intent.deploy,
            role,
            processes: processes.collect(),
        }
    }

    fn listener_statuses(&self) -> Vec<ListenerStatus> {
        let newest = self.state.active.as_ref().or(self
            .state
            .rising
            .as_ref()
            .map(|rising| &rising.generation));
        let Some(intent) = newest.map(|generation| &generation.intent) else {
            return Vec::new();
        };
        listen::listeners_of(intent)
            .filter_map(|(process, listener)| {
                let group = self.listeners.get(&listen::key(process, listener))?;
                Some(ListenerStatus {
                    process: process.name.clone(),
                    name: listener.name.clone(),
                    addr: listener.addr.clone(),
                    bound: group.bound(),
                    steering: group.steering(),
                })
            })
            .collect()
    }
}
