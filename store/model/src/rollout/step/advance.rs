//! A rollout goes forward: every step ends by what hosts reported, or by its deadline.

use std::collections::BTreeSet;

use crate::name::HostName;
use crate::rollout::event::Happening;
use crate::rollout::plan::PlanStep;
use crate::rollout::state::{Course, HostProgress, Rollout, StepTime, Stop, Switch};
use crate::rollout::step::Turn;

impl Turn {
    /// Goes on until nothing more follows from what is known now.
    pub(super) fn advance(&mut self) {
        self.with_rollout(|turn, rollout| {
            if turn.now < rollout.since_ms {
                turn.clock_went_back(rollout);
            }
            while match rollout.course {
                Course::Forward { step } => turn.forward(rollout, step),
                Course::Back => turn.back(rollout),
                Course::Ended => false,
            } {}
        });
    }

    /// What was measured by the old clock begins anew: it can only wait longer, never fire early.
    fn clock_went_back(&mut self, rollout: &mut Rollout) {
        let now = self.now;
        for host in rollout.hosts.values_mut() {
            if let Switch::Asked { at_ms, .. } | Switch::BackAsked { at_ms, .. } = &mut host.switch {
                *at_ms = (*at_ms).min(now);
            }
        }
        rollout.soak_since_ms = rollout.soak_since_ms.map(|_| now);
        rollout
            .gates
            .iter_mut()
            .for_each(|gate| gate.clock_went_back(now));
        self.progressed(rollout);
    }

    /// The present step made progress: its deadline counts from now.
    pub(super) fn progressed(&mut self, rollout: &mut Rollout) {
        let policy = &rollout.plan.policy;
        let patience = match rollout.present() {
            Some(PlanStep::Prefetch { .. }) => policy.prefetch_deadline_ms,
            Some(PlanStep::Assets { .. }) => policy.barrier_deadline_ms,
            Some(PlanStep::Wave { .. } | PlanStep::Gate { .. }) => {
                policy.progress_deadline_ms.unwrap_or(policy.switch_deadline_ms)
            }
            Some(PlanStep::Check) | None => 0,
        };
        rollout.since_ms = self.now;
        rollout.deadline_ms = self.now.saturating_add(patience);
    }

    /// True when something changed that may let more follow.
    fn forward(&mut self, rollout: &mut Rollout, step: usize) -> bool {
        let Some(present) = rollout.plan.steps.get(step).cloned() else {
            self.done(rollout);
            return false;
        };
        match present {
            PlanStep::Check => self.next_step(rollout, step),
            PlanStep::Prefetch { hosts } => {
                self.gather(rollout, step, &hosts, "prefetch", |host| host.staged)
            }
            PlanStep::Assets { hosts } => self.gather(rollout, step, &hosts, "assets", |host| host.assets),
            PlanStep::Wave { hosts, .. } if rollout.is_revert() => self.revert_wave(rollout, step, &hosts),
            PlanStep::Wave { hosts, soak_ms, .. } => self.wave(rollout, step, hosts, soak_ms),
            PlanStep::Gate { gates, .. } => self.gates(rollout, step, &gates),
        }
    }

    pub(super) fn next_step(&mut self, rollout: &mut Rollout, step: usize) -> bool {
        if rollout.paused.is_some() {
            return false;
        }
        self.announce(rollout, Happening::StepDone { step });
        rollout.course = Course::Forward { step: step + 1 };
        rollout.reached = step + 1;
        rollout.soak_since_ms = None;
        self.progressed(rollout);
        rollout.end_step(self.now);
        if step + 1 < rollout.plan.steps.len() {
            // A record that began without times goes on without them: a part would stand at the wrong steps.
            if rollout.times.len() == step + 1 {
                rollout.times.push(StepTime::from(self.now));
            }
            self.announce(rollout, Happening::StepStarted { step: step + 1 });
        }
        true
    }

