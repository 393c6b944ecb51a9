//! Rollouts in the words of the wire.

use ship_model::report::AppWait;
use ship_model::rollout::{
    DeployEntry, DeployKind, End, EnvState, Excuse, Forecast, GateLine, GoingBack, Outcome, Plan, Rollout,
    RolloutView, preview, takes, view,
};
use ship_model::spec::{Gap, Tight, Waiting};
use ship_proto::v1::{self, OutcomeKind};

use crate::rollout::HostWay;

/// A plan that has not begun.
pub fn of_plan(plan: &Plan, forecast: &Forecast) -> v1::RolloutView {
    let mut shown = worded(preview(plan));
    for (step, expected) in shown.steps.iter_mut().zip(&forecast.steps) {
        step.takes_ms = expected.takes_ms;
        step.back = expected.back.as_ref().map(of_going_back);
    }
    shown.message = plan.message.clone().unwrap_or_default();
    shown.excused = excused(plan, None);
    shown.plan_id = plan.id.to_string();
    shown.skipped_gates.clone_from(&plan.policy.skipped_gates);
    shown
}

fn of_going_back(back: &GoingBack) -> v1::GoingBack {
    v1::GoingBack {
        hosts: back.hosts.iter().map(ToString::to_string).collect(),
        to: back.to.map(Into::into),
        fetch: back.fetch.iter().map(ToString::to_string).collect(),
        takes_ms: back.takes_ms,
    }
}

/// What could not be taken back.
pub fn of_no_return(forecast: &Forecast) -> Vec<v1::NoReturn> {
    let steps = (1..).zip(&forecast.steps);
    let points = steps.filter_map(|(step, expected)| {
        let why = expected.no_return.as_ref()?.to_string();
        Some(v1::NoReturn { step, why })
    });
    points.collect()
}

/// How the processes of a plan take over.
pub fn of_ways(ways: Vec<HostWay>) -> Vec<v1::HostWay> {
    let worded = |found: HostWay| {
        let covered_by = match (found.way.waiting, found.balancers.is_empty()) {
            _ if found.way.gap.is_none() => String::new(),
            (Waiting::Nobody, _) => String::new(),
            // Only the keeper finds that out, when it switches: nobody has left a rotation then.
            (Waiting::Queued, _) if found.way.gap == Some(Gap::Memory) => "queue".to_owned(),
            (Waiting::Refused, _) if found.way.gap == Some(Gap::Memory) => "nobody".to_owned(),
            (_, false) => format!("balancer {}", found.balancers.join(", ")),
            (Waiting::Queued, true) => "queue".to_owned(),
            (Waiting::Refused, true) => "nobody".to_owned(),
        };
        v1::HostWay {
            host: found.host.to_string(),
            process: found.way.process.to_string(),
            strategy: found.way.strategy.name().to_owned(),
            gap: found.way.gap.map_or("", Gap::words).to_owned(),
            gap_ms: found.gap_ms.filter(|_| found.way.gap.is_some()),
            covered_by,
            standby: found.way.standby.is_some(),
            hold_ms: found.way.standby.and_then(|standby| standby.hold_ms),
            tight: found.tight.as_ref().map(short_of).unwrap_or_default(),
        }
    };
    ways.into_iter().map(worded).collect()
}

fn short_of(tight: &Tight) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let fails = match tight.fails {
        true => "; coexist = \"always\" wants both, so the switch fails: free some, or say coexist = true",
        false => "",
    };
    format!(
        "{} MiB available {}, {} MiB wanted{fails}",
        tight.free >> 20,
        tight.whose,
        mib(tight.wanted)
    )
}

/// A rollout under way, or the last one.
pub fn of_rollout(rollout: &Rollout) -> v1::RolloutView {
    let mut shown = worded(view(rollout));
    shown.message = rollout.plan.message.clone().unwrap_or_default();
    shown.excused = excused(&rollout.plan, Some(rollout));
    shown.plan_id = rollout.plan.id.to_string();
    shown.skipped_gates.clone_from(&rollout.plan.policy.skipped_gates);
    // What stopped it is worth telling before its end, while touched hosts go back or wait for a word about that.
    if let Some(stop) = rollout.stop.as_ref().or(rollout.waits.as_ref()) {
        shown.reason = reason(stop);
        shown.last_lines.clone_from(&stop.last_lines);
    }
    shown
}

/// Says at each step under way which of its hosts wait for their app, for what and how long still. `waits` knows a host's wait.
pub fn add_waits(shown: &mut v1::RolloutView, now_ms: u64, waits: impl Fn(&str) -> Option<AppWait>) {
    for step in shown.steps.iter_mut().filter(|step| step.state == "running") {
        for line in &mut step.hosts {
            let Some(wait) = waits(&line.host) else { continue };
            let left = wait.until_ms.saturating_sub(now_ms).div_ceil(1000);
            line.detail = format!("waiting for {}, {left} s left", wait.on);
            if !step.detail.is_empty() {
                step.detail.push_str("; ");
            }
            step.detail.push_str(&format!("{} is {}", line.host, line.detail));
        }
    }
}

/// A rollout of which only its line in the history is left.
pub fn of_entry(state: &EnvState, entry: &DeployEntry) -> v1::RolloutView {
    v1::RolloutView {
        app: state.app.to_string(),
        env: state.env.to_string(),
        deploy: entry.deploy.0,
        kind: kind(entry.kind).to_owned(),
        to: Some(entry.release.into()),
        who: entry.who.clone(),
        message: entry.message.clone().unwrap_or_default(),
        ended_at_ms: entry.when_ms,
        outcome: ended(entry.end, false).into(),
        reason: entry.reason.clone().unwrap_or_default(),
        ..v1::RolloutView::default()
    }
}

