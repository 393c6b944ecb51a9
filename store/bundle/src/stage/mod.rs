//! Staging: a release's tree built aside on a host, checked, made durable, and only then given its name.
//!
//! ```text
//! plan     what neighbours have (linked), what bundles have (fetched); is there room
//! build    releases/.staging-<folder>: folders, files, links
//! seal     folders read-only; one syncfs
//! check    written files hashed again, from the disk
//! name     rename to releases/<folder>, synced
//! record   <folder>.manifest, then <folder>.stamps: now it counts
//! renew    stamps of neighbours whose inodes were linked
//! ```
//!
//! A failure removes the staging folder and touches nothing else; a failed fetch may leave it,
//! for what it holds is whole.
//! After a crash there is a staging folder, which the
//! next try or [`sweep`] removes, or a complete tree without its record, which the next try reads whole and adopts, or
//! the release. Only one process, and one thread of it, may stage, remove or sweep in a `releases/` folder at a time;
//! the caller holds the lock.

mod build;
mod check;
mod delta;
mod fetch;
mod give;
mod kept;
mod link;
mod parts;
mod place;
mod refresh;
mod remove;
mod repair;
mod scrub;
mod seal;
mod staged;
mod stamps;
mod supply;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ship_durable::{FileError, RemoveTreeError, fault, remove_tree};
use ship_model::digest::{BundleDigest, ReleaseId};
use ship_model::manifest::{Manifest, ManifestError};
use ship_model::path::TreePath;

pub use build::BuildError;
pub use check::{Defect, Depth, MAX_PROBLEMS, Problem, VerifyReport, VerifyStagedError, verify_staged};
pub use delta::{DeltaSource, DeltaTask};
pub use fetch::{BlobSource, FetchError, FetchRange, NoBundle, fetch_plan};
pub use kept::{Kept, KeptError};
pub use parts::fetch_cost;
pub use place::{FolderNameError, Place};
pub use remove::{Listed, RemoveError, list_staged, remove_staged, sweep, sweep_kept};
pub use repair::{Repaired, repair};
pub use scrub::{Scrubbed, scrub_staged};
pub use seal::ReadBackError;
pub use staged::{StagedError, StagedRelease};
pub use stamps::StampsError;
pub use supply::missing;

pub(crate) use build::Builder;
pub(crate) use parts::{Ways, fetch_all};
pub(crate) use supply::{Groups, Supply, supply};

use crate::beneath::Root;
use crate::index::BundleIndex;
use crate::progress::Progress;
use crate::shared::{SharedClash, shared_links};
use build::Origin;
use refresh::Linked;
use stamps::Stamps;

/// What is to be staged, and from what.
#[derive(Clone, Copy)]
pub struct StageTask<'a> {
    pub place: Place<'a>,
    pub manifest: &'a Manifest,
    /// Releases on this host to link unchanged files from, the most alike first.
    pub donors: &'a [StagedRelease],
    /// What an earlier try left.
    pub kept: Option<&'a Kept>,
    /// Whether a failed fetch leaves what it got, for [`Kept::take`].
    pub keep: bool,
    /// What is read first; what it does not give, bundles must.
    pub delta: Option<DeltaTask<'a>>,
    /// Bundles that together hold what [`missing`] names and the delta does not give, and the segments of what they list:
    /// see [`gather`](crate::segments::gather).
    pub bundles: &'a [(BundleDigest, BundleIndex)],
    pub source: &'a dyn BlobSource,
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for StageTask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageTask")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// What staging did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageReport {
    pub id: ReleaseId,
    /// The release was complete before; nothing was fetched or written.
    pub already: bool,
    /// Compressed bytes asked of the sources.
    pub fetched_bytes: u64,
    /// Of these, the delta's.
    pub delta_bytes: u64,
    /// Files that share a neighbour's bytes, or each other's.
    pub linked_files: u64,
    pub linked_bytes: u64,
    /// Files that an earlier try had fetched.
    pub kept_files: u64,
    pub written_files: u64,
    pub written_bytes: u64,
    pub elapsed: Duration,
}

