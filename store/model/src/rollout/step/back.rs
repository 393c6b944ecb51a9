//! Going back: a promote that failed, and reverts. Nothing waits for hosts that are silent.

use crate::name::HostName;
use crate::release::Target;
use crate::report::BALANCER_STEP;
use crate::rollout::event::Happening;
use crate::rollout::plan::Plan;
use crate::rollout::state::{Course, HostProgress, Rollout, Stop, Switch};
use crate::rollout::step::Turn;
use crate::rollout::step::end::BY_ITSELF;

impl Turn {
    /// Stops a promote, once: touched hosts go back to what they ran.
    pub(super) fn stop(&mut self, rollout: &mut Rollout, stop: Stop) {
        if rollout.stop.is_some() || rollout.outcome.is_some() {
            return;
        }
        if stop.by.is_none() && rollout.waits_for_an_operator() && rollout.touched() {
            return self.wait_for_an_operator(rollout, stop);
        }
        rollout.waits = None;
        let reason = stop.reason.clone();
        let blamed = stop.by.is_none() && stop.step != BALANCER_STEP;
        rollout.stop = Some(stop);
        rollout.soak_since_ms = None;
        rollout.end_step(self.now);
        if !rollout.touched() {
            return self.stopped(rollout);
        }
        rollout.course = Course::Back;
        rollout.since_ms = self.now;
        self.announce(
            rollout,
            Happening::TurnedBack {
                reason: reason.clone(),
            },
        );
        if blamed {
            self.mark_bad(rollout.plan.to, rollout.deploy, reason);
        }
    }

    /// Policy leaves it to people whether to go back. The host that failed has put itself back; no further one is switched.
    fn wait_for_an_operator(&mut self, rollout: &mut Rollout, stop: Stop) {
        let reason = stop.reason.clone();
        rollout.soak_since_ms = None;
        rollout.waits = Some(stop);
        if rollout.paused.is_some() {
            return;
        }
        let who = BY_ITSELF.to_owned();
        self.audit(
            BY_ITSELF,
            format!("pause deploy {}", rollout.deploy),
            Some(reason),
        );
        self.announce(rollout, Happening::Paused { who: who.clone() });
        rollout.paused = Some(who);
    }

    pub(super) fn back(&mut self, rollout: &mut Rollout) -> bool {
        let touched = rollout.hosts.iter().filter(|(_, host)| host.switch.touched());
        let touched: Vec<HostName> = touched.map(|(name, _)| name.clone()).collect();
        for host in &touched {
            if rollout.may_go_back(host, self.now) {
                self.ask_back(rollout, host);
            }
        }
        if touched.iter().all(|host| rollout.is_settled(host, self.now)) {
            self.stopped(rollout);
        }
        false
    }

    fn ask_back(&mut self, rollout: &mut Rollout, host: &HostName) {
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let (run, deploy) = (progress.back_on(), progress.previous_deploy);
        if run == Some(rollout.plan.to) {
            // It ran this release before, well or not: there is nothing to go back to, and nothing to wait for.
            progress.switch = Switch::Back;
            return;
        }
        self.set(host, |target| {
            target.run = run;
            target.deploy = deploy;
        });
        let epoch = self.state.hosts.get(host).map(|target| target.epoch);
        progress.switch = Switch::BackAsked {
            epoch: epoch.unwrap_or(self.epoch),
            at_ms: self.now,
            counted: progress.serves_new(),
        };
    }

    /// All hosts at once, as far as enough go on serving; those that do not serve anyway go first.
    pub(super) fn revert_wave(&mut self, rollout: &mut Rollout, step: usize, hosts: &[HostName]) -> bool {
        while let Some(host) = self.overdue(rollout, hosts) {
            let reason = "deadline: not healthy in time".to_owned();
            self.fail(rollout, &host, Stop::on(&host, "switch", reason, Vec::new()));
        }
        for host in hosts {
            if rollout.paused.is_none() && rollout.may_revert(host) {
                self.ask(rollout, host);
                self.progressed(rollout);
            }
        }
        let waits = |host: &&HostName| {
            rollout.hosts.get(*host).is_some_and(|host| match host.switch {
                Switch::Untouched => true,
                Switch::Asked { .. } => !host.silent && host.excused.is_none(),
                _ => false,
            })
        };
        !hosts.iter().any(|host| waits(&host)) && self.next_step(rollout, step)
    }
}

impl Rollout {
    /// Whether a host may be taken back now. One that does not serve the new release goes at once.
    fn may_go_back(&self, host: &HostName, now: u64) -> bool {
        let Some(host) = self.hosts.get(host) else {
            return false;
        };
        match host.switch {
            Switch::Asked { .. } | Switch::Failed { .. } => true,
            Switch::Running { .. } if !host.serves_new() => true,
            Switch::Running { .. } => {
                let settling = self.hosts.iter().filter(|(name, host)| {
                    matches!(host.switch, Switch::BackAsked { counted: true, .. })
                        && !self.is_settled(name, now)
                });
                settling.count() < self.plan.max_unavailable as usize
            }
            Switch::Untouched | Switch::BackAsked { .. } | Switch::Back => false,
        }
    }

    /// Whether nothing waits for the host any more while the rollout goes back.
    fn is_settled(&self, host: &HostName, now: u64) -> bool {
        let patience = self.plan.policy.switch_deadline_ms;
        self.hosts.get(host).is_none_or(|host| match host.switch {
            Switch::BackAsked { at_ms, .. } => {
                host.silent || host.stuck || now.saturating_sub(at_ms) >= patience
            }
            Switch::Untouched | Switch::Back => true,
            Switch::Asked { .. } | Switch::Running { .. } | Switch::Failed { .. } => false,
        })
    }

    fn may_revert(&self, host: &HostName) -> bool {
        let Some(host) = self
            .hosts
            .get(host)
            .filter(|host| host.switch == Switch::Untouched)
        else {
            return false;
        };
        let costs =
            |host: &HostProgress| host.serving != Some(false) && !host.silent && host.excused.is_none();
        let away = self.hosts.values().filter(|host| {
            matches!(host.switch, Switch::Asked { .. }) && !host.silent && host.excused.is_none()
        });
        !costs(host) || away.count() < self.plan.max_unavailable as usize
    }
}

impl HostProgress {
    /// What the host goes back to.
    pub(super) fn back_on(&self) -> Option<Target> {
        self.held_on.or(self.previous)
    }

    fn serves_new(&self) -> bool {
        matches!(self.switch, Switch::Running { .. }) && self.serving == Some(true) && !self.silent
    }
}

impl Plan {
    /// Whether a hold made on a host keeps it where this revert wants it anyway.
    pub(super) fn is_hold_of(&self, held_on: Option<Target>) -> bool {
        held_on == Some(self.to)
    }
}
