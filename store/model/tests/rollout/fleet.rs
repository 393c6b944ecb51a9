//! Hosts that do what they are told, or fail to: as much of an agent as the rollout machine can see.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::desired::{DeployNumber, DesiredApp, Epoch};
use ship_model::digest::ReleaseId;
use ship_model::host::HostState;
use ship_model::name::{AppName, ClassName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppFailure, AppReport, AssetIncident, HostReport, LocalHold};
use ship_model::rollout::{
    Content, Effect, EnvState, Event, HostView, Plan, PlanRefused, Policy, ReleaseInfo, Request, Wish, plan,
    record_times, step,
};

pub fn release(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// One host, from the outside.
#[derive(Debug, Clone, Default)]
pub struct SimHost {
    pub asset_only: bool,
    /// Kept out of rotation by an operator's word.
    pub drained: bool,
    pub retiring: bool,
    pub silent: bool,
    pub epoch: Epoch,
    pub deploy: DeployNumber,
    pub running: Option<Target>,
    pub unhealthy: bool,
    pub staged: BTreeSet<u64>,
    pub assets: BTreeSet<u64>,
    pub failure: Option<AppFailure>,
    pub held: Option<LocalHold>,
    /// The store was restarted and has not heard of it yet.
    pub unheard: bool,
    /// Releases that fail here, and at which step.
    pub breaks: BTreeMap<u64, String>,
    /// Does not take new assets.
    pub keeps_assets_back: bool,
    /// Does not switch, and says nothing of it.
    pub hangs: bool,
    /// Requests for assets of a release that it could not serve.
    pub unserved: BTreeMap<u64, u64>,
}

impl SimHost {
    fn fail(&mut self, desired: &DesiredApp, target: Target, step: &str) {
        self.failure = Some(AppFailure {
            epoch: desired.epoch,
            release: target,
            step: step.to_owned(),
            reason: format!("{step} failed"),
            last_lines: vec![format!("release {} says: no", target.number)],
            transient: false,
        });
    }

    /// What runs has ended by itself; `once`, and it was started again.
    pub fn crash(&mut self, once: bool) {
        let release = self.running.expect("something that runs here");
        self.failure = Some(AppFailure {
            epoch: self.epoch,
            release,
            step: "run".to_owned(),
            reason: "process web ended with status 4".to_owned(),
            last_lines: vec!["out of memory".to_owned()],
            transient: once,
        });
    }

    /// One action towards what is desired; false when there is none.
    pub fn act(&mut self, desired: &DesiredApp) -> bool {
        if desired.epoch < self.epoch {
            return false;
        }
        if desired.epoch > self.epoch {
            self.epoch = desired.epoch;
            self.failure = None;
            // A newer epoch that still wants what somebody took away is no answer to the hold.
            if self.held.as_ref().is_some_and(|held| held.from != desired.run) {
                self.held = None;
            }
            return true;
        }
        let failed = self.failure.as_ref().map(|failure| failure.release);
        for target in desired.stage.iter().filter(|target| Some(**target) != failed) {
            if !self.staged.contains(&target.number.0) {
                if self
                    .breaks
                    .get(&target.number.0)
                    .is_some_and(|step| step == "fetch")
                {
                    self.fail(desired, *target, "fetch");
                } else {
                    self.staged.insert(target.number.0);
                }
                return true;
            }
        }
        let missing = desired
            .assets
            .iter()
            .find(|target| !self.assets.contains(&target.number.0));
        if let Some(missing) = missing.filter(|_| !self.keeps_assets_back) {
            self.assets.insert(missing.number.0);
            return true;
        }
        self.switch(desired, failed)
    }

    fn switch(&mut self, desired: &DesiredApp, failed: Option<Target>) -> bool {
        let wanted = desired.run.filter(|_| desired.runs_app);
        if wanted == self.running
            || self.held.is_some()
            || self.hangs
            || (failed.is_some() && failed == wanted)
        {
            return false;
        }
        let Some(target) = wanted else {
            self.running = None;
            return true;
        };
        if !self.staged.contains(&target.number.0) || !self.assets.contains(&target.number.0) {
            return false;
        }
        match self
            .breaks
            .get(&target.number.0)
            .filter(|step| *step != "fetch")
            .cloned()
        {
            Some(step) => self.fail(desired, target, &step),
            None => {
                self.running = Some(target);
                self.deploy = desired.deploy;
            }
        }
        true
    }

    pub fn report(&self, app: &AppName) -> AppReport {
        AppReport {
            epoch: self.epoch,
            running: self.running,
            deploy: self.deploy,
            healthy: self.running.is_some() && !self.unhealthy,
            staged: self.staged.iter().map(|number| release(*number)).collect(),
            assets: self.assets.iter().map(|number| release(*number)).collect(),
            failure: self.failure.clone(),
            held: self.held.clone(),
            incidents: self
                .unserved
                .iter()
                .map(|(number, count)| AssetIncident {
                    release: release(*number),
                    count: *count,
                    url: "/static/main.3f9a12bc.js".to_owned(),
                })
                .collect(),
            ..AppReport::of(app.clone())
        }
    }
}

/// An environment, its hosts, and the clock.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub state: EnvState,
    pub now: u64,
    pub hosts: BTreeMap<HostName, SimHost>,
    pub releases: BTreeMap<ReleaseNumber, ReleaseInfo>,
    pub policy: Policy,
}

