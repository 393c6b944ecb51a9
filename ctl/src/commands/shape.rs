//! What `-o json` prints: the names that scripts rely on.

mod host;

use serde::Serialize;
use ship_proto::v1::{
    AppStatus, GateLine, GoingBack, HostLine, HostWay, NoReturn, ReleaseLine, ReleaseRecord, RolloutView,
    StepView, Target,
};

use super::publish::Sent;
use crate::ui::outcome_name;
use crate::words::{full_id, rfc3339};

pub use host::{FetchedFrom, Host, Wait, phase};

/// A release that the store cannot give whole.
#[derive(Debug, Serialize)]
pub struct LostRelease {
    pub app: String,
    pub release: u64,
    /// 0: the manifest itself is lost.
    pub files: u64,
    /// The first of them.
    pub path: Option<String>,
}

impl From<&ship_proto::v1::LostRelease> for LostRelease {
    fn from(lost: &ship_proto::v1::LostRelease) -> Self {
        Self {
            app: lost.app.clone(),
            release: lost.release,
            files: lost.files,
            path: (!lost.path.is_empty()).then(|| lost.path.clone()),
        }
    }
}

pub fn number(target: Option<&Target>) -> Option<u64> {
    target.map(|target| target.number)
}

#[derive(Debug, Serialize)]
pub struct Release {
    pub app: String,
    pub release: u64,
    pub id: String,
    pub label: Option<String>,
    pub commit: Option<String>,
    pub dirty: bool,
    pub publisher: String,
    pub published_at: Option<String>,
    pub bundle: Option<String>,
    pub files: u64,
    pub bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    /// When its content was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collected_at: Option<String>,
    /// Who pinned it and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
}

impl From<&ReleaseRecord> for Release {
    fn from(record: &ReleaseRecord) -> Self {
        let target = record.release.clone().unwrap_or_default();
        Self {
            app: record.app.clone(),
            release: target.number,
            id: full_id(&target.id).unwrap_or_default(),
            label: record.label.clone(),
            commit: record.commit.clone(),
            dirty: record.dirty,
            publisher: record.publisher.clone(),
            published_at: rfc3339(record.published_at_ms),
            bundle: record.bundle.as_deref().and_then(full_id),
            files: record.files,
            bytes: record.bytes,
            new_bytes: record.new_bytes,
            stored_bytes: record.stored_bytes,
            collected_at: (record.collected_at_ms > 0)
                .then(|| rfc3339(record.collected_at_ms))
                .flatten(),
            pinned: Some(record.pinned.clone()).filter(|pinned| !pinned.is_empty()),
        }
    }
}

/// A release that was just made.
#[derive(Debug, Serialize)]
pub struct Published {
    #[serde(flatten)]
    pub release: Release,
    /// Of bundles and deltas, over all tries.
    pub uploaded_bytes: u64,
    /// The release against which a delta was sent.
    pub delta_from: Option<u64>,
    /// Why none was.
    pub no_delta: Option<String>,
}

