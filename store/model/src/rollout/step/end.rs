//! A rollout ends: its outcome, the history, and what hosts keep from now on.

use crate::name::HostName;
use crate::release::Target;
use crate::rollout::event::Happening;
use crate::rollout::state::{
    Course, DeployEntry, End, EnvState, HISTORY, HostProgress, Outcome, Rollout, Switch,
};
use crate::rollout::step::Turn;

/// Who did what no operator asked for at that moment.
pub(super) const BY_ITSELF: &str = "ship";

impl Turn {
    /// Every step is behind it.
    pub(super) fn done(&mut self, rollout: &mut Rollout) {
        let confirmed = |host: &HostProgress| matches!(host.switch, Switch::Running { .. });
        let unconfirmed = lacking(rollout, |host| host.runs_app && !confirmed(host));
        let broken = rollout.is_revert() && lacks_present(rollout, &unconfirmed);
        self.state.current = Some(rollout.plan.to);
        self.state.bad.retain(|bad| bad.release != rollout.plan.to);
        let outcome = Outcome {
            end: if broken { End::Partly } else { End::Done },
            stop: None,
            unconfirmed,
        };
        self.record(rollout, outcome);
        self.catch_up(rollout);
        self.keep(rollout);
    }

    /// It stopped, and whatever was touched went back, or did not answer.
    pub(super) fn stopped(&mut self, rollout: &mut Rollout) {
        let unconfirmed = lacking(rollout, |host| host.switch.touched());
        let end = if lacks_present(rollout, &unconfirmed) {
            End::Partly
        } else if rollout.touched_any() && rollout.plan.from.is_some() {
            End::Reverted
        } else {
            End::Failed
        };
        let outcome = Outcome {
            end,
            stop: rollout.stop.clone(),
            unconfirmed,
        };
        self.record(rollout, outcome);
        self.keep(rollout);
    }

    /// Writes the outcome and its line of history.
    pub(super) fn record(&mut self, rollout: &mut Rollout, outcome: Outcome) {
        let history = &mut self.state.history;
        history.push(DeployEntry {
            deploy: rollout.deploy,
            release: rollout.plan.to,
            kind: rollout.plan.kind,
            end: outcome.end,
            when_ms: self.now,
            who: rollout.who.clone(),
            message: rollout.plan.message.clone(),
            reason: outcome.stop.as_ref().map(|stop| stop.reason.clone()),
        });
        let over = history.len().saturating_sub(HISTORY);
        history.drain(..over);
        rollout.course = Course::Ended;
        rollout.ended_ms = Some(self.now);
        rollout.end_step(self.now);
        rollout.paused = None;
        rollout.waits = None;
        rollout.outcome = Some(outcome.clone());
        let what = format!("deploy {} ended: {}", rollout.deploy, outcome.end.as_str());
        let why = outcome.stop.as_ref().map(|stop| stop.reason.clone());
        self.audit(BY_ITSELF, what, why);
        self.announce(rollout, Happening::Ended { outcome });
    }

    /// Hosts that were away, left out or too late run the new release as soon as they can.
    fn catch_up(&mut self, rollout: &Rollout) {
        let (to, deploy) = (rollout.plan.to, rollout.deploy);
        let hosts: Vec<HostName> = self.state.hosts.keys().cloned().collect();
        for host in hosts {
            let planned = rollout.hosts.get(&host).map(|host| host.runs_app);
            self.set(&host, |target| {
                target.runs_app = planned.unwrap_or(target.runs_app);
                let run = target.runs_app.then_some(to);
                if target.run != run {
                    target.run = run;
                    target.deploy = deploy;
                }
            });
        }
    }

    /// Hosts drop what no revert needs. One that was reverted by hand keeps running what it was put on.
    fn keep(&mut self, rollout: &Rollout) {
        self.state.retained = retained(&self.state, rollout.plan.policy.keep);
        let hosts: Vec<HostName> = self.state.hosts.keys().cloned().collect();
        for host in hosts {
            let held_on = rollout.hosts.get(&host).and_then(|host| host.held_on);
            let mut stage = self.state.retained.clone();
            self.set(&host, |target| {
                target.run = held_on.or(target.run);
                if let Some(run) = target.run.filter(|run| !stage.contains(run)) {
                    stage.push(run);
                }
                target.stage = if target.runs_app { stage } else { Vec::new() };
            });
        }
    }
}

fn lacking(rollout: &Rollout, lacks: impl Fn(&HostProgress) -> bool) -> Vec<HostName> {
    let hosts = rollout.hosts.iter().filter(|(_, host)| lacks(host));
    hosts.map(|(name, _)| name.clone()).collect()
}

/// Whether one of `hosts` is there and all the same not as it should be.
fn lacks_present(rollout: &Rollout, hosts: &[HostName]) -> bool {
    let present = |host: &HostProgress| !host.silent && host.excused.is_none() && !host.late;
    hosts
        .iter()
        .filter_map(|host| rollout.hosts.get(host))
        .any(present)
}

/// The running release, what a revert goes to, and up to `keep` more that ran well, newest first.
fn retained(state: &EnvState, keep: u32) -> Vec<Target> {
    let previous = state.current.and_then(|current| state.last_good_before(current));
    let mut kept: Vec<Target> = state.current.into_iter().chain(previous).collect();
    let most = kept.len() + keep as usize;
    for release in state.ran_well() {
        if kept.len() < most && !kept.contains(&release) && !state.is_bad(release.number) {
            kept.push(release);
        }
    }
    kept
}
