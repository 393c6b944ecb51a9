//! `shipctl attach`.

use std::time::Duration;

use clap::Args;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;

use super::wait::{Awaited, wait};
use super::{Fleet, Outcome, subject};
use crate::args::Global;
use crate::signals::Stop;
use crate::ui::Ui;
use crate::words::parse_duration;

/// Show a rollout as it goes on, and end as it does
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl attach web       what is under way, else the last
  shipctl attach web 7     deploy 7
Ctrl-C leaves it going. The exit code is the rollout's: 0 done, 5 failed and taken back,
6 partly.")]
pub struct Attach {
    /// App
    app: Option<AppName>,
    /// Which deploy; without it the one under way, else the last
    #[arg(value_name = "DEPLOY")]
    number: Option<u64>,
    /// The same, by name
    #[arg(long, value_name = "N", conflicts_with = "number")]
    deploy: Option<u64>,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    wait_timeout: Duration,
}

pub async fn run(verb: Attach, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let typed = verb.app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let subject = subject::subject(typed.as_ref(), &fleet.context)?;
    let awaited = Awaited {
        app: subject.app.to_string(),
        env: fleet.context.env.to_string(),
        deploy: verb.number.or(verb.deploy).unwrap_or(0),
        timeout: verb.wait_timeout,
        titled: false,
    };
    Box::pin(wait(&awaited, &fleet, &mut Stop::new()?, ui)).await
}
