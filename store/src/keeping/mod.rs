//! How a store grows by the change: older releases are kept as deltas against newer ones, and the bundles that nothing needs
//! any more are let go.
//!
//! ```text
//! before   web@1 ─ bundle 1     web@2 ─ bundles 1, 2     web@3 ─ bundles 1, 2, 3
//! after    web@1 ─kept delta─▶ web@2 ─kept delta─▶ web@3 ─ its key: one bundle that carries all of it
//! ```
//! * The newest release of an app gets a *key*, made anew when several bundles carry it: a cold host reads one bundle.
//! * Each older one is *kept*: a delta gives every blob that the release after it has not. The delta lies apart from those that
//!   are offered to hosts, which are derived: a kept one is truth, in backups too.
//! * Chains are bounded ([`MOST_DEPTH`]); where one would get deeper its release stays a key. A tree that is published again
//!   becomes the key, and is kept no longer.
//!
//! In this order, so that a crash anywhere leaves what can be gone on with, and costs bytes only:
//!
//! ```text
//! key       bundle durable → read again, every byte checked → offered
//! keep      delta durable → decoded again from what is durable, every digest compared → ledger: kept/<release id>
//! leave     nobody relies on what has no record → each blob of a bundle lies elsewhere or is given by a kept delta
//!           → offered no more → after a lease off the disk
//! ```
//! A release that is not kept is carried whole by bundles: no bundle goes that has a blob of such a release which no other
//! carries. By induction along the chains every kept one can be given. What belongs to no release, an upload that is not
//! committed, is never touched.
//!
//! Covered blobs, which kept deltas give and no bundle carries, count as there. When somebody needs their bytes, [`bring()`]
//! decodes the chain and puts them into an ordinary bundle, which goes again when it was not asked for in a while.
//!
//! * `plan`: what is to be done, pure. * `optimize`: doing it, step by step. * `leave`: which bundles go.
//! * `laid`: blobs down a chain. * `made`: bundles that the store makes. * `survey`: what an app takes.

mod bring;
mod laid;
mod leave;
mod made;
mod optimize;
mod plan;
mod survey;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest, ReleaseId};

pub(crate) use bring::carry;
pub use bring::{BringError, bring};
pub use laid::LayError;
pub(crate) use laid::{Laid, OpenDelta};
pub use leave::{LeaveError, Left, leave};
pub use made::MakeBundleError;
pub(crate) use made::Making;
pub use optimize::{OptimizeError, Optimizer, Turn};
pub use plan::MOST_DEPTH;
pub use survey::{AppSurvey, survey};

use plan::depth;

use crate::engine::{Blobs, BlobsError, Object};
use crate::ledger::{Act, KeptRecord, Ledger, LedgerError};
use crate::locate::{Link, Links, Places, ReadIndexError, read_index};

/// What must stay so that some releases can be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Releases whose every blob bundles must carry.
    pub carried: BTreeSet<ReleaseId>,
    /// Releases whose kept delta must stay; their own, and those on the way to a key.
    pub kept: BTreeMap<ReleaseId, Link>,
}

impl Needs {
    /// Every release whose manifest must stay.
    pub fn manifests(&self) -> impl Iterator<Item = ReleaseId> {
        self.carried.iter().chain(self.kept.keys()).copied()
    }

    /// The kept deltas.
    pub fn objects(&self) -> impl Iterator<Item = Object> {
        self.kept.values().map(|link| Object::Kept(link.delta))
    }
}

/// What these releases need: along their chains, down to what bundles carry.
pub fn needs(places: &Places, releases: impl IntoIterator<Item = ReleaseId>) -> Needs {
    let mut needs = Needs::default();
    for release in releases {
        let mut at = release;
        while !needs.kept.contains_key(&at) {
            let Some(link) = places.link(at) else {
                needs.carried.insert(at);
                break;
            };
            needs.kept.insert(at, link);
            at = link.base;
        }
    }
    needs
}

/// Every release that can be asked for, by its tree: those that were collected cannot.
pub fn retained(ledger: &Ledger) -> Result<BTreeSet<ReleaseId>, LedgerError> {
    let mut ids = BTreeSet::new();
    for app in ledger.apps()? {
        let collected = ledger.all_collected(&app)?;
        let releases = ledger.releases(&app, usize::MAX)?.into_iter();
        let kept = releases.filter(|release| !collected.contains_key(&release.number));
        ids.extend(kept.map(|release| release.id));
    }
    Ok(ids)
}

