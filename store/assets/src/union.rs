//! The folder: atomic per file, verified; it grows, and [`Union::forget`] alone takes from it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use ship_durable::fault;
use ship_model::assets::{Asset, AssetsError, assets_of, folder_name};
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::path::TreePath;
use ship_model::release::Target;

use crate::forget::Forgotten;
use crate::known::{Held, State, Stored};
use crate::record::{Record, RecordError};

const INCOMING: &str = "incoming";
/// Tries of an `openat2` that renames nearby disturb.
const DISTURBED: usize = 64;

/// The union of fingerprinted assets of one app, as a folder.
///
/// May be shared between threads; two processes must not add to one folder.
#[derive(Debug)]
pub struct Union {
    folder: Arc<Path>,
    records: PathBuf,
    next: AtomicU64,
    state: RwLock<State>,
    /// Somebody asked for a file since it was last looked which.
    news: AtomicBool,
}

/// What adding a release did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Assets that were there already.
    pub present: u64,
    /// Hard links made; they cost no room.
    pub linked: u64,
    /// Files copied, where the file system cannot link.
    pub copied: u64,
}

/// Why a union cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnionError {
    #[error("cannot make asset folder {}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("cannot list asset records in {}", path.display())]
    List { path: PathBuf, source: io::Error },
}

/// Why an asset or a release was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    #[error("asset \"{url}\" has no place in a folder")]
    Name { url: String },
    #[error("cannot add asset \"{url}\" to the union")]
    Write { url: String, source: io::Error },
    #[error("asset \"{url}\" is not what was published: its bytes have digest {found}, not {expected}")]
    Digest {
        url: String,
        expected: BlobDigest,
        found: BlobDigest,
    },
    #[error(
        "asset \"{url}\" would replace other bytes of the same name, which never happens: publish it under a new name"
    )]
    Clash { url: String },
    #[error("cannot make the union's new files durable")]
    Sync { source: ship_durable::FileError },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the release's assets contradict each other")]
    Assets(#[from] AssetsError),
}

impl Union {
    /// Opens the union whose files lie in `folder` and whose records lie in `records`, making both when
    /// they are missing. Records that are damaged are left out, and so are made anew by their release.
    ///
    /// Both must lie on one file system.
    pub fn open(folder: &Path, records: &Path) -> Result<Self, UnionError> {
        let incoming = records.join(INCOMING);
        for path in [folder, records, &incoming] {
            fs::create_dir_all(path).map_err(|source| UnionError::Make {
                path: path.to_owned(),
                source,
            })?;
        }
        let failed = |source| UnionError::List {
            path: records.to_owned(),
            source,
        };
        for leftover in fs::read_dir(&incoming).map_err(failed)? {
            fs::remove_file(leftover.map_err(failed)?.path()).map_err(failed)?;
        }
        let (mut state, mut forgotten) = (State::default(), Vec::new());
        for entry in fs::read_dir(records).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() && !starts_with_dot(&path) {
                match Record::read(&path) {
                    Ok(record) => {
                        let assets = record.assets.iter();
                        let files = assets.map(|asset| (&*asset.url, asset.digest, asset.size));
                        state.take(record.release, files);
                        if record.is_faded() {
                            state.fade(record.release);
                        }
                        forgotten.extend(
                            record
                                .forgotten
                                .iter()
                                .filter_map(|asset| folder_name(&asset.url)),
                        );
                    }
                    Err(error) => tracing::warn!(%error, "asset record left out"),
                }
            }
        }
        state.releases.sort_by_key(|release| release.number);
        forgotten.retain(|name| !state.files.contains_key(name));
        let union = Self {
            folder: folder.into(),
            records: records.to_owned(),
            next: AtomicU64::new(0),
            state: RwLock::new(state),
            news: AtomicBool::new(false),
        };
        // What a crash left of them.
        for name in &forgotten {
            if let Err(error) = union.unlink(name, &mut Forgotten::default()) {
                tracing::warn!(error = &error as &dyn std::error::Error, "an expired asset stays");
            }
        }
        Ok(union)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Releases whose fingerprinted assets are all here, by number.
    pub fn holds(&self) -> Vec<Target> {
        self.state().releases.clone()
    }