    /// Waits until every host that is not excused has what the step asks for.
    fn gather(
        &mut self,
        rollout: &mut Rollout,
        step: usize,
        hosts: &[HostName],
        name: &str,
        has: impl Fn(&HostProgress) -> bool,
    ) -> bool {
        let lacks = |host: &&HostName| {
            let progress = rollout.hosts.get(*host);
            progress.is_some_and(|progress| progress.excused.is_none() && !has(progress))
        };
        let waiting: Vec<_> = hosts.iter().filter(lacks).cloned().collect();
        if waiting.is_empty() {
            return self.next_step(rollout, step);
        }
        self.give_up(rollout, name, &waiting)
    }

    /// Stops when the present step's deadline has passed.
    pub(super) fn give_up(&mut self, rollout: &mut Rollout, step: &str, waiting: &[HostName]) -> bool {
        if self.now < rollout.deadline_ms || rollout.paused.is_some() {
            return false;
        }
        let names: Vec<_> = waiting.iter().map(HostName::as_str).collect();
        let stop = Stop {
            host: waiting.first().cloned(),
            step: step.to_owned(),
            reason: format!("deadline: still waiting for {}", names.join(", ")),
            last_lines: Vec::new(),
            by: None,
        };
        self.stop(rollout, stop);
        true
    }

