//! One host of an app: what it runs, and all that its agent told.

use std::collections::BTreeMap;

use serde::Serialize;
use ship_proto::v1::{self, AppFailure, AppHost, AppPhase, AppWait, DamagedRelease, ProcessReport};

use super::number;
use crate::words::{clean, rfc3339};

/// One host of an app in `status`.
#[derive(Debug, Serialize)]
pub struct Host {
    pub host: String,
    pub state: String,
    pub release: Option<u64>,
    pub previous: Option<u64>,
    pub desired: Option<u64>,
    pub deploy: u64,
    pub runs_app: bool,
    pub healthy: bool,
    pub phase: &'static str,
    pub listen: BTreeMap<String, String>,
    pub connections: u64,
    pub restarts: u64,
    pub fetched_bytes: u64,
    /// Where they came from.
    pub fetched_from: FetchedFrom,
    pub stage_ms: u64,
    pub switch_ms: u64,
    pub lost_requests: u64,
    /// How long nobody served in its last switch that had a gap; null: none had one.
    pub gap_ms: Option<u64>,
    /// The release of which the last one was fetched as a delta.
    pub delta_from: Option<u64>,
    /// What stands by to go back to, or why nothing does any more; null: nothing to say.
    pub standby: Option<String>,
    pub processes: Vec<Process>,
    /// Null: not known.
    pub memory: Option<Memory>,
    /// What its switch waits for; null: nothing.
    pub waits: Option<Wait>,
    /// What fell back to another way there, and why.
    pub remarks: Vec<String>,
    /// Published assets that it was asked for and could not serve.
    pub asset_incidents: Vec<AssetIncident>,
    /// Files of its assets that were found rotten; null: none.
    pub asset_rot: Option<AssetRot>,
    /// Releases that lie there and are not as published; none of them is switched to.
    pub damaged: Vec<Damaged>,
    /// The release on its way that a share of its clients is on.
    pub canary: Option<Canary>,
    pub failure: Option<Failure>,
    /// The release that somebody reverted to on the host itself, and why.
    pub held: Option<Held>,
}

/// Bytes by who gave them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FetchedFrom {
    pub store: u64,
    pub mirrors: u64,
    /// Other hosts.
    pub peers: u64,
}

