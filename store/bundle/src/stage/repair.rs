//! Mending a staged release where it lies: what is not as published is built aside, checked, and put in its place name by
//! name.
//!
//! A rename gives a name another inode, so a process that has the old one open or mapped keeps what it has, and the tree
//! is complete at every moment. A crash leaves a tree that is partly mended, whose record does not claim more than was
//! true before.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use ship_durable::remove_tree;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::path::{PathRef, TreePath};
use ship_model::spec::ReleaseSpec;

use super::build::{BuildError, Builder};
use super::check::{self, Checked};
use super::parts::{Ways, fetch_all};
use super::stamps::Stamps;
use super::supply::supply;
use super::{StageError, StageTask, StagedRelease, Staging, has_room, now, report, seal};
use crate::beneath::{Parents, Root};
use crate::shared::shared_links;
use crate::stamp::FileStamp;

/// What was mended.
#[derive(Debug)]
pub struct Repaired {
    /// Names that were put right, sorted. Empty: there was nothing to mend.
    pub paths: Vec<TreePath>,
    pub report: super::StageReport,
}

/// Puts right what of a staged release is damaged or missing. Names that were added stay.
///
/// `task.donors` may hold the release itself: what of it is sound is used.
///
/// # Errors
/// [`StageError`]; names that were put right until then stay right.
pub fn repair(task: &StageTask<'_>) -> Result<Repaired, StageError> {
    let start = now();
    let place = task.place;
    let staged = StagedRelease::open(place).map_err(StageError::Existing)?;
    let mending = Mending {
        task,
        staged: &staged,
    };
    let checked = mending.look(Some(&staged.stamps.entries))?;
    let shared = shared_links(staged.manifest()).map_err(StageError::Shared)?;
    let mut stamps = checked.stamps;
    let mut repaired = Repaired {
        paths: Vec::new(),
        report: report(staged.id()),
    };
    if checked.report.problems.iter().any(|problem| problem.is_damage()) {
        let built = mending.files(&checked.damaged, &mut stamps, &mut repaired);
        let _ = remove_tree(&place.staging());
        built?;
        mending.others(&checked.damaged, &shared, &mut repaired)?;
        ship_durable::sync_fs(place.releases()).map_err(StageError::Durable)?;
    }
    let again = mending.look(Some(&stamps))?;
    let mut damage = again.report.problems.iter().filter(|problem| problem.is_damage());
    if let Some(first) = damage.next() {
        return Err(StageError::Damaged {
            folder: place.folder().to_owned(),
            differing: damage.count() + 1 + again.report.more,
            first: first.path.clone(),
        });
    }
    if again.stamps != staged.stamps.entries {
        let stamps = Stamps {
            release: staged.id(),
            entries: again.stamps,
        };
        ship_durable::write_file(&place.stamps(), &stamps.encode()).map_err(StageError::Durable)?;
    }
    repaired.paths.sort();
    repaired.report.already = repaired.paths.is_empty();
    repaired.report.elapsed = start.elapsed();
    Ok(repaired)
}

struct Mending<'a> {
    task: &'a StageTask<'a>,
    staged: &'a StagedRelease,
}

