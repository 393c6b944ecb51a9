//! `shipctl export`.
use clap::Args;
use super::Outcome;
use crate::args::Global;
use crate::error::Exit;
use crate::ui::Ui;

/// See it work
#[derive(Debug, Args)]
pub struct Export {}

pub async fn run(_verb: Export, _global: &Global, _ui: &Ui) -> Outcome {
    Ok(Exit::Done)
}
