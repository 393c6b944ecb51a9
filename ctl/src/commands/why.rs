//! `shipctl why`: why a host, or an app, is on what it is.

use clap::Args;
use ship_proto::v1::{AppHost, AppStatus, HostStatus, OutcomeKind, StatusReply};

use super::{Fleet, Outcome, shape, status};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{Ui, outcome_words};
use crate::words::{clean, millis};

/// Tell why a host, or an app, runs what it runs
#[derive(Debug, Args)]
#[command(after_help = "\
Tells in the order in which things decide: whether the host is heard, what operators said of
it, what it should run and runs, a revert on the host itself, what failed there and its last
lines, and what a rollout under way waits for before it comes to this host.
Examples:
  shipctl why h2
  shipctl why web")]
pub struct Why {
    /// A host or an app
    #[arg(value_name = "HOST|APP")]
    what: String,
}

pub async fn run(verb: Why, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let reply = status::ask(&fleet, None).await?;
    let reasons = reasons(&verb.what, &reply).ok_or_else(|| unknown(&verb.what, &reply, &fleet))?;
    if ui.is_json() {
        ui.json(&serde_json::json!({ "what": verb.what, "because": reasons }));
    } else {
        reasons.iter().for_each(|reason| ui.line(reason));
    }
    Ok(Exit::Done)
}

fn reasons(what: &str, reply: &StatusReply) -> Option<Vec<String>> {
    let app = reply.apps.iter().find(|app| app.app == what);
    let host = reply.hosts.iter().find(|host| host.host == what);
    if app.is_none() && host.is_none() {
        return None;
    }
    let mut reasons = Vec::new();
    if let Some(host) = host {
        reasons.push(host_line(host, reply.now_ms));
        reasons.extend(standing_line(host, reply.now_ms));
        for app in &reply.apps {
            let here = app.hosts.iter().filter(|here| here.host == what);
            reasons.extend(here.flat_map(|here| {
                let mut lines = on_host(app, here, reply.now_ms);
                if here.runs_app {
                    lines.extend(in_rollout(app, what));
                }
                lines
            }));
        }
    }
    if let Some(app) = app {
        reasons.extend(of_app(app));
    }
    Some(reasons)
}

fn unknown(what: &str, reply: &StatusReply, fleet: &Fleet) -> CommandError {
    let apps = reply.apps.iter().map(|app| app.app.clone());
    let all: Vec<String> = apps
        .chain(reply.hosts.iter().map(|host| host.host.clone()))
        .collect();
    CommandError::new(
        Exit::Error,
        format!("{} knows neither a host nor an app {what:?}", fleet.context.env),
    )
    .hint(format!("there are: {}", all.join(", ")))
}

fn host_line(host: &HostStatus, now_ms: u64) -> String {
    let name = clean(&host.host);
    let seen = match host.last_seen_ms {
        0 => "it has never reported".to_owned(),
        seen => format!("it reported {} ago", millis(now_ms.saturating_sub(seen))),
    };
    let meaning = match host.state.as_str() {
        "uncertain" => ", so it is neither counted as healthy nor as dead",
        "unavailable" => ", so it counts as lost until it reports",
        "installing" => ", and has not yet run what it should",
        "retiring" => ", and is retired when it says that nothing runs there any more",
        "retired" | "archived" | "terminated" => ", and its certificate is no longer accepted",
        _ => "",
    };
    format!("{name} is {}: {seen}{meaning}", clean(&host.state))
}

/// What operators said of it.
fn standing_line(host: &HostStatus, now_ms: u64) -> Option<String> {
    let standing = host.standing.as_ref()?;
    let ago = millis(now_ms.saturating_sub(standing.at_ms));
    let reason = match standing.reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", clean(reason)),
    };
    let (name, duty, who) = (clean(&host.host), clean(&standing.duty), clean(&standing.who));
    let means = match standing.duty.as_str() {
        "drained" => "; it stays out of rotation, and is kept up to date after all others",
        _ => "",
    };
    Some(format!("{name} is {duty} since {ago}, by {who}{reason}{means}"))
}

