//! What a report, or its absence, means to the rollout under way.

use crate::name::HostName;
use crate::release::Target;
use crate::report::{AppFailure, AppPhase, AppReport, LocalHold};
use crate::rollout::event::Happening;
use crate::rollout::plan::{Excuse, PlanStep};
use crate::rollout::state::{Rollout, Stop, Switch};
use crate::rollout::step::Turn;

/// Most of an app's last lines that are kept.
const LAST_LINES: usize = 50;

impl Turn {
    pub(super) fn heard(&mut self, rollout: &mut Rollout, host: &HostName, app: Option<&AppReport>) {
        self.returned(rollout, host);
        let to = rollout.plan.to;
        let held = app.and_then(|app| rollout.finds_held(app));
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let Some(app) = app else {
            progress.serving = Some(false);
            return;
        };
        let first = progress.serving.is_none();
        progress.serving = Some(app.running.is_some() && app.healthy);
        // A host that has not seen this rollout's wish may be about to remove what it still has; one that is held
        // would not go where it is asked to.
        let knows = app.epoch >= rollout.first_epoch && held.is_none();
        progress.staged = knows && app.staged.contains(&to);
        progress.assets = knows && app.assets.contains(&to);
        let incidents = app.incidents.iter().filter(|incident| incident.release == to);
        progress
            .incidents
            .hear(incidents.map(|incident| incident.count).sum(), first);
        if let Some(held) = held {
            self.answer_hold(rollout, host, &held);
        }
        self.confirm(rollout, host, app);
        self.judge(rollout, host, app);
    }

    /// A revert made on the host before this rollout began, of which its plan did not know. A hold outlives an epoch
    /// that wants just what was taken away, so the host is first told to stay where it was put; when it has heard
    /// that, it goes with the others.
    fn answer_hold(&mut self, rollout: &mut Rollout, host: &HostName, held: &LocalHold) {
        let stands = self
            .state
            .desired(host)
            .is_some_and(|desired| held.stands_against(&desired));
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        if stands && matches!(progress.switch, Switch::Untouched | Switch::Asked { .. }) {
            progress.switch = Switch::Untouched;
            progress.previous = Some(held.to);
            self.set(host, |target| target.run = Some(held.to));
        }
    }

    fn returned(&mut self, rollout: &mut Rollout, host: &HostName) {
        let Some(progress) = rollout.hosts.get_mut(host).filter(|progress| progress.silent) else {
            return;
        };
        progress.silent = false;
        if progress.excused == Some(Excuse::Away) {
            progress.excused = None;
            progress.late = true;
        }
        let host = host.clone();
        self.announce(rollout, Happening::HostReturned { host });
    }

    /// Takes the host's word for what it runs, under the epoch it was asked under or a newer one. One that is on its way
    /// elsewhere does not run it for long.
    fn confirm(&mut self, rollout: &mut Rollout, host: &HostName, app: &AppReport) {
        let to = rollout.plan.to;
        let waits = rollout.waits_for_an_operator();
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let back_on = progress.back_on();
        let stays = app.phase != AppPhase::Switching;
        let runs =
            |wanted: Option<Target>| stays && app.running == wanted && (wanted.is_none() || app.healthy);
        let host = host.clone();
        match progress.switch {
            Switch::Asked { epoch, .. } if app.epoch >= epoch && runs(Some(to)) => {
                progress.switch = Switch::Running { epoch };
                self.announce(rollout, Happening::HostOk { host });
                self.progressed(rollout);
            }
            // It was given up too early, and nobody has taken it back since.
            Switch::Failed { epoch }
                if waits && app.epoch >= epoch && runs(Some(to)) && app.failure.is_none() =>
            {
                progress.switch = Switch::Running { epoch };
                progress.failure = None;
                self.announce(rollout, Happening::HostOk { host });
            }
            Switch::BackAsked { epoch, .. } if app.epoch >= epoch && runs(back_on) => {
                progress.switch = Switch::Back;
                self.announce(rollout, Happening::HostBack { host });
            }
            _ => {}
        }
    }

