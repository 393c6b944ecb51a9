//! What a host says of itself; the heartbeat's content.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::{DeployNumber, Epoch};
use crate::digest::ExpiredDigest;
use crate::name::{AppName, ClassName};
use crate::release::{ReleaseNumber, Target};

/// Everything a host reports. Constant work: the whole level each time, never a difference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    pub classes: Vec<ClassName>,
    pub apps: Vec<AppReport>,
    /// Bytes free where releases lie.
    pub disk_free: u64,
    pub disk_total: u64,
    /// `http://127.0.0.21:7480`: where this host serves assets, if it does.
    pub asset_url: Option<String>,
    pub agent_version: String,
    /// `linux/amd64`; none from an agent that does not say.
    #[serde(default)]
    pub platform: Option<String>,
    /// What its agent counted since its start.
    #[serde(default)]
    pub figures: HostFigures,
    /// What the machine lets agent and keepers do, as it was at the agent's start; none from an agent that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileges: Option<Privileges>,
    /// `10.0.0.5:7410`: where this host gives bundles to other hosts, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<String>,
    /// Sources of bundles that sent something wrong since the agent's start; at most [`MAX_FAULTS`], the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<SourceFault>,
}

/// Faults of sources that a host tells.
pub const MAX_FAULTS: usize = 8;

/// A source of bundles that sent something wrong: none of it was used, and it is not asked again for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFault {
    /// `mirror http://10.0.0.9/ship`, `peer h7`; to be escaped before it is shown.
    pub source: String,
    pub reason: String,
    /// By the host's clock, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What a machine lets an agent and its keepers do, of all that a promise needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Empty: all is there.
    pub missing: Vec<MissingPrivilege>,
}

/// Something that a promise needs and a host has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPrivilege {
    /// `CAP_KILL`, `control groups`; to be escaped before it is shown.
    pub what: String,
    /// What happens instead, and what is then not promised; to be escaped before it is shown.
    pub instead: String,
}

/// What an agent counted since its start. Of assets: what was asked of the host's own asset port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFigures {
    pub asset_requests: u64,
    /// Bytes of assets sent.
    pub asset_bytes: u64,
    /// Requests for paths that nobody published: 404.
    pub asset_not_found: u64,
    /// Requests for what was published and nothing keeps any more: 404.
    pub asset_expired: u64,
    /// Requests for what is published and could not be served: 503. Each is an incident.
    pub asset_broken: u64,
    /// Files that were found rotten; not a byte of them was sent.
    pub asset_rotten: u64,
    /// Assets that were missing or rotten and were made anew.
    pub asset_healed: u64,
    /// Bytes of releases that came from the store, from mirrors and from other hosts.
    pub fetched_bytes: u64,
    /// Of `fetched_bytes`, those from mirrors.
    pub fetched_from_mirrors: u64,
    /// Of `fetched_bytes`, those from other hosts.
    pub fetched_from_peers: u64,
    /// Bytes given to other hosts.
    pub served_to_peers: u64,
}

/// What the host is doing with an app right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppPhase {
    #[default]
    Idle,
    Fetching,
    Staging,
    Switching,
    /// The new generation serves, the old one is still warm.
    Soaking,
    Draining,
    Reverting,
}

/// One app on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppReport {
    pub app: AppName,
    /// Newest epoch the host persisted.
    pub epoch: Epoch,
    /// What runs, asked of the process (for static releases: of the link), never assumed.
    pub running: Option<Target>,
    pub deploy: DeployNumber,
    /// Whether what runs answered its probe, and every process is alive.
    pub healthy: bool,
    pub phase: AppPhase,
    /// What a revert on this host would go to, unpacked and verified.
    pub previous: Option<Target>,
    /// Releases that lie unpacked and verified.
    pub staged: Vec<Target>,
    /// Releases whose fingerprinted assets are all in the union that this host serves.
    pub assets: Vec<Target>,
    /// The last thing that went wrong, under its own epoch; cleared when a later switch, or the same step, works.
    pub failure: Option<AppFailure>,
    /// Set when somebody reverted on the host itself; holds until a newer epoch arrives.
    pub held: Option<LocalHold>,
    /// Listener's name → bound address, `127.0.0.21:8080`.
    pub listen: BTreeMap<String, String>,
    pub update: UpdateFigures,
    /// Connections that the running and older generations hold.
    pub connections: u64,
    pub restarts: u64,
    /// Releases on the host that are not as they were published; none of them is switched to. Not in `staged`.
    #[serde(default)]
    pub damaged: Vec<DamagedRelease>,
    /// What a revert finds beside the release on the disk: a generation that stands by, or why none does any more.
    #[serde(default)]
    pub standby: Option<String>,
    /// Kinds of the balancers that this host leaves before a gap: `haproxy`.
    #[serde(default)]
    pub balancers: Vec<String>,
    /// The release on its way that a share of the users is on.
    #[serde(default)]
    pub canary: Option<CanaryReport>,
    /// Its processes, of all generations that live, oldest first.
    #[serde(default)]
    pub processes: Vec<ProcessReport>,
    /// What its switch waits for.
    #[serde(default)]
    pub waits: Option<AppWait>,
    /// Things an operator should know of it: what fell back to another way, and why.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// What this host was asked for, was published, and could not be served, since the agent's start; by release.
    #[serde(default)]
    pub incidents: Vec<AssetIncident>,
    /// Requests for assets by the release that ran here when they came, since the agent's start; at most
    /// [`MAX_ASKED`], the newest last.
    #[serde(default)]
    pub asked: Vec<AssetsAsked>,
    /// Files of its assets that were found rotten since the agent's start.
    #[serde(default)]
    pub rot: Option<AssetRot>,
    /// Of `connections`, those of generations that are not the running one.
    #[serde(default)]
    pub older_connections: u64,
    /// Generations that live.
    #[serde(default)]
    pub generations: u64,
    /// When `running` went live, in milliseconds since 1970 by the host's clock; 0: nobody knows.
    #[serde(default)]
    pub switched_ms: u64,
    /// The list of expired assets that this host has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<ExpiredDigest>,
    /// Memory, where there are processes and the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<AppMemory>,
}

