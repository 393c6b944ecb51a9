//! `shipctl plan`.

use clap::Args;
use ship_model::name::HostName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::PlanRequest;

use super::{Fleet, Outcome, shape, subject};
use crate::args::Global;
use crate::error::Exit;
use crate::request::request_id;
use crate::ui::{Ui, plan_lines, way_lines};
use crate::words::clean;

/// Show what promote (or revert) would do, step by step, and change nothing
#[derive(Debug, Args)]
#[command(after_help = "\
Below the steps: each process with its strategy, and where the old one ends before the
new one serves, for how long (as the last time) and who covers it: connections wait in a
`queue`, a `balancer` sends users elsewhere, or `nobody` does. Where a host has no memory
for both, the old one ends first too, or the switch fails with coexist = \"always\".
With -o json: ways[].
Examples:
  shipctl plan web            to the newest release
  shipctl plan web@5
  shipctl plan web --revert   what a revert would do
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
    };
    let plan = fleet.client.rollouts().plan(request).await?.into_inner();
    let view = plan.view.unwrap_or_default();
    if ui.is_json() {
        let mut shown = serde_json::to_value(shape::Rollout::from(&view)).unwrap_or_default();
        shown["changes"] = plan.changes.into();
        let ways: Vec<_> = plan.ways.iter().map(shape::Way::from).collect();
        shown["ways"] = serde_json::to_value(ways).unwrap_or_default();
        ui.json(&shown);
    } else {
        plan_lines(&view).into_iter().for_each(|line| ui.line(line));
        way_lines(&plan.ways).into_iter().for_each(|line| ui.line(line));
        let app = clean(&view.app);
        match (plan.changes, verb.revert) {
            (false, _) => ui.line("nothing to do: it runs everywhere already"),
            (true, false) => ui.hint(format!(
                "shipctl promote {app}@{}",
                view.to.as_ref().map_or(0, |target| target.number)
            )),
            (true, true) => ui.hint(format!("shipctl revert {app}")),
        }
    }
    Ok(match plan.changes && verb.exit_code {
        true => Exit::Changes,
        false => Exit::Done,
    })
}
