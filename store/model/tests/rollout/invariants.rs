//! What must be true after every step of every history.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::desired::{DeployNumber, Epoch};
use ship_model::name::HostName;
use ship_model::report::AppReport;
use ship_model::rollout::{
    Course, DeployKind, Effect, EnvState, Event, Happening, HostProgress, Plan, PlanStep, Rollout, Switch,
};

use crate::fleet::SimHost;

/// One step as the checker sees it: the states around it, and how the hosts really are.
pub struct Seen<'a> {
    pub before: &'a EnvState,
    pub event: &'a Event,
    pub after: &'a EnvState,
    pub effects: &'a [Effect],
    pub hosts: &'a BTreeMap<HostName, SimHost>,
    /// What each host last said.
    pub heard: &'a BTreeMap<HostName, AppReport>,
    /// Hosts that were reported silent and have not reported since.
    pub silent: &'a BTreeSet<HostName>,
    pub now: u64,
}

/// What has to be remembered between steps.
#[derive(Default)]
pub struct Ledger {
    turned_back: BTreeSet<DeployNumber>,
    ended: BTreeSet<DeployNumber>,
    newest: Epoch,
    /// As they were when they began.
    plans: BTreeMap<DeployNumber, Plan>,
    /// When a host was last found well on the new release.
    last_ok: BTreeMap<DeployNumber, u64>,
    told: BTreeMap<HostName, Epoch>,
}

type Verdict = Result<(), String>;

