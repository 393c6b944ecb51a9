//! What the store lacks, packed into a bundle.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ship_bundle::{DEFAULT_LEVEL, Parts, pack_parts};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;

use super::super::tree;
use super::content::Content;
use super::segments::Segments;
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};

/// A bundle, and what it is there for.
#[derive(Debug)]
pub struct Bundle {
    pub content: Arc<Content>,
    holds: HashSet<BlobDigest>,
}

#[derive(Debug, thiserror::Error)]
enum PackError {
    #[error("make a temporary file for the bundle")]
    Temporary(#[source] io::Error),
    #[error(transparent)]
    Pack(#[from] ship_bundle::PackError),
    #[error("the thread that packs was lost")]
    Lost,
}

impl Bundle {
    /// Packs the files of `dir` that have `wanted` contents; of those that were cut, only segments that are not known.
    pub async fn pack(
        dir: &Path,
        manifest: &Arc<Manifest>,
        wanted: HashSet<BlobDigest>,
        segments: Segments,
        ui: &Ui,
    ) -> Result<Self, CommandError> {
        let bar = Bar::bytes(ui, "pack", 1);
        let (dir, told) = (dir.to_owned(), tree::Told(bar.clone()));
        let manifest = Arc::clone(manifest);
        let packing = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::tempfile().map_err(PackError::Temporary)?;
            let parts = Parts {
                wanted: &wanted,
                lists: &segments.lists,
                known: &segments.known,
            };
            let packed = pack_parts(&dir, &manifest, &parts, DEFAULT_LEVEL, &mut file, &told)?;
            let content = Content::new(*packed.digest.as_bytes(), packed.bytes, file);
            Ok(Self {
                content: Arc::new(content),
                holds: wanted,
            })
        });
        let packed = packing.await.unwrap_or(Err(PackError::Lost));
        bar.clear();
        packed.map_err(|error| {
            let fault = CommandError::of(Exit::Error, &error);
            match error {
                PackError::Temporary(_) => fault.hint("TMPDIR names the folder for it"),
                _ => fault,
            }
        })
    }

    /// Whether all of `wanted` is in it.
    pub fn covers(&self, wanted: &HashSet<BlobDigest>) -> bool {
        wanted.is_subset(&self.holds)
    }
}
