//! Who is there: every known host with what it last said, in memory only.
//!
//! A store that was away knows nothing: hosts are counted silent from its own start, and begin as `installing`,
//! which is what "has not reported yet" is called; whether one ever served is in its record. Silence only worsens a
//! state; only a report betters it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ship_model::desired::DesiredHost;
use ship_model::host::HostState;
use ship_model::host::standing::{Duty, Standing};
use ship_model::name::{ClassName, EnvName, HostName};
use ship_model::report::{AppReport, HostReport};
use ship_model::rollout::hosts::{after_report, after_silence};
use ship_model::rollout::{HostView, Thresholds};
use tokio::sync::Notify;

use crate::clock::rfc3339;
use crate::identity::Caller;

/// What is known of a host without having heard it: kept in its record, so that planning works after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    pub classes: Vec<ClassName>,
    pub asset_url: Option<String>,
    /// It ran what it should once: it is not new, whatever it runs now.
    pub served: bool,
    /// What operators said of it; none: it simply serves.
    pub standing: Option<Standing>,
}

impl Known {
    pub fn duty(&self) -> Option<Duty> {
        self.standing.as_ref().map(|standing| standing.duty)
    }

    fn state(&self) -> Option<HostState> {
        self.duty().and_then(Duty::state)
    }
}

/// One host as it stands.
#[derive(Debug, Clone)]
pub struct Presence {
    pub state: HostState,
    pub known: Known,
    pub report: Option<Arc<HostReport>>,
    /// When it was last heard; none: not since the store's start.
    pub heard_ms: Option<u64>,
    /// Silence counts from here.
    since_ms: u64,
}

/// A host that has left the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub env: EnvName,
    pub host: HostName,
    standing: Standing,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Standing {
            duty,
            who,
            reason,
            at_ms,
        } = &self.standing;
        let (env, host, at) = (&self.env, &self.host, rfc3339(*at_ms));
        write!(f, "{host} of {env} is {duty} since {at}, by {who}")?;
        if !reason.is_empty() {
            write!(f, " ({reason})")?;
        }
        f.write_str(": its certificate is no longer accepted")
    }
}

/// All hosts of all environments.
#[derive(Debug)]
pub struct Fleet {
    thresholds: Thresholds,
    started_ms: u64,
    hosts: Mutex<BTreeMap<(EnvName, HostName), Presence>>,
    heard: Notify,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The host was not known, or its classes or asset address are others: its record is to be written.
    pub known_changed: bool,
    /// The first word since the store's start, or after silence.
    pub returned: bool,
    /// It says something else of its apps than the time before.
    pub changed: bool,
}

