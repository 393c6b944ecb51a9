//! The simulated store: one record, the controller that moves it, and a controller that was thought dead.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::host::HostState;
use ship_model::name::{AppName, ClassName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppReport, HostReport};
use ship_model::rollout::hosts::{after_report, after_silence};
use ship_model::rollout::{
    Anew, Content, Effect, EnvState, Event, HostView, Policy, ReleaseInfo, Request, Thresholds, Wish, anew,
    plan, step_all,
};

use crate::properties::{Step, Verdict, Violation, nothing_overlooked, replaces, silent_are_left_alone};

/// The hosts that are to hear of what was stored.
pub type Told = Result<Vec<HostName>, Violation>;

/// What a controller knows of one host.
#[derive(Debug, Clone)]
pub struct Presence {
    pub state: HostState,
    pub report: Option<AppReport>,
    since_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    pub ledger: EnvState,
    /// The controller lives.
    pub up: bool,
    /// What it believes the record to be.
    cache: EnvState,
    /// What another believes, that was thought dead.
    pub stale: Option<EnvState>,
    pub hosts: BTreeMap<HostName, Presence>,
    pub changed: BTreeSet<HostName>,
    pub releases: BTreeMap<ReleaseNumber, ReleaseInfo>,
    pub policy: Policy,
    /// How steps ended, for those who want to know that something happened.
    pub steps: u64,
}

impl Store {
    pub fn new(env: EnvName, app: AppName, policy: Policy) -> Self {
        let state = EnvState::new(env, app);
        Self {
            ledger: state.clone(),
            up: true,
            cache: state,
            stale: None,
            hosts: BTreeMap::new(),
            changed: BTreeSet::new(),
            releases: BTreeMap::new(),
            policy,
            steps: 0,
        }
    }

    pub fn publish(&mut self, target: Target) {
        let info = ReleaseInfo {
            target,
            classes: [ClassName::new("web").expect("a name")].into(),
            platform: Vec::new(),
            keep: None,
            switch_waits_ms: 0,
            content: Content::Kept,
        };
        self.releases.insert(target.number, info);
    }

    pub fn know(&mut self, host: HostName, now: u64) {
        let presence = Presence {
            state: HostState::Installing,
            report: None,
            since_ms: now,
        };
        self.hosts.insert(host, presence);
    }

    /// It ends, and perhaps only seems to.
    pub fn dies(&mut self, lingers: bool) {
        self.up = false;
        self.stale = lingers.then(|| self.cache.clone());
    }

    pub fn returns(&mut self, now: u64) {
        self.up = true;
        self.cache = self.ledger.clone();
        let names: Vec<_> = self.hosts.keys().cloned().collect();
        names.into_iter().for_each(|name| self.know(name, now));
        self.changed.clear();
    }

    /// A report arrives; true when it is news.
    pub fn hear(&mut self, host: &HostName, report: AppReport, now: u64) -> bool {
        let run = self.cache.hosts.get(host).and_then(|target| target.run);
        let Some(presence) = self.hosts.get_mut(host) else {
            return false;
        };
        let silent = matches!(presence.state, HostState::Uncertain | HostState::Unavailable);
        let same = presence
            .report
            .as_ref()
            .is_some_and(|known| known.says_the_same(&report));
        presence.state = after_report(presence.state, report.running == run, report.healthy);
        presence.report = Some(report);
        presence.since_ms = now;
        let news = silent || !same;
        if news {
            self.changed.insert(host.clone());
        }
        news
    }

    /// Who has not been heard for long is uncertain.
    pub fn sweep(&mut self, now: u64) {
        for (name, presence) in &mut self.hosts {
            let silent_ms = now.saturating_sub(presence.since_ms);
            let state = after_silence(presence.state, silent_ms, Thresholds::default());
            if state != presence.state {
                presence.state = state;
                self.changed.insert(name.clone());
            }
        }
    }

    fn is_silent(presence: &Presence) -> bool {
        matches!(presence.state, HostState::Uncertain | HostState::Unavailable)
    }

