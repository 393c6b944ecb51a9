//! Building a tree in a folder that is nobody's yet: folders, linked and copied files, fetched blobs, links.
//!
//! Every name is made beneath the folder with no link on the way, so a link planted there while it runs makes a step
//! fail and leads nowhere. Files are private until they are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::Mode;
use rustix::io::Errno;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::path::{PathRef, TreePath, escape};

use super::fetch::{Content, ContentError, FetchError, NoBundle, Sink};
use super::kept::Kept;
use super::link::OpenFolders;
use super::staged::{StagedRelease, file_mode};
use super::supply::{DonorFile, Group, Groups, Supply};
use crate::beneath::{NEIGHBOURS, Parents, Root};
use crate::content::PIECE;
use crate::progress::Progress;

/// Why a tree could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot {action} \"{path}\"")]
    Step {
        action: &'static str,
        path: String,
        source: io::Error,
    },
    #[error("no space left for \"{path}\": free some, or remove releases that are not needed")]
    Full { path: String, source: io::Error },
    #[error("\"{path}\" of release {donor} changed while it was used: verify that release")]
    DonorChanged { donor: String, path: TreePath },
    #[error("cannot get all of the release")]
    Missing(#[source] NoBundle),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl BuildError {
    pub(super) fn at(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> Self {
        let path = escape(path);
        move |source| match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::Full { path, source },
            _ => Self::Step { action, path, source },
        }
    }
}

/// How a file of the new tree came to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// Its bytes were written here.
    Written,
    /// A second name of another file of this tree.
    Twin,
    /// A second name of a donor's file.
    Linked(DonorFile),
    /// Shares the donor's extents.
    Cloned,
}

/// Bytes and files by the way they came.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub linked_files: AtomicU64,
    pub linked_bytes: AtomicU64,
    pub kept_files: AtomicU64,
    pub written_files: AtomicU64,
    pub written_bytes: AtomicU64,
}

pub(crate) struct Builder<'a> {
    pub root: Root,
    pub manifest: &'a Manifest,
    pub donors: &'a [StagedRelease],
    pub kept: Option<&'a Kept>,
    pub progress: &'a dyn Progress,
    pub read_only: bool,
    /// Cleared when the file system turns out to have no reflinks.
    pub reflink: AtomicBool,
    pub counts: Counts,
    pub groups: &'a Groups<'a>,
    /// By entry; none for what is no file, or not made yet.
    pub origins: Mutex<Vec<Option<Origin>>>,
}

impl<'a> Builder<'a> {
    pub fn new(
        root: Root,
        manifest: &'a Manifest,
        donors: &'a [StagedRelease],
        groups: &'a Groups<'a>,
        read_only: bool,
        progress: &'a dyn Progress,
    ) -> Self {
        Self {
            root,
            manifest,
            donors,
            kept: None,
            progress,
            read_only,
            reflink: AtomicBool::new(true),
            counts: Counts::default(),
            groups,
            origins: Mutex::new(vec![None; manifest.entries().len()]),
        }
    }