impl Fleet {
    pub fn new() -> Self {
        Self {
            state: EnvState::new(EnvName::new("prod").unwrap(), AppName::new("web").unwrap()),
            now: 1_000_000,
            hosts: BTreeMap::new(),
            releases: BTreeMap::new(),
            policy: Policy {
                soak_ms: 10_000,
                prefetch_deadline_ms: 600_000,
                barrier_deadline_ms: 300_000,
                switch_deadline_ms: 60_000,
                ..Policy::default()
            },
        }
    }

    pub fn publish(&mut self, number: u64) {
        let info = ReleaseInfo {
            target: release(number),
            classes: [ClassName::new("web").unwrap()].into(),
            platform: Vec::new(),
            keep: None,
            switch_waits_ms: 0,
            content: Content::Kept,
        };
        self.releases.insert(ReleaseNumber(number), info);
    }

    pub fn views(&self) -> Vec<HostView> {
        let view = |(name, sim): (&HostName, &SimHost)| HostView {
            name: name.clone(),
            state: if sim.retiring {
                HostState::Retiring
            } else if sim.silent {
                HostState::Uncertain
            } else {
                HostState::Available
            },
            classes: vec![ClassName::new(if sim.asset_only { "assets" } else { "web" }).unwrap()],
            platform: Some("linux/amd64".to_owned()),
            last_report: (!sim.unheard).then(|| HostReport {
                apps: vec![sim.report(&self.state.app)],
                ..HostReport::default()
            }),
            last_seen_ms: Some(self.now),
            drained: sim.drained,
            bytes: None,
        };
        self.hosts.iter().map(view).collect()
    }

    pub fn plan(&self, wish: Wish, force: bool) -> Result<Plan, PlanRefused> {
        let request = Request {
            wish,
            force,
            message: None,
            without: BTreeSet::new(),
        };
        plan(&self.state, &self.views(), &self.releases, &request, &self.policy)
    }

    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let (mut state, effects) = step(&self.state, event, self.now);
        record_times(&self.state, &mut state, self.now);
        let bytes = state.encode().unwrap();
        self.state = EnvState::decode(&bytes).unwrap();
        assert_eq!(self.state, state, "the record does not survive being stored");
        effects
    }

    /// The host reports, if it is not silent.
    pub fn report(&mut self, name: &HostName) -> Vec<Effect> {
        let app = self.hosts.get(name).filter(|sim| !sim.silent);
        let Some(app) = app.map(|sim| sim.report(&self.state.app)) else {
            return Vec::new();
        };
        self.step(Event::Report {
            host: name.clone(),
            app: Some(Box::new(app)),
        })
    }

    /// The host does one thing and reports; false when nothing was left to do.
    pub fn act(&mut self, name: &HostName) -> (bool, Vec<Effect>) {
        let desired = self.state.desired(name);
        let Some(sim) = self.hosts.get_mut(name).filter(|sim| !sim.silent) else {
            return (false, Vec::new());
        };
        let acted = desired.is_some_and(|desired| sim.act(&desired));
        (acted, self.report(name))
    }

    /// Every host does what it can until nothing more follows.
    pub fn obey(&mut self) -> Vec<Effect> {
        let names: Vec<_> = self.hosts.keys().cloned().collect();
        let mut effects = Vec::new();
        for _ in 0..1000 {
            let mut busy = false;
            for name in &names {
                let (acted, mut told) = self.act(name);
                busy |= acted || !told.is_empty();
                effects.append(&mut told);
            }
            if !busy {
                return effects;
            }
        }
        panic!("the fleet never rests");
    }
}