/// What a rollout under way has to do with the host that does not run what is to come.
fn in_rollout(app: &AppStatus, host: &str) -> Vec<String> {
    let rollout = app.rollout.as_ref();
    let Some(rollout) = rollout.filter(|rollout| rollout.outcome() == OutcomeKind::Running) else {
        return Vec::new();
    };
    let name = clean(&app.app);
    let deploy = format!(
        "{name}: deploy {} brings {}",
        rollout.deploy,
        number(shape::number(rollout.to.as_ref()))
    );
    if let Some(excused) = rollout
        .excused
        .iter()
        .find(|line| line.starts_with(&format!("{host}: ")))
    {
        return vec![format!("{deploy}, and does not wait for {}", clean(excused))];
    }
    let step = |state: &str| rollout.steps.iter().find(|step| step.state == state);
    let has_line = |step: &&ship_proto::v1::StepView| step.hosts.iter().any(|line| line.host == host);
    let own = rollout.steps.iter().rev().find(has_line);
    let line = own.and_then(|own| Some((own, own.hosts.iter().find(|line| line.host == host)?)));
    let Some((own, line)) = line else {
        return vec![format!(
            "{deploy}, and not to this host by a step of its own: it goes last"
        )];
    };
    let detail = match line.detail.as_str() {
        "" => String::new(),
        detail => format!(": {}", clean(detail)),
    };
    let mut lines = vec![format!(
        "{deploy}; here in step {}, {}, which is {}{detail}",
        own.number,
        clean(&own.name),
        own.state
    )];
    if rollout.paused {
        lines.push(format!(
            "{name}: deploy {} is paused: no further host is switched",
            rollout.deploy
        ));
    }
    let present = step("running").filter(|present| present.number < own.number);
    lines.extend(present.map(|present| {
        let waits = present.hosts.iter().filter(|line| line.state != "done");
        let waits: Vec<String> = waits.map(|line| clean(&line.host)).collect();
        let for_whom = match (waits.is_empty(), present.detail.as_str()) {
            (true, "") => "its hosts must stay well for a while".to_owned(),
            (true, detail) => clean(detail),
            (false, _) => format!("it waits for {}", waits.join(", ")),
        };
        format!(
            "{name}: step {}, {}, is under way before: {for_whom}",
            present.number,
            clean(&present.name)
        )
    }));
    lines
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "nothing".to_owned(), |number| format!("release {number}"))
}

/// The reasons in the order in which they decide.
fn on_host(app: &AppStatus, here: &AppHost, now_ms: u64) -> Vec<String> {
    let shown = shape::Host::from(here);
    let name = clean(&app.app);
    if !here.runs_app {
        return vec![format!("{name}: this host only holds its assets")];
    }
    let mut lines = vec![format!(
        "{name}: it runs {} and should run {}",
        number(shown.release),
        number(shown.desired)
    )];
    if let Some(held) = &shown.held {
        lines.push(format!(
            "{name}: somebody reverted it on the host itself to {}: {}; a promote or revert releases it",
            number(held.release),
            clean(&held.reason)
        ));
    }
    if let Some(failure) = &shown.failure {
        lines.push(format!(
            "{name}: {} failed at {}: {}; it is not tried again before a newer deploy",
            number(failure.release),
            clean(&failure.step),
            clean(&failure.reason)
        ));
        lines.extend(
            failure
                .last_lines
                .iter()
                .map(|line| format!("  | {}", clean(line))),
        );
    }
    if let Some(canary) = &shown.canary {
        // The host's clock and the store's may differ by a little.
        let left = canary.until_ms.saturating_sub(now_ms) / 1000 * 1000;
        lines.push(format!(
            "{name}: {} has proven itself and is a canary: {} % of the clients of this host for {} more",
            number(canary.release),
            canary.percent,
            millis(left)
        ));
    }
    if shown.phase != "idle" {
        lines.push(format!("{name}: it is {} now", shown.phase));
    }
    if let Some(waits) = &shown.waits {
        lines.push(format!("{name}: {}", status::waiting(waits)));
    }
    for process in &shown.processes {
        let said = match process.said.as_str() {
            "" => String::new(),
            said => format!(" and says: {said}"),
        };
        let (process, release, state) = (clean(&process.name), process.release, clean(&process.state));
        lines.push(format!(
            "{name}: process {process} of release {release} is {state}{said}"
        ));
    }
    lines.extend(
        shown
            .remarks
            .iter()
            .map(|remark| format!("{name}: {}", clean(remark))),
    );
    lines
}

fn of_app(app: &AppStatus) -> Vec<String> {
    let shown = shape::App::from(app);
    let name = clean(&app.app);
    let mut lines = vec![format!(
        "{name}: {} runs {}; its last deploy was {}",
        clean(&app.env),
        number(shown.release),
        app.deploy
    )];
    if let Some(rollout) = &app.rollout {
        let mut line = format!(
            "{name}: deploy {}, {} to {} by {}: {}",
            rollout.deploy,
            clean(&rollout.kind),
            number(shape::number(rollout.to.as_ref())),
            clean(&rollout.who),
            outcome_words(rollout.outcome())
        );
        if !rollout.message.is_empty() {
            line.push_str(&format!(" (\"{}\")", clean(&rollout.message)));
        }
        if rollout.outcome() != OutcomeKind::Done && !rollout.reason.is_empty() {
            line.push_str(&format!("; {}", clean(&rollout.reason)));
        }
        lines.push(line);
    }
    if !app.held.is_empty() {
        lines.push(format!(
            "{name}: nothing goes forward by itself until the next promote: {}",
            clean(&app.held)
        ));
    }
    let behind = shown
        .hosts
        .iter()
        .filter(|host| host.runs_app && host.release != host.desired);
    lines.extend(behind.map(|behind| {
        format!(
            "{name}: {host} runs {} and should run {}: shipctl why {host}",
            number(behind.release),
            number(behind.desired),
            host = clean(&behind.host)
        )
    }));
    lines
}
