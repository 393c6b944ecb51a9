//! What was published: by the store's ledger, and by the release that an environment runs.

use std::collections::HashMap;
use std::sync::Arc;

use ship_model::assets::Asset;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::name::{AppName, EnvName};
use ship_proto::v1::{FailureKind, GetReleaseRequest, StatusRequest};
use tonic::Status;

use super::finding::{Finding, Findings, Kind};
use crate::args::Global;
use crate::commands::publish::begin_chunks;
use crate::commands::{Fleet, manifest, tree};
use crate::error::CommandError;

/// Looks `assets` up; gives whether the store would refuse the release.
pub async fn look(
    tree: &Arc<Manifest>,
    assets: &[Asset],
    env: &EnvName,
    global: &Global,
    findings: &mut Findings,
) -> Result<bool, CommandError> {
    let mut fleet = Fleet::reach(global).await?;
    fleet.context.env = env.clone();
    let refused = clashes(tree, &fleet, findings).await?;
    changes(tree, assets, &fleet, findings).await?;
    Ok(refused)
}

/// Hands the manifest in to be checked, which keeps nothing.
async fn clashes(tree: &Arc<Manifest>, fleet: &Fleet, findings: &mut Findings) -> Result<bool, CommandError> {
    let chunks = begin_chunks(&tree.spec().app, tree, true);
    let asked = fleet.client.releases().begin(tokio_stream::iter(chunks)).await;
    let Err(status) = asked else { return Ok(false) };
    let Some(url) = clash(&status) else {
        return Err(status.into());
    };
    findings.add(Finding {
        kind: Kind::Clash,
        path: "ship.toml".to_owned(),
        line: None,
        url: Some(url),
        text: status.message().to_owned(),
    });
    Ok(true)
}

/// The first address that clashes, if that is what the store says.
fn clash(status: &Status) -> Option<String> {
    let failure = ship_proto::failure_of(status)?;
    (failure.kind() == FailureKind::Clash).then_some(failure.subject)
}

/// Assets that keep their name and have other bytes than in the release that runs.
async fn changes(
    tree: &Arc<Manifest>,
    assets: &[Asset],
    fleet: &Fleet,
    findings: &mut Findings,
) -> Result<(), CommandError> {
    let Some(running) = running(tree, fleet).await? else {
        return Ok(());
    };
    let old = tree::assets(&running)?;
    let old: HashMap<&str, BlobDigest> = old
        .iter()
        .map(|asset| (asset.url_path.as_str(), asset.digest))
        .collect();
    let is_page = |asset: &Asset| asset.path.as_bytes().ends_with(b".html");
    let plain = assets
        .iter()
        .filter(|asset| !asset.fingerprinted && !is_page(asset));
    for asset in plain {
        if old
            .get(asset.url_path.as_str())
            .is_some_and(|digest| *digest != asset.digest)
        {
            findings.add(Finding {
                kind: Kind::Changes,
                path: asset.path.to_string(),
                line: None,
                url: Some(asset.url_path.clone()),
                text: format!("{} has other bytes than in the running release", asset.url_path),
            });
        }
    }
    Ok(())
}

/// Whether it is the app that the store does not know, and not the environment.
fn never_published(status: &Status, app: &AppName) -> bool {
    let failure = ship_proto::failure_of(status);
    failure.is_some_and(|failure| failure.kind() == FailureKind::NotFound && failure.subject == app.as_str())
}

/// The tree that the environment runs of the app; none before its first deploy.
async fn running(tree: &Arc<Manifest>, fleet: &Fleet) -> Result<Option<Manifest>, CommandError> {
    let request = StatusRequest {
        env: fleet.context.env.to_string(),
        app: tree.spec().app.to_string(),
    };
    let reply = match fleet.client.fleet().status(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) if never_published(&status, &tree.spec().app) => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let release = reply.apps.into_iter().find_map(|app| app.release);
    let Some(release) = release.filter(|release| release.number > 0) else {
        return Ok(None);
    };
    let request = GetReleaseRequest {
        app: tree.spec().app.to_string(),
        number: release.number,
    };
    let record = fleet.client.releases().get(request).await?.into_inner();
    manifest::fetch(&record, fleet).await.map(Some)
}
