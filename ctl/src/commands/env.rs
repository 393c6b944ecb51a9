//! `shipctl env apply` and `env show`.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ship_model::environment::{Environment, MAX_TEXT, read_environment};
use ship_proto::v1::{
    ApplyReply, ApplyRequest, EnvironmentDifference, EnvironmentVersion, ShowEnvironmentReply,
    ShowEnvironmentRequest,
};

use super::{Fleet, Outcome};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{BAD, DIM, GOOD, Table, Ui, paint};
use crate::words::{clean, count, rfc3339};

/// How promotes go through an environment: its steps, limits and waits, from a file
#[derive(Debug, Args)]
pub struct Env {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Apply(Apply),
    Show(Show),
}

/// Make a ship.ENV.toml what an environment goes by
#[derive(Debug, Args)]
#[command(after_help = "\
Shows what changes, and asks; on a pipe it needs -y. The store keeps every version, with
who and when. A rollout under way goes on by the plan that it began with. The file:
  version = 1
  env = \"production\"
  after.env = \"staging\"        only what has run well there
  after.soak = \"30m\"           for so long
  labels.canary = ...          names of hosts, for example \"web-1\" or \"eu-*\", in a list
  step.name = \"one\"            a table of its own for each step, in their order
  step.hosts = 1               how many run the release when it is done, or \"25%\"
  step.label, step.class       only these hosts
  step.soak = \"10m\"            and then so long
  step.gates                   then these must hold, by name, in a list; hosts = 0: before all
  gate.NAME.approval = 2       so many operators (others = true: not who promoted; by: who may)
  gate.NAME.manual = \"TEXT\"    done by hand: shipctl ack NAME
  gate.NAME.command            a program of the store's gates folder and its words, in a list
  gate.NAME.http = \"URL\"       of a site in store.toml, with status = 200, json = \"/POINTER\" and
    at_least, at_most or equals
  gate.NAME.every = \"10s\", for = \"0s\", timeout = \"10s\", fails = 2   of command and http
  policy.max_unavailable = \"25%\", min_healthy = 2, wave = \"10%\", soak = \"1m\",
    progress_deadline = \"10m\", prefetch_deadline, barrier_deadline, switch_deadline,
    auto_revert = true, keep = 3, optional_asset_hosts
  profile.careful, profile.normal, profile.emergency: the same keys, for promote --profile;
    gates = false goes without gates, and the audit says who did
Example:
  shipctl env apply ship.production.toml -y -m \"slower through the night\"")]
struct Apply {
    /// The file
    file: PathBuf,
    /// Why, for everybody who asks later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Show what would change and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Show what an environment goes by, and who applied what when
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl env show -e production
  shipctl env show --version 3 > ship.production.toml")]
struct Show {
    /// This version instead of the one that stands
    #[arg(long, value_name = "N")]
    version: Option<u64>,
}

pub async fn run(verb: Env, global: &Global, ui: &Ui) -> Outcome {
    match verb.verb {
        Verb::Apply(verb) => apply(verb, global, ui).await,
        Verb::Show(verb) => show(verb, global, ui).await,
    }
}

/// Why a file cannot be applied.
#[derive(Debug, thiserror::Error)]
enum ReadFileError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not UTF-8", path.display())]
    Text { path: PathBuf },
}

/// A file larger than any environment's is read just so far that it is refused as too long.
fn read_text(path: &Path) -> Result<String, ReadFileError> {
    let failed = |source| ReadFileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    let most = MAX_TEXT as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| ReadFileError::Text {
        path: path.to_owned(),
    })
}

/// The file, checked here first: its mistakes are told without a store.
fn read_file(path: &Path) -> Result<(String, Environment), CommandError> {
    let text = read_text(path).map_err(|error| CommandError::of(Exit::Error, &error))?;
    let read = read_environment(&text).map_err(|errors| {
        CommandError::new(Exit::Error, errors.to_string()).hint(format!(
            "edit {}; `shipctl env apply --help` tells the keys",
            path.display()
        ))
    })?;
    Ok((text, read))
}

