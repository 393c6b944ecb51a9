//! Doing what is planned, one step at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ship_bundle::delta::{ApplyError, Effort, MakeDeltaError, delta_needs, make_delta};
use ship_durable::fault;
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::laid::{Laid, LayError, OpenDelta, manifest};
use super::leave::{LeaveError, leave};
use super::made::{MakeBundleError, Making};
use super::plan::{Step, Tree, plan};
use super::{key_of, unkeep};
use crate::clock::Clock;
use crate::deltas::MOST_MANIFESTS;
use crate::engine::{Blobs, BlobsError, Object, ObjectKind};
use crate::ledger::{Act, BundleFacts, KeptRecord, Ledger, LedgerError};
use crate::locate::{Link, Places, ReadIndexError, read_index};
use crate::yielding::Yielding;

/// zstd's level of keys: nobody waits for them, and every cold host reads one.
const KEY_LEVEL: i32 = 12;
/// Compressors at a time.
const KEY_AT_ONCE: usize = 3;

/// Why a step was not done. Whatever was kept until then stays, and harms nobody.
#[derive(Debug, thiserror::Error)]
pub enum OptimizeError {
    #[error("cannot lay out what is needed")]
    Lay(#[from] LayError),
    #[error("cannot make a key")]
    Key(#[from] MakeBundleError),
    #[error("cannot make a delta")]
    Delta(#[from] MakeDeltaError),
    #[error("the delta that was made does not give the release: it is not used")]
    Wrong,
    #[error("the release, or what it would be kept against, was collected meanwhile")]
    Collected,
    #[error("cannot decode the delta that was made")]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Leave(#[from] LeaveError),
    #[error("cannot read a bundle's index")]
    Index(#[from] ReadIndexError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("something is wished for that somebody waits for")]
    Wished,
    #[error("interrupted")]
    Interrupted(#[source] io::Error),
}

/// What a turn did.
#[derive(Debug)]
pub enum Turn {
    /// There is nothing to do.
    Idle,
    /// One bundle carries the release whole now.
    Key {
        app: AppName,
        release: ReleaseNumber,
        bytes: u64,
    },
    /// A release is kept as a delta now.
    Kept {
        app: AppName,
        release: ReleaseNumber,
        bytes: u64,
    },
    /// These are not needed any more: [`remove`](super::remove) them when nobody can be reading them.
    Left { objects: Vec<Object>, bytes: u64 },
    /// A step could not be done: it is left out until the app's next release, or the next start.
    Failed {
        app: AppName,
        release: Option<ReleaseNumber>,
        error: OptimizeError,
    },
}

/// Works through the apps of a store.
#[derive(Debug)]
pub struct Optimizer {
    blobs: Arc<dyn Blobs>,
    places: Arc<Places>,
    ledger: Ledger,
    clock: Clock,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    app: Option<AppName>,
    numbers: HashMap<ReleaseId, ReleaseNumber>,
    steps: VecDeque<Step>,
    /// Up to which release nothing is to be done.
    settled: HashMap<AppName, ReleaseNumber>,
    swept: bool,
}

type Ask<'a> = &'a dyn Fn() -> io::Result<()>;

impl Optimizer {
    pub fn new(blobs: Arc<dyn Blobs>, places: Arc<Places>, ledger: Ledger, clock: Clock) -> Self {
        Self {
            blobs,
            places,
            ledger,
            clock,
            work: Mutex::default(),
        }
    }

    /// Takes one step; `ask` says whether to go on, and ends it with [`io::ErrorKind::WouldBlock`]: then it is done anew
    /// the next time. Blocks.
    ///
    /// # Errors
    /// [`OptimizeError::Wished`], and when what is to be done cannot be told; a step that fails is a [`Turn`].
    pub fn turn(&self, ask: Ask<'_>) -> Result<Turn, OptimizeError> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if !work.swept {
            work.swept = true;
            self.sweep()?;
        }
        loop {
            if work.steps.is_empty() && !self.find_work(&mut work)? {
                return self.leave_brought();
            }
            let Some(step) = work.steps.front().copied() else {
                continue;
            };
            let Some(app) = work.app.clone() else {
                work.steps.clear();
                continue;
            };
            let done = self.step(&app, &work.numbers, step, ask);
            if let Err(error) = &done
                && error.is_wished()
            {
                return Err(OptimizeError::Wished);
            }
            work.steps.pop_front();
            match done {
                Ok(None) => {}
                Ok(Some(turn)) => return Ok(turn),
                Err(error) => {
                    let release = match step {
                        Step::Key(id) | Step::Keep { release: id, .. } => work.numbers.get(&id).copied(),
                        Step::Leave => None,
                    };
                    return Ok(Turn::Failed { app, release, error });
                }
            }
        }
    }

    /// Plans for the next app that has something to do.
    fn find_work(&self, work: &mut Work) -> Result<bool, OptimizeError> {
        for app in self.ledger.apps()? {
            let Some(newest) = self.ledger.newest_release(&app)? else {
                continue;
            };
            if work.settled.insert(app.clone(), newest.number) == Some(newest.number) {
                continue;
            }
            let (trees, numbers) = trees(&*self.blobs, &self.ledger, &app)?;
            let steps = plan(&trees, &bases(&self.places), MOST_MANIFESTS);
            if !steps.is_empty() {
                work.app = Some(app);
                work.numbers = numbers;
                work.steps = steps.into();
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn step(
        &self,
        app: &AppName,
        numbers: &HashMap<ReleaseId, ReleaseNumber>,
        step: Step,
        ask: Ask<'_>,
    ) -> Result<Option<Turn>, OptimizeError> {
        let number = |id: &ReleaseId| numbers.get(id).copied().unwrap_or(ReleaseNumber(0));
        match step {
            Step::Key(release) => {
                let subject = format!("{app}@{}", number(&release));
                let made = self.key(release, &subject, ask)?;
                Ok(made.map(|facts| Turn::Key {
                    app: app.clone(),
                    release: number(&release),
                    bytes: facts.bytes,
                }))
            }
            Step::Keep { release, base } => {
                let of = |id| format!("{app}@{}", number(id));
                let bytes = self.keep(release, base, [of(&release), of(&base)], ask)?;
                Ok(Some(Turn::Kept {
                    app: app.clone(),
                    release: number(&release),
                    bytes,
                }))
            }
            Step::Leave => self.leave(),
        }
    }

    fn leave(&self) -> Result<Option<Turn>, OptimizeError> {
        let left = leave(&*self.blobs, &self.places, &self.ledger, &self.places.fresh())?;
        let (objects, bytes) = (left.objects, left.bytes);
        Ok((!objects.is_empty()).then_some(Turn::Left { objects, bytes }))
    }

    /// Bundles that were brought for somebody go when nobody asked in a while.
    fn leave_brought(&self) -> Result<Turn, OptimizeError> {
        if self.places.forget_stale() {
            // One that could not go now goes after the next release.
            return Ok(self.leave()?.unwrap_or(Turn::Idle));
        }
        Ok(Turn::Idle)
    }

    /// One bundle carries the release; none when one does already. What it weighs is noted, so that no publish takes it for
    /// an upload of its own.
    fn key(
        &self,
        release: ReleaseId,
        subject: &str,
        ask: Ask<'_>,
    ) -> Result<Option<BundleFacts>, OptimizeError> {
        let manifest = manifest(&*self.blobs, release)?;
        let wanted: HashSet<BlobDigest> = manifest.files().map(|(_, _, _, digest)| digest).collect();
        let all: Vec<_> = wanted.iter().copied().collect();
        let mut made = None;
        if let Some(bundle) = key_of(&*self.blobs, &self.places, &all)? {
            self.note(bundle)?;
        } else {
            let from = Laid::out(&*self.blobs, &self.places, &all)?;
            let making = Making {
                blobs: &*self.blobs,
                places: &self.places,
                manifest: &manifest,
                from: &from,
                level: KEY_LEVEL,
                whole: true,
                at_once: KEY_AT_ONCE,
                ask,
            };
            let (bundle, facts) = making.make(&wanted)?;
            self.ledger.note_bundle(bundle, facts)?;
            made = Some(facts);
        }
        if self.places.link(release).is_some() {
            let act = self.act("carry", subject, "one bundle carries it whole again".to_owned());
            if let Some(gone) = unkeep(&self.places, &self.ledger, release, &act)? {
                // Only chains that are laid out read it, on this thread or under the lock that `bring` holds.
                let _turn = self.places.bringing();
                self.blobs.remove(gone)?;
            }
        }
        Ok(made)
    }

    fn note(&self, bundle: BundleDigest) -> Result<(), OptimizeError> {
        if self.ledger.bundle(&bundle)?.is_none() {
            let facts = BundleFacts {
                bytes: self.blobs.len(Object::Bundle(bundle))?.unwrap_or(0),
                blobs: read_index(&*self.blobs, bundle)?.blobs().count() as u64,
            };
            self.ledger.note_bundle(bundle, facts)?;
        }
        Ok(())
    }

    /// Bytes of the delta that keeps the release now.
    fn keep(
        &self,
        release: ReleaseId,
        base: ReleaseId,
        [subject, against]: [String; 2],
        ask: Ask<'_>,
    ) -> Result<u64, OptimizeError> {
        let blobs = &*self.blobs;
        let (old, new) = (manifest(blobs, base)?, manifest(blobs, release)?);
        let (of_old, of_new) = delta_needs(&old, &new);
        let from = Laid::out(blobs, &self.places, &of_old)?;
        let to = Laid::out(blobs, &self.places, &of_new)?;
        let mut out = Yielding {
            staged: blobs.stage()?,
            ask,
        };
        make_delta((&old, &from), (&new, &to), Effort::THOROUGH, &mut out, &())?;
        drop(to);
        let (delta, bytes) = (DeltaDigest::from_bytes(out.staged.digest()), out.staged.len());
        let link = Link { base, delta, bytes };
        blobs.keep(out.staged, Object::Kept(delta))?;
        fault::point("store.keeping.delta.kept").map_err(OptimizeError::Interrupted)?;
        let there: HashSet<_> = old.files().map(|(_, _, _, digest)| digest).collect();
        let mut given: Vec<_> = new.files().map(|(_, _, _, digest)| digest).collect();
        given.retain(|blob| !there.contains(blob));
        given.sort_unstable();
        given.dedup();
        if !self.gives(release, link, old, &from, &given, ask)? {
            blobs.quarantine(Object::Kept(delta))?;
            return Err(OptimizeError::Wrong);
        }
        fault::point("store.keeping.delta.checked").map_err(OptimizeError::Interrupted)?;
        // What was collected meanwhile is nobody's base, and needs none.
        let relying = self.places.rely();
        for id in [release, base] {
            if self.ledger.content_of(&id)?.is_some() {
                blobs.remove(Object::Kept(delta))?;
                return Err(OptimizeError::Collected);
            }
        }
        let detail = format!("by delta {delta} of {bytes} bytes against {against}");
        let act = self.act("keep", &subject, detail);
        self.ledger
            .keep(release, &KeptRecord { delta, base, bytes }, &act)?;
        fault::point("store.keeping.delta.recorded").map_err(OptimizeError::Interrupted)?;
        self.places.keep(release, link, &given);
        drop(relying);
        Ok(bytes)
    }

    /// Whether the delta as it is durable gives exactly these blobs.
    fn gives(
        &self,
        release: ReleaseId,
        link: Link,
        base: ship_model::manifest::Manifest,
        from: &Laid,
        expected: &[BlobDigest],
        ask: Ask<'_>,
    ) -> Result<bool, OptimizeError> {
        let delta = OpenDelta::kept(&*self.blobs, &self.places, release, link, base)?;
        let gives = delta.gives();
        if gives != expected {
            return Ok(false);
        }
        let wanted: HashSet<_> = gives.into_iter().collect();
        let mut decoded = 0;
        let all = delta.decode(&wanted, from, |blob, give| {
            let mut hasher = blake3::Hasher::new();
            give(&mut |piece| {
                ask()?;
                hasher.update(piece);
                Ok(())
            })?;
            decoded += 1;
            Ok(BlobDigest::from(hasher.finalize()) == blob)
        })?;
        Ok(all && decoded == expected.len())
    }

    fn act(&self, what: &str, subject: &str, detail: String) -> Act {
        Act {
            at_ms: self.clock.now_ms(),
            who: "store".to_owned(),
            what: what.to_owned(),
            subject: subject.to_owned(),
            detail,
        }
    }

    /// Deltas that a crash left before they kept anything.
    fn sweep(&self) -> Result<(), OptimizeError> {
        let kept = self.ledger.kept()?;
        let kept: BTreeSet<_> = kept.into_iter().map(|(_, record)| record.delta).collect();
        for (object, _) in self.blobs.list(ObjectKind::Kept)? {
            if let Object::Kept(delta) = object
                && !kept.contains(&delta)
            {
                self.blobs.remove(object)?;
            }
        }
        Ok(())
    }
}

impl OptimizeError {
    fn is_wished(&self) -> bool {
        let blocks = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        match self {
            Self::Wished | Self::Key(MakeBundleError::Wished) | Self::Leave(LeaveError::Busy) => true,
            Self::Delta(MakeDeltaError::Write(error)) | Self::Apply(ApplyError::Write(error)) => {
                blocks(error)
            }
            _ => false,
        }
    }
}

/// What each kept release is made against.
pub(super) fn bases(places: &Places) -> BTreeMap<ReleaseId, ReleaseId> {
    let links = places.links().into_iter();
    links.map(|(release, link)| (release, link.base)).collect()
}

/// The trees of an app, newest first, each under its newest number; and those numbers.
pub(super) fn trees(
    blobs: &dyn Blobs,
    ledger: &Ledger,
    app: &AppName,
) -> Result<(Vec<Tree>, HashMap<ReleaseId, ReleaseNumber>), OptimizeError> {
    let mut numbers = HashMap::new();
    let mut trees = Vec::new();
    let collected = ledger.all_collected(app)?;
    for release in ledger.releases(app, usize::MAX)? {
        if numbers.contains_key(&release.id) || collected.contains_key(&release.number) {
            continue;
        }
        numbers.insert(release.id, release.number);
        trees.push(Tree {
            id: release.id,
            // One that is lost is left alone.
            manifest_bytes: blobs.len(Object::Manifest(release.id))?.unwrap_or(u64::MAX / 4),
        });
    }
    Ok((trees, numbers))
}
