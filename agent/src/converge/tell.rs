//! What an app's loop says of itself: the report, the shelf, the answers to those who wait.

use std::path::Path;
use std::time::Duration;

use ship_keeper::protocol::RevertReadiness;
use ship_model::name::AppName;
use ship_model::report::{AppFailure, AppPhase, AppReport, AppWait, AssetIncident, DamagedRelease};

use super::app::App;
use super::view::View;
use crate::clock;
use crate::journal::AppRecord;
use crate::keeper::{self, Seen};
use crate::revert::RevertError;
use crate::session::chain;
use crate::stage::{self, Here};

/// So many crashes in a row are no accident.
const CRASH_LOOP: u32 = 3;
/// How old the memory told in a report may be.
const MEMORY: Duration = Duration::from_secs(5);

/// Releases and figures of an app as a report.
pub fn report(
    app: &AppName,
    record: &AppRecord,
    view: &View,
    keeper: &Seen,
    here: &[Here],
    assets: Vec<ship_model::release::Target>,
) -> AppReport {
    let staged = here.iter().filter(|release| release.is_whole());
    let staged: Vec<_> = staged.map(|release| release.target).collect();
    let status = keeper.status();
    let mut update = record.update.clone();
    let cut = status.map_or(record.cut_before, |status| status.counters.connections_cut);
    update.lost_requests = cut.saturating_sub(record.cut_before);
    AppReport {
        epoch: record.epoch,
        // That nobody can tell does not mean that it does not run; it is not healthy either.
        running: view.running.or(view.unknown),
        deploy: if record.held.is_some() {
            view.deploy.unwrap_or(record.deploy)
        } else {
            record.deploy
        },
        // Who gets no users does not count as one who serves them; of one that operators keep out nobody counts on that.
        healthy: view.healthy && (record.out.is_none() || record.drained),
        phase: match record.out {
            Some(_) if view.phase == AppPhase::Idle => AppPhase::Draining,
            _ => view.phase,
        },
        previous: view.previous.filter(|previous| staged.contains(previous)),
        staged,
        assets,
        failure: record.failure.clone(),
        held: record.held.clone(),
        listen: listeners(keeper),
        update,
        connections: status.map_or(0, keeper::connections),
        restarts: status.map_or(0, |status| status.counters.restarts),
        damaged: here.iter().filter_map(damaged).collect(),
        standby: status.and_then(|status| standby(&status.revert)),
        canary: status.and_then(keeper::canary),
        processes: status.map(keeper::processes).unwrap_or_default(),
        waits: status.and_then(|status| status.waits.as_ref()).map(wait),
        remarks: status.map(keeper::remarks).unwrap_or_default(),
        older_connections: status.map_or(0, keeper::older_connections),
        generations: status.map_or(0, |status| status.generations.len() as u64),
        ..AppReport::of(app.clone())
    }
}

fn wait(waits: &ship_keeper::protocol::Waits) -> AppWait {
    AppWait {
        on: format!("the app's own lock (held by {})", waits.processes.join(", ")),
        until_ms: waits.until.saturating_mul(1000),
        overrules: waits.overrules,
    }
}

/// What stands by, or why it does not any more.
fn standby(revert: &RevertReadiness) -> Option<String> {
    let Some(standby) = &revert.standby else {
        return revert.standby_lost.clone();
    };
    let until = match &standby.until {
        Some(until) => format!("until {until}"),
        None => "until the next switch".to_owned(),
    };
    Some(format!("release {} stands by {until}", standby.release))
}

fn damaged(release: &Here) -> Option<DamagedRelease> {
    Some(DamagedRelease {
        release: release.target,
        reason: release.damage.clone()?,
    })
}

fn listeners(keeper: &Seen) -> std::collections::BTreeMap<String, String> {
    let listeners = keeper.status().into_iter().flat_map(|status| &status.listeners);
    listeners
        .map(|listener| {
            let bound = listener.bound.strip_prefix("tcp:").unwrap_or(&listener.bound);
            (listener.name.clone(), bound.to_owned())
        })
        .collect()
}

