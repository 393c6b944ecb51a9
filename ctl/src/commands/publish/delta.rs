//! What is new since an earlier release, told by what changed.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ship_bundle::delta::{Effort, MakeDeltaError, TreeBlobs, make_delta};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_proto::v1::DeltaOffer;

use super::super::tree;
use super::base::Base;
use super::content::{Content, Writing};
use super::way::NoDelta;
use crate::last::LEAST;
use crate::ui::{Bar, Ui};

/// Bytes of both manifests from which the store takes none.
const MOST_MANIFESTS: usize = 3 << 20;

/// A delta that can be sent as often as it takes.
#[derive(Debug)]
pub struct Delta {
    /// The release that it is made against.
    pub number: u64,
    base: ReleaseId,
    target: ReleaseId,
    pub content: Arc<Content>,
}

#[derive(Debug, thiserror::Error)]
enum DeltaError {
    #[error("cannot read the earlier release")]
    Base(#[source] io::Error),
    #[error("cannot read the folder")]
    Target(#[source] io::Error),
    #[error("cannot make a temporary file for the delta")]
    Temporary(#[source] io::Error),
    #[error(transparent)]
    Make(#[from] MakeDeltaError),
}

/// Bytes of the files whose content `is_wanted`, each content once.
fn bytes_of(manifest: &Manifest, is_wanted: impl Fn(&BlobDigest) -> bool) -> u64 {
    let mut counted = HashSet::new();
    let files = manifest.files();
    let files = files.filter(|(_, _, _, digest)| is_wanted(digest) && counted.insert(*digest));
    files.map(|(_, _, size, _)| size).sum()
}

/// Whether there is enough to send for a delta to pay.
pub fn may_pay(manifest: &Manifest, wanted: &HashSet<BlobDigest>) -> Result<(), NoDelta> {
    if bytes_of(manifest, |digest| wanted.contains(digest)) < LEAST {
        return Err(NoDelta::quiet("so little is missing that it is sent as it is"));
    }
    Ok(())
}

impl Delta {
    /// Makes the delta that leads to the release at `dir`, if it is smaller than what is `wanted`.
    pub async fn make(
        dir: &Path,
        manifest: &Arc<Manifest>,
        wanted: &HashSet<BlobDigest>,
        base: Base,
        ui: &Ui,
    ) -> Result<Self, NoDelta> {
        check(manifest, wanted, &base)?;
        let (number, ids) = (base.number, (base.manifest.id(), manifest.id()));
        let missing = bytes_of(manifest, |digest| wanted.contains(digest));
        let bar = Bar::bytes(ui, "delta", 1);
        let (dir, manifest, told) = (dir.to_owned(), Arc::clone(manifest), tree::Told(bar.clone()));
        let making = tokio::task::spawn_blocking(move || made(&dir, &manifest, &base, &told));
        let made = making.await;
        bar.clear();
        let content = match made {
            Ok(Ok(content)) => content,
            Ok(Err(error)) => return Err(NoDelta::told(crate::error::chain(&error))),
            Err(_) => return Err(NoDelta::told("the thread that made it was lost")),
        };
        if content.bytes >= missing {
            return Err(NoDelta::quiet("it would be no smaller than the files"));
        }
        Ok(Self {
            number,
            base: ids.0,
            target: ids.1,
            content: Arc::new(content),
        })
    }

    /// What the store is told before it comes.
    pub fn offer(&self, app: &AppName) -> DeltaOffer {
        DeltaOffer {
            app: app.to_string(),
            base: self.base.as_bytes().to_vec(),
            release: self.target.as_bytes().to_vec(),
            delta: self.content.digest.to_vec(),
        }
    }
}

/// Refuses what the store would, and what is mostly there: a delta tells all that is new since its base.
fn check(manifest: &Manifest, wanted: &HashSet<BlobDigest>, base: &Base) -> Result<(), NoDelta> {
    if manifest.encoded().len() + base.manifest.encoded().len() > MOST_MANIFESTS {
        return Err(NoDelta::quiet("there are too many names for one"));
    }
    let there: HashSet<BlobDigest> = base.manifest.files().map(|(_, _, _, digest)| digest).collect();
    let new = bytes_of(manifest, |digest| !there.contains(digest));
    if bytes_of(manifest, |digest| wanted.contains(digest)) < new / 2 {
        return Err(NoDelta::quiet("the store has most of what is new"));
    }
    Ok(())
}

fn made(dir: &Path, manifest: &Manifest, base: &Base, told: &tree::Told) -> Result<Content, DeltaError> {
    let tree = TreeBlobs::open(dir, manifest).map_err(DeltaError::Target)?;
    let mut out = Writing::begin().map_err(DeltaError::Temporary)?;
    let made = base.with_bytes(|from| {
        make_delta(
            (&base.manifest, from),
            (manifest, &tree),
            Effort::AT_ONCE,
            &mut out,
            told,
        )
    });
    made.map_err(DeltaError::Base)??;
    Ok(out.end())
}
