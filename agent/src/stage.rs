//! Releases as they lie on this host: staging them, listing them, looking whether they are whole, taking old ones away.
//!
//! `current` is never touched here.

mod failed;
mod plan;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ship_bundle::stage::{
    self, BlobSource, Depth, Kept, Place, RemoveError, StageError, StageTask, StagedRelease, VerifyReport,
    VerifyStagedError,
};
use ship_model::digest::BundleDigest;
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::spec::ReleaseSpec;
use tokio::runtime::Handle;

use crate::fetch::{BundleSource, Fetcher, OpenDelta, Received};
use crate::keeper::fits;
use crate::layout::{self, AppLayout, PrepareError};
pub use failed::StagingError;
use plan::delta_from;

/// Neighbours that unchanged files are linked from.
const DONORS: usize = 3;
/// Names of all neighbours together beyond which no further one is held in memory; the first always is.
const DONOR_NAMES: usize = 100_000;
/// How often in one staging the store may have let bundles go since it told of them.
const GONE_BUNDLES: usize = 4;
/// Bundles that may turn out to be wrong in one staging before it is given up.
const WRONG_BUNDLES: usize = 3;

/// A release that lies on this host with its record.
#[derive(Debug, Clone)]
pub struct Here {
    pub target: Target,
    pub spec: Arc<ReleaseSpec>,
    /// What is wrong with it; none: nothing that is known.
    pub damage: Option<String>,
}

impl Here {
    pub const fn is_whole(&self) -> bool {
        self.damage.is_none()
    }
}

/// Every release of an app that was staged to its end, by number. One whose stamps say that a file was found damaged is
/// looked at.
///
/// # Errors
/// When the folder cannot be listed; an absent one holds nothing.
pub fn list(layout: &AppLayout) -> Result<Vec<Here>, RemoveError> {
    let mut here = Vec::new();
    for listed in stage::list_staged(&layout.releases())? {
        match open(layout, &listed.folder) {
            Ok(found) => here.extend(found),
            Err(error) => {
                tracing::warn!(app = %layout.app, folder = listed.folder, %error, "release is not believed");
            }
        }
    }
    here.sort_by_key(|release| release.target.number);
    Ok(here)
}

/// None for a folder whose name is not that of what it holds.
fn open(layout: &AppLayout, folder: &str) -> Result<Option<Here>, stage::StagedError> {
    let releases = layout.releases();
    let Ok(place) = Place::new(&releases, folder) else {
        return Ok(None);
    };
    let release = StagedRelease::open(place)?;
    let number = folder.split('-').next().and_then(|number| number.parse().ok());
    let target = number.map(|number| Target {
        number: ReleaseNumber(number),
        id: release.id(),
    });
    let Some(target) = target.filter(|target| target.folder() == folder) else {
        return Ok(None);
    };
    let (spec, doubtful) = (Arc::new(release.manifest().spec().clone()), release.is_doubtful());
    drop(release);
    let damage = match doubtful.then(|| look_at(layout, &target)) {
        Some(Verdict::Damaged(damage)) => Some(damage),
        Some(Verdict::Whole) | None => None,
    };
    Ok(Some(Here { target, spec, damage }))
}

/// A complete release with its manifest.
///
/// # Errors
/// When it is not complete here.
pub fn manifest(layout: &AppLayout, target: &Target) -> Result<StagedRelease, stage::StagedError> {
    let (releases, folder) = (layout.releases(), target.folder());
    match Place::new(&releases, &folder) {
        Ok(place) => StagedRelease::open(place),
        Err(_) => Err(stage::StagedError::Absent { folder }),
    }
}

/// What a look at a release's files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Whole,
    /// What is wrong with it.
    Damaged(String),
}

/// Looks at every name of a release; files that look as they did when they were hashed are believed.
///
/// Names that were added do not stand in the way: a revert must not fail because an interpreter left its caches in the
/// tree. `verify` tells them.
pub fn look_at(layout: &AppLayout, target: &Target) -> Verdict {
    match verify(layout, target, Depth::Quick) {
        Err(error) => Verdict::Damaged(crate::session::chain(&error)),
        Ok(report) => {
            let damage: Vec<_> = report
                .problems
                .iter()
                .filter(|problem| problem.is_damage())
                .collect();
            match damage[..] {
                [] => Verdict::Whole,
                [only] => Verdict::Damaged(only.to_string()),
                [first, ..] => Verdict::Damaged(format!("{first}, and {} more", damage.len() - 1)),
            }
        }
    }
}

