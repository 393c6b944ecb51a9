//! What the keeper tells.

use std::time::Duration;

use ship_model::spec::Strategy;

use super::Keeper;
use crate::clock::{now_ms, rfc3339_in, wall_clock};
use crate::listen;
use crate::machine::{Generation, Retiring, RisingPhase};
use crate::protocol::{
    CanaryStatus, GenerationStatus, ListenerStatus, ProcessStatus, Reply, RevertReadiness, Role,
    StandbyStatus, Status,
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
            waits: self.waits(),
            announced: self.announced(),
            queued: state.queued_reference(),
            revert: self.revert_readiness(),
            held: state.held.clone(),
            generations: state
                .generations()
                .map(|(generation, role)| self.generation(generation, role))
                .collect(),
            listeners: self.listener_statuses(),
            canary: self.canary_status(),
            outcome: state.outcome.clone(),
            crash: state.crash.clone(),
            counters: state.counters.clone(),
            program: self.program(),
            upgrade: self.upgrade_status(),
            groups: self.groups.main().ok().map(|path| path.display().to_string()),
            falls_back: self.falls_back(),
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

    fn canary_status(&self) -> Option<CanaryStatus> {
        let (percent, grows_at) = self.state.canary_share()?;
        // To the nearest second, so that the same moment looks the same each time.
        let left = Duration::from_millis(grows_at.saturating_sub(now_ms()) + 500);
        Some(CanaryStatus {
            release: self.state.canary()?.0.intent.release,
            percent,
            until: wall_clock().saturating_add(left).as_secs(),
        })
    }

    fn revert_readiness(&self) -> RevertReadiness {
        let adopted = self.state.adopted_to_revert_to();
        let target = self.state.revert_target().filter(|intent| intent.dir.is_dir());
        let target = target.or(adopted);
        let warm = self.state.warm().map(|warm| warm.generation.intent.release);
        RevertReadiness {
            warm: target.is_some_and(|target| warm == Some(target.release)),
            to: target.map(crate::protocol::Intent::reference),
            standby: self.state.standby().map(standby),
            standby_lost: self.state.standby_lost.clone(),
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
                reloading: self.running.get(&place).is_some_and(|running| running.reloading),
                stopping: self.running.get(&place).is_some_and(|running| running.stopping),
                connections: u32::try_from(self.counted.get(&place).copied().unwrap_or(0))
                    .unwrap_or(u32::MAX),
                strategy: found
                    .way
                    .as_ref()
                    .and_then(|way| way.strategy)
                    .filter(|_| spec.strategy != Strategy::CutOver)
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
                    reason: group.remark().unwrap_or_default(),
                })
            })
            .collect()
    }
}

fn standby(kept: &Retiring) -> StandbyStatus {
    let until = (kept.deadline < u64::MAX).then(|| rfc3339_in(kept.deadline.saturating_sub(now_ms())));
    StandbyStatus {
        generation: kept.generation.number,
        release: kept.generation.intent.release,
        until,
    }
}