impl From<&Sent> for Published {
    fn from(sent: &Sent) -> Self {
        Self {
            release: Release::from(&sent.record),
            uploaded_bytes: sent.uploaded_bytes,
            delta_from: sent.delta_from,
            no_delta: sent.no_delta.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Listed {
    #[serde(flatten)]
    pub release: Release,
    pub live_in: Vec<String>,
    pub flags: Vec<String>,
}

impl From<&ReleaseLine> for Listed {
    fn from(line: &ReleaseLine) -> Self {
        Self {
            release: Release::from(&line.record.clone().unwrap_or_default()),
            live_in: line.live_in.clone(),
            flags: line.flags.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Rollout {
    pub app: String,
    pub env: String,
    pub deploy: u64,
    pub kind: String,
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub who: String,
    pub message: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// `planned`, `running`, `done`, `reverted`, `stopped`, `partial`, `aborted`.
    pub outcome: &'static str,
    pub reason: String,
    pub last_lines: Vec<String>,
    pub paused: bool,
    pub excused: Vec<String>,
    pub plan: String,
    /// Gates of the environment that this one goes without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped_gates: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub struct Step {
    pub number: u32,
    pub name: String,
    pub state: String,
    pub detail: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// By the last time; null: unknown.
    pub takes_ms: Option<u64>,
    /// Only of a plan: what it costs to go back when the step is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back: Option<Back>,
    pub hosts: Vec<StepHost>,
    /// What must hold before the next step begins; absent: the step is no gate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<Gate>,
}

#[derive(Debug, Serialize)]
pub struct Gate {
    pub gate: String,
    /// `approval`, `manual`, `command`, `http`.
    pub kind: String,
    /// `waiting`, `passes`, `fails`, `unknown`.
    pub state: String,
    /// What it asks for, or what it said last.
    pub detail: String,
    /// Operators who said yes, with their note.
    pub by: Vec<String>,
    /// Operators who are still to say yes.
    pub wanted: u32,
}

impl From<&GateLine> for Gate {
    fn from(line: &GateLine) -> Self {
        Self {
            gate: line.gate.clone(),
            kind: line.kind.clone(),
            state: line.state.clone(),
            detail: line.detail.clone(),
            by: line.by.clone(),
            wanted: line.wanted,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Back {
    pub hosts: Vec<String>,
    /// Null: nothing ran there before.
    pub to: Option<u64>,
    /// Hosts that do not have it any more.
    pub fetch: Vec<String>,
    /// Null: unknown.
    pub takes_ms: Option<u64>,
}

impl From<&GoingBack> for Back {
    fn from(back: &GoingBack) -> Self {
        Self {
            hosts: back.hosts.clone(),
            to: number(back.to.as_ref()),
            fetch: back.fetch.clone(),
            takes_ms: back.takes_ms,
        }
    }
}

/// What could not be taken back any more.
#[derive(Debug, Serialize)]
pub struct Point {
    pub step: u32,
    pub why: String,
}

impl From<&NoReturn> for Point {
    fn from(point: &NoReturn) -> Self {
        Self {
            step: point.step,
            why: point.why.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct StepHost {
    pub host: String,
    pub state: String,
    pub detail: String,
    /// Content that it fetches, and content that it has already, where that is known.
    pub new_bytes: Option<u64>,
    pub shared_bytes: Option<u64>,
}

impl From<&RolloutView> for Rollout {
    fn from(view: &RolloutView) -> Self {
        Self {
            app: view.app.clone(),
            env: view.env.clone(),
            deploy: view.deploy,
            kind: view.kind.clone(),
            from: number(view.from.as_ref()),
            to: number(view.to.as_ref()),
            who: view.who.clone(),
            message: view.message.clone(),
            started_at: rfc3339(view.started_at_ms),
            ended_at: rfc3339(view.ended_at_ms),
            outcome: outcome_name(view.outcome()),
            reason: view.reason.clone(),
            last_lines: view.last_lines.clone(),
            paused: view.paused,
            excused: view.excused.clone(),
            plan: view.plan_id.clone(),
            skipped_gates: view.skipped_gates.clone(),
            steps: view.steps.iter().map(Step::from).collect(),
        }
    }
}

impl From<&StepView> for Step {
    fn from(step: &StepView) -> Self {
        Self {
            number: step.number,
            name: step.name.clone(),
            state: step.state.clone(),
            detail: step.detail.clone(),
            started_at: rfc3339(step.started_at_ms),
            ended_at: rfc3339(step.ended_at_ms),
            takes_ms: step.takes_ms,
            back: step.back.as_ref().map(Back::from),
            hosts: step.hosts.iter().map(StepHost::from).collect(),
            gates: step.gates.iter().map(Gate::from).collect(),
        }
    }
}

impl From<&HostLine> for StepHost {
    fn from(line: &HostLine) -> Self {
        Self {
            host: line.host.clone(),
            state: line.state.clone(),
            detail: line.detail.clone(),
            new_bytes: line.new_bytes,
            shared_bytes: line.shared_bytes,
        }
    }
}

/// One app of `status`.
#[derive(Debug, Serialize)]
pub struct App {
    pub app: String,
    pub env: String,
    pub release: Option<u64>,
    pub id: Option<String>,
    pub deploy: u64,
    pub epoch: u64,
    /// The one under way; null when none is.
    pub rollout: Option<Rollout>,
    /// The last one that ended.
    pub last_rollout: Option<Rollout>,
    /// Why nothing automatic goes forward; null: nothing holds it.
    pub held: Option<String>,
    pub asset_urls: Vec<String>,
    pub hosts: Vec<Host>,
}

/// How one process takes over on one host, in `plan`.
#[derive(Debug, Serialize)]
pub struct Way {
    pub host: String,
    pub process: String,
    pub strategy: String,
    /// Null: the old one serves until the new one does.
    pub gap: Option<Gap>,
    /// Null: the old one does not stay beside the new one.
    pub standby: Option<Standby>,
    /// What memory lacks for two generations on the host; null: it is not known to lack any.
    pub tight: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Gap {
    /// `coexist = false`.
    pub cause: String,
    /// As long as the last one on this host; null: there was none.
    pub expected_ms: Option<u64>,
    /// `queue`, `balancer haproxy`, `nobody`; null: nobody comes.
    pub covered_by: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Standby {
    /// Null: until the next switch.
    pub hold_ms: Option<u64>,
}

impl From<&HostWay> for Way {
    fn from(way: &HostWay) -> Self {
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Self {
            host: way.host.clone(),
            process: way.process.clone(),
            strategy: way.strategy.clone(),
            gap: some(&way.gap).map(|cause| Gap {
                cause,
                expected_ms: way.gap_ms,
                covered_by: some(&way.covered_by),
            }),
            standby: way.standby.then_some(Standby { hold_ms: way.hold_ms }),
            tight: some(&way.tight),
        }
    }
}

impl From<&AppStatus> for App {
    fn from(app: &AppStatus) -> Self {
        let rollout = app.rollout.as_ref().map(Rollout::from);
        let (running, last) = match rollout {
            Some(rollout) if rollout.outcome == "running" => (Some(rollout), None),
            other => (None, other),
        };
        Self {
            app: app.app.clone(),
            env: app.env.clone(),
            release: number(app.release.as_ref()),
            id: app.release.as_ref().and_then(|target| full_id(&target.id)),
            deploy: app.deploy,
            epoch: app.epoch,
            rollout: running,
            last_rollout: last,
            held: Some(app.held.clone()).filter(|held| !held.is_empty()),
            asset_urls: app.asset_urls.clone(),
            hosts: app.hosts.iter().map(Host::from).collect(),
        }
    }
}