/// What an app has of a host's memory, and what it can have, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppMemory {
    /// What the running generation has, by process, with all that it started.
    pub used: BTreeMap<String, u64>,
    /// What can be had; what older generations have counts as free, since they leave.
    pub free: u64,
    /// Of whom: `on the host`; to be escaped before it is shown.
    pub whose: String,
}

/// Releases of one app whose requests for assets a host tells apart.
pub const MAX_ASKED: usize = 16;

/// Requests for assets while a release ran on a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetsAsked {
    /// The release that ran.
    pub release: u64,
    /// For what is on the shelf.
    pub found: u64,
    /// For paths that nobody published. Counted only where one app alone serves assets: nobody can tell which app's
    /// page named a path that is in none.
    pub unknown: u64,
}

/// Rot in a host's assets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetRot {
    /// Files found.
    pub found: u64,
    /// Of them, those that were made anew.
    pub mended: u64,
    /// The last one; to be escaped before it is shown.
    pub url: String,
}

impl AppReport {
    /// Whether two reports say the same to a rollout: how many connections there are, for one, does not matter to it.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.app == other.app
            && (self.epoch, self.running, self.healthy) == (other.epoch, other.running, other.healthy)
            && (&self.staged, &self.assets) == (&other.staged, &other.assets)
            && (&self.failure, &self.held) == (&other.failure, &other.held)
            && self.incidents == other.incidents
            && (self.phase == AppPhase::Switching) == (other.phase == AppPhase::Switching)
    }

    /// A host that knows of `app` and has nothing of it.
    pub fn of(app: AppName) -> Self {
        Self {
            app,
            epoch: Epoch(0),
            running: None,
            deploy: DeployNumber(0),
            healthy: false,
            phase: AppPhase::Idle,
            previous: None,
            staged: Vec::new(),
            assets: Vec::new(),
            failure: None,
            held: None,
            listen: BTreeMap::new(),
            update: UpdateFigures::default(),
            connections: 0,
            restarts: 0,
            damaged: Vec::new(),
            standby: None,
            balancers: Vec::new(),
            canary: None,
            processes: Vec::new(),
            waits: None,
            remarks: Vec::new(),
            incidents: Vec::new(),
            asked: Vec::new(),
            rot: None,
            older_connections: 0,
            generations: 0,
            switched_ms: 0,
            expired: None,
            memory: None,
        }
    }
}

/// Assets that a release brought and a host could not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssetIncident {
    /// The release that first brought them.
    pub release: Target,
    /// Requests.
    pub count: u64,
    /// The last asset; to be escaped before it is shown.
    pub url: String,
}

/// A release that has proven itself, and that a share of a host's users is on before all are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    pub release: Target,
    /// Of a hundred clients, so many come to it.
    pub percent: u8,
    /// When the share grows, in milliseconds since 1970 by the host's clock.
    pub until_ms: u64,
}

/// One process of an app on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessReport {
    pub name: String,
    pub release: u64,
    /// 0 while there is none.
    pub pid: u32,
    /// `starting`, `up`, `reloading`, `stopping`, `backing off`, `waiting`, `ended`.
    pub state: String,
    /// What it last said of itself by `STATUS=`, at most 200 characters; to be escaped before it is shown.
    pub said: String,
}

/// A switch that is prepared and waits for the app to let itself be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppWait {
    /// `the app's own lock (held by worker)`.
    pub on: String,
    /// Unix time in milliseconds when the wait is over.
    pub until_ms: u64,
    /// The switch goes on then all the same; if not, it fails.
    pub overrules: bool,
}

/// A release whose files rotted or were changed on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRelease {
    pub release: Target,
    /// The first file, and how many more there are.
    pub reason: String,
}

/// What the last update of an app cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateFigures {
    pub fetched_bytes: u64,
    /// Of `fetched_bytes`, those from mirrors.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fetched_from_mirrors: u64,
    /// Of `fetched_bytes`, those from other hosts.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fetched_from_peers: u64,
    pub stage_ms: u64,
    pub switch_ms: u64,
    /// Connections that a deadline cut while the old generation drained.
    pub lost_requests: u64,
    /// How long nobody served in the last switch that had such a gap; none: no switch has had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<u64>,
    /// The release of which the last one was fetched as a delta; none: whole files came, or none had to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta_from: Option<ReleaseNumber>,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// The step of a failure before a host: the host could not be taken out of its balancer's rotation, or put back, or is reached in
/// another way through it. No release is to blame for that.
pub const BALANCER_STEP: &str = "balancer";

/// A step that failed on a host, and what the host did about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFailure {
    /// The epoch under which it failed: the host does not retry the release without a newer one.
    pub epoch: Epoch,
    pub release: Target,
    /// `fetch`, `stage`, `spawn`, `ready`, `probe`, `canary`, `switch`, `soak`, `run` (it crashed later), `assets`,
    /// [`BALANCER_STEP`].
    pub step: String,
    pub reason: String,
    /// Last lines the app wrote, at most 50.
    pub last_lines: Vec<String>,
    /// Whether trying again may help by itself (a store that is away), or not (a broken release).
    pub transient: bool,
}

/// A revert made on the host itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalHold {
    pub epoch: Epoch,
    pub from: Option<Target>,
    pub to: Target,
    pub reason: String,
    pub at_ms: u64,
}