fn must(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

impl Ledger {
    pub fn check(&mut self, seen: &Seen<'_>) -> Verdict {
        self.epochs_only_grow(seen)?;
        self.one_rollout_and_one_turn(seen)?;
        self.promises_of_the_plan_are_kept(seen)?;
        nothing_before_the_barrier(seen)?;
        few_at_once(seen)?;
        enough_stay(seen)?;
        unknown_is_left_alone(seen)?;
        no_advance_on_unknown(seen)?;
        reverts_go_to_good_releases(seen)
    }

    fn epochs_only_grow(&mut self, seen: &Seen<'_>) -> Verdict {
        let after = seen.after;
        must(after.epoch >= self.newest, || {
            format!("epoch fell to {}", after.epoch)
        })?;
        must(after.epoch.0 <= seen.before.epoch.0 + 1, || {
            "epoch jumped".to_owned()
        })?;
        self.newest = after.epoch;
        for (name, target) in &after.hosts {
            let before = seen.before.hosts.get(name);
            let told = self.told.insert(name.clone(), target.epoch).unwrap_or_default();
            must(target.epoch >= told, || format!("{name}: epoch fell"))?;
            must(target.epoch <= after.epoch, || {
                format!("{name}: epoch from the future")
            })?;
            let changed = before.is_some_and(|before| before != target);
            must(
                !changed || target.epoch == after.epoch && after.epoch > seen.before.epoch,
                || format!("{name}: changed without a new epoch"),
            )?;
            let announced = seen.effects.contains(&Effect::SetDesired(name.clone()));
            must(announced == (before != Some(target)), || {
                format!("{name}: wrongly announced")
            })?;
        }
        Ok(())
    }

    fn one_rollout_and_one_turn(&mut self, seen: &Seen<'_>) -> Verdict {
        for effect in seen.effects {
            let Effect::Announce(event) = effect else {
                continue;
            };
            let deploy = event.deploy;
            match &event.what {
                Happening::TurnedBack { .. } => {
                    must(self.turned_back.insert(deploy), || {
                        format!("deploy {deploy} turned back twice")
                    })?;
                }
                Happening::Ended { .. } => {
                    must(self.ended.insert(deploy), || {
                        format!("deploy {deploy} ended twice")
                    })?;
                }
                Happening::Started { .. } => {
                    let earlier = 1..deploy.0;
                    let all = earlier
                        .map(DeployNumber)
                        .all(|earlier| self.ended.contains(&earlier));
                    must(all, || format!("deploy {deploy} began while another ran"))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// By the plan as it was made: a wave is done only after its soak, and where policy leaves it to operators only they
    /// turn back what has switched somebody.
    fn promises_of_the_plan_are_kept(&mut self, seen: &Seen<'_>) -> Verdict {
        for ok in self.last_ok.values_mut() {
            // A clock that went back makes the soak begin anew.
            *ok = seen.now.min(*ok);
        }
        for effect in seen.effects {
            let Effect::Announce(event) = effect else {
                continue;
            };
            if let (Happening::Started { .. }, Event::Start { plan, .. }) = (&event.what, seen.event) {
                self.plans.insert(event.deploy, Plan::clone(plan));
            }
            let Some(plan) = self
                .plans
                .get(&event.deploy)
                .filter(|plan| plan.kind == DeployKind::Promote)
            else {
                continue;
            };
            match &event.what {
                Happening::HostOk { .. } => drop(self.last_ok.insert(event.deploy, event.at_ms)),
                Happening::StepDone { step } => {
                    let Some(PlanStep::Wave { soak_ms, .. }) = plan.steps.get(*step) else {
                        continue;
                    };
                    let ok = self.last_ok.get(&event.deploy).copied();
                    let soaked = ok.map_or(*soak_ms, |ok| event.at_ms.saturating_sub(ok));
                    must(soaked >= *soak_ms, || {
                        format!("wave {step} was done after {soaked} ms of soak, not {soak_ms}")
                    })?;
                }
                Happening::TurnedBack { .. } => {
                    let rollout = seen.after.rollout.as_ref();
                    let by = rollout.and_then(|rollout| rollout.stop.as_ref()?.by.as_ref());
                    must(plan.policy.auto_revert || by.is_some(), || {
                        "it turned back by itself".to_owned()
                    })?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The promote under way and its hosts, before and after the step.
fn promote(seen: &Seen<'_>) -> Option<(Rollout, Rollout)> {
    let after = seen.after.rollout.clone()?;
    let before = seen
        .before
        .rollout
        .clone()
        .filter(|before| before.deploy == after.deploy)?;
    (after.plan.kind == DeployKind::Promote).then_some((before, after))
}

/// Hosts that this step asked to run the new release.
fn newly_asked(before: &Rollout, after: &Rollout) -> Vec<(HostName, HostProgress)> {
    let asked = |host: &HostProgress| matches!(host.switch, Switch::Asked { .. });
    let hosts = after.hosts.iter().filter(|(name, host)| {
        let was = before.hosts.get(*name).is_some_and(asked);
        asked(host) && !was
    });
    hosts.map(|(name, host)| (name.clone(), host.clone())).collect()
}

fn nothing_before_the_barrier(seen: &Seen<'_>) -> Verdict {
    let Some((before, after)) = promote(seen) else {
        return Ok(());
    };
    if newly_asked(&before, &after).is_empty() {
        return Ok(());
    }
    let required = after.plan.steps.iter().find_map(|step| match step {
        PlanStep::Assets { hosts } => Some(hosts.clone()),
        _ => None,
    });
    for name in required.unwrap_or_default() {
        let excused = after
            .hosts
            .get(&name)
            .is_none_or(|host| host.excused.is_some() || host.late);
        let number = after.plan.to.number.0;
        let has = seen
            .hosts
            .get(&name)
            .is_none_or(|host| host.assets.contains(&number));
        must(excused || has, || {
            format!("switched while {name} lacks the assets of {number}")
        })?;
    }
    Ok(())
}

fn few_at_once(seen: &Seen<'_>) -> Verdict {
    let Some((before, after)) = promote(seen) else {
        return Ok(());
    };
    let in_flight = |host: &&HostProgress| matches!(host.switch, Switch::Asked { .. });
    let asked = after.hosts.values().filter(in_flight).count();
    // Counted anew from the number of hosts: the plan's own figure is what is being checked.
    let runs = after.plan.hosts.values().filter(|host| host.runs_app);
    let total = runs
        .filter(|host| host.excused != Some(ship_model::rollout::Excuse::LeftOut))
        .count();
    let allowed = after.plan.policy.allowed_away(total) as usize;
    let fresh = !newly_asked(&before, &after).is_empty();
    must(!fresh || asked <= allowed, || {
        format!("{asked} hosts are away at once, {allowed} may be")
    })
}

/// No host that serves is switched when fewer than policy says would go on serving.
fn enough_stay(seen: &Seen<'_>) -> Verdict {
    let Some((before, after)) = promote(seen) else {
        return Ok(());
    };
    // Counted anew from the number of hosts, as above.
    let runs = after.plan.hosts.values().filter(|host| host.runs_app);
    let total = runs
        .filter(|host| host.excused != Some(ship_model::rollout::Excuse::LeftOut))
        .count();
    let least = after.plan.policy.must_stay(total) as usize;
    let serves = |host: &&HostProgress| {
        let counts = host.runs_app && !host.late && host.excused.is_none();
        counts && host.serving == Some(true) && !host.silent && !host.switch.in_flight()
    };
    let took_one = newly_asked(&before, &after)
        .iter()
        .any(|(_, host)| host.serving == Some(true) && !host.late);
    let left = after.hosts.values().filter(serves).count();
    must(!took_one || left >= least, || {
        format!("{left} hosts are left healthy, {least} must be")
    })
}

fn unknown_is_left_alone(seen: &Seen<'_>) -> Verdict {
    let Some((before, after)) = promote(seen) else {
        return Ok(());
    };
    for (name, _) in newly_asked(&before, &after) {
        must(!seen.silent.contains(&name), || {
            format!("{name} is silent and was switched")
        })?;
    }
    Ok(())
}

fn no_advance_on_unknown(seen: &Seen<'_>) -> Verdict {
    let Some((before, after)) = promote(seen) else {
        return Ok(());
    };
    let Course::Forward { step } = before.course else {
        return Ok(());
    };
    let done = seen.effects.iter().any(
        |effect| matches!(effect, Effect::Announce(event) if event.what == Happening::StepDone { step }),
    );
    let Some(PlanStep::Wave { hosts, .. }) = before.plan.steps.get(step).filter(|_| done) else {
        return Ok(());
    };
    for name in hosts {
        let Some(host) = after.hosts.get(name).filter(|host| host.excused.is_none()) else {
            continue;
        };
        let known = !seen.silent.contains(name);
        let said = seen.heard.get(name);
        let runs =
            host.runs_app && said.is_some_and(|said| said.healthy && said.running == Some(after.plan.to));
        must(known && runs, || {
            format!("wave {step} was done although {name} is not known to run well")
        })?;
    }
    Ok(())
}

fn reverts_go_to_good_releases(seen: &Seen<'_>) -> Verdict {
    let Event::Start { plan, .. } = seen.event else {
        return Ok(());
    };
    let began = seen
        .after
        .rollout
        .as_ref()
        .is_some_and(|rollout| rollout.plan.id == plan.id);
    if plan.kind == DeployKind::Revert && began {
        must(!seen.before.is_bad(plan.to.number), || {
            "reverted to a bad release".to_owned()
        })?;
        must(seen.after.held.is_some(), || "a revert is not sticky".to_owned())?;
    }
    Ok(())
}