    fn wave(&mut self, rollout: &mut Rollout, step: usize, mut hosts: Vec<HostName>, soak_ms: u64) -> bool {
        if rollout.plan.is_last_wave(step) {
            let late = rollout
                .hosts
                .iter()
                .filter(|(_, host)| host.late && host.runs_app && !host.silent);
            hosts.extend(
                late.map(|(name, _)| name.clone())
                    .filter(|name| !hosts.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        hosts.retain(|host| rollout.hosts.get(host).is_some_and(|host| host.excused.is_none()));
        if self.fail_overdue(rollout, &hosts) {
            return true;
        }
        for host in &hosts {
            self.ask_if_allowed(rollout, host);
        }
        // Hosts of earlier waves count as well: nothing goes on while one of them is unwell or unknown.
        let these: BTreeSet<_> = hosts.iter().collect();
        let gone_before = rollout.hosts.iter().filter(|(name, host)| {
            matches!(host.switch, Switch::Running { .. }) && host.excused.is_none() && !these.contains(name)
        });
        let concerned: Vec<_> = gone_before.map(|(name, _)| name).chain(&hosts).collect();
        let unwell = concerned.into_iter().filter(|host| !rollout.runs_well(host));
        let unwell: Vec<_> = unwell.cloned().collect();
        if !unwell.is_empty() {
            rollout.soak_since_ms = None;
            return self.give_up(rollout, "switch", &unwell);
        }
        // Pages of the new release that lack something: the soak begins anew, and no further host shows them
        // while that goes on.
        let failing = rollout.take_incidents();
        if !failing.is_empty() {
            rollout.soak_since_ms = Some(self.now);
            return self.give_up(rollout, "assets", &failing);
        }
        let since = *rollout.soak_since_ms.get_or_insert(self.now);
        self.now.saturating_sub(since) >= soak_ms && self.next_step(rollout, step)
    }

    /// True when one of them was asked too long ago and has not confirmed: it failed.
    pub(super) fn fail_overdue(&mut self, rollout: &mut Rollout, hosts: &[HostName]) -> bool {
        let Some(host) = self.overdue(rollout, hosts) else {
            return false;
        };
        let patience = rollout.plan.policy.switch_deadline_ms;
        let reason = format!("deadline: not healthy {} s after it was asked", patience / 1000);
        self.fail(rollout, &host, Stop::on(&host, "switch", reason, Vec::new()));
        true
    }

    /// A host that was asked too long ago and has not confirmed.
    pub(super) fn overdue(&self, rollout: &Rollout, hosts: &[HostName]) -> Option<HostName> {
        let patience = rollout.plan.policy.switch_deadline_ms;
        let overdue = |host: &&HostName| match rollout.hosts.get(*host).map(|host| host.switch) {
            Some(Switch::Asked { at_ms, .. }) => self.now.saturating_sub(at_ms) >= patience,
            _ => false,
        };
        hosts.iter().find(overdue).cloned()
    }

    fn ask_if_allowed(&mut self, rollout: &mut Rollout, host: &HostName) {
        if rollout.paused.is_none() && rollout.may_switch(host) {
            self.ask(rollout, host);
            self.progressed(rollout);
        }
    }

    /// Tells a host to run the new release.
    pub(super) fn ask(&mut self, rollout: &mut Rollout, host: &HostName) {
        let (to, deploy) = (rollout.plan.to, rollout.deploy);
        let Some(progress) = rollout.hosts.get_mut(host) else {
            return;
        };
        let target = self.state.hosts.get(host);
        progress.previous = target.and_then(|target| target.run);
        progress.previous_deploy = target.map(|target| target.deploy).unwrap_or_default();
        self.set(host, |target| {
            if target.run != Some(to) {
                target.run = Some(to);
                target.deploy = deploy;
            }
            if !target.stage.contains(&to) {
                target.stage.push(to);
            }
        });
        let epoch = self.state.hosts.get(host).map(|target| target.epoch);
        progress.switch = Switch::Asked {
            epoch: epoch.unwrap_or(self.epoch),
            at_ms: self.now,
        };
    }

    /// Asks hosts that failed once more, under a newer epoch; those that somebody reverted by hand stay as they are.
    pub(super) fn try_again(&mut self, rollout: &mut Rollout) {
        let (to, epoch, at_ms) = (rollout.plan.to, self.epoch, self.now);
        let names: Vec<_> = rollout.hosts.keys().cloned().collect();
        for name in names {
            let failed = |host: &&HostProgress| {
                matches!(host.switch, Switch::Failed { .. }) && host.held_on.is_none() && !host.silent
            };
            // It runs what it ran before, and is taken away from that once more.
            let spared = rollout
                .hosts
                .get(&name)
                .filter(failed)
                .is_some_and(|host| rollout.can_spare(host));
            let Some(progress) = rollout.hosts.get_mut(&name).filter(|_| spared) else {
                continue;
            };
            progress.failure = None;
            progress.switch = Switch::Asked { epoch, at_ms };
            self.set(&name, |target| {
                target.run = Some(to);
                // What it could not do under an older one it tries again under a newer one only.
                target.epoch = epoch;
            });
        }
    }

    /// One host cannot go on: a promote turns back, a revert goes on without it.
    pub(super) fn fail(&mut self, rollout: &mut Rollout, host: &HostName, stop: Stop) {
        self.tell_failed(rollout, host, &stop);
        if let Some(progress) = rollout.hosts.get_mut(host) {
            progress.failure = Some(stop.clone());
            if let Switch::Asked { epoch, .. } | Switch::Running { epoch } = progress.switch {
                progress.switch = Switch::Failed { epoch };
            }
        }
        if !rollout.is_revert() {
            self.stop(rollout, stop);
        }
    }
}

impl Rollout {
    pub(super) fn runs_well(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|host| {
            matches!(host.switch, Switch::Running { .. }) && host.serving == Some(true) && !host.silent
        })
    }

    /// Hosts, also those that only hold assets, that could not serve an asset of the new release since this was last
    /// asked.
    pub(super) fn take_incidents(&mut self) -> Vec<HostName> {
        let failing = self.hosts.iter_mut().filter_map(|(name, host)| {
            let news = host.incidents.take_news();
            news.then(|| name.clone())
        });
        failing.collect()
    }

    /// Whether a host may be switched now: it is there, has everything, and enough others serve.
    fn may_switch(&self, host: &HostName) -> bool {
        self.hosts.get(host).is_some_and(|host| {
            let ready = host.switch == Switch::Untouched && !host.silent && host.staged && host.assets;
            ready && self.can_spare(host)
        })
    }

    /// Whether policy lets one more host be away.
    fn can_spare(&self, host: &HostProgress) -> bool {
        let allowed = self.plan.max_unavailable as usize;
        if self.in_flight() >= allowed {
            return false;
        }
        let serving = self
            .counted()
            .filter(|host| host.serving == Some(true) && !host.silent && !host.switch.in_flight());
        let (serving, total) = (serving.count(), self.counted().count());
        let enough = serving + allowed > total && serving > self.plan.min_healthy as usize;
        // Switching what does not serve takes nothing away from users.
        host.serving != Some(true) || host.late || enough
    }
}
