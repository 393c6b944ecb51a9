//! From what runs, who is there, what was asked and policy to a plan, or to a refusal with its reason.

mod split;

use std::collections::BTreeMap;

use crate::digest::PlanId;
use crate::release::{ReleaseNumber, Target};
use crate::rollout::drift::drift;
use crate::rollout::hosts::HostView;
use crate::rollout::plan::{Content, Excuse, Plan, PlanRefused, PlannedHost, ReleaseInfo, Request, Wish};
use crate::rollout::policy::Policy;
use crate::rollout::state::{DeployKind, EnvState};
use split::Split;

/// Hosts of this class hold the assets of every release, whether they run the app or not.
pub const ASSET_CLASS: &str = "assets";

/// Makes the plan. Pure and deterministic: the same input gives the same [`Plan::id`], so that what an
/// operator was shown can be told from what would run now.
pub fn plan(
    state: &EnvState,
    hosts: &[HostView],
    releases: &BTreeMap<ReleaseNumber, ReleaseInfo>,
    request: &Request,
    policy: &Policy,
) -> Result<Plan, PlanRefused> {
    let asked = Asked {
        state,
        hosts,
        releases,
        request,
    };
    let (kind, from, release) = asked.decide()?;
    // What a release says of its own keeping comes before what its environment says of all.
    let leaving = from.and_then(|from| releases.get(&from.number));
    let waits = leaving
        .into_iter()
        .chain([release])
        .map(|release| release.switch_waits_ms);
    let policy = &Policy {
        keep: release.keep.unwrap_or(policy.keep),
        switch_deadline_ms: policy
            .switch_deadline_ms
            .saturating_add(waits.max().unwrap_or_default()),
        ..policy.clone()
    };
    let hosts = Split::new(hosts, release, request);
    hosts.check(state, release)?;
    let allowed = hosts.allowed(kind, policy)?;
    if kind == DeployKind::Promote {
        hosts.check_presence(allowed, policy)?;
        hosts.check_steps(state, policy)?;
    }
    let mut assets = state.asset_releases.clone();
    assets.extend(releases.values().map(|info| info.target));
    // Nobody can fetch what is promised to nobody.
    assets.retain(|target| {
        let info = releases.get(&target.number);
        info.is_none_or(|info| info.content.has_assets())
    });
    assets.sort_by_key(|target| target.number);
    assets.dedup();
    let mut plan = Plan {
        id: PlanId::from_bytes([0; 32]),
        env: state.env.clone(),
        app: state.app.clone(),
        kind,
        parent: state.epoch,
        from,
        to: release.target,
        steps: hosts.steps(kind, allowed, policy),
        hosts: hosts.planned(state),
        assets,
        max_unavailable: allowed,
        min_healthy: match kind {
            DeployKind::Promote => policy.must_stay(hosts.counted()),
            // What was reverted from serves nobody well.
            DeployKind::Revert => 0,
        },
        policy: policy.clone(),
        message: request.message.clone(),
    };
    plan.id = plan.identified();
    Ok(plan)
}

/// Plans what was planned before, and refuses if that is not what would be done now. What may differ is what hosts have
/// to fetch, and of which other releases they hold assets.
pub fn plan_again(
    state: &EnvState,
    hosts: &[HostView],
    releases: &BTreeMap<ReleaseNumber, ReleaseInfo>,
    saved: &Plan,
    message: Option<String>,
    policy: &Policy,
) -> Result<Plan, PlanRefused> {
    let left_out = |host: &&PlannedHost| host.excused == Some(Excuse::LeftOut);
    let request = Request {
        wish: match saved.kind {
            DeployKind::Promote => Wish::Promote {
                release: Some(saved.to.number),
            },
            DeployKind::Revert => Wish::Revert {
                to: Some(saved.to.number),
            },
        },
        // Whether it may run here was decided when it was planned; what has changed since is told below.
        force: true,
        message: message.or_else(|| saved.message.clone()),
        without: saved
            .hosts
            .iter()
            .filter(|(_, host)| left_out(host))
            .map(|(name, _)| name.clone())
            .collect(),
    };
    let now = plan(state, hosts, releases, &request, policy)?;
    let drifts = drift(saved, &now);
    if !drifts.is_empty() {
        return Err(PlanRefused::Drifted { drifts });
    }
    Ok(Plan { id: saved.id, ..now })
}

struct Asked<'a> {
    state: &'a EnvState,
    hosts: &'a [HostView],
    releases: &'a BTreeMap<ReleaseNumber, ReleaseInfo>,
    request: &'a Request,
}

type Decision<'a> = (DeployKind, Option<Target>, &'a ReleaseInfo);

