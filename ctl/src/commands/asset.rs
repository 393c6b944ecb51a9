//! `shipctl asset`.

mod kept;
mod push;
mod sweep;

use clap::{Args, Subcommand};
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;

use super::{Fleet, Outcome, check, manifest, status, subject, tree};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{Table, Ui};
use crate::words::{bytes, clean};

/// Look at a release's assets: what browsers fetch, and where from
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl asset ls web@4
  shipctl asset ls web --expired             what no reason keeps any more
  shipctl asset why /assets/app-3f9a.css     every reason to keep it, and who asked for it
  shipctl asset gc web --dry-run             every asset with its reason, and totals
  shipctl asset gc web                       remove everywhere what no reason keeps
  shipctl asset push web --to cdn            bring what lacks there now
  shipctl asset push web@4 --to ./cdn        to a folder of this machine
  shipctl asset push web --to s3://assets/web --endpoint https://s3.example.com --dry-run
  shipctl asset url /assets/app-3f9a.css     every address that serves it
  curl -sI $(shipctl asset url /assets/app-3f9a.css | head -1)")]
pub struct Asset {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the assets of a release
    Ls {
        /// APP@NUMBER; without a number the newest
        #[arg(value_name = "APP@N")]
        release: Option<ReleaseRef>,
        /// Instead those of all releases that no reason keeps any more
        #[arg(long)]
        expired: bool,
    },
    /// Tell every reason to keep an asset: releases, hosts, its age, requests
    Why {
        /// Path as pages name it, /assets/app-3f9a.css
        path: String,
    },
    /// Remove from the store, from hosts and from pushes what no reason keeps
    ///
    /// The store looks twice, some time apart, and gives up what no release in reach names, nobody asked for lately and is not
    /// young. Hosts and pushes then hear the new list of what has expired, and let go of exactly that: a host judges again, and
    /// keeps what a release needs that it runs, has unpacked or may go back to. One that is away follows when it is back. A
    /// publish or promote of a release that names a file brings it back everywhere before anybody is switched to it.
    Gc {
        /// App; without one the context's
        app: Option<AppName>,
        /// Only tell of every asset what keeps it, and how much would go
        #[arg(long)]
        dry_run: bool,
    },
    Push(Box<push::Push>),
    /// Print the addresses that serve a path, or the servers themselves
    Url {
        /// Path as pages name it, /assets/app-3f9a.css
        #[arg(default_value = "/")]
        path: String,
    },
    Check(check::Check),
}

pub async fn run(verb: Asset, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    match verb.verb {
        Verb::Ls {
            release,
            expired: true,
        } => kept::expired(release.as_ref(), &fleet, ui).await,
        Verb::Ls { release, .. } => list(release.as_ref(), &fleet, ui).await,
        Verb::Why { path } => kept::why(&path, &fleet, ui).await,
        Verb::Gc { app, dry_run: true } => kept::all(app, &fleet, ui).await,
        Verb::Gc { app, .. } => sweep::sweep(app, &fleet, ui).await,
        Verb::Push(verb) => Box::pin(push::run(*verb, &fleet, ui)).await,
        Verb::Url { path } => urls(&path, &fleet, ui).await,
        Verb::Check(verb) => Box::pin(check::run(verb, &fleet, ui)).await,
    }
}

async fn list(release: Option<&ReleaseRef>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let subject = subject::subject(release, &fleet.context)?;
    let record = subject.record(fleet).await?;
    let assets = tree::assets(&manifest::fetch(&record, fleet).await?)?;
    if ui.is_json() {
        let assets: Vec<_> = assets
            .iter()
            .map(|asset| {
                serde_json::json!({
                    "url": asset.url_path, "path": asset.path.to_string(), "bytes": asset.size,
                    "digest": asset.digest, "fingerprinted": asset.fingerprinted,
                })
            })
            .collect();
        ui.json(&serde_json::json!({ "app": subject.app, "assets": assets }));
        return Ok(Exit::Done);
    }
    if assets.is_empty() {
        ui.say("it names no assets: see [[assets]] in its ship.toml");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["url", ">size", "kept", "digest"]);
    for asset in &assets {
        let kept = if asset.fingerprinted {
            "for ever"
        } else {
            "while it runs"
        };
        table.row([
            clean(&asset.url_path),
            bytes(asset.size),
            kept.to_owned(),
            asset.digest.short(),
        ]);
    }
    table.print(ui);
    Ok(Exit::Done)
}

fn check_path(path: &str) -> Result<(), CommandError> {
    if path.starts_with('/') {
        return Ok(());
    }
    Err(CommandError::usage(format!(
        "{path:?} is not a path as pages name it: begin with /"
    )))
}

async fn urls(path: &str, fleet: &Fleet, ui: &Ui) -> Outcome {
    check_path(path)?;
    let reply = status::ask(fleet, fleet.context.app.as_ref()).await?;
    let hosts = reply.apps.iter().flat_map(|app| app.asset_urls.iter());
    let told = fleet.context.assets.iter().chain([&reply.asset_url]);
    let mut servers: Vec<String> = hosts.chain(told).filter(|url| !url.is_empty()).cloned().collect();
    servers.sort();
    servers.dedup();
    let all: Vec<String> = servers
        .iter()
        .map(|server| format!("{}{path}", server.trim_end_matches('/')))
        .collect();
    if ui.is_json() {
        ui.json(&serde_json::json!({ "urls": all }));
    } else {
        all.iter().for_each(|url| ui.line(clean(url)));
    }
    Ok(Exit::Done)
}
