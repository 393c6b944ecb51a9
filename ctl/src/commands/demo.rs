//! `shipctl demo`.
use clap::Args;
use super::Outcome;
use crate::args::Global;
use crate::error::Exit;
use crate::ui::Ui;

/// See it work
#[derive(Debug, Args)]
pub struct Demo {}

pub async fn run(_verb: Demo, _global: &Global, _ui: &Ui) -> Outcome {
    Ok(Exit::Done)
}