    /// Of an entry that a group names.
    pub(super) fn path(&self, entry: usize) -> PathRef<'a> {
        self.manifest.entries().at(entry).path
    }

    /// Makes every folder that the manifest and `shared` names need; returns them, parents first. An empty folder gives
    /// way to a shared name.
    pub fn folders(&self, shared: &BTreeMap<TreePath, Vec<u8>>) -> Result<BTreeSet<Vec<u8>>, BuildError> {
        let mut folders = BTreeSet::new();
        let entries = self.manifest.entries().iter();
        for path in entries
            .clone()
            .map(|entry| entry.path)
            .chain(shared.keys().map(TreePath::by_ref))
        {
            let mut above = path.parent();
            while let Some(folder) = above {
                if folders.contains(folder) {
                    break;
                }
                folders.insert(folder.to_vec());
                above = folder.iter().rposition(|b| *b == b'/').map(|at| &folder[..at]);
            }
        }
        let empty = entries.filter(|entry| {
            entry.kind == EntryKind::EmptyFolder && !shared.contains_key(&entry.path.to_path())
        });
        folders.extend(empty.map(|entry| entry.path.as_bytes().to_vec()));
        let mut parents = Parents::of(&self.root);
        for folder in &folders {
            parents
                .split(folder)
                .and_then(|(parent, name)| Ok(rustix::fs::mkdirat(parent, name, Mode::RWXU)?))
                .map_err(BuildError::at("make folder", folder))?;
        }
        Ok(folders)
    }

    /// Makes the manifest's links and those of `shared`.
    pub fn links(&self, shared: &BTreeMap<TreePath, Vec<u8>>) -> Result<(), BuildError> {
        let own = self.manifest.entries().iter().filter_map(|entry| match entry {
            EntryRef {
                path,
                kind: EntryKind::Link { target },
            } => Some((path, target)),
            _ => None,
        });
        let mut parents = Parents::of(&self.root);
        for (path, target) in own.chain(shared.iter().map(|(path, target)| (path.by_ref(), &target[..]))) {
            parents
                .split(path.as_bytes())
                .and_then(|(parent, name)| Ok(rustix::fs::symlinkat(target, parent, name)?))
                .map_err(BuildError::at("make link", path.as_bytes()))?;
        }
        Ok(())
    }

    /// Makes all files that need no fetching, neighbours one after another: so their folders stay open.
    pub fn local(&self) -> Result<(), BuildError> {
        let groups = (0_u32..).zip(self.groups.iter());
        let here = groups.filter(|(_, group)| !matches!(group.supply, Supply::Fetch));
        let mut order: Vec<_> = here.map(|(at, group)| (group.first().0, at)).collect();
        order.sort_unstable();
        order.par_chunks(NEIGHBOURS).try_for_each(|neighbours| {
            let mut open = OpenFolders::of(self);
            let mut groups = neighbours
                .iter()
                .filter_map(|(_, at)| self.groups.get(*at as usize));
            groups.try_for_each(|group| self.local_one(&group, &mut open))
        })
    }

    fn local_one(&self, group: &Group<'_>, open: &mut OpenFolders<'_>) -> Result<(), BuildError> {
        let mut made = Vec::new();
        match group.supply {
            Supply::Fetch => return Ok(()),
            Supply::Link(files) => self.link_all(group, files, open, &mut made)?,
            Supply::Copy(file) => {
                let donor = &self.donors[usize::from(file.donor)];
                let from = donor.manifest().entries().at(file.entry as usize).path;
                self.copy(donor.root(), from, Some(donor), group, group.first(), &mut made)?;
            }
            Supply::Kept => made.push((self.take_kept(group)?, Origin::Written)),
            Supply::Empty => {
                let path = self.path(group.first().0);
                self.create(path)
                    .and_then(|file| self.complete(&file, group.first().1, 0))
                    .map_err(BuildError::at("write", path.as_bytes()))?;
                made.push((group.first().0, Origin::Written));
            }
        }
        self.spread_over(group, made, open)
    }

    /// Takes over a file that an earlier try wrote; it is read back with the others.
    fn take_kept(&self, group: &Group<'_>) -> Result<usize, BuildError> {
        let (entry, _) = group.first();
        let path = self.path(entry);
        let kept = self.kept.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        kept.and_then(|kept| kept.give(path, &self.root))
            .map_err(BuildError::at("take over", path.as_bytes()))?;
        self.progress.done(group.size);
        self.counts.kept_files.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// Gives the remaining names of a group what its first ones have, and notes how all of them came to be.
    pub(super) fn spread(&self, group: &Group<'_>, made: Vec<(usize, Origin)>) -> Result<(), BuildError> {
        self.spread_over(group, made, &mut OpenFolders::of(self))
    }

    fn spread_over(
        &self,
        group: &Group<'_>,
        mut made: Vec<(usize, Origin)>,
        open: &mut OpenFolders<'_>,
    ) -> Result<(), BuildError> {
        let Some((model, _)) = made.first().copied() else {
            return Ok(());
        };
        for executable in [false, true] {
            let names = group.names[usize::from(executable)];
            let Some((head, rest)) = names.split_first() else {
                continue;
            };
            let head = *head as usize;
            let has = |entry: usize, made: &[(usize, Origin)]| made.iter().any(|(other, _)| *other == entry);
            if has(head, &made) && rest.first().is_some_and(|next| has(*next as usize, &made)) {
                continue;
            }
            if !has(head, &made) {
                let model = self.path(model);
                self.copy(&self.root, model, None, group, (head, executable), &mut made)?;
            }
            for entry in rest {
                self.twin(head, group, (*entry as usize, executable), open, &mut made)?;
            }
        }
        if let Ok(mut origins) = self.origins.lock() {
            for (entry, origin) in made {
                if let Some(place) = origins.get_mut(entry) {
                    *place = Some(origin);
                }
            }
        }
        Ok(())
    }

    pub(super) fn create(&self, path: PathRef<'_>) -> io::Result<File> {
        self.root.create(path.as_bytes())
    }

    /// Gives a written file its mode. Counted here: every file whose bytes were written passes by.
    pub(super) fn complete(&self, file: &File, executable: bool, bytes: u64) -> io::Result<()> {
        let mode = match (self.read_only, executable) {
            (true, executable) => file_mode(executable),
            (false, true) => 0o755,
            (false, false) => 0o644,
        };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        self.counts.written_files.fetch_add(1, Ordering::Relaxed);
        self.counts.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Copies a file from a donor or from this tree, and checks its bytes on the way.
    pub(super) fn copy(
        &self,
        from: &Root,
        path: PathRef<'_>,
        donor: Option<&StagedRelease>,
        group: &Group<'_>,
        (entry, executable): (usize, bool),
        made: &mut Vec<(usize, Origin)>,
    ) -> Result<(), BuildError> {
        let to = self.path(entry);
        let read_error = || BuildError::at("read", path.as_bytes());
        let write_error = || BuildError::at("write", to.as_bytes());
        let mut input = from.read(path.as_bytes()).map_err(read_error())?;
        let mut output = self.create(to).map_err(write_error())?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; PIECE];
        loop {
            let got = input.read(&mut buffer).map_err(read_error())?;
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
            output.write_all(&buffer[..got]).map_err(write_error())?;
        }
        if BlobDigest::from(hasher.finalize()) != group.digest {
            return Err(BuildError::DonorChanged {
                donor: donor.map_or("being staged", StagedRelease::folder).to_owned(),
                path: path.to_path(),
            });
        }
        self.complete(&output, executable, group.size)
            .map_err(write_error())?;
        made.push((entry, Origin::Written));
        Ok(())
    }
}

impl Sink for Builder<'_> {
    type Error = BuildError;

    fn blob(
        &self,
        digest: BlobDigest,
        size: u64,
        content: &mut Content<'_>,
        wrong: &dyn Fn() -> FetchError,
    ) -> Result<(), BuildError> {
        let group = self.groups.find(digest);
        let group = &group.filter(|group| group.size == size).ok_or_else(wrong)?;
        let (entry, executable) = group.first();
        let path = self.path(entry);
        let write_error = || BuildError::at("write", path.as_bytes());
        let mut file = self.create(path).map_err(write_error())?;
        let mut hasher = blake3::Hasher::new();
        content(&mut |piece| {
            hasher.update(piece);
            self.progress.done(piece.len() as u64);
            file.write_all(piece)
        })
        .map_err(|error| match error {
            ContentError::Write(source) => write_error()(source),
            ContentError::Fetch(error) => error.into(),
        })?;
        if BlobDigest::from(hasher.finalize()) != digest {
            return Err(wrong().into());
        }
        self.complete(&file, executable, group.size)
            .map_err(write_error())?;
        self.spread(group, vec![(entry, Origin::Written)])
    }
}
