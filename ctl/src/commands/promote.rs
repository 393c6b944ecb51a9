//! `shipctl promote` and `shipctl revert`: the same way, with another target.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::ReleaseRef;
use ship_model::rollout::{Plan, Profile};
use ship_proto::v1::{PlanReply, PlanRequest, Started};
use tonic::{Response, Status};

use super::wait::{Awaited, wait};
use super::{Fleet, Outcome, plan_file, shape, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::patience::{GaveUp, Patience};
use crate::request::request_id;
use crate::signals::Stop;
use crate::ui::{Ui, expected_lines, plan_lines};
use crate::words::{clean, parse_duration};

/// How long a store that is away is waited for before the rollout has begun.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bring a release to every host of an environment, and wait until it runs there
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl promote web              the newest release
  shipctl promote web@5 -m \"faster search\"
  shipctl promote web --without h3 though h3 is away; it catches up when it is back
  shipctl promote web --profile careful
  shipctl promote --plan plan.json what `shipctl plan web --save plan.json` wrote, or nothing
  shipctl promote web --detach     returns at once; shipctl attach web shows it again

Every host fetches and checks the release first, every asset host serves its assets,
then one host is switched, then the rest: or step by step as the environment's file says
(shipctl env). A host on which it fails puts itself back at
once; then the others are taken back too, and the exit code is 5. Ctrl-C leaves the
rollout going (130).")]
pub struct Promote {
    #[command(flatten)]
    way: Way,
    /// Go ahead though the release was reverted from or quarantined
    #[arg(long)]
    force: bool,
    /// Wait for nothing from this host, for example one that is away; it catches up later. Can be
    /// given again
    #[arg(long, value_name = "HOST")]
    without: Vec<HostName>,
    /// How careful: careful, normal or emergency, as the environment says
    #[arg(long, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// Carry out exactly the plan in this file; refused (4) where anything is not as it was when it was made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["release", "force", "without", "profile"])]
    plan: Option<PathBuf>,
}

/// Take an environment back to an earlier release, at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl revert web               the last good release before the one that runs
  shipctl revert web@3             that one
Again goes further back. Nothing is downloaded: the release lies on the hosts, checked.
During a rollout it stops that and takes touched hosts back. With store and network
dead, on each host:
  ship-agent revert web")]
pub struct Revert {
    #[command(flatten)]
    way: Way,
    /// Go to the release though it was reverted from or quarantined
    #[arg(long)]
    force: bool,
}

/// What both take.
#[derive(Debug, Clone, Args)]
pub struct Way {
    /// APP or APP@NUMBER
    #[arg(value_name = "APP[@N]")]
    release: Option<ReleaseRef>,
    /// Why, for everybody who asks later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Return as soon as it has begun
    #[arg(long)]
    detach: bool,
    /// Wait for the end; the default
    #[arg(long, conflicts_with = "detach")]
    wait: bool,
    /// How long to wait; the rollout goes on all the same
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    wait_timeout: Duration,
    /// Show the plan and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Direction {
    Promote {
        without: Vec<HostName>,
        profile: Option<Profile>,
        saved: Option<Box<Plan>>,
    },
    Revert,
}

impl Direction {
    /// Hosts left out by name. A revert leaves nobody out: it waits for no host that is away.
    fn without(&self) -> Vec<String> {
        match self {
            Self::Promote { without, .. } => without.iter().map(ToString::to_string).collect(),
            Self::Revert => Vec::new(),
        }
    }

    fn profile(&self) -> String {
        let profile = match self {
            Self::Promote { profile, .. } => *profile,
            Self::Revert => None,
        };
        profile.map_or("", Profile::as_str).to_owned()
    }

    fn saved(&self) -> Option<&Plan> {
        match self {
            Self::Promote { saved, .. } => saved.as_deref(),
            Self::Revert => None,
        }
    }
}

pub async fn promote(verb: Promote, global: &Global, ui: &Ui) -> Outcome {
    let saved = verb.plan.as_deref().map(plan_file::read).transpose()?;
    Box::pin(go(
        verb.way,
        verb.force,
        Direction::Promote {
            without: verb.without,
            profile: verb.profile,
            saved: saved.map(Box::new),
        },
        global,
        ui,
    ))
    .await
}

pub async fn revert(verb: Revert, global: &Global, ui: &Ui) -> Outcome {
    Box::pin(go(verb.way, verb.force, Direction::Revert, global, ui)).await
}

async fn go(way: Way, force: bool, direction: Direction, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await;
    let fleet = fleet.map_err(|fault| match direction {
        Direction::Promote { .. } => fault,
        Direction::Revert => fault.hint("with the store dead, on each host: ship-agent revert APP"),
    })?;
    let mut fleet = fleet;
    let typed = match direction.saved() {
        Some(saved) => {
            fleet.context.env = env_of(saved, global)?;
            Some(ReleaseRef {
                app: Some(saved.app.clone()),
                number: Some(saved.to.number),
            })
        }
        None => way.release.clone(),
    };
    let subject = subject::subject(typed.as_ref(), &fleet.context)?;
    let mut request = PlanRequest {
        app: subject.app.to_string(),
        number: subject.number.map_or(0, |number| number.0),
        env: fleet.context.env.to_string(),
        profile: direction.profile(),
        plan: direction
            .saved()
            .map(plan_file::on_the_wire)
            .transpose()?
            .unwrap_or_default(),
        message: way.message.clone().unwrap_or_default(),
        force,
        request_id: request_id(),
        revert: direction == Direction::Revert,
        without: direction.without(),
    };
    let mut stop = Stop::new()?;
    let plan = tokio::select! {
        plan = plan(&fleet, &request, ui) => plan?,
        () = stop.asked() => return Err(CommandError::new(Exit::Interrupted, "interrupted; nothing was begun")),
    };
    if direction.saved().is_some() && plan.changes && plan.plan.is_empty() {
        return Err(CommandError::new(
            Exit::Refused,
            "the store is too old to keep to a plan from a file; nothing was begun",
        )
        .hint(format!(
            "without a file: shipctl promote {}@{}",
            subject.app, request.number
        )));
    }
    // A terminal shows the same list while it is carried out.
    if way.dry_run || way.detach || !plan.changes || !ui.is_lively() {
        show(&plan, way.dry_run, ui);
    }
    if way.dry_run || !plan.changes {
        return Ok(Exit::Done);
    }
    if direction != Direction::Revert {
        // What was shown is what is done, though a newer release may be published meanwhile.
        request.number = planned_number(&plan);
    }
    let started = tokio::select! {
        started = start(&fleet, request, &direction, ui) => started?,
        () = stop.asked() => return Err(interrupted(&subject.app, &fleet)),
    };
    if way.detach {
        return Ok(detached(&started, ui));
    }
    let awaited = Awaited {
        app: started.app,
        env: started.env,
        deploy: started.deploy,
        timeout: way.wait_timeout,
        titled: true,
    };
    Box::pin(wait(&awaited, &fleet, &mut stop, ui)).await
}

/// The plan's environment; -e, where it was typed, must name the same.
fn env_of(saved: &Plan, global: &Global) -> Result<EnvName, CommandError> {
    match &global.env {
        Some(asked) if *asked != saved.env => Err(CommandError::usage(format!(
            "the plan is of {}, and -e says {asked}",
            saved.env
        ))),
        _ => Ok(saved.env.clone()),
    }
}

fn planned_number(plan: &PlanReply) -> u64 {
    let to = plan.view.as_ref().and_then(|view| view.to.as_ref());
    to.map_or(0, |target| target.number)
}

fn show(plan: &PlanReply, only: bool, ui: &Ui) {
    let view = plan.view.clone().unwrap_or_default();
    if ui.is_json() {
        if only || !plan.changes {
            ui.json(&shape::Rollout::from(&view));
        }
        return;
    }
    if !plan.changes {
        ui.line(format!(
            "nothing to do: {} runs {}@{} everywhere",
            clean(&view.env),
            clean(&view.app),
            planned_number(plan)
        ));
        return;
    }
    let expected = expected_lines(plan).into_iter().filter(|_| only);
    for line in plan_lines(&view).into_iter().chain(expected) {
        if only { ui.line(line) } else { ui.say(line) }
    }
    if !only {
        ui.say("");
    }
}

/// What would be done. A store that is being restarted is waited for.
async fn plan(fleet: &Fleet, request: &PlanRequest, ui: &Ui) -> Result<PlanReply, CommandError> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        match fleet.client.rollouts().plan(request.clone()).await {
            Ok(plan) => {
                patience.answered(|text| ui.say(text));
                return Ok(plan.into_inner());
            }
            Err(status) => patience.after(status, |text| ui.say(text)).await?,
        }
    }
}