    /// Those of `assets` that are fingerprinted and not here. One stat per asset that a record names:
    /// a file that somebody deleted is missing again.
    pub fn missing(&self, assets: &[Asset]) -> Vec<Asset> {
        let state = self.state();
        let here = |asset: &&Asset| {
            folder_name(&asset.url_path).is_some_and(|name| {
                let known = state
                    .files
                    .get(&name)
                    .is_some_and(|held| held.stored.digest == asset.digest);
                known && self.stands(&name, asset.size)
            })
        };
        assets
            .iter()
            .filter(|asset| asset.fingerprinted && !here(asset))
            .cloned()
            .collect()
    }

    /// Adds the assets of a release that lies unpacked and verified in `tree`, and records it.
    ///
    /// Returns when all is durable. After a crash some files may be there without their record: they are
    /// verified and kept when the release is added again.
    pub fn add_tree(&self, target: Target, manifest: &Manifest, tree: &Path) -> Result<Added, AddError> {
        let assets = assets_of(manifest)?;
        let mut added = Added::default();
        let missing = self.missing(&assets);
        let fingerprinted = assets.iter().filter(|asset| asset.fingerprinted).count();
        added.present = (fingerprinted - missing.len()) as u64;
        for asset in &missing {
            if self.add_file(asset, tree)? {
                added.linked += 1;
            } else {
                added.copied += 1;
            }
        }
        self.record(target, &assets)?;
        Ok(added)
    }

    /// Adds one asset from a stream, verifying it before it gets its name. Durable after [`Self::record`].
    pub fn add_blob(&self, asset: &Asset, content: &mut dyn Read) -> Result<(), AddError> {
        let name = self.name_of(asset)?;
        let failed = |source| AddError::Write {
            url: asset.url_path.clone(),
            source,
        };
        let incoming = self.incoming();
        let copied = copy_hashing(content, &incoming, asset.size);
        let found = copied.map_err(|source| {
            // What did not fit must not fill the disk.
            let _ = fs::remove_file(&incoming);
            failed(source)
        })?;
        if found != asset.digest {
            let _ = fs::remove_file(&incoming);
            let (url, expected) = (asset.url_path.clone(), asset.digest);
            return Err(AddError::Digest { url, expected, found });
        }
        self.settle(asset, &name, &incoming)
    }

    /// Serves a file that was added by itself, until this process ends: no record names it here.
    pub fn adopt(&self, asset: &Asset) {
        let mut state = self.state_mut();
        state.know(&asset.url_path, asset.digest, asset.size);
    }

    /// Records that every fingerprinted one of `assets` is here, after making them durable.
    pub fn record(&self, target: Target, assets: &[Asset]) -> Result<(), AddError> {
        self.make_durable(assets, &|_| false)?;
        Record::write(target, assets, &self.records)?;
        self.take(target, assets, &|_| false, false);
        Ok(())
    }

    /// The same where what `is_gone` holds for has expired and need not be here: if that is any of them, the release is faded.
    pub fn record_kept(
        &self,
        target: Target,
        assets: &[Asset],
        is_gone: &dyn Fn(&str) -> bool,
    ) -> Result<(), AddError> {
        if !assets
            .iter()
            .any(|asset| asset.fingerprinted && is_gone(&asset.url_path))
        {
            return self.record(target, assets);
        }
        self.make_durable(assets, is_gone)?;
        let faded = Record::write_kept(target, assets, is_gone, &self.records)?;
        self.take(target, assets, is_gone, faded);
        Ok(())
    }