impl Mending<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> StageError + use<> {
        let path = self.task.place.tree();
        move |source| StageError::Folder { action, path, source }
    }

    fn look(&self, stamps: Option<&[FileStamp]>) -> Result<Checked, StageError> {
        check::check(self.staged.root(), self.staged.manifest(), stamps, &())
            .map_err(self.failed("list the release"))
    }

    fn entry(&self, at: usize) -> EntryRef<'_> {
        self.staged.manifest().entries().at(at)
    }

    /// Builds the damaged files aside, reads them back and moves each into its place.
    fn files(
        &self,
        damaged: &[usize],
        stamps: &mut [FileStamp],
        repaired: &mut Repaired,
    ) -> Result<(), StageError> {
        let is_file = |at: &usize| matches!(self.entry(*at).kind, EntryKind::File { .. });
        let mut wanted: Vec<usize> = damaged.iter().copied().filter(is_file).collect();
        wanted.sort_unstable();
        if wanted.is_empty() {
            return Ok(());
        }
        let spec = ReleaseSpec::static_files(self.staged.manifest().spec().app.clone());
        let entries = wanted.iter().map(|at| self.entry(*at).to_entry()).collect();
        let part = Manifest::new(spec, entries).map_err(StageError::Manifest)?;
        let new = self.build(&part, repaired)?;
        let aside = self.aside()?;
        for ((at, entry), stamp) in wanted.into_iter().zip(part.entries().iter()).zip(new) {
            self.put(entry.path, |folder, name| {
                move_in(&aside, entry.path, folder, name)
            })?;
            stamps[at] = stamp;
            repaired.paths.push(entry.path.to_path());
        }
        Ok(())
    }

    fn aside(&self) -> Result<Root, StageError> {
        Root::open(&self.task.place.staging()).map_err(self.failed("open the staging folder of"))
    }

    fn build(&self, part: &Manifest, repaired: &mut Repaired) -> Result<Vec<FileStamp>, StageError> {
        let task = self.task;
        let groups = supply(part, task.donors, None);
        let ways = Ways::of(&groups.missing(), task.bundles).map_err(StageError::Missing)?;
        let releases = Root::open(task.place.releases()).map_err(self.failed("open"))?;
        has_room(&releases, &groups, self.failed("ask for free space"))?;
        let staging = Staging {
            task,
            id: self.staged.id(),
            shared: &BTreeMap::new(),
        };
        let builder = Builder::new(
            staging.make_staging(&releases)?,
            part,
            task.donors,
            &groups,
            true,
            task.progress,
        );
        builder.folders(&BTreeMap::new())?;
        builder.local()?;
        repaired.report.fetched_bytes = fetch_all(&builder, &ways, task.bundles, task.source)?;
        ship_durable::sync_fs(task.place.releases()).map_err(StageError::Durable)?;
        let origins = std::mem::take(&mut *builder.origins.lock().unwrap_or_else(|e| e.into_inner()));
        // The renames to come move the ctime, so the stamps are taken anew by the last look, which trusts nothing else.
        let mut stamps = seal::read_back(&builder.root, part, &origins, |file| {
            groups.look(file, task.donors)
        })
        .map_err(StageError::ReadBack)?;
        stamps.fill(FileStamp::NONE);
        Ok(stamps)
    }

    /// Links and folders need no bytes.
    fn others(
        &self,
        damaged: &[usize],
        shared: &BTreeMap<TreePath, Vec<u8>>,
        repaired: &mut Repaired,
    ) -> Result<(), StageError> {
        for at in damaged {
            let entry = self.entry(*at);
            match entry.kind {
                EntryKind::File { .. } => continue,
                EntryKind::Link { target } => {
                    self.put(entry.path, |folder, name| {
                        Ok(rustix::fs::symlinkat(target, folder, name)?)
                    })?;
                }
                EntryKind::EmptyFolder => {
                    self.put(entry.path, |folder, name| {
                        Ok(rustix::fs::mkdirat(folder, name, closed())?)
                    })?;
                }
            }
            repaired.paths.push(entry.path.to_path());
        }
        for (path, target) in shared {
            let mut parents = Parents::of(self.staged.root());
            let found = parents
                .split(path.as_bytes())
                .and_then(|(parent, name)| Ok(rustix::fs::readlinkat(parent, name, Vec::new())?));
            if found.is_ok_and(|found| found.to_bytes() == &target[..]) {
                continue;
            }
            self.put(path.by_ref(), |folder, name| {
                Ok(rustix::fs::symlinkat(&target[..], folder, name)?)
            })?;
            repaired.paths.push(path.clone());
        }
        Ok(())
    }

    /// Opens the folder of `path` for a moment and has `make` put the name there; what is in the way goes first unless a
    /// rename replaces it.
    fn put(
        &self,
        path: PathRef<'_>,
        make: impl Fn(&Root, &[u8]) -> io::Result<()>,
    ) -> Result<(), StageError> {
        let failed = || BuildError::at("mend", path.as_bytes());
        let folder = self.folder(path.parent().unwrap_or_default()).map_err(failed())?;
        let open = Mode::from_raw_mode(0o755);
        rustix::fs::fchmod(&folder, open).map_err(|error| failed()(error.into()))?;
        let made = match make(&folder, path.file_name()) {
            Err(error) if is_in_the_way(&error) => {
                self.clear(path).and_then(|()| make(&folder, path.file_name()))
            }
            other => other,
        };
        // Also after a failure: a folder that stayed open would let the app write into the release.
        let shut = rustix::fs::fchmod(&folder, closed());
        made.and(shut.map_err(io::Error::from)).map_err(failed())?;
        Ok(())
    }

    /// Takes away what has a name that something else should have.
    fn clear(&self, path: PathRef<'_>) -> io::Result<()> {
        let mut parents = Parents::of(self.staged.root());
        let (parent, name) = parents.split(path.as_bytes())?;
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                // No link is followed on the way: the parent was opened beneath the tree.
                let folder = self.task.place.tree().join(path.as_path());
                remove_tree(&folder).map_err(io::Error::other)
            }
            other => Ok(other?),
        }
    }

    /// The folder `path` of the tree; made, with those above it, where it is gone.
    fn folder(&self, path: &[u8]) -> io::Result<Root> {
        let root = self.staged.root();
        if path.is_empty() {
            return root.folder(b".");
        }
        match root.folder(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let (above, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let parent = self.folder(above)?;
        rustix::fs::fchmod(&parent, Mode::from_raw_mode(0o755))?;
        let made = rustix::fs::mkdirat(parent.as_fd(), name, Mode::RWXU);
        rustix::fs::fchmod(&parent, closed())?;
        made?;
        parent.folder(name)
    }
}

fn closed() -> Mode {
    Mode::from_raw_mode(0o555)
}

fn is_in_the_way(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY | Errno::NOTDIR)
    )
}

fn move_in(aside: &Root, path: PathRef<'_>, folder: &Root, name: &[u8]) -> io::Result<()> {
    let mut sources = Parents::of(aside);
    let (source, from) = sources.split(path.as_bytes())?;
    rustix::fs::renameat(source, from, folder.as_fd(), name)?;
    // Where both were one inode already the rename did nothing; the staging folder goes in a moment.
    Ok(())
}
