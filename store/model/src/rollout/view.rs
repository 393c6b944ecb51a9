//! A rollout for display: the plan's own steps, each with what became of it. The plan and the progress
//! are one list.

use serde::{Deserialize, Serialize};

use crate::desired::DeployNumber;
use crate::name::{AppName, EnvName, HostName};
use crate::release::Target;
use crate::rollout::gates::{GateLine, GateProgress};
use crate::rollout::plan::{ByteShare, Plan, PlanStep, PlannedHost};
use crate::rollout::state::{Course, DeployKind, End, HostProgress, Outcome, Rollout, Switch};

/// Everything a progress display or a script needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    pub env: EnvName,
    pub app: AppName,
    pub kind: DeployKind,
    pub from: Option<Target>,
    pub to: Target,
    /// None for a plan that has not begun.
    pub deploy: Option<DeployNumber>,
    pub who: Option<String>,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    pub paused: Option<String>,
    /// Touched hosts go back, or went.
    pub going_back: bool,
    pub steps: Vec<StepView>,
    pub outcome: Option<Outcome>,
}

impl RolloutView {
    /// What it means to whoever waits for it.
    pub fn ending(&self) -> Option<End> {
        self.outcome.as_ref().map(|outcome| outcome.end)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    Waiting,
    Running,
    Done,
    Failed,
    Skipped,
}

impl StepState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// `check`, `prefetch`, `assets`, `one host`, `wave 2 of 4`, `all hosts`, or as the environment calls it.
    pub name: String,
    pub state: StepState,
    /// What there is to know of the step as a whole; empty: nothing.
    pub detail: String,
    /// None: it has not begun, or that was not written down.
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    pub hosts: Vec<HostLine>,
    /// What must hold before the next step begins; empty: this is no gate.
    pub gates: Vec<GateLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLine {
    pub host: HostName,
    pub state: StepState,
    /// What there is to know: why it failed, that it went back, why nothing waits for it.
    pub note: Option<String>,
    /// What it fetches and what it has, in the step that fetches, where that is known.
    pub bytes: Option<ByteShare>,
}

/// A plan before it begins.
pub fn preview(plan: &Plan) -> RolloutView {
    let (all, first) = (plan.steps.iter().enumerate(), first_wave(plan));
    let steps = all.map(|(at, step)| {
        let line = |host: &HostName| HostLine {
            host: host.clone(),
            state: StepState::Waiting,
            note: None,
            bytes: bytes(plan, step, host),
        };
        StepView {
            name: name(plan, at, first),
            state: StepState::Waiting,
            detail: detail(plan, step),
            started_ms: None,
            ended_ms: None,
            hosts: step.hosts().iter().map(line).collect(),
            gates: gate_lines(step, |_| None),
        }
    });
    RolloutView {
        env: plan.env.clone(),
        app: plan.app.clone(),
        kind: plan.kind,
        from: plan.from,
        to: plan.to,
        deploy: None,
        who: None,
        started_ms: None,
        ended_ms: None,
        paused: None,
        going_back: false,
        steps: steps.collect(),
        outcome: None,
    }
}

/// A rollout as it stands.
pub fn view(rollout: &Rollout) -> RolloutView {
    let mut view = preview(&rollout.plan);
    for (at, shown) in view.steps.iter_mut().enumerate() {
        let Some(step) = rollout.plan.steps.get(at) else {
            continue;
        };
        shown.state = step_state(rollout, at);
        let time = rollout.times.get(at);
        shown.started_ms = time.map(|time| time.started_ms);
        shown.ended_ms = time.and_then(|time| time.ended_ms);
        shown.gates = gate_lines(step, |gate| rollout.gate(at, gate));
        if matches!(step, PlanStep::Wave { .. }) && rollout.plan.is_last_wave(at) {
            add_late(rollout, shown);
        }
        for line in &mut shown.hosts {
            if let Some(host) = rollout.hosts.get(&line.host) {
                (line.state, line.note) = host_state(step, host, shown.state);
            } else {
                (line.state, line.note) = (StepState::Skipped, Some("retired".to_owned()));
            }
        }
    }
    RolloutView {
        deploy: Some(rollout.deploy),
        who: Some(rollout.who.clone()),
        started_ms: Some(rollout.started_ms),
        ended_ms: rollout.ended_ms,
        paused: rollout.paused.clone(),
        going_back: rollout.course == Course::Back || (rollout.stop.is_some() && rollout.touched_any()),
        outcome: rollout.outcome.clone(),
        ..view
    }
}

fn add_late(rollout: &Rollout, shown: &mut StepView) {
    for (name, host) in &rollout.hosts {
        let goes = host.runs_app && (host.late || host.excused.is_some());
        if goes && !shown.hosts.iter().any(|line| line.host == *name) {
            shown.hosts.push(HostLine {
                host: name.clone(),
                state: StepState::Waiting,
                note: None,
                bytes: None,
            });
        }
    }
}

fn gate_lines<'a>(step: &PlanStep, known: impl Fn(&str) -> Option<&'a GateProgress>) -> Vec<GateLine> {
    match step {
        PlanStep::Gate { gates, .. } => gates.iter().map(|gate| gate.line(known(&gate.name))).collect(),
        _ => Vec::new(),
    }
}

