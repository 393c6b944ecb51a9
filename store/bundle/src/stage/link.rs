//! Giving files one more name: those of releases that lie here, and those of the tree that is built.

use std::io;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use ship_model::path::PathRef;

use super::build::{BuildError, Builder, Origin};
use super::staged::file_mode;
use super::supply::{DonorFile, Group};
use crate::beneath::{Parents, Root};
use crate::content::stamp_of;
use crate::stamp::FileStamp;

/// Folders that stay open from one file to the next: to name a file is one call then.
pub(super) struct OpenFolders<'a> {
    targets: Parents<'a>,
    /// Of the tree that is built, to link from.
    own: Parents<'a>,
    /// By donor.
    sources: Vec<Parents<'a>>,
}

impl<'a> OpenFolders<'a> {
    pub fn of(builder: &'a Builder<'_>) -> Self {
        let sources = builder.donors.iter().map(|donor| Parents::of(donor.root()));
        Self {
            targets: Parents::of(&builder.root),
            own: Parents::of(&builder.root),
            sources: sources.collect(),
        }
    }

    fn link_from_donor(
        &mut self,
        file: DonorFile,
        from: PathRef<'_>,
        to: PathRef<'_>,
    ) -> Result<FileStamp, Errno> {
        let source = self
            .sources
            .get_mut(usize::from(file.donor))
            .ok_or(Errno::NOENT)?;
        hard_link(source, from, &mut self.targets, to)
    }

    fn link_within(&mut self, from: PathRef<'_>, to: PathRef<'_>) -> Result<FileStamp, Errno> {
        hard_link(&mut self.own, from, &mut self.targets, to)
    }
}

fn hard_link(
    sources: &mut Parents<'_>,
    path: PathRef<'_>,
    targets: &mut Parents<'_>,
    to: PathRef<'_>,
) -> Result<FileStamp, Errno> {
    let raw = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (source, name) = sources.split(path.as_bytes()).map_err(raw)?;
    let (target, new_name) = targets.split(to.as_bytes()).map_err(raw)?;
    rustix::fs::linkat(source, name, target, new_name, AtFlags::empty())?;
    let stat = rustix::fs::statat(target, new_name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileStamp::of(&stat))
}

impl Builder<'_> {
    pub(super) fn link_all(
        &self,
        group: &Group<'_>,
        files: &[Option<DonorFile>; 2],
        open: &mut OpenFolders<'_>,
        made: &mut Vec<(usize, Origin)>,
    ) -> Result<(), BuildError> {
        for (executable, file) in [false, true].into_iter().zip(files) {
            let Some(file) = file else { continue };
            for entry in group.names[usize::from(executable)] {
                let entry = *entry as usize;
                let origin = self.link(*file, group, (entry, executable), open)?;
                made.push((entry, origin));
            }
        }
        Ok(())
    }

    /// Gives a donor's file one more name, here; by its extents where the file system can share them.
    fn link(
        &self,
        file: DonorFile,
        group: &Group<'_>,
        (entry, executable): (usize, bool),
        open: &mut OpenFolders<'_>,
    ) -> Result<Origin, BuildError> {
        let donor = &self.donors[usize::from(file.donor)];
        let from = donor.manifest().entries().at(file.entry as usize).path;
        let look = self.groups.look(file, self.donors);
        let to = self.path(entry);
        let changed = || BuildError::DonorChanged {
            donor: donor.folder().to_owned(),
            path: from.to_path(),
        };
        let cloned = self.clone(donor.root(), from, &look, to, executable);
        let origin = match cloned.map_err(BuildError::at("clone to", to.as_bytes()))? {
            Some(true) => Origin::Cloned,
            Some(false) => return Err(changed()),
            None => match open.link_from_donor(file, from, to) {
                // Too many names, another file system below, or links are forbidden: the bytes are copied.
                Err(Errno::MLINK | Errno::XDEV | Errno::PERM) => {
                    let mut made = Vec::new();
                    self.copy(
                        donor.root(),
                        from,
                        Some(donor),
                        group,
                        (entry, executable),
                        &mut made,
                    )?;
                    return Ok(Origin::Written);
                }
                Err(error) => return Err(BuildError::at("link to", to.as_bytes())(error.into())),
                Ok(stamp) if stamp.same_but_ctime(&look) => Origin::Linked(file),
                Ok(_) => return Err(changed()),
            },
        };
        self.counts.linked_files.fetch_add(1, Ordering::Relaxed);
        self.counts.linked_bytes.fetch_add(group.size, Ordering::Relaxed);
        Ok(origin)
    }

    /// None where there are no reflinks; false when the donor's file changed.
    fn clone(
        &self,
        from: &Root,
        path: PathRef<'_>,
        look: &FileStamp,
        to: PathRef<'_>,
        executable: bool,
    ) -> io::Result<Option<bool>> {
        if !self.reflink.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let input = from.read(path.as_bytes())?;
        let output = self.create(to)?;
        if rustix::fs::ioctl_ficlone(&output, &input).is_err() {
            self.reflink.store(false, Ordering::Relaxed);
            drop(output);
            let mut parents = Parents::of(&self.root);
            let (parent, name) = parents.split(to.as_bytes())?;
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
            return Ok(None);
        }
        let mode = Mode::from_raw_mode(file_mode(executable));
        rustix::fs::fchmod(&output, mode)?;
        Ok(Some(stamp_of(&input)? == *look))
    }

    /// One more name for a file of this tree; a copy when it has too many.
    pub(super) fn twin(
        &self,
        first: usize,
        group: &Group<'_>,
        (entry, executable): (usize, bool),
        open: &mut OpenFolders<'_>,
        made: &mut Vec<(usize, Origin)>,
    ) -> Result<(), BuildError> {
        let (from, to) = (self.path(first), self.path(entry));
        match open.link_within(from, to) {
            Ok(_) => {
                made.push((entry, Origin::Twin));
                self.counts.linked_files.fetch_add(1, Ordering::Relaxed);
                self.counts.linked_bytes.fetch_add(group.size, Ordering::Relaxed);
                Ok(())
            }
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => {
                self.copy(&self.root, from, None, group, (entry, executable), made)
            }
            Err(error) => Err(BuildError::at("link to", to.as_bytes())(error.into())),
        }
    }
}
