//! A rollout begins; hosts come and go.

use crate::desired::DeployNumber;
use crate::name::HostName;
use crate::release::Target;
use crate::rollout::event::{Happening, StartRefused};
use crate::rollout::plan::{Excuse, Plan, PlannedHost};
use crate::rollout::state::{
    BadRelease, Course, DeployKind, End, Hold, HostProgress, Incidents, Outcome, Rollout, StepTime, Stop,
    Switch,
};
use crate::rollout::step::Turn;

impl HostProgress {
    fn new(runs_app: bool) -> Self {
        Self {
            runs_app,
            late: false,
            excused: None,
            silent: false,
            serving: None,
            staged: false,
            assets: false,
            switch: Switch::Untouched,
            previous: None,
            previous_deploy: DeployNumber::default(),
            held_on: None,
            failure: None,
            stuck: false,
            incidents: Incidents::default(),
        }
    }

    fn planned(host: &PlannedHost) -> Self {
        Self {
            excused: host.excused,
            silent: host.excused == Some(Excuse::Away),
            ..Self::new(host.runs_app)
        }
    }
}

impl Turn {
    pub(super) fn start(&mut self, plan: Plan, who: String) {
        if let Some(why) = self.start_refused(&plan) {
            return self.refuse(why);
        }
        self.supersede(&plan, &who);
        let deploy = DeployNumber(self.state.last_deploy.0 + 1);
        self.state.last_deploy = deploy;
        let verb = match plan.kind {
            DeployKind::Promote => "promote",
            DeployKind::Revert => "revert to",
        };
        let what = format!(
            "{verb} {}@{} in {}, deploy {deploy}",
            plan.app, plan.to.number, plan.env
        );
        self.audit(&who, what, plan.message.clone());
        if !plan.policy.skipped_gates.is_empty() {
            let (skipped, profile) = (plan.policy.skipped_gates.join(", "), plan.policy.profile);
            let what = format!("skip gates {skipped} of deploy {deploy}, profile {profile}");
            self.audit(&who, what, plan.message.clone());
        }
        self.hold_or_release(&plan, &who, deploy);
        self.state.asset_releases.clone_from(&plan.assets);
        for (name, host) in &plan.hosts {
            self.prepare(&plan, name, host);
        }
        let kind = plan.kind;
        let hosts = plan.hosts.iter();
        let rollout = Rollout {
            deploy,
            who,
            started_ms: self.now,
            first_epoch: self.epoch,
            course: Course::Forward { step: 0 },
            reached: 0,
            times: vec![StepTime::from(self.now)],
            since_ms: self.now,
            deadline_ms: self.now,
            soak_since_ms: None,
            paused: None,
            waits: None,
            gates: Vec::new(),
            hosts: hosts
                .map(|(name, host)| (name.clone(), HostProgress::planned(host)))
                .collect(),
            stop: None,
            outcome: None,
            ended_ms: None,
            plan,
        };
        self.announce(&rollout, Happening::Started { kind });
        self.announce(&rollout, Happening::StepStarted { step: 0 });
        self.state.rollout = Some(rollout);
    }

    fn start_refused(&self, plan: &Plan) -> Option<StartRefused> {
        if plan.parent != self.state.epoch {
            return Some(StartRefused::Drifted {
                planned: plan.parent,
                now: self.state.epoch,
            });
        }
        let running = self.state.running()?;
        (plan.kind == DeployKind::Promote).then(|| StartRefused::Busy {
            deploy: running.deploy,
            who: running.who.clone(),
        })
    }

    /// A revert takes the place of what runs: the touched hosts are among those it takes back.
    fn supersede(&mut self, plan: &Plan, who: &str) {
        let reason = format!("{who} reverted to {}@{}", plan.app, plan.to.number);
        self.with_rollout(|turn, rollout| {
            let stop = Stop {
                host: None,
                step: "revert".to_owned(),
                reason,
                last_lines: Vec::new(),
                by: Some(who.to_owned()),
            };
            let touched = rollout.hosts.iter().filter(|(_, host)| host.switch.touched());
            let outcome = Outcome {
                end: if rollout.touched() {
                    End::Reverted
                } else {
                    End::Failed
                },
                unconfirmed: touched.map(|(name, _)| name.clone()).collect(),
                stop: Some(rollout.stop.get_or_insert(stop).clone()),
            };
            turn.record(rollout, outcome);
        });
    }

    /// A revert is sticky, and what it goes back from is never gone to again by itself.
    fn hold_or_release(&mut self, plan: &Plan, who: &str, deploy: DeployNumber) {
        if plan.kind == DeployKind::Promote {
            self.state.held = None;
            return;
        }
        let reason = plan
            .message
            .clone()
            .unwrap_or_else(|| format!("reverted by {who}"));
        if let Some(from) = plan.from.filter(|from| *from != plan.to) {
            self.mark_bad(from, deploy, reason.clone());
        }
        self.state.held = Some(Hold {
            who: who.to_owned(),
            reason,
            at_ms: self.now,
        });
        self.state.current = Some(plan.to);
    }

    pub(super) fn mark_bad(&mut self, release: Target, deploy: DeployNumber, reason: String) {
        self.state.bad.retain(|bad| bad.release != release);
        self.state.bad.push(BadRelease {
            release,
            deploy,
            reason,
            at_ms: self.now,
        });
    }

    /// Says what to have, not yet what to run. Every planned host gets a new epoch, even where nothing else
    /// changes: what it could not do under an older one it tries again.
    fn prepare(&mut self, plan: &Plan, name: &HostName, host: &PlannedHost) {
        let mut stage = self.state.retained.clone();
        let assets = plan.assets.clone();
        let (epoch, current) = (self.epoch, self.state.current);
        self.set(name, |target| {
            target.epoch = epoch;
            target.runs_app |= host.runs_app;
            // Somebody put this host back by hand: it must not go forward to what it was taken from.
            if host.held_on.is_some() {
                target.run = host.held_on;
            }
            for also in [Some(plan.to), current, target.run].into_iter().flatten() {
                if !stage.contains(&also) {
                    stage.push(also);
                }
            }
            target.stage = if host.runs_app { stage } else { Vec::new() };
            target.assets = assets;
        });
    }

    /// A host that is known already keeps what it has: reconnecting restarts nothing.
    pub(super) fn joined(&mut self, host: HostName, runs_app: bool) {
        let known = self.state.hosts.get(&host);
        if known.is_some_and(|target| target.runs_app == runs_app) {
            return;
        }
        let promote = self.state.running().filter(|rollout| !rollout.is_revert());
        let coming = promote.map(|rollout| rollout.plan.to);
        let (current, deploy) = (self.state.current, self.state.last_deploy);
        let (retained, assets) = (self.state.retained.clone(), self.state.asset_releases.clone());
        self.set(&host, |target| {
            target.runs_app = runs_app;
            target.assets = assets;
            target.run = current.filter(|_| runs_app);
            target.deploy = deploy;
            target.stage = if runs_app { retained } else { Vec::new() };
            for also in [coming, target.run].into_iter().flatten() {
                if runs_app && !target.stage.contains(&also) {
                    target.stage.push(also);
                }
            }
        });
        if coming.is_some() {
            self.with_rollout(|_, rollout| {
                let progress = HostProgress {
                    late: true,
                    ..HostProgress::new(runs_app)
                };
                rollout.hosts.entry(host).or_insert(progress);
            });
        }
    }
}
