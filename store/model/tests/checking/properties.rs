//! What must be true whatever happens, one by one. The numbers are those of the list of invariants that the project began
//! with; those of the store's disk, of signatures and of the journal are proven where they live.

#[path = "properties/gates.rs"]
mod gates;

use std::collections::BTreeSet;

use ship_model::name::HostName;
use ship_model::report::{AppPhase, AppReport};
use ship_model::rollout::{
    Course, DeployKind, Effect, End, EnvState, Event, Excuse, HostProgress, PlanStep, PlannedHost, Policy,
    Rollout, Switch,
};

/// A named property.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// I1, I16: a host switches only to a release that lies whole on it, and what runs goes on lying there.
    RunsOnlyWhatIsWhole,
    /// I3: what a revert on the host goes to lies on it, and stays.
    WayBackLies,
    /// I4: a revert on the host succeeds with nobody else there.
    RevertsAlone,
    /// I5: no host acts under an older epoch than one it has acted under, agent restarts included.
    FenceHolds,
    /// I5: what a host acts under is durable before.
    DurableBeforeActing,
    /// I5: the epoch of an environment only grows, and every change of what a host should have takes a newer one.
    EpochsOnlyGrow,
    /// I5: one epoch never names two contents.
    OneContentPerEpoch,
    /// I7: no more hosts are between two releases at once than policy allows, by the record.
    FewAtOnce,
    /// I7: the same, as hosts really are.
    FewReallyAtOnce,
    /// I8: a host that everybody calls silent is not switched.
    UnknownIsLeftAlone,
    /// A host that operators keep out of rotation is not switched while a promote goes on: it is no canary, and is not counted.
    DrainedAreLeftAlone,
    /// A host that leaves the fleet is ordered nothing but to stop.
    RetiredAreOrderedNothing,
    /// I8, I9: a wave ends when each of its hosts said that it runs well, and enough time has gone by since.
    WavesAreBaked,
    /// I9: a host is asked in its own wave only.
    WavesInOrder,
    /// I9: what stands behind a gate begins only when enough people said yes and every check has passed for long enough, by a
    /// word that is not old.
    GatesHold,
    /// I8: a check that comes to nothing turns no rollout back.
    UnknownTurnsNothingBack,
    /// I19: a revert that fits what stands begins, whatever is waited for.
    RevertsWaitForNoGate,
    /// I10: no host is switched before every required host said that it has the assets.
    AssetsFirst,
    /// I10: the same, as hosts really are.
    AssetsReallyFirst,
    /// A host that is asked to go forward has the release already: nothing is fetched between two releases.
    PrefetchedFirst,
    /// I11: what runs, what a revert goes to, and what is wanted is never removed from a host.
    NothingNeededIsRemoved,
    /// I3, I11: with nothing under way, every host is to keep what the fleet would revert to.
    FleetRevertNeedsNoDownload,
    /// I15: deploys are numbered upwards, and no number comes twice.
    NumbersAreNewOnes,
    /// I17: a host never runs what another environment wants.
    OwnEnvironmentOnly,
    /// I18: a promote begins only when nothing else is under way.
    OneRolloutAtOnce,
    /// I18: a plan begins on the very record it was made from.
    PlansFitWhatStands,
    /// I18: nothing that was decided is lost: a record is only ever replaced by what was decided on it.
    NothingDecidedIsLost,
    /// I19: a rollout stops once, ends once, and never goes forward again.
    TurnsBackOnce,
    /// I19: a revert goes to a release that ran well and was not taken back, in one wave without a soak.
    RevertsGoToGoodReleases,
    /// After a revert nothing goes forward until an operator says so; what runs is changed by deploys only.
    RevertsStick,
    /// While paused, no further host is asked to go forward.
    PausedMeansPaused,
    /// A failure from before a rollout does not stop it.
    OldFailuresStopNothing,
    /// No deadline stops a rollout for want of what the host has said to the one who waits.
    NoWordIsOverlooked,
    /// I24: a host counts as switched, or as back, by its own word under the epoch it was asked under, and done means all.
    ConfirmedByWord,
    /// I24: a host that counts as back is not on its way to what it was taken back from.
    BackMeansBack,
    /// No host tries again what failed under the same epoch.
    NoFlapping,
    /// What somebody took away by hand on a host does not come back there before an operator starts something, or
    /// something else is wanted.
    HandsAreNotOverruled,
    /// A host that reconnects is told nothing new for that.
    ReconnectingRestartsNothing,
    /// I20: every start, and every end, is in the audit.
    ToldToTheAudit,
    /// I22: when the faults stop, every rollout ends, and every host runs what it should or has said why not.
    Ends,
}

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub property: Property,
    pub what: String,
}

pub type Verdict = Result<(), Violation>;

pub fn must(property: Property, holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err(Violation {
            property,
            what: what(),
        })
    }
}

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

/// Hosts that must serve the assets of what is promoted before anybody is switched.
pub fn required(rollout: &Rollout) -> &[HostName] {
    let hosts = rollout.plan.steps.iter().find_map(|step| match step {
        PlanStep::Assets { hosts } => Some(&hosts[..]),
        _ => None,
    });
    hosts.unwrap_or_default()
}

