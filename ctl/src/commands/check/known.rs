//! What was published at the addresses that a page names.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::assets::canonical_url;
use ship_model::digest::BlobDigest;
use ship_proto::v1::{GetReleaseRequest, ListReleasesRequest, ReleaseRecord, StatusReply};

use super::gather::Gathered;
use crate::commands::{Fleet, manifest, tree};
use crate::error::CommandError;

/// Releases of one app that are looked through, newest first, after those that run.
const MOST: u32 = 20;

/// What releases have at one address.
#[derive(Debug, Clone)]
pub struct Published {
    /// One of a fingerprinted asset; of a mutable one each that the releases had which were looked through.
    pub digests: BTreeSet<BlobDigest>,
    /// The first release in which it was found.
    pub release: u64,
}

impl Published {
    pub fn digests_short(&self) -> String {
        let digests: Vec<String> = self.digests.iter().map(BlobDigest::short).collect();
        digests.join(" or ")
    }
}

/// Looks up what the page names, by path: first in the releases that run, then in the newest ones until all is found.
pub async fn published(
    page: &Gathered,
    reply: &StatusReply,
    fleet: &Fleet,
) -> Result<BTreeMap<String, Published>, CommandError> {
    let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asset in &page.named {
        if let Some(url) = canonical_url(&asset.path) {
            wanted.entry(url).or_default().push(asset.path.clone());
        }
    }
    let mut found: BTreeMap<String, Published> = BTreeMap::new();
    for app in &reply.apps {
        for record in releases(&app.app, app.release.as_ref().map_or(0, |at| at.number), fleet).await? {
            let number = record.release.as_ref().map_or(0, |target| target.number);
            let assets = tree::assets(&manifest::fetch(&record, fleet).await?)?;
            for asset in assets.iter().filter(|asset| wanted.contains_key(&asset.url_path)) {
                let known = found.entry(asset.url_path.clone()).or_insert_with(|| Published {
                    digests: BTreeSet::new(),
                    release: number,
                });
                known.digests.insert(asset.digest);
            }
            if wanted.keys().all(|url| found.contains_key(url)) {
                break;
            }
        }
    }
    let spelled = wanted.into_iter().filter_map(|(url, spellings)| {
        let known = found.get(&url)?.clone();
        Some(spellings.into_iter().map(move |path| (path, known.clone())))
    });
    Ok(spelled.flatten().collect())
}

/// The release that runs, then the newest ones.
async fn releases(app: &str, running: u64, fleet: &Fleet) -> Result<Vec<ReleaseRecord>, CommandError> {
    let mut client = fleet.client.releases();
    let mut all = Vec::new();
    if running > 0 {
        let request = GetReleaseRequest {
            app: app.to_owned(),
            number: running,
        };
        all.push(client.get(request).await?.into_inner());
    }
    let request = ListReleasesRequest {
        app: app.to_owned(),
        limit: MOST,
    };
    let newest = client.list(request).await?.into_inner().releases;
    let records = newest.into_iter().filter_map(|line| line.record);
    all.extend(records.filter(|record| record.release.as_ref().is_none_or(|at| at.number != running)));
    Ok(all)
}
