//! What can be typed. The help texts are the manual: each verb says what it does, what it waits for and
//! what to type next.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use ship_model::name::{AppName, EnvName};

use crate::commands;

const EXAMPLES: &str = "\
A first walk, on this machine alone:
  shipctl up                              a store and three hosts, until Ctrl-C
  export SHIP_CONTEXT=.ship-up/context.toml
  shipctl init -a web                     writes a commented ship.toml
  shipctl publish                         makes web@1
  shipctl promote web                     every host runs it
  shipctl revert web                      and the one before it again

Exit codes:
    0  done                          5  failed, and taken back
    1  error                         6  failed, and some hosts are not back
    2  wrong usage                   7  unknown: timed out, the rollout goes on
    3  plan --exit-code: changes     8  another rollout is under way
    4  refused, nothing changed    130  interrupted, the rollout goes on";

/// Puts a new release on every server without losing a request or an asset, and takes it back in an instant.
#[derive(Debug, Parser)]
#[command(name = "shipctl", version, after_help = EXAMPLES, max_term_width = 100, infer_subcommands = false)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every verb understands.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// File that names the fleet and your certificate [default: ~/.config/ship/context.toml]
    #[arg(
        short,
        long,
        global = true,
        env = "SHIP_CONTEXT",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub context: Option<PathBuf>,
    /// App, where the verb does not name one [default: the context's]
    #[arg(
        short,
        long,
        global = true,
        env = "SHIP_APP",
        value_name = "APP",
        hide_env_values = true
    )]
    pub app: Option<AppName>,
    /// Environment [default: the context's]
    #[arg(
        short,
        long,
        global = true,
        env = "SHIP_ENV",
        value_name = "ENV",
        hide_env_values = true
    )]
    pub env: Option<EnvName>,
    /// What is printed on stdout: tables for people, or JSON for programs
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Output,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more, for example every cause of an error
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Do not ask, the answer is yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// No colours (NO_COLOR is honoured as well)
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    // Make and look.
    Init(commands::init::Init),
    Lint(commands::lint::Lint),
    Publish(commands::publish::Publish),
    Releases(commands::releases::Releases),
    Show(commands::show::Show),
    Diff(commands::diff::Diff),
    Export(commands::export::Export),
    Pin(commands::pin::Pin),
    Unpin(commands::pin::Unpin),
    Gc(commands::gc::Gc),
    // Move.
    Env(commands::env::Env),
    Plan(commands::plan::Plan),
    Promote(commands::promote::Promote),
    #[command(alias = "rollback")]
    Revert(commands::promote::Revert),
    Attach(commands::attach::Attach),
    Approve(commands::answer::Approve),
    Reject(commands::answer::Reject),
    Ack(commands::answer::Ack),
    Pause(commands::control::Pause),
    Resume(commands::control::Resume),
    Abort(commands::control::Abort),
    // Watch.
    Status(commands::status::Status),
    Hosts(commands::hosts::Hosts),
    Host(commands::host::Host),
    Logs(commands::logs::Logs),
    Events(commands::events::Events),
    Why(commands::why::Why),
    Asset(commands::asset::Asset),
    Doctor(commands::doctor::Doctor),
    // A fleet of one's own.
    Up(commands::up::Up),
    Demo(commands::demo::Demo),
    // For the shell.
    Completion(commands::completion::Completion),
}