/// As [`look_at`], with all that was found; `Full` reads every byte.
///
/// # Errors
/// When the release's own record cannot be used.
pub fn verify(layout: &AppLayout, target: &Target, depth: Depth) -> Result<VerifyReport, VerifyStagedError> {
    let (releases, folder) = (layout.releases(), target.folder());
    match Place::new(&releases, &folder) {
        Ok(place) => stage::verify_staged(place, depth, &()),
        Err(_) => Err(stage::StagedError::Absent { folder }.into()),
    }
}

/// What staging cost.
#[derive(Debug, Clone)]
pub struct Staged {
    pub here: Here,
    pub fetched: Received,
    /// The release against which a delta brought it.
    pub delta_from: Option<ReleaseNumber>,
    pub elapsed: Duration,
    /// Names of a damaged release that were put right.
    pub mended: Vec<TreePath>,
}

/// Where a release is fetched from, and who may call it off.
#[derive(Debug)]
pub struct Supply {
    pub fetcher: Arc<Fetcher>,
    pub runtime: Handle,
    pub bundles: BundleSource,
}

impl BlobSource for BundleSource {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.range(bundle, offset, len)))
    }
}

/// Fetches and stages a release, finds it staged, or mends what lies there damaged. `staging` is called when all that is
/// missing is known.
///
/// # Errors
/// [`StagingError`]; what was begun is taken away, but what was fetched whole waits for the next try.
pub fn stage(
    layout: &AppLayout,
    target: &Target,
    supply: &Supply,
    neighbours: &[Target],
    staging: impl FnOnce(),
) -> Result<Staged, StagingError> {
    let before = supply.fetcher.received();
    let donors = donors(layout, target, neighbours);
    let (manifest, delta) = match delta_from(target, supply, &donors) {
        Some((delta, manifest)) => (manifest, Some(delta)),
        None => {
            let manifest = supply.runtime.block_on(supply.fetcher.manifest(target.id));
            let manifest = manifest.map_err(|source| StagingError::Fetch {
                release: target.folder(),
                source,
            })?;
            (manifest, None)
        }
    };
    check(layout, target, &manifest)?;
    let work = Work {
        layout,
        target,
        supply,
        manifest: &manifest,
        donors: &donors,
        delta: delta.as_ref(),
    };
    let done = work.run(staging)?;
    let base = delta.filter(|_| done.by_delta).map(|delta| delta.offer.base);
    let base = base.and_then(|base| neighbours.iter().find(|neighbour| neighbour.id == base));
    prepare_shared(layout, manifest.spec()).map_err(|source| StagingError::Prepare {
        release: target.folder(),
        source,
    })?;
    Ok(Staged {
        here: Here {
            target: *target,
            spec: Arc::new(manifest.spec().clone()),
            damage: None,
        },
        fetched: supply.fetcher.received().since(before),
        delta_from: base.map(|base| base.number),
        elapsed: done.elapsed,
        mended: done.mended,
    })
}

/// Releases to link from: the release itself when it lies here, which it does when it is to be mended, then neighbours, as
/// many as memory allows.
fn donors(layout: &AppLayout, target: &Target, neighbours: &[Target]) -> Vec<StagedRelease> {
    let mut donors: Vec<StagedRelease> = Vec::new();
    let mut names = 0;
    let mut asked = Vec::new();
    for neighbour in std::iter::once(target).chain(neighbours) {
        if donors.len() == DONORS || names > DONOR_NAMES || asked.contains(neighbour) {
            break;
        }
        asked.push(*neighbour);
        if let Ok(donor) = self::manifest(layout, neighbour) {
            names += donor.manifest().entries().len();
            donors.push(donor);
        }
    }
    donors
}

/// One staging under way.
struct Work<'a> {
    layout: &'a AppLayout,
    target: &'a Target,
    supply: &'a Supply,
    manifest: &'a Manifest,
    donors: &'a [StagedRelease],
    delta: Option<&'a OpenDelta>,
}

struct Worked {
    elapsed: Duration,
    by_delta: bool,
    mended: Vec<TreePath>,
}