/// Takes in what the ledger says is kept. Blocks; reads the manifests of all kept releases.
pub fn load(blobs: &dyn Blobs, places: &Places, ledger: &Ledger) -> Result<(), LedgerError> {
    let kept = ledger.kept()?;
    if !kept.is_empty() {
        let links: Links = kept.into_iter().map(|(id, record)| (id, record.into())).collect();
        places.set_links(blobs, links);
    }
    Ok(())
}

/// Keeps a release as a delta no longer; gives the delta, which nothing needs then. Bundles must carry all of it, or nobody may want it.
pub fn unkeep(
    places: &Places,
    ledger: &Ledger,
    release: ReleaseId,
    act: &Act,
) -> Result<Option<Object>, LedgerError> {
    ledger.unkeep(release, act)?;
    Ok(places.unkeep(release).map(|link| Object::Kept(link.delta)))
}

/// Takes away what was let go; not a bundle that came again meanwhile, nor a delta that keeps a release again.
pub fn remove(blobs: &dyn Blobs, places: &Places, object: Object) -> Result<(), BlobsError> {
    match object {
        Object::Bundle(bundle) => places.removed(blobs, bundle),
        Object::Kept(delta) if places.links().values().any(|link| link.delta == delta) => Ok(()),
        object => blobs.remove(object),
    }
}

/// Bundles that are looked at for one that carries all of a release.
const MOST_KEYS: usize = 8;

/// The one bundle that carries all `files` of a release, each segment of the large ones too.
fn key_of(
    blobs: &dyn Blobs,
    places: &Places,
    files: &[BlobDigest],
) -> Result<Option<BundleDigest>, ReadIndexError> {
    if !places.absent(files.iter().copied()).is_empty() {
        return Ok(None);
    }
    let wanted: HashSet<_> = files.iter().collect();
    let mut avoid = Vec::new();
    while avoid.len() < MOST_KEYS {
        let found = places.locate(files, &avoid);
        let [one] = &found[..] else { break };
        if one.blobs.len() < files.len() {
            break;
        }
        let index = read_index(blobs, one.bundle)?;
        let here: HashSet<_> = index.blobs().map(|place| place.digest).collect();
        let lists = index.lists().iter().filter(|list| wanted.contains(&list.blob));
        if lists
            .flat_map(|list| &list.segments)
            .all(|segment| here.contains(&segment.digest))
        {
            return Ok(Some(one.bundle));
        }
        avoid.push(one.bundle);
    }
    Ok(None)
}

/// Puts a kept delta that is damaged aside, and says what it takes with it.
///
/// # Errors
/// When it cannot be put aside.
pub fn put_aside(
    blobs: &dyn Blobs,
    places: &Places,
    delta: DeltaDigest,
) -> Result<BTreeSet<ReleaseId>, BlobsError> {
    blobs.quarantine(Object::Kept(delta))?;
    let own = places.links().into_iter().find(|(_, link)| link.delta == delta);
    let before = places.broken();
    places.reckon(blobs);
    let mut taken: BTreeSet<_> = places.broken().difference(&before).copied().collect();
    taken.extend(own.map(|(release, _)| release));
    Ok(taken)
}

fn damaged(
    blobs: &dyn Blobs,
    places: &Places,
    release: ReleaseId,
    delta: DeltaDigest,
) -> Result<LayError, BlobsError> {
    let taken = put_aside(blobs, places, delta)?;
    let releases: Vec<_> = taken.iter().map(ReleaseId::short).collect();
    tracing::error!(%delta, releases = releases.join(" "), "a kept delta is damaged and was put into quarantine");
    Ok(LayError::Damaged { delta, release })
}

impl From<KeptRecord> for Link {
    fn from(record: KeptRecord) -> Self {
        Self {
            base: record.base,
            delta: record.delta,
            bytes: record.bytes,
        }
    }
}

impl Places {
    /// Those of `wanted` that a kept delta gives and no bundle carries.
    pub fn covered_only(&self, wanted: &[BlobDigest]) -> Vec<BlobDigest> {
        let mut absent = self.absent(wanted.iter().copied());
        absent.retain(|blob| self.giver(blob).is_some());
        absent
    }
}