impl FetchedFrom {
    pub const fn new(all: u64, mirrors: u64, peers: u64) -> Self {
        Self {
            store: all.saturating_sub(mirrors).saturating_sub(peers),
            mirrors,
            peers,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Canary {
    pub release: Option<u64>,
    pub percent: u32,
    /// When the share grows.
    pub until: Option<String>,
    #[serde(skip)]
    pub until_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct Process {
    pub name: String,
    pub release: u64,
    pub pid: Option<u32>,
    pub state: String,
    /// The last STATUS= it sent.
    pub said: String,
}

impl From<&ProcessReport> for Process {
    fn from(process: &ProcessReport) -> Self {
        Self {
            name: process.name.clone(),
            release: process.release,
            pid: Some(process.pid).filter(|pid| *pid > 0),
            state: process.state.clone(),
            said: clean(&process.said),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Wait {
    pub on: String,
    pub until: Option<String>,
    /// The switch goes on then all the same; if not, it fails.
    pub overrules: bool,
}

impl From<&AppWait> for Wait {
    fn from(wait: &AppWait) -> Self {
        Self {
            on: wait.on.clone(),
            until: rfc3339(wait.until_ms),
            overrules: wait.overrules,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Damaged {
    pub release: Option<u64>,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Failure {
    pub release: Option<u64>,
    pub step: String,
    pub reason: String,
    pub last_lines: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Held {
    pub release: Option<u64>,
    pub reason: String,
    pub at: Option<String>,
}

impl From<&AppHost> for Host {
    fn from(host: &AppHost) -> Self {
        let report = host.report.clone().unwrap_or_default();
        let update = report.update.unwrap_or_default();
        Self {
            host: host.host.clone(),
            state: host.state.clone(),
            release: number(report.running.as_ref()),
            previous: number(report.previous.as_ref()),
            desired: number(host.desired.as_ref()),
            deploy: report.deploy,
            runs_app: host.runs_app,
            healthy: report.healthy,
            phase: phase(report.phase()),
            damaged: report.damaged.iter().map(Damaged::from).collect(),
            canary: report.canary.as_ref().map(|canary| Canary {
                release: number(canary.release.as_ref()),
                percent: canary.percent,
                until: rfc3339(canary.until_ms),
                until_ms: canary.until_ms,
            }),
            failure: report.failure.as_ref().map(Failure::from),
            held: report.held.as_ref().map(|held| Held {
                release: number(held.to.as_ref()),
                reason: held.reason.clone(),
                at: rfc3339(held.at_ms),
            }),
            listen: report.listen.into_iter().collect(),
            connections: report.connections,
            restarts: report.restarts,
            fetched_bytes: update.fetched_bytes,
            fetched_from: FetchedFrom::new(
                update.fetched_bytes,
                update.fetched_from_mirrors,
                update.fetched_from_peers,
            ),
            stage_ms: update.stage_ms,
            switch_ms: update.switch_ms,
            lost_requests: update.lost_requests,
            gap_ms: update.gap_ms,
            delta_from: update.delta_from,
            standby: Some(report.standby.clone()).filter(|words| !words.is_empty()),
            processes: report.processes.iter().map(Process::from).collect(),
            memory: report.memory.as_ref().map(Memory::from),
            waits: report.waits.as_ref().map(Wait::from),
            asset_incidents: report.incidents.iter().map(AssetIncident::from).collect(),
            asset_rot: report.rot.as_ref().map(AssetRot::from),
            remarks: report.remarks,
        }
    }
}

/// An app's memory on a host, in bytes.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// What the running generation has, by process, with all that it started.
    pub used: BTreeMap<String, u64>,
    /// What can be had there, with what older generations have.
    pub free: u64,
    /// Whose limit that is: `on the host`.
    pub whose: String,
}

impl From<&v1::AppMemory> for Memory {
    fn from(memory: &v1::AppMemory) -> Self {
        Self {
            used: memory.used.clone().into_iter().collect(),
            free: memory.free,
            whose: memory.whose.clone(),
        }
    }
}

/// Requests for assets of a release that a host could not serve, since its agent's start.
#[derive(Debug, Serialize)]
pub struct AssetIncident {
    pub release: Option<u64>,
    pub requests: u64,
    pub last_url: String,
}

/// Files of a host's assets whose bytes changed, since its agent's start; none of them was served.
#[derive(Debug, Serialize)]
pub struct AssetRot {
    pub found: u64,
    /// Of them, those that were made anew.
    pub mended: u64,
    pub last_url: String,
}

impl From<&v1::AssetRot> for AssetRot {
    fn from(rot: &v1::AssetRot) -> Self {
        Self {
            found: rot.found,
            mended: rot.mended,
            last_url: rot.url.clone(),
        }
    }
}

impl From<&v1::AssetIncident> for AssetIncident {
    fn from(incident: &v1::AssetIncident) -> Self {
        Self {
            release: number(incident.release.as_ref()),
            requests: incident.count,
            last_url: incident.url.clone(),
        }
    }
}

impl From<&DamagedRelease> for Damaged {
    fn from(damaged: &DamagedRelease) -> Self {
        Self {
            release: number(damaged.release.as_ref()),
            reason: damaged.reason.clone(),
        }
    }
}

impl From<&AppFailure> for Failure {
    fn from(failure: &AppFailure) -> Self {
        Self {
            release: number(failure.release.as_ref()),
            step: failure.step.clone(),
            reason: failure.reason.clone(),
            last_lines: failure.last_lines.clone(),
        }
    }
}

pub fn phase(phase: AppPhase) -> &'static str {
    match phase {
        AppPhase::Unspecified | AppPhase::Idle => "idle",
        AppPhase::Fetching => "fetching",
        AppPhase::Staging => "staging",
        AppPhase::Switching => "switching",
        AppPhase::Soaking => "soaking",
        AppPhase::Draining => "draining",
        AppPhase::Reverting => "reverting",
    }
}