/// Starts it. The same request id starts one rollout, so a lost answer is asked for again.
async fn start(
    fleet: &Fleet,
    request: PlanRequest,
    direction: &Direction,
    ui: &Ui,
) -> Result<Started, CommandError> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        match call(fleet, request.clone(), direction).await {
            Ok(started) => {
                patience.answered(|text| ui.say(text));
                return Ok(started.into_inner());
            }
            Err(status) => patience
                .after(status, |text| ui.say(text))
                .await
                .map_err(|gave_up| not_started(gave_up, direction, &request.app))?,
        }
    }
}

fn not_started(gave_up: GaveUp, direction: &Direction, app: &str) -> CommandError {
    if gave_up.waited.is_none() {
        return gave_up.into();
    }
    let fault = CommandError::from(gave_up)
        .with_exit(Exit::Unknown)
        .hint("whether it has begun: shipctl status");
    match direction {
        Direction::Promote { .. } => fault,
        Direction::Revert => fault.hint(format!(
            "with the store dead, on each host: ship-agent revert {}",
            clean(app)
        )),
    }
}

/// Ctrl-C while the start was asked for: it may stand.
fn interrupted(app: &AppName, fleet: &Fleet) -> CommandError {
    let env = &fleet.context.env;
    CommandError::new(
        Exit::Interrupted,
        "interrupted while it was being started; if the rollout has begun, it goes on",
    )
    .hint(format!("see it: shipctl attach {app} -e {env}"))
    .hint(format!("take it back: shipctl abort {app} -e {env}"))
}

async fn call(
    fleet: &Fleet,
    request: PlanRequest,
    direction: &Direction,
) -> Result<Response<Started>, Status> {
    let mut rollouts = fleet.client.rollouts();
    match direction {
        Direction::Promote { .. } => rollouts.promote(request).await,
        Direction::Revert => rollouts.revert(request).await,
    }
}

fn detached(started: &Started, ui: &Ui) -> Exit {
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "app": started.app, "env": started.env, "deploy": started.deploy,
        }));
        return Exit::Done;
    }
    let app = clean(&started.app);
    ui.line(format!("deploy {} of {app} has begun", started.deploy));
    ui.hint(format!(
        "see it: shipctl attach {app}; stop it: shipctl abort {app}"
    ));
    Exit::Done
}