async fn apply(verb: Apply, global: &Global, ui: &Ui) -> Outcome {
    let (text, read) = read_file(&verb.file)?;
    if let Some(asked) = global.env.as_ref().filter(|asked| **asked != read.env) {
        return Err(CommandError::usage(format!(
            "{} is of {}, and -e says {asked}",
            verb.file.display(),
            read.env
        )));
    }
    let fleet = Fleet::reach(global).await?;
    let request = ApplyRequest {
        env: read.env.to_string(),
        text,
        message: verb.message.unwrap_or_default(),
        ..ApplyRequest::default()
    };
    let shown = call(&fleet, request.clone()).await?;
    if !ui.is_json() {
        difference_lines(&shown.differences)
            .iter()
            .for_each(|line| ui.line(line));
    }
    if shown.version > 0 && shown.differences.is_empty() {
        return Ok(told(&shown, &read, false, ui));
    }
    if verb.dry_run {
        return Ok(told(&shown, &read, false, ui));
    }
    if !ui.confirm(&format!("Let {} go by this from now on?", read.env)) {
        return Err(
            CommandError::new(Exit::Refused, "not confirmed; nothing was changed")
                .hint("where nobody can be asked, say -y"),
        );
    }
    let applied = ApplyRequest {
        apply: true,
        parent: shown.version,
        ..request
    };
    let applied = call(&fleet, applied).await?;
    Ok(told(&applied, &read, true, ui))
}

async fn call(fleet: &Fleet, request: ApplyRequest) -> Result<ApplyReply, CommandError> {
    let reply = fleet.client.environments().apply(request).await?;
    Ok(reply.into_inner())
}

fn difference_lines(differences: &[EnvironmentDifference]) -> Vec<String> {
    let line = |found: &EnvironmentDifference| {
        let key = clean(&found.key);
        match (&found.was, &found.is) {
            (None, Some(is)) => format!("  {} {key}  {}", paint(GOOD, "+"), clean(is)),
            (Some(was), None) => format!("  {} {key}  {}", paint(BAD, "-"), clean(was)),
            (was, is) => format!(
                "  {} {key}  {} → {}",
                paint(DIM, "~"),
                clean(was.as_deref().unwrap_or_default()),
                clean(is.as_deref().unwrap_or_default())
            ),
        }
    };
    differences.iter().map(line).collect()
}

fn told(reply: &ApplyReply, read: &Environment, applied: bool, ui: &Ui) -> Exit {
    if ui.is_json() {
        let differences = reply
            .differences
            .iter()
            .map(|found| serde_json::json!({ "key": found.key, "was": found.was, "is": found.is }));
        ui.json(&serde_json::json!({
            "env": read.env, "version": reply.version, "applied": applied,
            "differences": differences.collect::<Vec<_>>(),
        }));
        return Exit::Done;
    }
    ui.line(match (applied, reply.differences.len()) {
        (true, _) => format!("{} goes by version {} of its file", read.env, reply.version),
        (false, 0) if reply.version > 0 => {
            format!(
                "nothing to do: {} goes by this already, version {}",
                read.env, reply.version
            )
        }
        (false, changes) => format!("{}; nothing was changed", count(changes as u64, "difference")),
    });
    Exit::Done
}

async fn show(verb: Show, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let request = ShowEnvironmentRequest {
        env: fleet.context.env.to_string(),
        version: verb.version.unwrap_or(0),
    };
    let reply = fleet.client.environments().show(request).await?;
    let reply = reply.into_inner();
    if ui.is_json() {
        ui.json(&json(&reply, fleet.context.env.as_str()));
        return Ok(Exit::Done);
    }
    let env = &fleet.context.env;
    let Some(shown) = &reply.environment else {
        ui.line(format!(
            "{env} has no file: one host first, then the rest, within the limits of the store's settings"
        ));
        ui.hint(format!(
            "write ship.{env}.toml, then: shipctl env apply ship.{env}.toml"
        ));
        return Ok(Exit::Done);
    };
    // The text alone goes to stdout: it can be put into a file again.
    for line in shown.text.lines() {
        ui.line(line.replace(|c: char| c.is_control() && c != '\t', "?"));
    }
    let mut table = Table::new(&["version", "applied", "by", "why"]);
    for version in &reply.versions {
        table.row([
            version.version.to_string(),
            ui.time(version.at_ms),
            clean(&version.who),
            clean(&version.message),
        ]);
    }
    ui.say("");
    table.to_string().lines().for_each(|line| ui.say(line.trim_end()));
    Ok(Exit::Done)
}

fn json(reply: &ShowEnvironmentReply, env: &str) -> serde_json::Value {
    let version = |version: &EnvironmentVersion| {
        serde_json::json!({
            "version": version.version, "who": version.who, "at": rfc3339(version.at_ms), "message": version.message,
        })
    };
    let mut shown = serde_json::json!({
        "env": env, "versions": reply.versions.iter().map(version).collect::<Vec<_>>(),
        "version": null, "text": null,
    });
    if let Some(stands) = &reply.environment {
        shown["version"] = stands.version.into();
        shown["text"] = stands.text.clone().into();
    }
    shown
}
