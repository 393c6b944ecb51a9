//! One file for each verb: what it takes, and what it does.

pub mod answer;
pub mod asset;
pub mod attach;
pub mod completion;
pub mod control;
pub mod demo;
pub mod diff;
pub mod doctor;
pub mod env;
pub mod events;
pub mod export;
pub mod gc;
pub mod host;
pub mod hosts;
pub mod init;
pub mod lint;
pub mod logs;
pub mod pin;
pub mod plan;
pub mod promote;
pub mod publish;
pub mod releases;
pub mod show;
pub mod status;
pub mod up;
pub mod why;

mod built;
mod bundles;
mod check;
mod follow;
mod manifest;
mod plan_file;
mod program;
mod shape;
mod subject;
mod tree;
mod wait;

use crate::args::{Args, Command, Global};
use crate::client::Client;
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::ui::Ui;

/// What every verb ends with.
pub type Outcome = Result<Exit, CommandError>;

/// A fleet that answers.
#[derive(Debug)]
pub struct Fleet {
    pub context: Context,
    pub client: Client,
}

impl Fleet {
    /// Reads the context and dials its store.
    pub async fn reach(global: &Global) -> Result<Self, CommandError> {
        let context = Context::read(global)?;
        let client = Client::connect(&context).await?;
        Ok(Self { context, client })
    }
}

pub async fn run(args: Args, ui: &Ui) -> Outcome {
    let global = &args.global;
    match args.command {
        Command::Init(verb) => init::run(verb, global, ui),
        Command::Lint(verb) => lint::run(verb, global, ui).await,
        Command::Publish(verb) => Box::pin(publish::run(verb, global, ui)).await,
        Command::Releases(verb) => releases::run(verb, global, ui).await,
        Command::Show(verb) => show::run(verb, global, ui).await,
        Command::Diff(verb) => diff::run(verb, global, ui).await,
        Command::Export(verb) => Box::pin(export::run(verb, global, ui)).await,
        Command::Pin(verb) => pin::pin(verb, global, ui).await,
        Command::Unpin(verb) => pin::unpin(verb, global, ui).await,
        Command::Gc(verb) => gc::run(verb, global, ui).await,
        Command::Env(verb) => env::run(verb, global, ui).await,
        Command::Plan(verb) => plan::run(verb, global, ui).await,
        Command::Promote(verb) => Box::pin(promote::promote(verb, global, ui)).await,
        Command::Revert(verb) => Box::pin(promote::revert(verb, global, ui)).await,
        Command::Attach(verb) => Box::pin(attach::run(verb, global, ui)).await,
        Command::Approve(verb) => answer::approve(verb, global, ui).await,
        Command::Reject(verb) => answer::reject(verb, global, ui).await,
        Command::Ack(verb) => answer::ack(verb, global, ui).await,
        Command::Pause(verb) => control::pause(verb, global, ui).await,
        Command::Resume(verb) => control::resume(verb, global, ui).await,
        Command::Abort(verb) => Box::pin(control::abort(verb, global, ui)).await,
        Command::Status(verb) => status::run(verb, global, ui).await,
        Command::Hosts(verb) => hosts::run(verb, global, ui).await,
        Command::Host(verb) => host::run(verb, global, ui).await,
        Command::Logs(verb) => logs::run(verb, global, ui).await,
        Command::Events(verb) => events::run(verb, global, ui).await,
        Command::Why(verb) => why::run(verb, global, ui).await,
        Command::Asset(verb) => asset::run(verb, global, ui).await,
        Command::Doctor(verb) => doctor::run(verb, global, ui).await,
        Command::Up(verb) => Box::pin(up::run(verb, global, ui)).await,
        Command::Demo(verb) => Box::pin(demo::run(verb, global, ui)).await,
        Command::Completion(verb) => completion::run(&verb, ui),
    }
}