impl Fleet {
    pub fn new(thresholds: Thresholds, started_ms: u64) -> Self {
        Self {
            thresholds,
            started_ms,
            hosts: Mutex::default(),
            heard: Notify::new(),
        }
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<(EnvName, HostName), Presence>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a host that has a record.
    pub fn recall(&self, env: EnvName, host: HostName, known: Known) {
        let presence = Presence {
            state: known.state().unwrap_or(HostState::Installing),
            known,
            report: None,
            heard_ms: None,
            since_ms: self.started_ms,
        };
        self.hosts().entry((env, host)).or_insert(presence);
    }

    /// Takes a report; `desired` is what the host should run.
    pub fn hear(
        &self,
        env: &EnvName,
        host: &HostName,
        report: Arc<HostReport>,
        desired: &DesiredHost,
        now_ms: u64,
    ) -> Heard {
        let (on_target, healthy) = judge(desired, &report);
        let apps = Arc::clone(&report);
        let mut hosts = self.hosts();
        let before = hosts.remove(&(env.clone(), host.clone()));
        let was = before
            .as_ref()
            .map_or(HostState::Installing, |before| before.state);
        let served = before.as_ref().is_some_and(|before| before.known.served);
        let state = match (was, served) {
            (HostState::Installing, true) => after_report(HostState::Upgrading, on_target, healthy),
            (was, _) => after_report(was, on_target, healthy),
        };
        let known = Known {
            classes: report.classes.clone(),
            asset_url: report.asset_url.clone(),
            served: served || state == HostState::Available,
            standing: before.as_ref().and_then(|before| before.known.standing.clone()),
        };
        let presence = Presence {
            state,
            known: known.clone(),
            report: Some(report),
            heard_ms: Some(now_ms),
            since_ms: now_ms,
        };
        hosts.insert((env.clone(), host.clone()), presence);
        drop(hosts);
        self.heard.notify_waiters();
        let same = |before: &Presence| {
            before
                .report
                .as_ref()
                .is_some_and(|said| says_the_same(said, &apps))
        };
        let silent = was.is_away();
        Heard {
            known_changed: before.as_ref().is_none_or(|before| before.known != known),
            changed: !before.as_ref().is_some_and(same),
            returned: silent || before.is_none_or(|before| before.heard_ms.is_none()),
        }
    }

    /// Worsens the state of hosts that have been silent for too long; tells which became uncertain or worse.
    pub fn sweep(&self, now_ms: u64) -> Vec<(EnvName, HostName, HostState)> {
        let mut worse = Vec::new();
        for ((env, host), presence) in self.hosts().iter_mut() {
            let silent_ms = now_ms.saturating_sub(presence.since_ms);
            let state = after_silence(presence.state, silent_ms, self.thresholds);
            if state != presence.state {
                presence.state = state;
                worse.push((env.clone(), host.clone(), state));
            }
        }
        worse
    }

    /// Takes what operators say of a host, which its record says already; false when there is no such host.
    pub fn stand(&self, env: &EnvName, host: &HostName, standing: Option<Standing>) -> bool {
        let mut hosts = self.hosts();
        let Some(presence) = hosts.get_mut(&(env.clone(), host.clone())) else {
            return false;
        };
        let left = presence.state.is_leaving();
        presence.known.standing = standing;
        match presence.known.state() {
            Some(state) => presence.state = state,
            // It is new again: what it served before was taken from it.
            None if left => {
                presence.state = HostState::Installing;
                presence.known.served = false;
            }
            None => {}
        }
        true
    }

    /// Whether a caller speaks for a host that has left the fleet: its certificate is not accepted then.
    pub fn left(&self, caller: &Caller) -> Option<Left> {
        let (env, host) = caller.host.clone()?;
        let hosts = self.hosts();
        let key = (env, host);
        let presence = hosts.get(&key).filter(|presence| presence.state.is_gone())?;
        let standing = presence.known.standing.clone()?;
        let (env, host) = key;
        Some(Left { env, host, standing })
    }

    pub fn get(&self, env: &EnvName, host: &HostName) -> Option<Presence> {
        self.hosts().get(&(env.clone(), host.clone())).cloned()
    }

    /// Every host of `env`, or of all environments, sorted.
    pub fn all(&self, env: Option<&EnvName>) -> Vec<(EnvName, HostName, Presence)> {
        let hosts = self.hosts();
        let of_env = hosts
            .iter()
            .filter(|((of, _), _)| env.is_none_or(|env| env == of));
        of_env
            .map(|((env, host), presence)| (env.clone(), host.clone(), presence.clone()))
            .collect()
    }

    pub fn has_env(&self, env: &EnvName) -> bool {
        self.hosts().keys().any(|(of, _)| of == env)
    }

    /// The hosts of `env` as a planner sees them.
    pub fn views(&self, env: &EnvName) -> Vec<HostView> {
        let all = self.all(Some(env)).into_iter();
        all.map(|(_, name, presence)| HostView {
            name,
            state: presence.state,
            drained: presence.known.duty() == Some(Duty::Drained),
            classes: presence.known.classes,
            platform: presence
                .report
                .as_ref()
                .and_then(|report| report.platform.clone()),
            last_report: presence.report.map(|report| HostReport::clone(&report)),
            last_seen_ms: presence.heard_ms,
            bytes: None,
        })
        .collect()
    }

    /// Waits until every known host of `env` was heard or is known to be silent. Right after the store's start
    /// that takes as long as agents need to come back, and never longer than silence needs to be noticed.
    pub async fn settled(&self, env: &EnvName) {
        loop {
            let heard = self.heard.notified();
            let open = |presence: &Presence| {
                presence.report.is_none() && !presence.state.is_away() && !presence.state.is_leaving()
            };
            if !self.all(Some(env)).iter().any(|(_, _, presence)| open(presence)) {
                return;
            }
            let look_again = tokio::time::sleep(std::time::Duration::from_millis(200));
            tokio::select! {
                () = heard => {}
                () = look_again => {}
            }
        }
    }
}

/// Whether a host runs what it should, and whether that is healthy.
fn judge(desired: &DesiredHost, report: &HostReport) -> (bool, bool) {
    let mut verdict = (true, true);
    for app in desired.apps.iter().filter(|app| app.runs_app) {
        let Some(run) = app.run else { continue };
        let said = report.apps.iter().find(|said| said.app == app.app);
        verdict.0 &= said.is_some_and(|said| said.running == Some(run));
        verdict.1 &= said.is_some_and(|said| said.healthy);
    }
    verdict
}

/// Whether two reports are the same to every rollout.
fn says_the_same(one: &HostReport, other: &HostReport) -> bool {
    let same = |(one, other): (&AppReport, &AppReport)| one.says_the_same(other);
    one.apps.len() == other.apps.len() && one.apps.iter().zip(&other.apps).all(same)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use ship_model::desired::{DeployNumber, DesiredApp, Epoch};
    use ship_model::digest::ReleaseId;
    use ship_model::release::{ReleaseNumber, Target};

    #[test]
    fn silence_worsens_and_a_report_betters() {
        let fleet = Fleet::new(Thresholds::default(), 1_000);
        let (env, host): (EnvName, HostName) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        let known = Known {
            classes: vec!["web".parse().unwrap()],
            ..Known::default()
        };
        fleet.recall(env.clone(), host.clone(), known);
        let state = || fleet.get(&env, &host).unwrap().state;
        assert!(fleet.sweep(15_999).is_empty());
        assert_eq!(state(), HostState::Installing);
        assert_eq!(fleet.sweep(16_000).len(), 1);
        assert!(fleet.sweep(17_000).is_empty(), "told once");
        assert_eq!(state(), HostState::Uncertain);
        fleet.sweep(61_000);
        assert_eq!(state(), HostState::Unavailable);
        let report = Arc::new(HostReport::default());
        let heard = fleet.hear(&env, &host, Arc::clone(&report), &DesiredHost::default(), 62_000);
        assert_eq!(
            heard,
            Heard {
                known_changed: true,
                returned: true,
                changed: true
            }
        );
        assert_eq!(state(), HostState::Available);
        let heard = fleet.hear(&env, &host, report, &DesiredHost::default(), 62_100);
        assert!(!heard.known_changed && !heard.returned && !heard.changed);
    }

    #[test]
    fn a_host_that_served_is_not_new_after_the_stores_restart() {
        let fleet = Fleet::new(Thresholds::default(), 1_000);
        let (env, host): (EnvName, HostName) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        let known = Known {
            served: true,
            ..Known::default()
        };
        fleet.recall(env.clone(), host.clone(), known);
        let target = Target {
            number: ReleaseNumber(2),
            id: ReleaseId::of(b"two"),
        };
        let app = DesiredApp {
            app: "web".parse().unwrap(),
            env: env.clone(),
            epoch: Epoch(2),
            deploy: DeployNumber(2),
            run: Some(target),
            runs_app: true,
            stage: vec![target],
            assets: Vec::new(),
        };
        let desired = DesiredHost {
            apps: vec![app],
            ..DesiredHost::default()
        };
        fleet.hear(&env, &host, Arc::new(HostReport::default()), &desired, 1_100);
        let state = fleet.get(&env, &host).unwrap().state;
        assert_eq!(state, HostState::Upgrading, "it does not run what it should");
    }

    #[tokio::test(start_paused = true)]
    async fn planning_waits_for_hosts_that_may_still_come() {
        let fleet = Arc::new(Fleet::new(Thresholds::default(), 0));
        let (env, host): (EnvName, HostName) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        fleet.settled(&env).await;
        fleet.recall(env.clone(), host.clone(), Known::default());
        let waits = tokio::spawn({
            let (fleet, env) = (Arc::clone(&fleet), env.clone());
            async move { fleet.settled(&env).await }
        });
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        assert!(!waits.is_finished());
        fleet.hear(&env, &host, Arc::default(), &DesiredHost::default(), 1);
        waits.await.unwrap();
    }
}