impl App {
    pub(super) fn report(&self, view: &View) -> AppReport {
        let mut report = report(
            &self.layout().app,
            self.record(),
            view,
            &self.keeper,
            &self.here,
            self.shop.union.holds(),
        );
        report.expired = self.acted_on();
        report.balancers = self.rotation.kinds();
        report.remarks.extend(self.drain_remark());
        report.incidents = self.incidents();
        report.switched_ms = self.switched_ms();
        report.memory = self.memory.as_ref().and_then(|(_, memory)| memory.clone());
        report.failure = report.failure.or_else(|| self.unsaved_failure.clone());
        report.failure = report.failure.or_else(|| self.crash(view));
        if let Some(job) = self.job.as_ref().filter(|_| report.phase == AppPhase::Idle) {
            report.phase = job.phase();
        }
        report
    }

    /// When the link `current` was moved: it outlives the agent, and every way to switch ends with it.
    fn switched_ms(&self) -> u64 {
        let moved = std::fs::symlink_metadata(self.layout().current()).and_then(|link| link.modified());
        let since = moved
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or(0, |since| since.as_millis() as u64)
    }

    /// What was asked of this host's asset port and could not be served, whatever was tried.
    fn incidents(&self) -> Vec<AssetIncident> {
        let misses = self.shelf.iter().filter_map(|shelf| shelf.misses());
        let all = misses.flat_map(|misses| misses.incidents());
        let ours = all.filter(|incident| incident.app == self.layout().app);
        ours.map(|incident| AssetIncident {
            release: incident.release,
            count: incident.count,
            url: incident.url,
        })
        .collect()
    }

    /// A process that ended and was started again, with its last lines. Once, that may help by itself; again and again, it does
    /// not, and a rollout ends for it.
    fn crash(&self, view: &View) -> Option<AppFailure> {
        let crash = self.keeper.status()?.crash.as_ref()?;
        let release = view.running.filter(|running| running.number.0 == crash.release)?;
        let again = match crash.failures {
            1 => String::new(),
            count => format!(", {count} times in a row"),
        };
        Some(AppFailure {
            epoch: ship_model::desired::Epoch(crash.epoch),
            release,
            step: "run".to_owned(),
            reason: format!("{}{again}; it is started again", crash.reason),
            last_lines: crash.last_lines.clone(),
            transient: crash.failures < CRASH_LOOP,
        })
    }

    pub(super) fn publish(&mut self, view: &View) {
        self.shelve_running(view);
        self.show_health(view);
        self.look_at_memory();
        (self.tell)(self.report(view));
    }

    /// Anew when the last look is a while ago: processes grow, and a look costs something.
    fn look_at_memory(&mut self) {
        let now = clock::now();
        if self
            .memory
            .as_ref()
            .is_none_or(|(at, _)| now.duration_since(*at) >= MEMORY)
        {
            let found = self.keeper.status();
            self.memory = Some((
                now,
                found.and_then(|status| keeper::memory(Path::new("/proc"), status)),
            ));
        }
    }

    pub(super) fn shelve_union(&self) {
        if let Some(shelf) = &self.shelf {
            shelf.set_union(&self.layout().app, &self.shop.union);
        }
    }

    /// The mutable files that are served are those of the release that runs.
    fn shelve_running(&mut self, view: &View) {
        let (Some(shelf), Some(running)) = (&self.shelf, view.running) else {
            return;
        };
        if self.shelved == Some(running) {
            return;
        }
        shelf.runs(&self.layout().app, running.number);
        let shelved = match stage::manifest(self.layout(), &running) {
            Ok(staged) => {
                let tree = self.layout().release(&running);
                let set = shelf.set_running(&self.layout().app, &tree, staged.manifest());
                set.map_err(|error| chain(&error))
            }
            Err(error) => Err(chain(&error)),
        };
        if let Err(error) = shelved {
            tracing::warn!(release = %running.number, error, "its mutable files are not served");
        }
        self.shelved = Some(running);
    }

    pub(super) fn answer_waiting(&mut self, view: &View) {
        let waiting = std::mem::take(&mut self.waiting);
        for (target, reply) in waiting {
            let failure = self.record().standing_failure();
            let failed = failure.filter(|failure| failure.release == target);
            let answer = if view.running == Some(target) && view.switching.is_none() {
                Ok(self.report(view))
            } else if let Some(failure) = failed {
                Err(RevertError::Failed {
                    app: self.layout().app.clone(),
                    number: target.number,
                    reason: failure.reason.clone(),
                })
            } else {
                self.waiting.push((target, reply));
                continue;
            };
            // Whoever asked may have gone; the revert holds all the same.
            let _ = reply.send(answer);
        }
    }
}
