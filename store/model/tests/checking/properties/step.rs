//! What must be true of every step of the machine.

use ship_model::name::HostName;
use ship_model::report::AppReport;
use ship_model::rollout::{
    Course, DeployKind, Effect, End, EnvState, Event, Excuse, HostProgress, PlanStep, PlannedHost, Policy,
    Rollout, Switch,
};

use super::{Property, Verdict, gates, must, newly_asked, required};

/// One step of the machine, as it really was.
pub struct Step<'a> {
    pub before: &'a EnvState,
    /// What was taken in, in this order.
    pub events: &'a [Event],
    pub after: &'a EnvState,
    pub effects: &'a [Effect],
    pub now: u64,
    /// What was ordered, whatever a plan says of it.
    pub policy: &'a Policy,
}

impl Step<'_> {
    pub fn check(&self) -> Verdict {
        self.epochs()?;
        self.numbers()?;
        self.audit()?;
        self.revert_started()?;
        self.current()?;
        self.kept()?;
        self.reconnecting()?;
        let (Some(before), Some(after)) = (self.before.rollout.as_ref(), self.after.rollout.as_ref()) else {
            return Ok(());
        };
        if before.deploy != after.deploy {
            return Ok(());
        }
        self.once(before, after)?;
        self.confirmed(before, after)?;
        self.old_failures(before, after)?;
        self.paused(before, after)?;
        self.few(before, after)?;
        if after.plan.kind == DeployKind::Promote {
            self.waves(before, after)?;
            gates::check(self, before, after)?;
            self.assets(before, after)?;
        }
        Ok(())
    }

    fn epochs(&self) -> Verdict {
        let (before, after) = (self.before, self.after);
        let grows = after.epoch == before.epoch || after.epoch == before.epoch.next();
        must(Property::EpochsOnlyGrow, grows, || {
            format!("{} became {}", before.epoch, after.epoch)
        })?;
        for (name, target) in &after.hosts {
            let was = before.hosts.get(name);
            let newer = target.epoch == after.epoch && after.epoch > before.epoch;
            must(Property::EpochsOnlyGrow, was == Some(target) || newer, || {
                format!("{name} was changed under {}", target.epoch)
            })?;
            let told = self.effects.contains(&Effect::SetDesired(name.clone()));
            must(Property::EpochsOnlyGrow, told == (was != Some(target)), || {
                format!("{name} is wrongly told")
            })?;
        }
        Ok(())
    }

    fn numbers(&self) -> Verdict {
        let (before, after) = (self.before, self.after);
        let new = after.last_deploy.0 - before.last_deploy.0.min(after.last_deploy.0);
        must(
            Property::NumbersAreNewOnes,
            new <= 1 && after.last_deploy >= before.last_deploy,
            || format!("{} became {}", before.last_deploy, after.last_deploy),
        )?;
        let ascending = after.history.windows(2).all(|two| two[0].deploy < two[1].deploy);
        must(Property::NumbersAreNewOnes, ascending, || {
            "a deploy stands twice, or behind a later one".to_owned()
        })?;
        if new == 0 {
            return Ok(());
        }
        let promote = |state: &EnvState| {
            state
                .running()
                .is_some_and(|rollout| rollout.plan.kind == DeployKind::Promote)
        };
        let busy = self.before.running().is_some() && promote(after);
        must(Property::OneRolloutAtOnce, !busy, || {
            "a promote began while something else ran".to_owned()
        })?;
        // What is under way when a revert begins is written down as ended.
        let ended = before
            .running()
            .is_none_or(|running| after.history.iter().any(|entry| entry.deploy == running.deploy));
        must(Property::OneRolloutAtOnce, ended, || {
            "a rollout was forgotten".to_owned()
        })
    }

    fn audit(&self) -> Verdict {
        let told = self
            .effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Audit { .. }));
        let ended = |state: &EnvState| state.history.last().map(|entry| entry.deploy);
        let mut acts = 0;
        acts += usize::from(self.after.last_deploy != self.before.last_deploy);
        acts += usize::from(ended(self.after) != ended(self.before));
        must(Property::ToldToTheAudit, told.count() >= acts, || {
            format!("{acts} acts, fewer in the audit")
        })
    }

    fn revert_started(&self) -> Verdict {
        let mut started = self.events.iter().filter_map(|event| match event {
            Event::Start { plan, .. } => Some(plan),
            _ => None,
        });
        let Some(plan) = started.next() else { return Ok(()) };
        let began = self.after.last_deploy != self.before.last_deploy;
        must(
            Property::PlansFitWhatStands,
            !began || plan.parent == self.before.epoch,
            || format!("planned at {}, begun at {}", plan.parent, self.before.epoch),
        )?;
        let must_begin = plan.kind == DeployKind::Revert && plan.parent == self.before.epoch;
        must(Property::RevertsWaitForNoGate, began || !must_begin, || {
            format!("the revert to {} did not begin", plan.to.number)
        })?;
        if !began || plan.kind == DeployKind::Promote {
            return Ok(());
        }
        let good = |property, holds| must(property, holds, || format!("reverted to {}", plan.to.number));
        let property = Property::RevertsGoToGoodReleases;
        good(property, !self.before.is_bad(plan.to.number))?;
        let history = &self.before.history;
        let ran = history
            .iter()
            .rposition(|entry| entry.release == plan.to && entry.end == End::Done);
        let taken_back = |at: usize| {
            let mut since = history[at + 1..].iter();
            since.any(|entry| entry.kind == DeployKind::Revert && entry.release.number < plan.to.number)
        };
        good(property, ran.is_some_and(|at| !taken_back(at)))?;
        let waves: Vec<_> = plan
            .steps
            .iter()
            .filter(|step| **step != PlanStep::Check)
            .collect();
        let at_once = matches!(waves[..], [PlanStep::Wave { soak_ms: 0, .. }]);
        good(property, at_once)?;
        good(Property::RevertsStick, self.after.held.is_some())
    }

    fn current(&self) -> Verdict {
        let (before, after) = (self.before, self.after);
        let started = after.last_deploy != before.last_deploy;
        let done = after.history.len() > before.history.len()
            && after
                .history
                .last()
                .is_some_and(|entry| Some(entry.release) == after.current);
        must(
            Property::RevertsStick,
            after.current == before.current || started || done,
            || "what runs was changed by no deploy".to_owned(),
        )?;
        must(
            Property::RevertsStick,
            after.held.is_some() || before.held.is_none() || started,
            || "a revert does not stick".to_owned(),
        )
    }

    fn kept(&self) -> Verdict {
        let after = self.after;
        if after.running().is_some() || self.before.running().is_none() {
            return Ok(());
        }
        let back = after.current.and_then(|current| after.last_good_before(current));
        for (name, target) in after.hosts.iter().filter(|(_, target)| target.runs_app) {
            let kept = back
                .iter()
                .chain(&target.run)
                .all(|kept| target.stage.contains(kept));
            must(Property::FleetRevertNeedsNoDownload, kept, || {
                format!("{name} is to keep {:?} only", target.stage)
            })?;
        }
        Ok(())
    }

    fn reconnecting(&self) -> Verdict {
        self.events.iter().try_for_each(|event| match event {
            Event::HostJoined { host, runs_app } => self.reconnected(host, *runs_app),
            _ => Ok(()),
        })
    }

    fn reconnected(&self, host: &HostName, runs_app: bool) -> Verdict {
        let (before, after) = (self.before.hosts.get(host), self.after.hosts.get(host));
        let known = before.is_some_and(|before| before.runs_app == runs_app);
        // Other things may be due at the same moment; what lies there is not changed by them.
        let asked = |state: &EnvState| {
            let rollout = state.rollout.as_ref();
            rollout
                .and_then(|rollout| rollout.hosts.get(host))
                .map(|host| host.switch)
        };
        let held = self.word_of(host).is_some_and(|word| word.held.is_some());
        let same = held || before == after || asked(self.before) != asked(self.after);
        let ended = self.before.history.len() != self.after.history.len();
        must(
            Property::ReconnectingRestartsNothing,
            !known || same || ended,
            || format!("{host} came back and is told something else"),
        )
    }

    fn once(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let property = Property::TurnsBackOnce;
        must(
            property,
            before.stop.is_none() || after.stop == before.stop,
            || "stopped again".to_owned(),
        )?;
        must(
            property,
            before.outcome.is_none() || after.outcome == before.outcome,
            || "ended again".to_owned(),
        )?;
        let forward = |rollout: &Rollout| matches!(rollout.course, Course::Forward { .. });
        must(property, forward(before) || !forward(after), || {
            "went forward again".to_owned()
        })
    }

    /// The report that this step took in, if it is of `host`.
    fn word_of(&self, host: &HostName) -> Option<&AppReport> {
        let mut words = self.events.iter().filter_map(|event| match event {
            Event::Report {
                host: of,
                app: Some(app),
            } if of == host => Some(&**app),
            _ => None,
        });
        words.next()
    }

    fn confirmed(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let property = Property::ConfirmedByWord;
        for (name, host) in &after.hosts {
            let Some(was) = before.hosts.get(name) else {
                continue;
            };
            let word = self.word_of(name);
            match (was.switch, host.switch) {
                (Switch::Asked { epoch, .. }, Switch::Running { .. }) => {
                    let said = word.is_some_and(|word| {
                        word.running == Some(after.plan.to) && word.healthy && word.epoch >= epoch
                    });
                    must(property, said, || format!("{name} never said that it runs"))?;
                }
                (Switch::BackAsked { epoch, .. }, Switch::Back) => {
                    let back = was.held_on.or(was.previous);
                    let said = word.is_some_and(|word| word.running == back && word.epoch >= epoch);
                    must(property, said, || format!("{name} never said that it is back"))?;
                }
                (Switch::Untouched, Switch::Running { .. }) => {
                    must(property, false, || format!("{name} was never asked"))?;
                }
                _ => {}
            }
        }
        let done = after.outcome.as_ref().filter(|_| before.outcome.is_none());
        let done = done.filter(|done| done.end == End::Done);
        let Some(done) = done else { return Ok(()) };
        for (name, host) in after.hosts.iter().filter(|(_, host)| host.runs_app) {
            let runs = matches!(host.switch, Switch::Running { .. });
            must(property, runs || done.unconfirmed.contains(name), || {
                format!("done, and nobody says that {name} lags")
            })?;
            let excused = host.excused.is_some() || host.late || host.silent;
            must(property, runs || excused, || format!("done without {name}"))?;
        }
        Ok(())
    }

    fn old_failures(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let Some(stop) = after.stop.as_ref().filter(|_| before.stop.is_none()) else {
            return Ok(());
        };
        let by_deadline = stop.reason.starts_with("deadline");
        let Some(host) = stop.host.as_ref().filter(|_| !by_deadline) else {
            return Ok(());
        };
        let about = self.word_of(host).is_some_and(|word| {
            let failed = word
                .failure
                .as_ref()
                .is_some_and(|failure| failure.epoch >= after.first_epoch);
            let held = word
                .held
                .as_ref()
                .is_some_and(|held| held.epoch >= after.first_epoch);
            failed || held
        });
        must(Property::OldFailuresStopNothing, about, || {
            format!("stopped by an old failure of {host}")
        })
    }

    fn paused(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let asked = newly_asked(before, after);
        let resumed = self
            .events
            .iter()
            .any(|event| matches!(event, Event::Resume { .. }));
        let paused = before.paused.is_some() && !resumed;
        must(Property::PausedMeansPaused, !paused || asked.is_empty(), || {
            format!("{asked:?} asked while paused")
        })
    }

    fn allowed(&self, rollout: &Rollout) -> usize {
        let runs = rollout.plan.hosts.values().filter(|host| host.runs_app);
        let counts = |host: &&PlannedHost| !matches!(host.excused, Some(Excuse::LeftOut | Excuse::Drained));
        let total = runs.filter(counts).count();
        self.policy.allowed_away(total) as usize
    }

    fn few(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let allowed = self.allowed(after);
        let promote = after.plan.kind == DeployKind::Promote;
        // A revert takes hosts back that serve nobody whatever the others do.
        let counts = |host: &HostProgress| promote || !host.silent && host.excused.is_none();
        let costs = |host: &HostProgress| promote || host.serving != Some(false) && counts(host);
        let fresh = newly_asked(before, after);
        let asked = |name: &HostName, host: &HostProgress| {
            matches!(host.switch, Switch::Asked { .. }) && counts(host) && !fresh.contains(&name)
        };
        let away = after
            .hosts
            .iter()
            .filter(|(name, host)| asked(name, host))
            .count();
        let more = fresh
            .iter()
            .filter(|name| after.hosts.get(**name).is_some_and(costs))
            .count();
        must(Property::FewAtOnce, more == 0 || away + more <= allowed, || {
            format!("{} hosts are asked at once, {allowed} may be", away + more)
        })?;
        let gone = |rollout: &Rollout| {
            let gone = rollout
                .hosts
                .values()
                .filter(|host| host.runs_app && host.excused == Some(Excuse::Away));
            gone.count()
        };
        let more = promote && gone(after) > gone(before);
        must(Property::FewAtOnce, !more || gone(after) <= allowed, || {
            format!("{} hosts are excused, {allowed} may be", gone(after))
        })?;
        let counted = |host: &&HostProgress| matches!(host.switch, Switch::BackAsked { counted: true, .. });
        let patience = self.policy.switch_deadline_ms;
        let settling = |host: &&HostProgress| match host.switch {
            Switch::BackAsked { at_ms, .. } => {
                !host.silent && !host.stuck && self.now.saturating_sub(at_ms) < patience
            }
            _ => false,
        };
        let back = after.hosts.values().filter(counted).filter(settling).count();
        let fresh = after.hosts.iter().any(|(name, host)| {
            let was = before.hosts.get(name);
            counted(&host) && was.is_none_or(|was| !counted(&was))
        });
        must(Property::FewAtOnce, !fresh || back <= allowed, || {
            format!("{back} hosts go back at once, {allowed} may")
        })
    }

    fn waves(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let wave_of = |name: &HostName| {
            after
                .plan
                .steps
                .iter()
                .position(|step| matches!(step, PlanStep::Wave { hosts, .. } if hosts.contains(name)))
        };
        let is_wave = |step: &PlanStep| matches!(step, PlanStep::Wave { .. });
        let last = after.plan.steps.iter().rposition(is_wave);
        for name in newly_asked(before, after) {
            let late = after
                .hosts
                .get(name)
                .is_some_and(|host| host.late || host.excused.is_some());
            let at = if late { last } else { wave_of(name) };
            let present = after.reached;
            must(
                Property::WavesInOrder,
                at == Some(present) || wave_of(name) == Some(present),
                || format!("{name} is asked in step {present}"),
            )?;
        }
        let Course::Forward { step } = before.course else {
            return Ok(());
        };
        let soaked = before
            .soak_since_ms
            .is_some_and(|since| self.now.saturating_sub(since) >= self.policy.soak_ms);
        for (at, ended) in after.plan.steps.iter().enumerate().skip(step) {
            let PlanStep::Wave { hosts, .. } = ended else {
                continue;
            };
            if at >= after.reached {
                break;
            }
            must(
                Property::WavesAreBaked,
                soaked || self.policy.soak_ms == 0,
                || format!("step {at} ended before its soak"),
            )?;
            for name in hosts {
                let Some(host) = after.hosts.get(name) else {
                    continue;
                };
                let well = matches!(host.switch, Switch::Running { .. })
                    && host.serving == Some(true)
                    && !host.silent;
                must(Property::WavesAreBaked, well || host.excused.is_some(), || {
                    format!("step {at} ended although {name} is not known to run well")
                })?;
            }
        }
        Ok(())
    }

    fn assets(&self, before: &Rollout, after: &Rollout) -> Verdict {
        let barrier = after
            .plan
            .steps
            .iter()
            .position(|step| matches!(step, PlanStep::Assets { .. }));
        let passed = barrier.is_some_and(|at| before.reached <= at && after.reached > at);
        let lacks = required(after).iter().find(|name| {
            let host = after.hosts.get(*name);
            host.is_some_and(|host| !host.assets && host.excused.is_none())
        });
        must(Property::AssetsFirst, !passed || lacks.is_none(), || {
            format!("the barrier was passed while {lacks:?} lacks the assets")
        })?;
        let early = barrier.is_some_and(|at| after.reached <= at);
        let asked = newly_asked(before, after);
        must(Property::AssetsFirst, !early || asked.is_empty(), || {
            format!("{asked:?} asked before the barrier")
        })
    }
}