fn first_wave(plan: &Plan) -> usize {
    let wave = |step: &PlanStep| matches!(step, PlanStep::Wave { .. });
    plan.steps.iter().position(wave).unwrap_or(plan.steps.len())
}

fn name(plan: &Plan, at: usize, first_wave: usize) -> String {
    match plan.steps.get(at) {
        None | Some(PlanStep::Check) => "check".to_owned(),
        Some(PlanStep::Prefetch { .. }) => "prefetch".to_owned(),
        Some(PlanStep::Assets { .. }) => "assets".to_owned(),
        Some(PlanStep::Gate { name, .. }) => format!("{name}: gates"),
        Some(PlanStep::Wave { name: Some(name), .. }) => name.clone(),
        Some(PlanStep::Wave { hosts, .. }) if hosts.len() == 1 && at == first_wave => "one host".to_owned(),
        Some(PlanStep::Wave { .. }) if plan.kind == DeployKind::Revert => "all hosts".to_owned(),
        Some(PlanStep::Wave { .. }) => {
            let waves = plan.steps.len() - first_wave;
            format!("wave {} of {waves}", at - first_wave + 1)
        }
    }
}

/// Bytes stand where a host fetches: in the prefetch step, and in a revert's waves, where it should be none.
fn bytes(plan: &Plan, step: &PlanStep, host: &HostName) -> Option<ByteShare> {
    let fetches = match step {
        PlanStep::Prefetch { .. } => true,
        PlanStep::Wave { .. } => plan.kind == DeployKind::Revert,
        PlanStep::Check | PlanStep::Assets { .. } | PlanStep::Gate { .. } => false,
    };
    plan.hosts.get(host).filter(|_| fetches)?.bytes()
}

/// What a revert costs: nothing, unless a host lacks what it goes back to.
fn detail(plan: &Plan, step: &PlanStep) -> String {
    let PlanStep::Wave { hosts, .. } = step else {
        return String::new();
    };
    if plan.kind == DeployKind::Promote {
        return String::new();
    }
    let share = |host: &HostName| plan.hosts.get(host).and_then(PlannedHost::bytes);
    let fetch: Vec<_> = hosts
        .iter()
        .filter(|host| share(host).is_some_and(|share| share.new > 0))
        .map(HostName::as_str)
        .collect();
    let back = format!("back to {}@{}", plan.app, plan.to.number);
    if !fetch.is_empty() {
        format!("{back}; {} must fetch it", fetch.join(", "))
    } else if hosts.iter().all(|host| share(host).is_some()) {
        format!("{back}; nothing is fetched")
    } else {
        back
    }
}