impl<'a> Asked<'a> {
    fn decide(&self) -> Result<Decision<'a>, PlanRefused> {
        match self.request.wish {
            Wish::Promote { release } => self.promote(release),
            Wish::Revert { to } => self.revert(to),
        }
    }

    fn promote(&self, release: Option<ReleaseNumber>) -> Result<Decision<'a>, PlanRefused> {
        self.refuse_while_running(|_| true)?;
        let release = match release {
            Some(number) => self.known(number)?,
            None => {
                let mut kept = self.releases.values().filter(|info| info.content.is_kept());
                let newest = kept.next_back();
                newest.ok_or_else(|| PlanRefused::NothingPublished {
                    app: self.state.app.clone(),
                })?
            }
        };
        self.refuse_present(release)?;
        self.refuse_bad(release)?;
        Ok((DeployKind::Promote, self.state.current, release))
    }

    fn revert(&self, to: Option<ReleaseNumber>) -> Result<Decision<'a>, PlanRefused> {
        // A second unnumbered revert while the first runs is an impatient one, not a wish to go further.
        self.refuse_while_running(|kind| kind == DeployKind::Revert && to.is_none())?;
        let coming = self.state.running().map(|rollout| rollout.plan.to);
        let nothing = || PlanRefused::NothingToRevertTo {
            env: self.state.env.clone(),
            app: self.state.app.clone(),
        };
        let from = coming.or(self.state.current).ok_or_else(nothing)?;
        let Some(number) = to else {
            let target = match coming {
                Some(_) => self
                    .state
                    .current
                    .filter(|target| !self.state.is_bad(target.number)),
                None => self.state.last_good_where(from, |number| self.is_kept(number)),
            };
            let release = self.known(target.ok_or_else(nothing)?.number)?;
            return Ok((DeployKind::Revert, Some(from), release));
        };
        let release = self.known(number)?;
        if coming.is_none() {
            self.refuse_present(release)?;
        }
        self.refuse_bad(release)?;
        Ok((DeployKind::Revert, Some(from), release))
    }

    fn known(&self, number: ReleaseNumber) -> Result<&'a ReleaseInfo, PlanRefused> {
        let app = || self.state.app.clone();
        match self.releases.get(&number) {
            None => Err(PlanRefused::UnknownRelease {
                app: app(),
                release: number,
            }),
            Some(info) => match info.content {
                Content::Kept => Ok(info),
                Content::Collected { again, .. } => Err(PlanRefused::Collected {
                    app: app(),
                    release: number,
                    again,
                }),
            },
        }
    }

    /// Not known to have been collected.
    fn is_kept(&self, number: ReleaseNumber) -> bool {
        let info = self.releases.get(&number);
        info.is_none_or(|info| info.content.is_kept())
    }

    fn refuse_while_running(&self, refused: impl FnOnce(DeployKind) -> bool) -> Result<(), PlanRefused> {
        match self.state.running() {
            Some(rollout) if refused(rollout.plan.kind) => Err(PlanRefused::Busy {
                env: self.state.env.clone(),
                app: self.state.app.clone(),
                release: rollout.plan.to.number,
                deploy: rollout.deploy,
                who: rollout.who.clone(),
                since_ms: rollout.started_ms,
            }),
            _ => Ok(()),
        }
    }

    fn refuse_present(&self, release: &ReleaseInfo) -> Result<(), PlanRefused> {
        let runs = self.state.current == Some(release.target) && !self.given_up_anywhere(release.target);
        if runs && !self.request.force {
            return Err(PlanRefused::AlreadyRuns {
                env: self.state.env.clone(),
                app: self.state.app.clone(),
                release: release.target.number,
            });
        }
        Ok(())
    }

    /// Whether a host gave up on a release that it should run: only a newer epoch makes it try again.
    fn given_up_anywhere(&self, target: Target) -> bool {
        let reports = self.hosts.iter().filter_map(|host| host.last_report.as_ref());
        let mut apps = reports.flat_map(|report| &report.apps);
        apps.any(|app| {
            let failure = app.failure.as_ref().filter(|failure| !failure.transient);
            app.app == self.state.app
                && app.running != Some(target)
                && failure.is_some_and(|failure| failure.release == target)
        })
    }

    fn refuse_bad(&self, release: &ReleaseInfo) -> Result<(), PlanRefused> {
        let number = release.target.number;
        match self.state.bad.iter().find(|bad| bad.release.number == number) {
            Some(bad) if !self.request.force => Err(PlanRefused::Bad {
                app: self.state.app.clone(),
                release: number,
                deploy: bad.deploy,
                reason: bad.reason.clone(),
            }),
            _ => Ok(()),
        }
    }
}