impl Work<'_> {
    /// Tries again without a bundle that was found to be wrong, as long as the store knows another for what is missing.
    fn run(&self, staging: impl FnOnce()) -> Result<Worked, StagingError> {
        let mut staging = Some(staging);
        let mut wrong: Vec<BundleDigest> = Vec::new();
        let mut first: Option<StagingError> = None;
        let mut delta = self.delta;
        let mut gone = 0;
        loop {
            let tried = self.once(&wrong, delta, || {
                if let Some(staging) = staging.take() {
                    staging();
                }
            });
            let error = match tried {
                Ok(worked) => return Ok(worked),
                Err(error) => error,
            };
            if error.failed_delta() && delta.take().is_some() {
                tracing::warn!(release = %self.target.number, error = crate::session::chain(&error),
                    "the delta does not give the release; bundles are read");
                continue;
            }
            if error.gone_bundle() && gone < GONE_BUNDLES {
                gone += 1;
                tracing::warn!(release = %self.target.number, error = crate::session::chain(&error),
                    "a bundle is gone; the store is asked again where its content lies");
                continue;
            }
            match error.wrong_bundle() {
                Some(bundle) if wrong.len() < WRONG_BUNDLES && !wrong.contains(&bundle) => {
                    tracing::error!(release = %self.target.number, %bundle, error = crate::session::chain(&error),
                        "a bundle is wrong; what it should hold is looked for in others");
                    wrong.push(bundle);
                    first.get_or_insert(error);
                }
                // That nobody else has it follows from what was wrong first, which is what has to be told.
                None if !error.is_transient() => return Err(first.unwrap_or(error)),
                _ => return Err(error),
            }
        }
    }

    fn once(
        &self,
        wrong: &[BundleDigest],
        delta: Option<&OpenDelta>,
        staging: impl FnOnce(),
    ) -> Result<Worked, StagingError> {
        let folder = self.target.folder();
        let releases = self.layout.releases();
        let place = Place::new(&releases, &folder).map_err(|_| StagingError::OtherApp {
            release: folder.clone(),
            is: folder.clone(),
        })?;
        let kept = Kept::take(place).map_err(|source| StagingError::Kept {
            release: folder.clone(),
            source: Box::new(source),
        })?;
        let missing = stage::missing(self.manifest, self.donors, kept.as_ref());
        let plan = self.plan(missing, delta, wrong);
        let (delta, bundles) = plan.map_err(|source| StagingError::Fetch {
            release: folder.clone(),
            source,
        })?;
        let by_delta = delta.is_some();
        staging();
        let task = StageTask {
            place,
            manifest: self.manifest,
            donors: self.donors,
            kept: kept.as_ref(),
            keep: true,
            delta,
            bundles: &bundles,
            source: &self.supply.bundles,
            progress: &(),
        };
        let staged = match stage::stage(&task) {
            Err(StageError::Damaged { first, differing, .. }) => {
                tracing::warn!(release = %self.target.number, first, differing, "damaged here; it is mended");
                stage::repair(&task).map(|repaired| Worked {
                    elapsed: repaired.report.elapsed,
                    by_delta,
                    mended: repaired.paths,
                })
            }
            other => other.map(|report| Worked {
                elapsed: report.elapsed,
                by_delta,
                mended: Vec::new(),
            }),
        };
        staged.map_err(|source| StagingError::Stage {
            release: folder.clone(),
            source: Box::new(source),
        })
    }
}

fn check(layout: &AppLayout, target: &Target, manifest: &Manifest) -> Result<(), StagingError> {
    let spec = manifest.spec();
    if spec.app != layout.app {
        return Err(StagingError::OtherApp {
            release: target.folder(),
            is: spec.app.to_string(),
        });
    }
    fits(spec).map_err(|source| StagingError::Unfit {
        release: target.folder(),
        source,
    })
}

/// Makes the shared folders that a release's links lead to, and the folders of its shared files.
///
/// # Errors
/// [`PrepareError`] naming the folder.
pub fn prepare_shared(layout: &AppLayout, spec: &ReleaseSpec) -> Result<(), PrepareError> {
    for dir in &spec.shared.dirs {
        layout::make(&layout.shared().join(dir.as_path()), 0o755)?;
    }
    for file in &spec.shared.files {
        if let Some(parent) = layout.shared().join(file.as_path()).parent() {
            layout::make(parent, 0o755)?;
        }
    }
    Ok(())
}

/// Takes a release away. The caller knows that nobody needs it.
///
/// # Errors
/// [`RemoveError`]; what is left is swept at the next start.
pub fn remove(layout: &AppLayout, target: &Target) -> Result<(), RemoveError> {
    let (releases, folder) = (layout.releases(), target.folder());
    match Place::new(&releases, &folder) {
        Ok(place) => stage::remove_staged(place),
        Err(_) => Ok(()),
    }
}

/// Takes away what crashes left, sparing `spare`, and what unfinished stagings of others than `wanted` left.
///
/// # Errors
/// [`RemoveError`].
pub fn sweep(layout: &AppLayout, spare: &[&str], wanted: &[&str]) -> Result<Vec<String>, RemoveError> {
    stage::sweep(&layout.releases(), spare, wanted)
}

/// Takes away what unfinished stagings of others than `wanted` left.
///
/// # Errors
/// [`RemoveError`].
pub fn sweep_kept(layout: &AppLayout, wanted: &[&str]) -> Result<Vec<String>, RemoveError> {
    stage::sweep_kept(&layout.releases(), wanted)
}

/// Files in a release.
pub fn count_files(manifest: &Manifest) -> u64 {
    manifest.files().count() as u64
}
