//! What the store lacks, packed into a file without a name: nothing is left of it whenever this process ends.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;

use ship_bundle::{DEFAULT_LEVEL, Parts, pack_parts};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_proto::MAX_PIECE;
use ship_proto::v1::UploadChunk;
use tokio::sync::mpsc;

use super::super::tree;
use super::segments::Segments;
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};

/// A bundle that can be sent as often as it takes.
#[derive(Debug)]
pub struct Bundle {
    pub digest: Vec<u8>,
    pub bytes: u64,
    holds: HashSet<BlobDigest>,
    file: File,
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
            Ok(Self {
                digest: packed.digest.as_bytes().to_vec(),
                bytes: packed.bytes,
                holds: wanted,
                file,
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

    /// Reads it from the start, in pieces. Ends early, and well, when nobody takes the pieces any more.
    pub fn read(&self, bar: &Bar, pieces: &mpsc::Sender<UploadChunk>) -> io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        let mut bundle = Some(self.digest.clone());
        loop {
            let mut data = vec![0; MAX_PIECE / 4];
            let length = file.read(&mut data)?;
            if length == 0 {
                return Ok(());
            }
            data.truncate(length);
            let piece = UploadChunk {
                bundle: bundle.take(),
                data: data.into(),
            };
            if pieces.blocking_send(piece).is_err() {
                return Ok(());
            }
            bar.add(length as u64);
        }
    }
}