/// Why a release was not staged. Its folder does not exist then, unless the error says so.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("the manifest cannot be encoded")]
    Manifest(#[source] ManifestError),
    #[error("the release contradicts itself")]
    Shared(#[source] SharedClash),
    #[error("cannot get all of the release")]
    Missing(#[source] NoBundle),
    #[error(
        "not enough space: {needed} bytes and {files} files are to be written, {free} bytes and {free_files} files are free; remove releases that are not needed"
    )]
    NoSpace {
        needed: u64,
        files: u64,
        free: u64,
        free_files: u64,
    },
    /// A folder of that name exists, and what it holds is not the release; it is left as it is.
    #[error(
        "{folder} exists on this host and is not the release: {differing} names differ, \"{first}\" among them; remove it if nothing runs from it, and stage again"
    )]
    Damaged {
        folder: String,
        differing: usize,
        first: String,
    },
    #[error("{folder} exists on this host and holds another release, {found}")]
    Taken { folder: String, found: ReleaseId },
    #[error("cannot use what exists on this host")]
    Existing(#[source] StagedError),
    #[error("cannot {action} in {}", path.display())]
    Folder {
        action: &'static str,
        path: std::path::PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the staged files are not right")]
    ReadBack(#[source] ReadBackError),
    #[error("cannot make the release durable")]
    Durable(#[source] FileError),
    #[error("cannot remove an older staging folder")]
    Leftover(#[source] RemoveTreeError),
}

impl StageError {
    /// Whether it was the fetch that failed: then a task that keeps leaves what it got.
    pub const fn keeps(&self) -> bool {
        matches!(self, Self::Build(BuildError::Fetch(_)))
    }

    /// Whether the delta did not give what it should: what it gave is kept as after any failed fetch, and bundles may
    /// have the rest.
    pub const fn failed_delta(&self) -> bool {
        matches!(self, Self::Build(BuildError::Fetch(error)) if error.is_delta())
    }

    /// The bundle that was read and does not hold what it should, as opposed to one that could not be read.
    pub fn wrong_bundle(&self) -> Option<BundleDigest> {
        match self {
            Self::Build(BuildError::Fetch(error)) => error.wrong_bundle(),
            _ => None,
        }
    }
}

/// Stages a release, or finds it staged.
///
/// Memory: the manifests, a few windows of 8 MiB and segments of 4 MiB, whatever the files' sizes.
///
/// # Errors
/// [`StageError`]; nothing outside the staging folder was written, and that is removed unless the task
/// keeps what was fetched.
pub fn stage(task: &StageTask<'_>) -> Result<StageReport, StageError> {
    let start = now();
    let id = task.manifest.id();
    let shared = shared_links(task.manifest).map_err(StageError::Shared)?;
    let staging = Staging {
        task,
        id,
        shared: &shared,
    };
    let mut report = if staging.exists()? {
        StageReport {
            already: true,
            ..report(id)
        }
    } else {
        staging.run()?
    };
    report.elapsed = start.elapsed();
    Ok(report)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a figure for the report, nothing is decided by it"
)]
fn now() -> Instant {
    Instant::now()
}

fn report(id: ReleaseId) -> StageReport {
    StageReport {
        id,
        already: false,
        fetched_bytes: 0,
        delta_bytes: 0,
        linked_files: 0,
        linked_bytes: 0,
        kept_files: 0,
        written_files: 0,
        written_bytes: 0,
        elapsed: Duration::ZERO,
    }
}

struct Staging<'a> {
    task: &'a StageTask<'a>,
    id: ReleaseId,
    shared: &'a BTreeMap<TreePath, Vec<u8>>,
}

impl Staging<'_> {
    /// Whether the release is there. A tree without its record (a crash came between) is read whole and gets one.
    fn exists(&self) -> Result<bool, StageError> {
        let place = self.task.place;
        let stamps = match StagedRelease::open(place) {
            Ok(staged) if staged.id() != self.id => {
                return Err(StageError::Taken {
                    folder: place.folder().to_owned(),
                    found: staged.id(),
                });
            }
            Ok(staged) => Some(staged.stamps.entries),
            Err(StagedError::Absent { .. }) => return Ok(false),
            Err(error @ StagedError::Read { .. }) => return Err(StageError::Existing(error)),
            Err(_) => None,
        };
        let root = staged::open_tree(place).map_err(StageError::Existing)?;
        let checked = check::check(&root, self.task.manifest, stamps.as_deref(), &());
        let checked = checked.map_err(self.folder_error("list the existing release"))?;
        if let Some(first) = checked.report.problems.first() {
            return Err(StageError::Damaged {
                folder: place.folder().to_owned(),
                differing: checked.report.problems.len() + checked.report.more,
                first: first.path.clone(),
            });
        }
        if stamps.as_ref() == Some(&checked.stamps) {
            return Ok(true);
        }
        let kept = ship_durable::sync_fs(place.releases())
            .map_err(StageError::Durable)
            .and_then(|()| self.record(checked.stamps));
        // With an older record the release counts as it is; a full disk must not make it unusable.
        if stamps.is_some() {
            Ok(true)
        } else {
            kept.map(|()| true)
        }
    }

    fn folder_error(&self, action: &'static str) -> impl FnOnce(io::Error) -> StageError {
        let path = self.task.place.releases().to_owned();
        move |source| StageError::Folder { action, path, source }
    }

    fn point(&self, name: &'static str) -> Result<(), StageError> {
        fault::point(name).map_err(self.folder_error("go on"))
    }

    fn run(&self) -> Result<StageReport, StageError> {
        let groups = supply(self.task.manifest, self.task.donors, self.task.kept);
        let mut missing = groups.missing();
        if let Some(delta) = &self.task.delta {
            delta.spare(&mut missing);
        }
        let ways = Ways::of(&missing, self.task.bundles).map_err(StageError::Missing)?;
        let releases = Root::open(self.task.place.releases()).map_err(self.folder_error("open"))?;
        has_room(&releases, &groups, self.folder_error("ask for free space"))?;
        let built = self
            .make_staging(&releases)
            .and_then(|root| self.build(root, &groups, &ways));
        drop((groups, ways));
        let built = built.and_then(|(report, linked)| {
            refresh::renew_linked(self.task.place, &linked);
            self.point("bundle.stage.after")?;
            Ok(report)
        });
        // The error that stopped us is the one to tell; what cannot be removed is removed at the next try.
        if built
            .as_ref()
            .is_err_and(|error| !self.task.keep || !error.keeps())
        {
            let _ = remove_tree(&self.task.place.staging());
        }
        if let Some(kept) = self.task.kept {
            let _ = kept.remove();
        }
        built
    }

    /// A new folder, private, opened without following a link: whatever had its name before is removed.
    fn make_staging(&self, releases: &Root) -> Result<Root, StageError> {
        let staging = self.task.place.staging();
        remove_tree(&staging).map_err(StageError::Leftover)?;
        self.point("bundle.stage.folder.before")?;
        let name = staging.file_name().unwrap_or_default();
        rustix::fs::mkdirat(releases, name, rustix::fs::Mode::RWXU)
            .map_err(io::Error::from)
            .and_then(|()| releases.folder(name.as_encoded_bytes()))
            .map_err(self.folder_error("make the staging folder"))
    }

    fn build(
        &self,
        root: Root,
        groups: &Groups<'_>,
        ways: &Ways<'_>,
    ) -> Result<(StageReport, Linked), StageError> {
        let task = self.task;
        let to_fetch = groups
            .iter()
            .filter(|group| matches!(group.supply, Supply::Fetch));
        task.progress.total(to_fetch.map(|group| group.size).sum());
        let builder = Builder {
            kept: task.kept,
            ..Builder::new(root, task.manifest, task.donors, groups, true, task.progress)
        };
        let folders = builder.folders(self.shared)?;
        self.point("bundle.stage.local.before")?;
        builder.local()?;
        self.point("bundle.stage.fetch.before")?;
        let delta_bytes = match &task.delta {
            Some(delta) => delta.fetch(groups, &builder)?,
            None => 0,
        };
        let bundle_bytes = fetch_all(&builder, ways, task.bundles, task.source)?;
        self.point("bundle.stage.links.before")?;
        builder.links(self.shared)?;
        self.point("bundle.stage.seal.before")?;
        seal::close_folders(&builder.root, &folders)?;
        ship_durable::sync_fs(task.place.releases()).map_err(StageError::Durable)?;
        self.point("bundle.stage.check.before")?;
        let origins = std::mem::take(&mut *builder.origins.lock().unwrap_or_else(|e| e.into_inner()));
        let look = |file| groups.look(file, task.donors);
        let stamps = seal::read_back(&builder.root, task.manifest, &origins, look);
        let stamps = stamps.map_err(StageError::ReadBack)?;
        let looks = origins
            .iter()
            .zip(&stamps)
            .filter_map(|(origin, now)| match origin {
                Some(Origin::Linked(file)) => Some((look(*file), *now)),
                _ => None,
            });
        let linked = Linked::new(looks.collect());
        self.point("bundle.stage.name.before")?;
        self.name()?;
        self.point("bundle.stage.record.before")?;
        self.record(stamps)?;
        self.point("bundle.stage.renew.before")?;
        let count = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let report = StageReport {
            fetched_bytes: delta_bytes + bundle_bytes,
            delta_bytes,
            linked_files: count(&builder.counts.linked_files),
            linked_bytes: count(&builder.counts.linked_bytes),
            kept_files: count(&builder.counts.kept_files),
            written_files: count(&builder.counts.written_files),
            written_bytes: count(&builder.counts.written_bytes),
            ..report(self.id)
        };
        Ok((report, linked))
    }

    /// The tree gets its name. A record that an older tree of this name left goes first.
    fn name(&self) -> Result<(), StageError> {
        let place = self.task.place;
        for old in [place.stamps(), place.manifest()] {
            remove_tree(&old).map_err(StageError::Leftover)?;
        }
        ship_durable::rename(&place.staging(), &place.tree()).map_err(StageError::Durable)
    }

    /// The stamps come last: with them the release counts.
    fn record(&self, entries: Vec<crate::stamp::FileStamp>) -> Result<(), StageError> {
        let place = self.task.place;
        ship_durable::write_file(&place.manifest(), self.task.manifest.encoded())
            .map_err(StageError::Durable)?;
        self.point("bundle.stage.stamps.before")?;
        let stamps = Stamps {
            release: self.id,
            entries,
        };
        ship_durable::write_file(&place.stamps(), &stamps.encode()).map_err(StageError::Durable)
    }
}

/// Refuses early what would fill the file system: the bytes of every content that is written, in whole blocks.
fn has_room(
    releases: &Root,
    groups: &Groups<'_>,
    failed: impl FnOnce(io::Error) -> StageError,
) -> Result<(), StageError> {
    let space = rustix::fs::fstatvfs(releases).map_err(|error| failed(error.into()))?;
    let block = space.f_frsize.max(1);
    let written = groups
        .iter()
        .filter(|group| !matches!(group.supply, Supply::Link(_) | Supply::Kept));
    let (mut needed, mut files) = (0_u64, 0_u64);
    for group in written {
        needed = needed.saturating_add(group.size.div_ceil(block).saturating_mul(block));
        files += 1;
    }
    let (free, free_files) = (space.f_bavail.saturating_mul(block), space.f_favail);
    // Some file systems make inodes as they go and tell zero of zero.
    if needed > free || (space.f_files > 0 && files > free_files) {
        return Err(StageError::NoSpace {
            needed,
            files,
            free,
            free_files,
        });
    }
    Ok(())
}
