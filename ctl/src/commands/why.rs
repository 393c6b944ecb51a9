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
Tells in the order in which things decide: whether the host is heard, what it should run
and runs, a revert on the host itself, what failed there and its last lines.
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
        for app in &reply.apps {
            let here = app.hosts.iter().filter(|here| here.host == what);
            reasons.extend(here.flat_map(|here| on_host(app, here, reply.now_ms)));
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
        _ => "",
    };
    format!("{name} is {}: {seen}{meaning}", clean(&host.state))
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