    /// Everything that was heard since the last time, that time has passed, and what an operator wishes.
    pub fn listen(&mut self, wish: Option<Event>, now: u64) -> Told {
        if self.cache != self.ledger {
            // The stale one was first: what was heard is looked at again, by what stands now.
            self.cache = self.ledger.clone();
            self.changed.extend(self.hosts.keys().cloned());
        }
        let changed = std::mem::take(&mut self.changed);
        let mut events = vec![Event::Tick];
        for host in changed {
            let Some(presence) = self.hosts.get(&host) else {
                continue;
            };
            if self.cache.current.is_some() {
                events.push(Event::HostJoined {
                    host: host.clone(),
                    runs_app: true,
                });
            }
            match &presence.report {
                _ if Self::is_silent(presence) => events.push(Event::HostSilent { host }),
                Some(report) => events.push(Event::Report {
                    host,
                    app: Some(Box::new(report.clone())),
                }),
                None => {}
            }
        }
        events.extend(wish);
        self.handle(&events, now)
    }

    /// Steps, and stores by compare-and-swap; the hosts that are to hear of it.
    fn handle(&mut self, events: &[Event], now: u64) -> Told {
        let (after, effects) = step_all(&self.cache, events.iter().cloned(), now);
        self.steps += 1;
        if after == self.cache {
            return Ok(Vec::new());
        }
        self.check(events, &after, &effects, now)?;
        match anew(&self.cache, &after) {
            Anew::All => self.changed.extend(self.hosts.keys().cloned()),
            Anew::Hosts(hosts) => self.changed.extend(hosts),
        }
        self.ledger = after.clone();
        self.cache = after;
        let told = effects.into_iter().filter_map(|effect| match effect {
            Effect::SetDesired(host) => Some(host),
            _ => None,
        });
        Ok(told.collect())
    }

    fn check(&self, events: &[Event], after: &EnvState, effects: &[Effect], now: u64) -> Verdict {
        let policy = &self.policy;
        let before = &self.cache;
        Step {
            before,
            events,
            after,
            effects,
            now,
            policy,
        }
        .check()?;
        replaces(&self.ledger, after)?;
        let silent = self
            .hosts
            .iter()
            .filter(|(_, presence)| Self::is_silent(presence));
        silent_are_left_alone(before, after, &silent.map(|(name, _)| name.clone()).collect())?;
        nothing_overlooked(before, after, |name| {
            let presence = self
                .hosts
                .get(name)
                .filter(|presence| !Self::is_silent(presence))?;
            presence.report.clone()
        })
    }

    /// The one that was thought dead finds out that time has passed: it stores nothing over what was stored since.
    pub fn stale_ticks(&mut self, now: u64) -> Told {
        let Some(stale) = self.stale.take() else {
            return Ok(Vec::new());
        };
        if stale != self.ledger {
            return Ok(Vec::new());
        }
        let cache = std::mem::replace(&mut self.cache, stale);
        let told = self.handle(&[Event::Tick], now);
        self.cache = cache;
        told
    }

    fn views(&self) -> Vec<HostView> {
        let view = |(name, presence): (&HostName, &Presence)| HostView {
            name: name.clone(),
            state: presence.state,
            classes: vec![ClassName::new("web").expect("a name")],
            platform: None,
            last_seen_ms: presence.report.as_ref().map(|_| presence.since_ms),
            last_report: presence.report.clone().map(|report| HostReport {
                apps: vec![report],
                ..HostReport::default()
            }),
            drained: false,
            bytes: None,
        };
        self.hosts.iter().map(view).collect()
    }

    /// An operator's wish; none is carried out that cannot be planned.
    pub fn start(&mut self, wish: Wish, force: bool, now: u64) -> Told {
        let settled = |presence: &Presence| presence.report.is_some() || Self::is_silent(presence);
        if !self.up || !self.hosts.values().all(settled) {
            return Ok(Vec::new());
        }
        let request = Request {
            wish,
            force,
            message: None,
            without: BTreeSet::new(),
        };
        self.cache = self.ledger.clone();
        let made = plan(&self.cache, &self.views(), &self.releases, &request, &self.policy);
        let Ok(plan) = made else { return Ok(Vec::new()) };
        let who = "ann".to_owned();
        self.handle(
            &[Event::Start {
                plan: Box::new(plan),
                who,
            }],
            now,
        )
    }
}
