//! What nothing needs any more goes: releases lose their content, and objects that carry nobody's content are removed.
//!
//! ```text
//! roots    which releases keep their content, by `ship_model::retention::judge_content` over the ledger; begun publishes
//! needs    every manifest and bundle that one of those is read from, and one by whom
//! mark     what is not among them is written down, with since when
//! sweep    after `grace`, while nobody relies on what has no record: roots and needs again; releases are marked as collected,
//!          bundles go out of sight; then, one by one, what nobody brought back meanwhile is removed
//! ```
//! Nothing but the ledger is believed about who needs what: what hosts have is written there as they say it ([`remember_held`]),
//! so that a store that just started, or is looked at while it does not serve, knows it too. A crash anywhere leaves
//! releases that are whole, or marked as collected; objects that are there and needed by nothing are found at the next look.
//!
//! Assets have a rule of their own ([`crate::retention`]) and outlive their release's content: as long as one of a collected
//! release is promised, its manifest and the bundles that carry it stay.

mod held;
mod look;
mod needs;
mod room;
mod roots;
mod sweep;

pub use held::remember_held;
pub use look::{Fate, Line, Subject, Why};
pub use room::Room;
pub use roots::{LEASE_MS, RootsError};
pub use sweep::{Decided, Sweep, Swept};

use ship_model::digest::ReleaseId;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use crate::deltas::Deltas;
use crate::engine::{Blobs, BlobsError};
use crate::folder::StoreFolder;
use crate::ledger::{Ledger, LedgerError};
use crate::locate::{Places, ReadIndexError};
use crate::settings::Content;
use crate::union::ReadManifestError;

/// Why nothing was collected, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("cannot read or write the ledger")]
    Ledger(#[from] LedgerError),
    #[error(
        "the manifest of {app}@{release} cannot be read, so nobody can tell what it needs: nothing was removed; `shipstore verify` tells more"
    )]
    Manifest {
        app: AppName,
        release: ReleaseNumber,
        source: Box<ReadManifestError>,
    },
    #[error(
        "the manifest of tree {id}, against which releases are kept as deltas, cannot be read: nothing was removed; `shipstore verify` tells more"
    )]
    Chain {
        id: ReleaseId,
        source: Box<ReadManifestError>,
    },
    #[error("cannot tell which segments a large file has: nothing was removed")]
    Index(#[from] ReadIndexError),
    #[error("cannot list or remove the store's objects")]
    Blobs(#[from] BlobsError),
    #[error("it was interrupted")]
    Interrupted(#[source] std::io::Error),
}

/// Whoever collects, and by what settings. Every method blocks.
#[derive(Debug, Clone, Copy)]
pub struct Collector<'a> {
    pub ledger: &'a Ledger,
    pub blobs: &'a dyn Blobs,
    pub places: &'a Places,
    pub deltas: &'a Deltas,
    pub settings: &'a Content,
}

impl<'a> Collector<'a> {
    pub fn of(store: &'a StoreFolder, deltas: &'a Deltas, settings: &'a Content) -> Self {
        Self {
            ledger: &store.ledger,
            blobs: &*store.blobs,
            places: &store.places,
            deltas,
            settings,
        }
    }
}
