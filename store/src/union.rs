//! The store's own union: every fingerprinted asset of every release, so that pages of any version find theirs here
//! from the moment a release exists.
//!
//! Assets come out of the bundles by ranges, one frame after another, each verified while it is written. It is
//! derived: what a crash leaves undone is found at the next start and done then.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ship_assets::{AddError, ForgetError, Forgotten, Shelf, Union, UnionError};
use ship_bundle::segments::{ReadListError, SegmentList, read_listed};
use ship_bundle::{Frame, FrameError, FrameReader};
use ship_model::assets::{Asset, AssetsError, assets_of};
use ship_model::digest::{BlobDigest, BundleDigest, ReleaseId};
use ship_model::manifest::{DecodeError, MAX_ENCODED, Manifest};
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, ReleaseRecord, Target};

use crate::engine::blobs::read_whole;
use crate::engine::{Blobs, BlobsError, Object, ObjectReader, Slice};
use crate::keeping::{BringError, bring};
use crate::ledger::{Ledger, LedgerError, UrlSet};
use crate::locate::{Places, ReadIndexError, read_index};
use crate::segments::{StoreSource, gathered};

/// Longest manifest that is read, in bytes.
const MANIFEST: u64 = MAX_ENCODED as u64;
/// Assets up to this size are held in memory on their way; larger ones go through a pipe.
const SMALL: u64 = 1 << 20;