fn step_state(rollout: &Rollout, at: usize) -> StepState {
    let reached = rollout.reached;
    let stopped = rollout.stop.is_some();
    match at.cmp(&reached) {
        // A revert goes on without hosts that fail; its wave did not succeed for all that.
        std::cmp::Ordering::Less if has_failed(rollout, at) => StepState::Failed,
        std::cmp::Ordering::Less => StepState::Done,
        std::cmp::Ordering::Equal if stopped => StepState::Failed,
        std::cmp::Ordering::Equal => StepState::Running,
        std::cmp::Ordering::Greater if stopped => StepState::Skipped,
        std::cmp::Ordering::Greater => StepState::Waiting,
    }
}

fn has_failed(rollout: &Rollout, at: usize) -> bool {
    let Some(PlanStep::Wave { hosts, .. }) = rollout.plan.steps.get(at) else {
        return false;
    };
    let failed = |host: &HostProgress| matches!(host.switch, Switch::Failed { .. });
    let revert = rollout.plan.kind == DeployKind::Revert;
    revert
        && hosts
            .iter()
            .filter_map(|host| rollout.hosts.get(host))
            .any(failed)
}

/// One host's line in one step.
fn host_state(step: &PlanStep, host: &HostProgress, step_state: StepState) -> (StepState, Option<String>) {
    let failed = || {
        host.failure
            .as_ref()
            .map(|stop| format!("{}: {}", stop.step, stop.reason))
    };
    let gathered = |has: bool| match (has, step_state) {
        (true, _) => (StepState::Done, None),
        _ if host.failure.is_some() => (StepState::Failed, failed()),
        (false, StepState::Done) => (StepState::Skipped, Some("catches up".to_owned())),
        (false, state) => (state, None),
    };
    let (state, note) = match (step, host.switch) {
        (PlanStep::Check | PlanStep::Gate { .. }, _) => (step_state, None),
        (PlanStep::Prefetch { .. }, _) => gathered(host.staged),
        (PlanStep::Assets { .. }, _) => gathered(host.assets),
        // Unknown is not failed, though others in its wave are.
        (PlanStep::Wave { .. }, Switch::Asked { .. }) if host.silent => match step_state {
            StepState::Failed => (StepState::Skipped, None),
            state => (state, None),
        },
        (PlanStep::Wave { .. }, Switch::Running { .. }) => (StepState::Done, None),
        (PlanStep::Wave { .. }, Switch::Failed { .. }) => (StepState::Failed, failed()),
        (PlanStep::Wave { .. }, Switch::Asked { .. }) => (StepState::Running, Some("switching".to_owned())),
        (PlanStep::Wave { .. }, Switch::BackAsked { .. }) => {
            (StepState::Failed, Some(going_back(host, "goes back")))
        }
        (PlanStep::Wave { .. }, Switch::Back) => (StepState::Failed, Some(going_back(host, "is back"))),
        (PlanStep::Wave { .. }, Switch::Untouched) => (waiting(step_state), None),
    };
    let absent = match (host.excused, host.silent) {
        (Some(excuse), _) => Some(format!("{excuse}, catches up")),
        (None, true) => Some("does not report: unknown".to_owned()),
        (None, false) => None,
    };
    (state, note.or(absent))
}

/// An untouched host in a wave that runs is not running yet.
const fn waiting(step_state: StepState) -> StepState {
    match step_state {
        StepState::Running => StepState::Waiting,
        StepState::Failed | StepState::Done => StepState::Skipped,
        StepState::Waiting | StepState::Skipped => step_state,
    }
}

fn going_back(host: &HostProgress, how: &str) -> String {
    match &host.failure {
        Some(stop) => format!("{how}; {}: {}", stop.step, stop.reason),
        None => how.to_owned(),
    }
}