/// The rollout of this number (0: the last) as the state tells it.
pub fn of_deploy(state: &EnvState, deploy: u64) -> Option<v1::RolloutView> {
    match &state.rollout {
        Some(rollout) if deploy == 0 || rollout.deploy.0 == deploy => {
            let mut shown = of_rollout(rollout);
            expect(rollout, state, &mut shown);
            Some(shown)
        }
        _ => {
            let entry = state
                .history
                .iter()
                .rev()
                .find(|entry| entry.deploy.0 == deploy)?;
            Some(of_entry(state, entry))
        }
    }
}

/// Says of steps that are not done how long they may take, while the rollout goes forward.
fn expect(rollout: &Rollout, state: &EnvState, shown: &mut v1::RolloutView) {
    if rollout.stop.is_some() || rollout.outcome.is_some() {
        return;
    }
    let steps = shown.steps.iter_mut().zip(takes(&rollout.plan, &state.took));
    for (step, takes_ms) in steps.filter(|(step, _)| step.state != "done") {
        step.takes_ms = takes_ms;
    }
}

pub const fn is_over(view: &v1::RolloutView) -> bool {
    view.outcome != OutcomeKind::Running as i32 && view.outcome != OutcomeKind::Planned as i32
}

fn worded(view: RolloutView) -> v1::RolloutView {
    let outcome = outcome_of(&view);
    let stop = view.outcome.as_ref().and_then(|outcome| outcome.stop.as_ref());
    v1::RolloutView {
        app: view.app.to_string(),
        env: view.env.to_string(),
        deploy: view.deploy.map_or(0, |deploy| deploy.0),
        kind: kind(view.kind).to_owned(),
        from: view.from.map(Into::into),
        to: Some(view.to.into()),
        who: view.who.clone().unwrap_or_default(),
        started_at_ms: view.started_ms.unwrap_or(0),
        ended_at_ms: view.ended_ms.unwrap_or(0),
        outcome: outcome.into(),
        reason: stop
            .map(reason)
            .unwrap_or_else(|| left_behind(view.outcome.as_ref())),
        last_lines: stop.map(|stop| stop.last_lines.clone()).unwrap_or_default(),
        paused: view.paused.is_some(),
        steps: (1..).zip(view.steps).map(step).collect(),
        ..v1::RolloutView::default()
    }
}

const fn kind(kind: DeployKind) -> &'static str {
    match kind {
        DeployKind::Promote => "promote",
        DeployKind::Revert => "revert",
    }
}

fn step((number, step): (u32, ship_model::rollout::StepView)) -> v1::StepView {
    let hosts = step.hosts.into_iter().map(|line| v1::HostLine {
        host: line.host.to_string(),
        state: line.state.as_str().to_owned(),
        detail: line.note.unwrap_or_default(),
        new_bytes: line.bytes.map(|share| share.new),
        shared_bytes: line.bytes.map(|share| share.shared),
    });
    v1::StepView {
        number,
        name: step.name,
        state: step.state.as_str().to_owned(),
        hosts: hosts.collect(),
        detail: step.detail,
        started_at_ms: step.started_ms.unwrap_or(0),
        ended_at_ms: step.ended_ms.unwrap_or(0),
        gates: step.gates.into_iter().map(gate).collect(),
        ..v1::StepView::default()
    }
}

fn gate(line: GateLine) -> v1::GateLine {
    v1::GateLine {
        gate: line.gate,
        kind: line.kind,
        state: line.state.as_str().to_owned(),
        detail: line.detail,
        by: line.by,
        wanted: line.wanted,
    }
}

fn outcome_of(view: &RolloutView) -> OutcomeKind {
    match &view.outcome {
        None if view.deploy.is_none() => OutcomeKind::Planned,
        None => OutcomeKind::Running,
        Some(outcome) => {
            let aborted = outcome.stop.as_ref().is_some_and(|stop| stop.by.is_some());
            ended(outcome.end, aborted)
        }
    }
}

const fn ended(end: End, by_operator: bool) -> OutcomeKind {
    match end {
        End::Done => OutcomeKind::Done,
        End::Partly => OutcomeKind::Partial,
        End::Failed | End::Reverted if by_operator => OutcomeKind::Aborted,
        End::Failed => OutcomeKind::Stopped,
        End::Reverted => OutcomeKind::Reverted,
    }
}

fn reason(stop: &ship_model::rollout::Stop) -> String {
    match &stop.host {
        Some(host) => format!("{host}: {}: {}", stop.step, stop.reason),
        None => stop.reason.clone(),
    }
}

fn left_behind(outcome: Option<&Outcome>) -> String {
    let hosts = outcome
        .map(|outcome| &outcome.unconfirmed[..])
        .unwrap_or_default();
    if hosts.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
    format!(
        "not confirmed by {}: they catch up when they report again",
        names.join(", ")
    )
}

fn excused(plan: &Plan, rollout: Option<&Rollout>) -> Vec<String> {
    let now = |host| match rollout {
        Some(rollout) => rollout.hosts.get(host).and_then(|host| host.excused),
        None => plan.hosts.get(host).and_then(|host| host.excused),
    };
    let line = |host: &ship_model::name::HostName, excuse: Excuse| format!("{host}: {excuse}");
    let hosts = plan.hosts.keys();
    hosts.filter_map(|host| Some(line(host, now(host)?))).collect()
}
