//! `shipctl status`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use ship_model::name::AppName;
use ship_proto::v1::{AppHost, AppStatus, LostRelease, OutcomeKind, StatusReply, StatusRequest};

use super::{Fleet, Outcome, shape};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::patience::Patience;
use crate::signals::Stop;
use crate::ui::{BAD, BOLD, DIM, DOUBT, Table, Ui, outcome_words, paint, plan_lines, state_cell};
use crate::words::{bytes, clean, count, millis, rfc3339};

/// Show what runs where, what is under way, and what a revert would go to
#[derive(Debug, Args)]
#[command(after_help = "\
With -o json one object: apps[] with app, release, deploy, rollout, asset_urls[] and
hosts[] with host, state, release, previous, listen{}, fetched_bytes, delta_from,
stage_ms, switch_ms, lost_requests. `rollout` is null when none is under way; with -w
one such object on a line at every change. Columns: FETCHED bytes of the host's last
update (delta: told by the changes to a release that it had), its STAGED and SWITCHED
times, LOST requests of its last switch.
Examples:
  shipctl status web
  shipctl status -w
  shipctl status -o json | jq '.apps[].hosts[] | select(.release != 5)'")]
pub struct Status {
    /// App; without one: every app of the environment
    app: Option<AppName>,
    /// Show it again at every change, until Ctrl-C
    #[arg(short, long)]
    watch: bool,
}

/// Between two looks with `--watch`.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Serialize)]
struct Shown {
    env: String,
    at: Option<String>,
    store_version: String,
    store_asset_url: String,
    apps: Vec<shape::App>,
    /// Releases that the store cannot give whole.
    lost: Vec<shape::LostRelease>,
}

impl Shown {
    fn of(reply: &StatusReply, fleet: &Fleet) -> Self {
        Self {
            env: fleet.context.env.to_string(),
            at: rfc3339(reply.now_ms),
            store_version: reply.store_version.clone(),
            store_asset_url: reply.asset_url.clone(),
            apps: reply.apps.iter().map(shape::App::from).collect(),
            lost: reply.lost.iter().map(shape::LostRelease::from).collect(),
        }
    }
}

pub async fn run(verb: Status, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let app = verb.app.or_else(|| global.app.clone());
    let request = StatusRequest {
        env: fleet.context.env.to_string(),
        app: app.map(|app| app.to_string()).unwrap_or_default(),
    };
    if verb.watch {
        return watch(&request, &fleet, ui).await;
    }
    let reply = fleet.client.fleet().status(request).await?.into_inner();
    show(&reply, &fleet, ui);
    Ok(Exit::Done)
}