    fn make_durable(&self, assets: &[Asset], is_gone: &dyn Fn(&str) -> bool) -> Result<(), AddError> {
        if let Some(asset) = self.not_standing(assets, is_gone) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(AddError::Write {
                url: asset.url_path.clone(),
                source,
            });
        }
        ship_durable::sync_fs(&self.folder).map_err(|source| AddError::Sync { source })
    }

    fn take(&self, target: Target, assets: &[Asset], is_gone: &dyn Fn(&str) -> bool, faded: bool) {
        let mut state = self.state_mut();
        let here = |asset: &&Asset| asset.fingerprinted && !is_gone(&asset.url_path);
        let files = assets.iter().filter(here);
        let files = files.map(|asset| (&*asset.url_path, asset.digest, asset.size));
        state.take(target, files);
        state.releases.sort_by_key(|release| release.number);
        if faded {
            state.fade(target);
        }
    }

    /// Where an asset lies, or would lie; none when its URL has no place in a folder.
    pub fn file(&self, asset: &Asset) -> Option<PathBuf> {
        Some(self.folder.join(folder_name(&asset.url_path)?.as_path()))
    }

    pub(crate) fn root(&self) -> &Arc<Path> {
        &self.folder
    }

    /// Where the records lie.
    pub(crate) fn records(&self) -> &Path {
        &self.records
    }

    pub(crate) fn each_file(&self, mut look: impl FnMut(Stored)) {
        for held in self.state().files.values() {
            look(held.stored);
        }
    }

    /// A file of the union by its name below the folder; for somebody who asks for it, which is noted.
    pub(crate) fn find(&self, name: &TreePath) -> Option<Stored> {
        let state = self.state();
        let held = state.files.get(name)?;
        if held.mark.asked() {
            self.news.store(true, Ordering::Relaxed);
        }
        Some(held.stored)
    }

    /// The size of the file at `url`, if it is known here.
    pub fn size(&self, url: &str) -> Option<u64> {
        let name = folder_name(url)?;
        self.state().files.get(&name).map(|held| held.stored.size)
    }

    /// The contents of at most `most` files that somebody asked for and that were not told in this round: they are on
    /// their way until [`Self::told`] or [`Self::tell_again`]. Costs a walk over all names when there are any.
    pub fn asked_for(&self, most: usize) -> Vec<BlobDigest> {
        if most == 0 || !self.news.swap(false, Ordering::Relaxed) {
            return Vec::new();
        }
        let state = self.state();
        let asked = state.files.values().filter(|held| held.mark.is_asked());
        let asked: Vec<&Held> = asked.take(most).collect();
        if asked.len() == most {
            // There may be more: they are told next time.
            self.news.store(true, Ordering::Relaxed);
        }
        asked.iter().for_each(|held| held.mark.send());
        asked.iter().map(|held| held.stored.digest).collect()
    }

    /// What was on its way has arrived.
    pub fn told(&self) {
        self.state().files.values().for_each(|held| held.mark.arrive());
    }

    /// What was on its way may not have arrived.
    pub fn tell_again(&self) {
        let state = self.state();
        let lost = state.files.values().filter(|held| held.mark.lose());
        if lost.count() > 0 {
            self.news.store(true, Ordering::Relaxed);
        }
    }

    /// Begins a new round: what is asked for from now on is told once more.
    pub fn new_round(&self) {
        self.state().files.values().for_each(|held| held.mark.rest());
    }

    /// Hands the url, content and size of each asset that is here to `visit`, for each release that names it, one release after another. They are
    /// read from the records, so that nothing of them stays in memory.
    ///
    /// # Errors
    /// When a record cannot be read: whoever judges names must know all of them.
    pub fn walk_records(
        &self,
        mut visit: impl FnMut(Target, &str, BlobDigest, u64),
    ) -> Result<(), RecordError> {
        for release in self.recorded() {
            let record = Record::read(&self.records.join(release.folder()))?;
            let assets = record.assets.iter();
            assets.for_each(|asset| visit(release, &asset.url, asset.digest, asset.size));
        }
        Ok(())
    }

    /// Releases that have a record, whole or faded.
    pub(crate) fn recorded(&self) -> Vec<Target> {
        let state = self.state();
        let mut all = [&state.releases[..], &state.faded[..]].concat();
        all.sort_by_key(|release| release.number);
        all
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_standing<'a>(&self, assets: &'a [Asset], is_gone: &dyn Fn(&str) -> bool) -> Option<&'a Asset> {
        assets
            .iter()
            .filter(|asset| asset.fingerprinted && !is_gone(&asset.url_path))
            .find(|asset| !folder_name(&asset.url_path).is_some_and(|name| self.stands(&name, asset.size)))
    }

    fn stands(&self, name: &TreePath, size: u64) -> bool {
        let found = fs::symlink_metadata(self.folder.join(name.as_path()));
        found.is_ok_and(|meta| meta.is_file() && meta.len() == size)
    }

    fn name_of(&self, asset: &Asset) -> Result<TreePath, AddError> {
        let name = folder_name(&asset.url_path);
        let name = name.ok_or_else(|| AddError::Name {
            url: asset.url_path.clone(),
        })?;
        let known = self.state().files.get(&name).map(|held| held.stored);
        if known.is_some_and(|stored| stored.digest != asset.digest) {
            return Err(AddError::Clash {
                url: asset.url_path.clone(),
            });
        }
        Ok(name)
    }

    /// Links a file of the tree in; true when linked, false when copied. The tree is verified, so a link's bytes need
    /// no second look; a copy is hashed like any other stream. Where the tree has a symbolic link, the file it leads to
    /// within the tree is copied: the union is served without its releases, so nothing in it may lead out.
    fn add_file(&self, asset: &Asset, tree: &Path) -> Result<bool, AddError> {
        let name = self.name_of(asset)?;
        let incoming = self.incoming();
        let failed = |source| AddError::Write {
            url: asset.url_path.clone(),
            source,
        };
        let file = tree.join(asset.path.as_path());
        let plain = fs::symlink_metadata(&file).map_err(failed)?.is_file();
        if plain && fs::hard_link(&file, &incoming).is_ok() {
            self.settle(asset, &name, &incoming)?;
            return Ok(true);
        }
        let mut content = open_within(tree, &asset.path).map_err(failed)?;
        self.add_blob(asset, &mut content)?;
        Ok(false)
    }

    /// Gives a verified file its name. Whoever looks sees no file or the whole one. A file of that name
    /// that no record knows (a crash came before the record) is replaced by the verified one.
    fn settle(&self, asset: &Asset, name: &TreePath, incoming: &Path) -> Result<(), AddError> {
        let place = self.folder.join(name.as_path());
        let settled = (|| {
            fault::point("assets.before_rename")?;
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            rustix::fs::rename(incoming, &place)?;
            // Two links to one inode make rename(2) do nothing and leave the first name behind.
            let _ = fs::remove_file(incoming);
            fault::point("assets.after_rename")
        })();
        settled.map_err(|source| {
            let _ = fs::remove_file(incoming);
            AddError::Write {
                url: asset.url_path.clone(),
                source,
            }
        })
    }

    fn incoming(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.records.join(INCOMING).join(number.to_string())
    }
}

/// Opens what a name of `tree` leads to, and nothing outside of it.
fn open_within(tree: &Path, name: &TreePath) -> io::Result<File> {
    let folder = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let tree = rustix::fs::open(tree, folder, Mode::empty())?;
    let (flags, inside) = (OFlags::RDONLY | OFlags::CLOEXEC, ResolveFlags::BENEATH);
    for _ in 0..DISTURBED {
        match rustix::fs::openat2(&tree, name.as_path(), flags, Mode::empty(), inside) {
            Ok(file) => return Ok(file.into()),
            // A rename nearby: the kernel cannot tell whether it left the tree meanwhile.
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::AGAIN.into())
}

fn starts_with_dot(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().first() == Some(&b'.'))
}

/// Copies at most one byte more than `size`, so that an endless stream ends as a wrong digest.
fn copy_hashing(from: &mut dyn Read, to: &Path, size: u64) -> io::Result<BlobDigest> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(to)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 << 10];
    let mut from = from.take(size + 1);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
    }
}
