//! How a tree becomes a release: begin, upload, commit. Each can be repeated.
//!
//! ```text
//! begin   the manifest is checked and kept durable; what the store lacks is told
//! upload  a bundle is staged, believed only after every byte was checked, and kept durable; or it is made here, out of a
//!         delta against a release that is here, which is believed only after every blob was
//! commit  every blob has a place → assets are claimed → one compare-and-swap gives the number
//! ```
//! Between begin and commit nothing that the manifest names is collected: begin says durably that a publish has begun before
//! it tells what is there, and segments of large files that the publisher is told are there are written down with it. Both rely on what has a place ([`Places::rely`]), so that whoever takes something away sees them, or
//! they see that it is gone.
//!
//! A crash anywhere leaves objects that no release names, or a release that is complete. Objects are
//! verified and immutable, so the next publish uses what lies there.

mod begin;
mod commit;
mod delta;
mod upload;

pub use begin::{BeginError, Begun};
pub use commit::{Commit, CommitError};
pub use delta::{DeltaOffer, DeltaUpload, DeltaUploadError, KeptForHosts, TakenDelta};
pub use upload::{Upload, UploadError, UploadedBundle};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ship_model::assets::{AssetsError, assets_of, refuse_dangling};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;

use crate::engine::Blobs;
use crate::ledger::{AssetClaim, Ledger};
use crate::locate::Places;

/// A manifest from this size on is decoded alone: its entries take several times its bytes.
const LARGE_MANIFEST: usize = 1 << 20;

/// What a publisher may ask of the store.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest bundle, in bytes.
    pub bundle_bytes: u64,
    /// Most bytes that a bundle may decompress to.
    pub bundle_raw_bytes: u64,
    /// Most bytes of the blobs that a delta may give, which lie on the disk while it is decoded; also the largest delta.
    pub delta_raw_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bundle_bytes: 64 << 30,
            bundle_raw_bytes: 256 << 30,
            delta_raw_bytes: 8 << 30,
        }
    }
}

/// The counter at which releases are handed in.
#[derive(Debug)]
pub struct Publisher {
    blobs: Arc<dyn Blobs>,
    ledger: Ledger,
    places: Arc<Places>,
    limits: Limits,
    /// One commit per app at a time in this process; between processes, compare-and-swap decides.
    turns: Mutex<HashMap<AppName, Arc<Mutex<()>>>>,
    large: Mutex<()>,
}

impl Publisher {
    pub fn new(blobs: Arc<dyn Blobs>, ledger: Ledger, places: Arc<Places>, limits: Limits) -> Self {
        Self {
            blobs,
            ledger,
            places,
            limits,
            turns: Mutex::default(),
            large: Mutex::default(),
        }
    }

    fn turn_of(&self, app: &AppName) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(app.clone()).or_default().clone()
    }

    /// Held while a large manifest is in memory, so that many at once do not add up.
    fn alone(&self, manifest_bytes: usize) -> Option<MutexGuard<'_, ()>> {
        (manifest_bytes >= LARGE_MANIFEST).then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The fingerprinted assets of a tree.
fn claims_of(manifest: &Manifest) -> Result<Vec<AssetClaim>, AssetsError> {
    refuse_dangling(manifest)?;
    let assets = assets_of(manifest)?
        .into_iter()
        .filter(|asset| asset.fingerprinted);
    Ok(assets
        .map(|asset| AssetClaim {
            url: asset.url_path,
            digest: asset.digest,
        })
        .collect())
}