async fn watch(request: &StatusRequest, fleet: &Fleet, ui: &Ui) -> Outcome {
    let mut stop = Stop::new()?;
    let watching = async {
        let mut last = None;
        let mut patience = Patience::new(Duration::MAX);
        while !ui.is_deaf() {
            match fleet.client.fleet().status(request.clone()).await {
                Ok(reply) => {
                    patience.answered(|text| ui.say(text));
                    let reply = reply.into_inner();
                    let now = lines(&reply, fleet);
                    if last.as_ref() != Some(&now) {
                        again(&reply, &now, fleet, ui);
                        last = Some(now);
                    }
                }
                Err(status) => {
                    patience.after(status, |text| ui.say(text)).await?;
                    // What was said of it stands on the screen until it is drawn anew.
                    last = None;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Exit::Done)
    };
    tokio::select! {
        ended = watching => ended,
        () = stop.asked() => Ok(Exit::Done),
    }
}

fn again(reply: &StatusReply, lines: &[String], fleet: &Fleet, ui: &Ui) {
    if ui.is_json() {
        ui.json_line(&Shown::of(reply, fleet));
    } else {
        ui.screen(lines);
    }
}

fn show(reply: &StatusReply, fleet: &Fleet, ui: &Ui) {
    if ui.is_json() {
        ui.json(&Shown::of(reply, fleet));
    } else {
        lines(reply, fleet).iter().for_each(|line| ui.line(line));
    }
}

fn lines(reply: &StatusReply, fleet: &Fleet) -> Vec<String> {
    let mut lines = of_apps(reply, fleet);
    for lost in &reply.lost {
        lines.push(paint(BAD, format!("the store lost {}", lost_words(lost))));
    }
    if !reply.lost.is_empty() {
        lines.push(format!("  → {LOST_ADVICE}"));
    }
    for route in reply.notify.iter().filter(|route| route.trouble_since_ms > 0) {
        let words = format!(
            "notify {} cannot tell event {}: {}",
            clean(&route.name),
            route.seq,
            clean(&route.trouble)
        );
        lines.push(paint(BAD, words));
    }
    lines
}

/// What to do about content that the store lost.
pub const LOST_ADVICE: &str =
    "publish it again, or stop the store and run: shipstore verify --dir DIR --repair-from COPY";

/// `web@3: 2 files, app.js among them`.
pub fn lost_words(lost: &LostRelease) -> String {
    let subject = format!("{}@{}", clean(&lost.app), lost.release);
    match lost.files {
        0 => format!("{subject}: its manifest"),
        1 => format!("{subject}: {}", clean(&lost.path)),
        files => format!("{subject}: {files} files, {} among them", clean(&lost.path)),
    }
}

fn of_apps(reply: &StatusReply, fleet: &Fleet) -> Vec<String> {
    if reply.apps.is_empty() {
        return vec![format!(
            "nothing runs in {} yet, on {}: shipctl publish DIR, then shipctl promote APP",
            fleet.context.env,
            count(reply.hosts.len() as u64, "host")
        )];
    }
    reply.apps.iter().flat_map(app_lines).collect()
}

/// In this order: what runs, what is under way, what holds it, each host, what went wrong.
fn app_lines(app: &AppStatus) -> Vec<String> {
    let release = app.release.as_ref().map_or_else(
        || "runs nothing yet".to_owned(),
        |target| format!("runs {}@{}", clean(&app.app), target.number),
    );
    let mut lines = vec![paint(
        BOLD,
        format!(
            "{}  {}  {release}, deploy {}",
            clean(&app.app),
            clean(&app.env),
            app.deploy
        ),
    )];
    if let Some(rollout) = &app.rollout {
        if rollout.outcome() == OutcomeKind::Running {
            lines.extend(plan_lines(rollout).into_iter().map(|line| format!("  {line}")));
        } else if rollout.outcome() != OutcomeKind::Done {
            lines.push(format!(
                "  {}",
                paint(
                    BAD,
                    format!(
                        "last {} of {} {}: {}",
                        clean(&rollout.kind),
                        rollout.to.as_ref().map_or(0, |target| target.number),
                        outcome_words(rollout.outcome()),
                        clean(&rollout.reason)
                    )
                )
            ));
        }
    }
    if !app.held.is_empty() {
        lines.push(format!(
            "  {} {}; the next promote goes forward again",
            paint(DOUBT, "taken back:"),
            clean(&app.held)
        ));
    }
    lines.extend(
        table(&app.hosts)
            .to_string()
            .lines()
            .map(|line| format!("  {}", line.trim_end())),
    );
    lines.extend(app.hosts.iter().flat_map(trouble));
    if !app.asset_urls.is_empty() {
        let urls = clean(&app.asset_urls.join("  "));
        lines.push(format!("  {} {urls}", paint(DIM, "assets:")));
    }
    lines.push(String::new());
    lines
}

fn table(hosts: &[AppHost]) -> Table {
    let mut table = Table::new(&[
        "host",
        "state",
        ">release",
        ">previous",
        "doing",
        "listens",
        ">fetched",
        ">staged",
        ">switched",
        ">lost",
    ]);
    for host in hosts {
        let shown = shape::Host::from(host);
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let listen: Vec<String> = shown.listen.values().map(|address| clean(address)).collect();
        let doing = match (host.runs_app, shown.phase) {
            (false, _) => "assets only".to_owned(),
            (true, phase) => match &shown.canary {
                Some(canary) => format!("canary {} %", canary.percent),
                None => phase.to_owned(),
            },
        };
        table.row([
            clean(&shown.host).into(),
            state_cell(&shown.state),
            number(shown.release).into(),
            number(shown.previous).into(),
            doing.into(),
            listen.join(" ").into(),
            fetched(&shown).into(),
            millis(shown.stage_ms).into(),
            millis(shown.switch_ms).into(),
            shown.lost_requests.to_string().into(),
        ]);
    }
    table
}

fn fetched(host: &shape::Host) -> String {
    let delta = if host.delta_from.is_some() { " delta" } else { "" };
    format!("{}{delta}", bytes(host.fetched_bytes))
}

fn trouble(host: &AppHost) -> Vec<String> {
    let shown = shape::Host::from(host);
    let name = clean(&shown.host);
    let mut lines = Vec::new();
    for damaged in &shown.damaged {
        lines.push(format!(
            "  {} {name}: {} is damaged there: {}",
            paint(BAD, "✗"),
            damaged
                .release
                .map_or_else(String::new, |number| number.to_string()),
            clean(&damaged.reason)
        ));
    }
    for incident in &shown.asset_incidents {
        lines.push(format!(
            "  {} {name}: {} for assets of {} could not be served, the last for {}",
            paint(BAD, "✗"),
            count(incident.requests, "request"),
            incident
                .release
                .map_or_else(String::new, |number| number.to_string()),
            clean(&incident.last_url)
        ));
    }
    if let Some(rot) = &shown.asset_rot {
        let (how, mark) = match rot.found.saturating_sub(rot.mended) {
            0 => ("made anew".to_owned(), DOUBT),
            left => (format!("{left} not made anew yet"), BAD),
        };
        lines.push(format!(
            "  {} {name}: {} of assets rotten, {how}, the last {}; look at its disk",
            paint(mark, "!"),
            count(rot.found, "file"),
            clean(&rot.last_url)
        ));
    }
    if let Some(failure) = &shown.failure {
        lines.push(format!(
            "  {} {name}: {} failed at {}: {}",
            paint(BAD, "✗"),
            failure
                .release
                .map_or_else(String::new, |number| number.to_string()),
            clean(&failure.step),
            clean(&failure.reason)
        ));
    }
    if let Some(standby) = &shown.standby {
        lines.push(format!("  {} {name}: {}", paint(DIM, "standby:"), clean(standby)));
    }
    if let Some(held) = &shown.held {
        lines.push(format!(
            "  {} {name}: reverted on the host to {}: {}",
            paint(DOUBT, "!"),
            held.release.map_or_else(String::new, |number| number.to_string()),
            clean(&held.reason)
        ));
    }
    if let Some(waits) = &shown.waits {
        lines.push(format!("  {} {name}: {}", paint(DOUBT, "!"), waiting(waits)));
    }
    for remark in &shown.remarks {
        lines.push(format!("  {} {name}: {}", paint(DIM, "note:"), clean(remark)));
    }
    if host.runs_app && shown.release != shown.desired && shown.phase == "idle" {
        lines.push(format!(
            "  {} {name}: shipctl why {name}",
            paint(DIM, "not what it should run:")
        ));
    }
    lines
}

/// What a host's switch waits for, and what then.
pub fn waiting(waits: &shape::Wait) -> String {
    let then = if waits.overrules {
        "then it is replaced all the same"
    } else {
        "then the switch fails"
    };
    let until = waits.until.clone().unwrap_or_default();
    format!("waiting for {} until {until}; {then}", clean(&waits.on))
}

/// What the store knows of the fleet now.
pub async fn ask(fleet: &Fleet, app: Option<&AppName>) -> Result<StatusReply, CommandError> {
    let request = StatusRequest {
        env: fleet.context.env.to_string(),
        app: app.map(ToString::to_string).unwrap_or_default(),
    };
    Ok(fleet.client.fleet().status(request).await?.into_inner())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use ship_proto::v1::{AppFailure, AppReport, Target, UpdateFigures};

    fn target(number: u64) -> Option<Target> {
        Some(Target {
            number,
            id: vec![7; 32],
        })
    }

    fn app() -> AppStatus {
        AppStatus {
            app: "web".into(),
            env: "dev".into(),
            release: target(2),
            deploy: 5,
            epoch: 9,
            rollout: None,
            asset_urls: vec!["http://127.0.0.1:7480".into()],
            hosts: vec![AppHost {
                host: "h1".into(),
                state: "available".into(),
                report: Some(AppReport {
                    running: target(1),
                    listen: [("http".to_owned(), "127.9.9.1:8080".to_owned())].into(),
                    update: Some(UpdateFigures {
                        fetched_bytes: 1_500,
                        stage_ms: 20,
                        switch_ms: 30,
                        lost_requests: 0,
                        delta_from: Some(41),
                        ..UpdateFigures::default()
                    }),
                    failure: Some(AppFailure {
                        release: target(2),
                        step: "probe".into(),
                        reason: "500\x07".into(),
                        ..AppFailure::default()
                    }),
                    ..AppReport::default()
                }),
                desired: target(2),
                runs_app: true,
            }],
            held: String::new(),
        }
    }

    #[test]
    fn json_has_the_names_that_scripts_rely_on() {
        let shown = serde_json::to_value(shape::App::from(&app())).unwrap();
        for key in ["app", "release", "deploy", "rollout", "asset_urls", "hosts"] {
            assert!(shown.get(key).is_some(), "{key}");
        }
        assert_eq!(shown["rollout"], serde_json::Value::Null);
        let host = &shown["hosts"][0];
        assert_eq!(host["release"], 1);
        assert_eq!(host["previous"], serde_json::Value::Null);
        assert_eq!(host["listen"]["http"], "127.9.9.1:8080");
        for key in ["fetched_bytes", "stage_ms", "switch_ms", "lost_requests"] {
            assert!(host[key].is_u64(), "{key}");
        }
    }

    #[test]
    fn what_went_wrong_is_said_below_the_table() {
        let text = app_lines(&app()).join("\n");
        let text = anstream::adapter::strip_str(&text).to_string();
        assert!(text.contains("web  dev  runs web@2, deploy 5"), "{text}");
        assert!(text.contains("h1: 2 failed at probe: 500\\u{7}"), "{text}");
        assert!(text.contains("shipctl why h1"), "{text}");
    }
}
