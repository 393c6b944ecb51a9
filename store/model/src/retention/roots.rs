//! Which releases are reachable, and until when the others were.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::desired::DeployNumber;
use crate::name::{EnvName, HostName};
use crate::release::{ReleaseNumber, Target};
use crate::report::AppReport;
use crate::rollout::state::HISTORY;
use crate::rollout::{End, EnvState};

/// Why a release's assets are promised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// An environment runs it.
    Runs { env: EnvName },
    /// A revert goes to it.
    RevertTarget { env: EnvName },
    /// Hosts of an environment keep it unpacked.
    Retained { env: EnvName },
    /// A rollout comes from it or goes to it.
    Rollout { env: EnvName, deploy: DeployNumber },
    /// A host should run it or have it unpacked.
    Wanted { env: EnvName, host: HostName },
    /// A host says that it runs it, goes back to it, or has it unpacked.
    Held { env: EnvName, host: HostName },
    /// Newer than all that any environment ever ran: it waits to be promoted.
    Waits,
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs { env } => write!(f, "{env} runs it"),
            Self::RevertTarget { env } => write!(f, "a revert of {env} goes to it"),
            Self::Retained { env } => write!(f, "hosts of {env} keep it"),
            Self::Rollout { env, deploy } => write!(f, "deploy {deploy} of {env} is about it"),
            Self::Wanted { env, host } => write!(f, "{host} in {env} should have it"),
            Self::Held { env, host } => write!(f, "{host} in {env} has it"),
            Self::Waits => f.write_str("it waits to be promoted"),
        }
    }
}

/// The releases of one app: which are reachable, and when each was last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    roots: BTreeMap<ReleaseNumber, BTreeSet<Root>>,
    last_ms: BTreeMap<ReleaseNumber, u64>,
}

impl Live {
    /// Every root of `release`, in a fixed order.
    pub fn roots(&self, release: ReleaseNumber) -> impl Iterator<Item = &Root> {
        self.roots.get(&release).into_iter().flatten()
    }

    pub fn is_reachable(&self, release: ReleaseNumber) -> bool {
        self.roots.contains_key(&release)
    }

    /// When it was published or, later, left by the last environment that ran it; none for a release that is not known.
    pub fn last_ms(&self, release: ReleaseNumber) -> Option<u64> {
        self.last_ms.get(&release).copied()
    }

    fn root(&mut self, release: Target, root: Root) {
        self.roots.entry(release.number).or_default().insert(root);
    }

    fn seen(&mut self, release: ReleaseNumber, at_ms: u64) {
        let last = self.last_ms.entry(release).or_insert(at_ms);
        *last = (*last).max(at_ms);
    }
}

/// What `states`, of every environment, and `reports`, of every host, say of the releases of one app. `published` has
/// every release with the time it was published.
pub fn live<'a>(
    states: impl IntoIterator<Item = &'a EnvState>,
    reports: impl IntoIterator<Item = (&'a EnvName, &'a HostName, &'a AppReport)>,
    published: impl IntoIterator<Item = (ReleaseNumber, u64)>,
) -> Live {
    let mut live = Live::default();
    let mut newest_run = ReleaseNumber(0);
    let mut forgotten_ms = None;
    for state in states {
        of_state(&mut live, state);
        // What a full history has forgotten was left before its oldest entry, nobody knows how long.
        let oldest = state.history.first().filter(|_| state.history.len() >= HISTORY);
        forgotten_ms = forgotten_ms.max(oldest.map(|entry| entry.when_ms));
        let ran = state.history.iter().map(|entry| entry.release.number);
        let ran = ran.chain(state.current.map(|current| current.number)).max();
        newest_run = newest_run.max(ran.unwrap_or(newest_run));
    }
    for (env, host, report) in reports {
        of_report(&mut live, env, host, report);
    }
    for (number, at_ms) in published {
        let known = live.last_ms.contains_key(&number);
        live.seen(
            number,
            forgotten_ms.filter(|_| !known).unwrap_or(at_ms).max(at_ms),
        );
        if number > newest_run {
            live.roots.entry(number).or_default().insert(Root::Waits);
        }
    }
    live
}

fn of_state(live: &mut Live, state: &EnvState) {
    let env = || state.env.clone();
    if let Some(current) = state.current {
        live.root(current, Root::Runs { env: env() });
        // What a second revert goes to is unpacked on every host, and so among the retained.
        if let Some(back) = state.last_good_before(current) {
            live.root(back, Root::RevertTarget { env: env() });
        }
    }
    for kept in &state.retained {
        live.root(*kept, Root::Retained { env: env() });
    }
    if let Some(rollout) = state.running() {
        let deploy = rollout.deploy;
        let before = rollout.hosts.values().filter_map(|host| host.previous);
        let ends = rollout.plan.from.into_iter().chain([rollout.plan.to]);
        for target in ends.chain(before) {
            live.root(target, Root::Rollout { env: env(), deploy });
        }
    }
    for (host, target) in &state.hosts {
        for wanted in target.run.iter().chain(&target.stage) {
            let host = host.clone();
            live.root(*wanted, Root::Wanted { env: env(), host });
        }
    }
    of_history(live, state);
}

/// A release's pages were shown until another release's deploy was done; one that never got so far, until its own end.
fn of_history(live: &mut Live, state: &EnvState) {
    for (at, entry) in state.history.iter().enumerate() {
        live.seen(entry.release.number, entry.when_ms);
        let mut later = state.history.iter().skip(at + 1);
        let next = later.find(|next| next.end == End::Done && next.release != entry.release);
        if let Some(next) = next.filter(|_| entry.end == End::Done) {
            live.seen(entry.release.number, next.when_ms);
        }
    }
    for bad in &state.bad {
        live.seen(bad.release.number, bad.at_ms);
    }
}

fn of_report(live: &mut Live, env: &EnvName, host: &HostName, report: &AppReport) {
    for release in held_by(report) {
        let (env, host) = (env.clone(), host.clone());
        live.root(release, Root::Held { env, host });
    }
}

/// Every release that a host says it runs, goes back to or has unpacked, whole or damaged.
pub fn held_by(report: &AppReport) -> impl Iterator<Item = Target> + '_ {
    let canary = report.canary.map(|canary| canary.release);
    let held = report.held.as_ref().map(|held| held.to);
    let singles = [report.running, report.previous, canary, held];
    let damaged = report.damaged.iter().map(|damaged| damaged.release);
    let all = singles.into_iter().flatten();
    all.chain(report.staged.iter().copied()).chain(damaged)
}