/// Hosts that one step asked to run the new release.
pub fn newly_asked<'a>(before: &Rollout, after: &'a Rollout) -> Vec<&'a HostName> {
    let asked = |host: &HostProgress| matches!(host.switch, Switch::Asked { .. });
    let hosts = after.hosts.iter().filter(|(name, host)| {
        let was = before.hosts.get(*name).is_some_and(asked);
        asked(host) && !was
    });
    hosts.map(|(name, _)| name).collect()
}

/// I8, where all who could know agree that `silent` hosts are so.
pub fn silent_are_left_alone(before: &EnvState, after: &EnvState, silent: &BTreeSet<HostName>) -> Verdict {
    let (Some(before), Some(after)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    let promote = before.deploy == after.deploy && after.plan.kind == DeployKind::Promote;
    let asked = if promote {
        newly_asked(before, after)
    } else {
        Vec::new()
    };
    let unknown = asked.into_iter().find(|host| silent.contains(*host));
    must(Property::UnknownIsLeftAlone, unknown.is_none(), || {
        format!("{unknown:?} is silent and was switched")
    })
}

/// What operators want of hosts holds whatever is under way. A host that was asked before it was drained goes on.
pub fn standings_hold(
    before: &EnvState,
    after: &EnvState,
    drained: &BTreeSet<HostName>,
    retiring: &BTreeSet<HostName>,
) -> Verdict {
    let ordered = after.hosts.iter().find(|(name, target)| {
        let holds = target.run.is_some() || target.runs_app || !target.stage.is_empty();
        retiring.contains(*name) && holds
    });
    must(Property::RetiredAreOrderedNothing, ordered.is_none(), || {
        format!("{ordered:?} leaves the fleet")
    })?;
    let (Some(before), Some(after)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    let awaited = after.hosts.keys().find(|name| retiring.contains(*name));
    let over = after.outcome.is_some();
    must(
        Property::RetiredAreOrderedNothing,
        over || awaited.is_none(),
        || format!("{awaited:?} leaves the fleet and takes part"),
    )?;
    if before.deploy != after.deploy || after.plan.kind == DeployKind::Revert {
        return Ok(());
    }
    let asked = newly_asked(before, after);
    let kept_out = asked.into_iter().find(|host| drained.contains(*host));
    must(Property::DrainedAreLeftAlone, kept_out.is_none(), || {
        format!("{kept_out:?} is drained and was switched")
    })
}

/// A deadline names a host of which `word` was the last word to whoever waits.
pub fn nothing_overlooked(
    before: &EnvState,
    after: &EnvState,
    word: impl Fn(&HostName) -> Option<AppReport>,
) -> Verdict {
    let (Some(was), Some(rollout)) = (before.rollout.as_ref(), after.rollout.as_ref()) else {
        return Ok(());
    };
    if was.deploy != rollout.deploy {
        return Ok(());
    }
    let stop = rollout.stop.as_ref().filter(|_| was.stop.is_none());
    // A revert goes on without a host that it gave up.
    let given_up = rollout.hosts.iter().filter_map(|(name, host)| {
        let before = was.hosts.get(name).is_some_and(|was| was.failure.is_some());
        host.failure.as_ref().filter(|_| !before)
    });
    let mut stops = stop.into_iter().chain(given_up);
    let by_deadline = stops.find(|stop| stop.reason.starts_with("deadline"));
    let Some((stop, host)) = by_deadline.and_then(|stop| Some((stop, stop.host.as_ref()?))) else {
        return Ok(());
    };
    let to = rollout.plan.to;
    let asked = match was.hosts.get(host).map(|host| host.switch) {
        Some(Switch::Asked { epoch, .. }) => epoch,
        _ => rollout.first_epoch,
    };
    let said = word(host).is_some_and(|word| match stop.step.as_str() {
        "prefetch" => word.epoch >= asked && word.held.is_none() && word.staged.contains(&to),
        "assets" => word.epoch >= asked && word.held.is_none() && word.assets.contains(&to),
        // One whose turn has not come waits for others; one that is on its way elsewhere does not run it for long.
        _ if was
            .hosts
            .get(host)
            .is_none_or(|host| host.switch == Switch::Untouched) =>
        {
            false
        }
        _ => {
            let stays = word.phase != AppPhase::Switching;
            word.epoch >= asked && word.running == Some(to) && word.healthy && stays
        }
    });
    must(Property::NoWordIsOverlooked, !said, || {
        format!("{host} had said that it is ready: {}", stop.reason)
    })
}

/// A record was replaced: by what was decided on it, or on something older.
pub fn replaces(ledger: &EnvState, stored: &EnvState) -> Verdict {
    let lost = stored.epoch < ledger.epoch
        || stored.last_deploy < ledger.last_deploy
        || stored.history.len() < ledger.history.len();
    must(Property::NothingDecidedIsLost, !lost, || {
        format!(
            "epoch {} deploy {} over epoch {} deploy {}",
            stored.epoch, stored.last_deploy, ledger.epoch, ledger.last_deploy
        )
    })?;
    let same = stored
        .hosts
        .iter()
        .all(|(name, target)| match ledger.hosts.get(name) {
            Some(was) if was.epoch == target.epoch => was == target,
            _ => true,
        });
    must(Property::OneContentPerEpoch, same, || {
        "two contents under one epoch".to_owned()
    })
}
