//! `shipctl pause`, `resume` and `abort`.

use std::time::Duration;

use clap::Args;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::control_request::Verb;
use ship_proto::v1::{ControlRequest, OutcomeKind, RolloutView};

use super::wait::{Awaited, wait};
use super::{Fleet, Outcome, shape, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::patience::Patience;
use crate::signals::Stop;
use crate::ui::{Ui, plan_lines};
use crate::words::clean;

/// How long a store that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest that `abort` waits for the hosts to be back.
const ABORT_TIMEOUT: Duration = Duration::from_secs(900);

/// Switch no further host until resumed; a host that fails still turns the rollout back
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl pause web -m \"looking at the graphs\"
  shipctl resume web
Hosts that were switched stay switched, and a failing one still puts itself back.
Exit 4 when none is under way.")]
pub struct Pause {
    #[command(flatten)]
    what: What,
}

/// Let a paused rollout go on
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  shipctl resume web
  shipctl attach web     shows how it goes on
Exit 4 when none is paused.")]
pub struct Resume {
    #[command(flatten)]
    what: What,
}

/// Stop the rollout and take touched hosts back
#[derive(Debug, Args)]
#[command(after_help = "\
Asks on a terminal, unless -y. Waits until the hosts are back. Exit 0 when they are, 4 when
none is under way, 6 when some are not back. Example:
  shipctl abort web -y -m \"wrong release\"")]
pub struct Abort {
    #[command(flatten)]
    what: What,
    /// Return as soon as it has begun
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
struct What {
    /// App
    app: Option<AppName>,
    /// Why, for everybody who asks later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

pub async fn pause(verb: Pause, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let view = control(&verb.what, Verb::Pause, &fleet, ui).await?;
    Ok(told(&view, "paused", ui))
}

pub async fn resume(verb: Resume, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let view = control(&verb.what, Verb::Resume, &fleet, ui).await?;
    Ok(told(&view, "resumed", ui))
}

pub async fn abort(verb: Abort, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    if is_terminal() && !ui.confirm("Stop the rollout and take touched hosts back?") {
        return Err(CommandError::new(
            Exit::Refused,
            "not confirmed; the rollout goes on",
        ));
    }
    let view = control(&verb.what, Verb::Abort, &fleet, ui).await?;
    if verb.detach {
        return Ok(told(&view, "is being taken back", ui));
    }
    let awaited = Awaited {
        app: view.app.clone(),
        env: view.env.clone(),
        deploy: view.deploy,
        timeout: ABORT_TIMEOUT,
        titled: false,
    };
    match Box::pin(wait(&awaited, &fleet, &mut Stop::new()?, ui)).await {
        // To be taken back is what was asked for.
        Err(fault) if fault.exit() == Exit::Reverted => {
            if !ui.is_json() {
                ui.line(format!(
                    "deploy {} of {} was aborted; touched hosts are back",
                    view.deploy,
                    clean(&view.app)
                ));
            }
            Ok(Exit::Done)
        }
        other => other,
    }
}

fn is_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdin().is_terminal()
}

/// A store that is being restarted is waited for. What is asked is a state, not a step: asked twice it is the same.
async fn control(what: &What, verb: Verb, fleet: &Fleet, ui: &Ui) -> Result<RolloutView, CommandError> {
    let typed = what.app.clone().map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let subject = subject::subject(typed.as_ref(), &fleet.context)?;
    let request = ControlRequest {
        app: subject.app.to_string(),
        env: fleet.context.env.to_string(),
        verb: verb.into(),
        message: what.message.clone().unwrap_or_default(),
    };
    let mut patience = Patience::new(PATIENCE);
    loop {
        match fleet.client.rollouts().control(request.clone()).await {
            Ok(view) => {
                patience.answered(|text| ui.say(text));
                return Ok(view.into_inner());
            }
            Err(status) => patience.after(status, |text| ui.say(text)).await?,
        }
    }
}

fn told(view: &RolloutView, how: &str, ui: &Ui) -> Exit {
    if ui.is_json() {
        ui.json(&shape::Rollout::from(view));
        return Exit::Done;
    }
    ui.line(format!("deploy {} of {} {how}", view.deploy, clean(&view.app)));
    if view.outcome() == OutcomeKind::Running {
        plan_lines(view).into_iter().skip(1).for_each(|line| ui.say(line));
    }
    Exit::Done
}