/// Why a release's assets are not all served by the store.
#[derive(Debug, thiserror::Error)]
pub enum AddAssetsError {
    #[error("cannot read the manifest of release {id}")]
    Manifest {
        id: ReleaseId,
        source: ReadManifestError,
    },
    #[error("cannot open the union of {app}")]
    Open { app: AppName, source: UnionError },
    #[error("no bundle carries the content of {url}")]
    Nowhere { url: String },
    #[error("cannot read a bundle's index")]
    Index(#[from] ReadIndexError),
    #[error("cannot bring back what is kept as deltas")]
    Bring(#[from] Box<BringError>),
    #[error("cannot open a bundle")]
    Blobs(#[from] BlobsError),
    #[error("cannot read bundle {bundle}")]
    Bundle {
        bundle: BundleDigest,
        source: FrameError,
    },
    #[error("cannot put {url} together")]
    Segments { url: String, source: ReadListError },
    #[error("cannot add an asset")]
    Add(#[from] AddError),
    #[error("the release's assets cannot be told")]
    Assets(#[from] AssetsError),
    #[error("cannot make a pipe")]
    Pipe(#[source] io::Error),
}

/// Why a manifest cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadManifestError {
    #[error("it is not in the store")]
    Blobs(#[from] BlobsError),
    #[error("it is damaged")]
    Decode(#[from] DecodeError),
}

/// Why expired assets of an app still lie here.
#[derive(Debug, thiserror::Error)]
pub enum ForgetExpiredError {
    #[error("cannot tell which have expired")]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Open(#[from] AddAssetsError),
    #[error(transparent)]
    Forget(#[from] ForgetError),
}

/// Reads a manifest and checks its digest.
pub fn read_manifest(blobs: &dyn Blobs, id: ReleaseId) -> Result<Manifest, ReadManifestError> {
    let bytes = read_whole(blobs, Object::Manifest(id), MANIFEST)?;
    Ok(Manifest::read(bytes)?)
}

/// The unions of all apps, below one folder: `assets/<app>` and `assets/<app>.records`.
#[derive(Debug)]
pub struct Unions {
    folder: PathBuf,
    blobs: Arc<dyn Blobs>,
    places: Arc<Places>,
    shelf: Arc<Shelf>,
    open: Mutex<BTreeMap<AppName, Arc<App>>>,
}

/// One app's union. The lock is held while assets are added, so that two publishes do not do the same work twice.
#[derive(Debug)]
struct App {
    union: Arc<Union>,
    adding: Mutex<()>,
}

impl Unions {
    pub fn new(folder: PathBuf, blobs: Arc<dyn Blobs>, places: Arc<Places>, shelf: Arc<Shelf>) -> Self {
        Self {
            folder,
            blobs,
            places,
            shelf,
            open: Mutex::default(),
        }
    }

    /// Puts the assets of `release` on the shelf; blocks until they are durable.
    pub fn add(&self, release: &ReleaseRecord) -> Result<(), AddAssetsError> {
        let app = self.app(&release.app)?;
        let _adding = app.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if app.union.holds().contains(&release.target()) {
            return Ok(());
        }
        self.add_to(&app.union, release)?;
        self.shelf.set_union(&release.app, &app.union);
        Ok(())
    }

    fn add_to(&self, union: &Union, release: &ReleaseRecord) -> Result<(), AddAssetsError> {
        let assets = self.assets_of(release)?;
        self.fill(union, union.missing(&assets))?;
        Ok(union.record(release.target(), &assets)?)
    }

    /// What browsers fetch of a release.
    pub fn assets_of(&self, release: &ReleaseRecord) -> Result<Vec<Asset>, AddAssetsError> {
        let manifest = read_manifest(&*self.blobs, release.id);
        let manifest = manifest.map_err(|source| AddAssetsError::Manifest {
            id: release.id,
            source,
        })?;
        Ok(assets_of(&manifest)?)
    }

    /// Gets what is missing of an app's `assets` out of the bundles, and records nothing: for somebody who wants the files now.
    /// Blocks.
    pub fn bring(&self, app: &AppName, assets: &[Asset]) -> Result<(), AddAssetsError> {
        let app = self.app(app)?;
        let _adding = app.adding.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill(&app.union, app.union.missing(assets))
    }

    /// Lets go of whatever the ledger says has expired. Blocks; safe to repeat.
    pub fn forget_expired(&self, ledger: &Ledger, app: &AppName) -> Result<Forgotten, ForgetExpiredError> {
        let held = self.app(app)?;
        let _adding = held.adding.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked here: who adds a release has taken its marks away before.
        let expired = ledger.expired_urls(app)?;
        if expired.is_empty() {
            return Ok(Forgotten::default());
        }
        let word = held.union.word();
        Ok(held.union.forget(word, &|url| expired.contains(url))?)
    }

    /// Adds whatever is missing of all releases, newest first, but for what has expired; tells what could not be. Blocks.
    pub fn catch_up(
        &self,
        ledger: &Ledger,
    ) -> Result<Vec<(AppName, ReleaseNumber, AddAssetsError)>, LedgerError> {
        let mut failed = Vec::new();
        for app in ledger.apps()? {
            if let Ok(held) = self.app(&app) {
                self.shelf.set_union(&app, &held.union);
            }
            let faded = self.faded(&app, &ledger.expired_urls(&app)?);
            for release in ledger.releases(&app, usize::MAX)? {
                if faded.contains(&release.target()) {
                    continue;
                }
                if let Err(error) = self.add(&release) {
                    failed.push((app.clone(), release.number, error));
                }
            }
            if let Err(error) = self.forget_expired(ledger, &app) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%app, error, "expired assets still lie here");
            }
        }
        Ok(failed)
    }

    /// Releases of which assets have expired, and all others are here. One of which an expired asset was wanted again,
    /// and not brought back before a crash, is none of them.
    fn faded(&self, app: &AppName, expired: &UrlSet) -> Vec<Target> {
        let Ok(held) = self.app(app) else {
            return Vec::new();
        };
        let mut faded = held.union.faded();
        let walked = held.union.walk_forgotten(|release, url, _, _| {
            if !expired.contains(url) {
                faded.retain(|one| *one != release);
            }
        });
        // What cannot be read is made anew.
        walked.map_or_else(|_| Vec::new(), |()| faded)
    }

    /// The union of `app`; opened when it is not open yet, and empty for an app without releases.
    pub fn union(&self, app: &AppName) -> Result<Arc<Union>, AddAssetsError> {
        Ok(Arc::clone(&self.app(app)?.union))
    }

    /// Gets one asset out of the bundles and serves it; blocks.
    pub fn fetch(&self, app: &AppName, asset: Asset) -> Result<(), AddAssetsError> {
        let union = self.union(app)?;
        self.fill(&union, vec![asset.clone()])?;
        union.adopt(&asset);
        self.shelf.set_union(app, &union);
        Ok(())
    }

    /// How many bytes the fingerprinted asset at `url` has, which `release` brought; none when it did not. Blocks, and
    /// reads the release's manifest when the union does not know.
    pub fn size(&self, release: &ReleaseRecord, url: &str) -> Result<Option<u64>, AddAssetsError> {
        if let Some(size) = self.union(&release.app)?.size(url) {
            return Ok(Some(size));
        }
        let manifest = read_manifest(&*self.blobs, release.id);
        let manifest = manifest.map_err(|source| AddAssetsError::Manifest {
            id: release.id,
            source,
        })?;
        let assets = assets_of(&manifest)?;
        let found = assets
            .iter()
            .find(|asset| asset.fingerprinted && asset.url_path == url);
        Ok(found.map(|asset| asset.size))
    }

    fn app(&self, app: &AppName) -> Result<Arc<App>, AddAssetsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = open.get(app) {
            return Ok(Arc::clone(held));
        }
        let records = self.folder.join(format!("{app}.records"));
        let union = self.open_union(app, &records)?;
        let held = Arc::new(App {
            union: Arc::new(union),
            adding: Mutex::default(),
        });
        open.insert(app.clone(), Arc::clone(&held));
        Ok(held)
    }

    fn open_union(&self, app: &AppName, records: &Path) -> Result<Union, AddAssetsError> {
        // No app's folder can be another's records: `.` is allowed in names, so folders have a suffix as well.
        let opened = Union::open(&self.folder.join(format!("{app}.files")), records);
        opened.map_err(|source| AddAssetsError::Open {
            app: app.clone(),
            source,
        })
    }

    /// Copies `missing` out of the bundles that carry them into a union, which need not be one of these. Durable when it is
    /// recorded there; not twice at once for one union. Blocks.
    pub fn fill(&self, union: &Union, missing: Vec<Asset>) -> Result<(), AddAssetsError> {
        let mut wanted: HashMap<BlobDigest, Vec<Asset>> = HashMap::new();
        for asset in missing {
            wanted.entry(asset.digest).or_default().push(asset);
        }
        let digests: Vec<BlobDigest> = wanted.keys().copied().collect();
        bring(&*self.blobs, &self.places, &digests).map_err(Box::new)?;
        for located in self.places.locate(&digests, &[]) {
            let index = read_index(&*self.blobs, located.bundle)?;
            let reader = self.blobs.open(Object::Bundle(located.bundle))?;
            for frame in index.frames() {
                let mut places = frame
                    .blobs
                    .iter()
                    .filter(|place| wanted.contains_key(&place.digest));
                if places.next().is_some() {
                    fill_from(union, &mut wanted, located.bundle, frame, reader.as_ref())?;
                }
            }
            for list in index.lists() {
                for asset in wanted.remove(&list.blob).into_iter().flatten() {
                    self.fill_listed(union, &asset, list)?;
                }
            }
        }
        match wanted.into_values().flatten().next() {
            None => Ok(()),
            Some(asset) => Err(AddAssetsError::Nowhere { url: asset.url_path }),
        }
    }
}

impl Unions {
    /// A large asset out of its segments.
    fn fill_listed(&self, union: &Union, asset: &Asset, list: &SegmentList) -> Result<(), AddAssetsError> {
        let bundles = gathered(&*self.blobs, &self.places, &[list.blob])?;
        let source = StoreSource::of(&*self.blobs);
        let piped = pipe(union, asset, |given| {
            read_listed(list, &bundles, &source, |piece| given.write_all(piece))
        });
        piped.map_err(|error| match error {
            Piped::Pushed(source) => AddAssetsError::Segments {
                url: asset.url_path.clone(),
                source,
            },
            Piped::Other(error) => error,
        })
    }
}

/// Takes out of one frame what is wanted of it.
fn fill_from(
    union: &Union,
    wanted: &mut HashMap<BlobDigest, Vec<Asset>>,
    bundle: BundleDigest,
    frame: &Frame,
    reader: &dyn ObjectReader,
) -> Result<(), AddAssetsError> {
    let broken = |source| AddAssetsError::Bundle { bundle, source };
    let mut frames = FrameReader::new(BufReader::new(Slice::of(reader, frame)), frame).map_err(broken)?;
    for place in &frame.blobs {
        let Some(assets) = wanted.remove(&place.digest) else {
            continue;
        };
        if place.size <= SMALL {
            let mut content = Vec::new();
            let keep = |piece: &[u8]| {
                content.extend_from_slice(piece);
                Ok(())
            };
            frames.blob(place, keep).map_err(broken)?;
            for asset in &assets {
                union.add_blob(asset, &mut &content[..])?;
            }
            continue;
        }
        // Each name of a large content is read anew: that is rare, and memory stays bounded.
        for asset in &assets {
            let mut again =
                FrameReader::new(BufReader::new(Slice::of(reader, frame)), frame).map_err(broken)?;
            let piped = pipe(union, asset, |given| {
                again.blob(place, |piece| given.write_all(piece))
            });
            piped.map_err(|error| match error {
                Piped::Pushed(source) => broken(source),
                Piped::Other(error) => error,
            })?;
        }
    }
    Ok(())
}

enum Piped<E> {
    Pushed(E),
    Other(AddAssetsError),
}

/// Hands a large blob from who reads it, which pushes, to the union, which pulls.
fn pipe<E>(
    union: &Union,
    asset: &Asset,
    push: impl FnOnce(&mut io::PipeWriter) -> Result<(), E>,
) -> Result<(), Piped<E>> {
    let (mut taken, mut given) = io::pipe().map_err(|error| Piped::Other(AddAssetsError::Pipe(error)))?;
    std::thread::scope(|scope| {
        // The thread owns the reading end, so that a refusal there ends the writing here.
        let adding = scope.spawn(move || union.add_blob(asset, &mut taken));
        let pushed = push(&mut given);
        drop(given);
        let added = adding.join().map_err(|_| {
            let source = io::Error::other("the copying thread panicked");
            Piped::Other(AddAssetsError::Pipe(source))
        })?;
        // What the union says comes first: that the pipe broke then is only its consequence.
        added.map_err(|error| Piped::Other(error.into()))?;
        pushed.map_err(Piped::Pushed)
    })
}
