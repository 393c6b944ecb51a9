//! The machine: one event in, the next state and what to do about it out.

mod advance;
mod back;
mod begin;
mod end;
mod gates;
mod heard;
mod leaving;

use std::collections::BTreeSet;

use crate::desired::Epoch;
use crate::name::HostName;
use crate::rollout::event::{Effect, Event, Happening, RolloutEvent, StartRefused};
use crate::rollout::gates::GateProgress;
use crate::rollout::state::{Course, EnvState, HostTarget, Rollout, Stop};
use crate::rollout::state::{DeployKind, Switch};

/// Takes one event. Equal states mean that nothing needs to be stored. While nothing is
/// [`running`](EnvState::running), reports, silence and ticks never change anything and need not come here.
///
/// `now_ms` is milliseconds since 1970 by the caller's clock. A clock that jumps back makes the present
/// step begin anew; one that jumps forward can at most let the present deadline pass.
pub fn step(state: &EnvState, event: Event, now_ms: u64) -> (EnvState, Vec<Effect>) {
    step_all(state, [event], now_ms)
}

/// Takes several events at once: everything that was said is heard before anything is decided, so that no deadline
/// passes for want of a word that is here. What they change together is changed under one epoch.
pub fn step_all(
    state: &EnvState,
    events: impl IntoIterator<Item = Event>,
    now_ms: u64,
) -> (EnvState, Vec<Effect>) {
    let mut turn = Turn {
        epoch: state.epoch.next(),
        state: state.clone(),
        now: now_ms,
        effects: Vec::new(),
        changed: BTreeSet::new(),
    };
    events.into_iter().for_each(|event| turn.take(event));
    turn.advance();
    turn.close()
}

/// One step being made.
struct Turn {
    state: EnvState,
    now: u64,
    /// The epoch of whatever this step changes.
    epoch: Epoch,
    changed: BTreeSet<HostName>,
    effects: Vec<Effect>,
}

impl Turn {
    fn take(&mut self, event: Event) {
        match event {
            Event::Start { plan, who } => self.start(*plan, who),
            Event::Report { host, app } => {
                self.with_rollout(|turn, rollout| turn.heard(rollout, &host, app.as_deref()))
            }
            Event::HostSilent { host } => self.with_rollout(|turn, rollout| turn.silent(rollout, &host)),
            Event::HostJoined { host, runs_app } => self.joined(host, runs_app),
            Event::HostDrained { host, drained } => {
                self.with_rollout(|turn, rollout| turn.drained(rollout, &host, drained))
            }
            Event::HostRetiring { host } => self.retiring(&host),
            Event::HostLeft { host } => self.left(&host),
            Event::Tick => {}
            Event::Abort { who } => self.abort(who),
            Event::Pause { who } => self.pause(who),
            Event::Resume { who } => self.resume(who),
            Event::GateSaid {
                deploy,
                step,
                gate,
                verdict,
                said,
            } => self.with_rollout(|turn, rollout| {
                turn.gate_said(rollout, (deploy, step), &gate, (verdict, &said));
            }),
            Event::Answer { answer, who } => self.answer(&answer, &who),
        }
    }

    fn close(mut self) -> (EnvState, Vec<Effect>) {
        if !self.changed.is_empty() {
            self.state.epoch = self.epoch;
        }
        let mut effects: Vec<_> = self.changed.into_iter().map(Effect::SetDesired).collect();
        effects.append(&mut self.effects);
        (self.state, effects)
    }

    /// Runs `work` on the rollout under way, if there is one.
    fn with_rollout(&mut self, work: impl FnOnce(&mut Self, &mut Rollout)) {
        if let Some(mut rollout) = self.state.rollout.take() {
            if rollout.outcome.is_none() {
                work(self, &mut rollout);
            }
            self.state.rollout = Some(rollout);
        }
    }

    /// Edits what a host should have; a new epoch only where that changes it.
    fn set(&mut self, host: &HostName, edit: impl FnOnce(&mut HostTarget)) {
        let new = !self.state.hosts.contains_key(host);
        let target = self.state.hosts.entry(host.clone()).or_default();
        let mut edited = target.clone();
        edit(&mut edited);
        if new || edited != *target {
            edited.epoch = self.epoch;
            *target = edited;
            self.changed.insert(host.clone());
        }
    }

    fn announce(&mut self, rollout: &Rollout, what: Happening) {
        self.effects.push(Effect::Announce(RolloutEvent {
            deploy: rollout.deploy,
            at_ms: self.now,
            what,
        }));
    }

    fn refuse(&mut self, why: StartRefused) {
        self.effects.push(Effect::Refused(why));
    }

    fn audit(&mut self, who: &str, what: String, why: Option<String>) {
        let who = who.to_owned();
        self.effects.push(Effect::Audit { who, what, why });
    }

    fn abort(&mut self, who: String) {
        let refused = match self.state.running() {
            None => Some(StartRefused::NothingRuns),
            Some(rollout) if rollout.course == Course::Back || rollout.plan.kind == DeployKind::Revert => {
                Some(StartRefused::GoesBack {
                    deploy: rollout.deploy,
                })
            }
            Some(_) => None,
        };
        if let Some(why) = refused {
            return self.refuse(why);
        }
        self.with_rollout(|turn, rollout| {
            turn.audit(&who, format!("abort deploy {}", rollout.deploy), None);
            let stop = Stop {
                host: None,
                step: "abort".to_owned(),
                reason: format!("aborted by {who}"),
                last_lines: Vec::new(),
                by: Some(who),
            };
            turn.stop(rollout, stop);
        });
    }

    fn pause(&mut self, who: String) {
        if self.state.running().is_none() {
            return self.refuse(StartRefused::NothingRuns);
        }
        self.with_rollout(|turn, rollout| {
            turn.audit(&who, format!("pause deploy {}", rollout.deploy), None);
            turn.announce(rollout, Happening::Paused { who: who.clone() });
            rollout.paused = Some(who);
        });
    }

    fn resume(&mut self, who: String) {
        match self.state.running() {
            None => return self.refuse(StartRefused::NothingRuns),
            Some(rollout) if rollout.paused.is_none() => {
                let deploy = rollout.deploy;
                return self.refuse(StartRefused::NotPaused { deploy });
            }
            Some(_) => {}
        }
        self.with_rollout(|turn, rollout| {
            turn.audit(&who, format!("resume deploy {}", rollout.deploy), None);
            turn.announce(rollout, Happening::Resumed { who });
            rollout.paused = None;
            rollout.waits = None;
            if rollout.waits_for_an_operator() {
                rollout.gates.iter_mut().for_each(GateProgress::begin_anew);
                turn.try_again(rollout);
            }
            turn.progressed(rollout);
        });
    }
}

impl Rollout {
    fn is_revert(&self) -> bool {
        self.plan.kind == DeployKind::Revert
    }

    /// Whether a failure leaves it as it is until somebody says what to do.
    fn waits_for_an_operator(&self) -> bool {
        !self.is_revert() && !self.plan.policy.auto_revert
    }

    /// App hosts that count for how many may be away.
    fn counted(&self) -> impl Iterator<Item = &crate::rollout::state::HostProgress> {
        let counts = |host: &&crate::rollout::state::HostProgress| {
            host.runs_app && !host.late && host.excused.is_none()
        };
        self.hosts.values().filter(counts)
    }

    fn in_flight(&self) -> usize {
        let asked = self
            .hosts
            .values()
            .filter(|host| matches!(host.switch, Switch::Asked { .. }));
        asked.count()
    }

    fn touched(&self) -> bool {
        self.hosts.values().any(|host| host.switch.touched())
    }
}
