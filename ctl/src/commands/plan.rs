//! `shipctl plan`.

use std::path::PathBuf;

use clap::Args;
use ship_model::name::HostName;
use ship_model::release::ReleaseRef;
use ship_model::rollout::Profile;
use ship_proto::v1::PlanRequest;

use super::{Fleet, Outcome, plan_file, shape, subject};
use crate::args::Global;
use crate::error::Exit;
use crate::request::request_id;
use crate::ui::{Ui, expected_lines, plan_lines, way_lines};
use crate::words::clean;

/// Show what promote (or revert) would do, step by step, and change nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Each step says what its hosts fetch, how long it may take (by what each host took the last
time; unknown where one never did) and what it costs to go back from there. Below: the time
in all, what a revert goes to afterwards, and from which step on something could not be
taken back.
A plan that was saved is carried out by promote --plan: exactly that, or nothing. What has
changed in between is named: what runs, hosts that came or went, the policy.
Then each process with its strategy, and where the old one ends before the
new one serves, for how long (as the last time) and who covers it: connections wait in a
`queue`, a `balancer` sends users elsewhere, or `nobody` does. Where a host has no memory
for both, the old one ends first too, or the switch fails with coexist = \"always\".
With -o json: steps[].takes_ms, steps[].back, then, no_return[], ways[].
Examples:
  shipctl plan web            to the newest release
  shipctl plan web@5
  shipctl plan web --revert   what a revert would do
  shipctl plan web@5 --save plan.json && shipctl promote --plan plan.json
  shipctl plan web --exit-code && echo nothing to do")]
pub struct Plan {
    /// APP or APP@NUMBER
    #[arg(value_name = "APP[@N]")]
    release: Option<ReleaseRef>,
    /// Plan a revert
    #[arg(long)]
    revert: bool,
    /// Exit 3 when there is something to do
    #[arg(long)]
    exit_code: bool,
    /// Plan though the release was reverted from or quarantined
    #[arg(long)]
    force: bool,
    /// Wait for nothing from this host, for example one that is away; can be given again
    #[arg(long, value_name = "HOST")]
    without: Vec<HostName>,
    /// How careful: careful, normal or emergency, as the environment says
    #[arg(long, value_name = "PROFILE", conflicts_with = "revert")]
    profile: Option<Profile>,
    /// Write the plan to this file, for promote --plan
    #[arg(long, value_name = "FILE", conflicts_with = "revert")]
    save: Option<PathBuf>,
}

pub async fn run(verb: Plan, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let subject = subject::subject(verb.release.as_ref(), &fleet.context)?;
    let request = PlanRequest {
        app: subject.app.to_string(),
        number: subject.number.map_or(0, |number| number.0),
        env: fleet.context.env.to_string(),
        message: String::new(),
        force: verb.force,
        request_id: request_id(),
        revert: verb.revert,
        without: verb.without.iter().map(ToString::to_string).collect(),
        profile: verb.profile.map_or("", Profile::as_str).to_owned(),
        plan: Vec::new(),
    };
    let plan = fleet.client.rollouts().plan(request).await?.into_inner();
    let view = plan.view.clone().unwrap_or_default();
    if let Some(path) = verb.save.as_ref().filter(|_| plan.changes) {
        plan_file::save(&plan.plan, path)?;
    }
    if ui.is_json() {
        let mut shown = serde_json::to_value(shape::Rollout::from(&view)).unwrap_or_default();
        shown["changes"] = plan.changes.into();
        let ways: Vec<_> = plan.ways.iter().map(shape::Way::from).collect();
        shown["then"] = shape::number(plan.then.as_ref()).into();
        let points: Vec<_> = plan.no_return.iter().map(shape::Point::from).collect();
        shown["no_return"] = serde_json::to_value(points).unwrap_or_default();
        shown["ways"] = serde_json::to_value(ways).unwrap_or_default();
        ui.json(&shown);
    } else {
        plan_lines(&view).into_iter().for_each(|line| ui.line(line));
        expected_lines(&plan).into_iter().for_each(|line| ui.line(line));
        way_lines(&plan.ways).into_iter().for_each(|line| ui.line(line));
        let app = clean(&view.app);
        match (plan.changes, verb.revert) {
            (false, _) => ui.line("nothing to do: it runs everywhere already"),
            (true, false) => ui.hint(match &verb.save {
                Some(path) => format!("shipctl promote --plan {}", path.display()),
                None => format!(
                    "shipctl promote {app}@{}",
                    view.to.as_ref().map_or(0, |target| target.number)
                ),
            }),
            (true, true) => ui.hint(format!("shipctl revert {app}")),
        }
    }
    Ok(match plan.changes && verb.exit_code {
        true => Exit::Changes,
        false => Exit::Done,
    })
}