    /// A failure under an epoch of this rollout, or a revert made on the host, stops a promote.
    fn judge(&mut self, rollout: &mut Rollout, host: &HostName, app: &AppReport) {
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let since = match progress.switch {
            Switch::Asked { epoch, .. } | Switch::Running { epoch } | Switch::BackAsked { epoch, .. } => {
                epoch
            }
            Switch::Untouched => rollout.first_epoch,
            Switch::Failed { .. } | Switch::Back => return,
        };
        let failed = app
            .failure
            .as_ref()
            .filter(|failure| failure.epoch >= since && !failure.transient);
        let held = app.held.as_ref().filter(|held| held.epoch >= since);
        let stop = match (failed, held) {
            (_, Some(held)) => {
                progress.held_on = Some(held.to);
                let reason = format!("reverted on the host itself: {}", held.reason);
                Stop::on(host, "held", reason, Vec::new())
            }
            (Some(failure), None) => failure_stop(host, failure),
            (None, None) => return,
        };
        let about = failed.map(|failure| failure.release);
        self.host_failed(rollout, host, about, stop);
    }

    fn host_failed(&mut self, rollout: &mut Rollout, host: &HostName, about: Option<Target>, stop: Stop) {
        let to = rollout.plan.to;
        let Some(progress) = rollout.hosts.get_mut(host).filter(|progress| !progress.stuck) else {
            return;
        };
        match progress.switch {
            // Told already: every report says it again.
            Switch::Untouched if progress.failure.is_some() => return,
            // It serves nobody: what ails it is looked at there, and stops nobody else.
            Switch::Untouched | Switch::Running { .. } if progress.excused == Some(Excuse::Drained) => {
                progress.failure.get_or_insert_with(|| stop.clone());
                return;
            }
            // Its earlier release failed too: it is given up, and the end names it.
            Switch::BackAsked { .. } if about != Some(to) => {
                progress.failure = Some(stop.clone());
                progress.stuck = true;
            }
            Switch::Asked { .. } | Switch::Running { .. } | Switch::Untouched
                if about.is_none_or(|about| about == to) && !rollout.plan.is_hold_of(progress.held_on) =>
            {
                return self.fail(rollout, host, stop);
            }
            _ => return,
        }
        self.tell_failed(rollout, host, &stop);
    }

    pub(super) fn tell_failed(&mut self, rollout: &Rollout, host: &HostName, stop: &Stop) {
        let failed = Happening::HostFailed {
            host: host.clone(),
            step: stop.step.clone(),
            reason: stop.reason.clone(),
            last_lines: stop.last_lines.clone(),
        };
        self.announce(rollout, failed);
    }

    /// Unknown: it is not switched and does not count as healthy. Before and after its wave it is excused
    /// while policy can spare it; in its own wave it is waited for until the deadline. One that only holds assets is
    /// waited for unless policy names it.
    pub(super) fn silent(&mut self, rollout: &mut Rollout, host: &HostName) {
        let excused = rollout
            .hosts
            .values()
            .filter(|host| host.runs_app && host.excused == Some(Excuse::Away))
            .count();
        let in_present_wave = match rollout.present() {
            Some(PlanStep::Wave { hosts, .. }) => hosts.contains(host),
            _ => false,
        };
        let spare = excused < rollout.plan.max_unavailable as usize;
        let optional = rollout.plan.policy.optional_asset_hosts.contains(host);
        let Some(progress) = rollout.hosts.get_mut(host).filter(|progress| !progress.silent) else {
            return;
        };
        progress.silent = true;
        let behind = match progress.switch {
            Switch::Untouched => true,
            Switch::Running { .. } => !in_present_wave,
            _ => false,
        };
        let waits = behind && progress.excused.is_none();
        let spared = if progress.runs_app { spare } else { optional };
        if waits && spared && !rollout.is_revert() {
            if let Some(progress) = rollout.hosts.get_mut(host) {
                progress.excused = Some(Excuse::Away);
            }
            let (host, reason) = (host.clone(), Excuse::Away.to_string());
            self.announce(rollout, Happening::HostExcused { host, reason });
        }
    }
}

impl Stop {
    pub(super) fn on(host: &HostName, step: &str, reason: String, last_lines: Vec<String>) -> Self {
        Self {
            host: Some(host.clone()),
            step: step.to_owned(),
            reason,
            last_lines,
            by: None,
        }
    }
}

fn failure_stop(host: &HostName, failure: &AppFailure) -> Stop {
    let skip = failure.last_lines.len().saturating_sub(LAST_LINES);
    let last_lines = failure.last_lines[skip..].to_vec();
    Stop::on(host, &failure.step, failure.reason.clone(), last_lines)
}

impl Rollout {
    /// The hold of a host that was put back by hand before this promote began.
    fn finds_held(&self, app: &AppReport) -> Option<LocalHold> {
        let held = app.held.as_ref().filter(|held| held.epoch < self.first_epoch);
        held.filter(|_| !self.is_revert()).cloned()
    }
}
