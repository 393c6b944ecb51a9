//! From a built tree to one that may be believed: read-only, on the disk, and read back from there.

use std::collections::BTreeSet;
use std::io;

use rustix::fs::{AtFlags, FileType, Mode};
use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::path::TreePath;

use super::build::{BuildError, Origin};
use super::supply::DonorFile;
use crate::beneath::{Parents, Root};
use crate::content::{self, Reach};
use crate::stamp::FileStamp;

/// A file does not read back as it was written.
#[derive(Debug, thiserror::Error)]
#[error("\"{path}\" does not read back as it was written: disk or memory may be failing")]
pub struct ReadBackError {
    pub path: TreePath,
    pub source: Option<io::Error>,
}

/// Takes the folders' write permission, the deepest first.
pub(super) fn close_folders(root: &Root, folders: &BTreeSet<Vec<u8>>) -> Result<(), BuildError> {
    let closed = Mode::from_raw_mode(0o555);
    for folder in folders.iter().rev() {
        root.folder(folder)
            .and_then(|folder| Ok(rustix::fs::fchmod(folder, closed)?))
            .map_err(BuildError::at("close folder", folder))?;
    }
    rustix::fs::fchmod(root, closed)
        .map_err(io::Error::from)
        .map_err(BuildError::at("close folder", b"."))
}

/// Hashes what was written, from the disk, and stamps every file.
///
/// Call it when all is synced: then the kernel can drop its copy and must read anew. A linked file keeps the trust its
/// donor's stamp gave it, as long as it still is that inode; `before` tells what it looked like before.
pub(super) fn read_back(
    root: &Root,
    manifest: &Manifest,
    origins: &[Option<Origin>],
    before: impl Fn(DonorFile) -> FileStamp + Sync,
) -> Result<Vec<FileStamp>, ReadBackError> {
    let mut stamps = vec![FileStamp::NONE; manifest.entries().len()];
    let made = origins.iter().zip(manifest.entries().iter()).enumerate();
    let made = made.filter_map(|(entry, (origin, named))| Some((entry, (*origin)?, named)));
    let bytes = |(_, origin, named): &(usize, Origin, EntryRef<'_>)| match (origin, &named.kind) {
        (Origin::Written, EntryKind::File { size, .. }) => *size,
        _ => 0,
    };
    let work = |(entry, origin, named): (usize, Origin, EntryRef<'_>), reach: &mut Reach<'_>| {
        let EntryKind::File { size, digest, .. } = named.kind else {
            return Ok((entry, FileStamp::NONE));
        };
        let path = named.path.as_bytes();
        let stamp = match origin {
            Origin::Written => written(path, digest, size, reach),
            Origin::Twin | Origin::Cloned => {
                look(path, &mut reach.parents).map(|stamp| (stamp.size == size).then_some(stamp))
            }
            Origin::Linked(file) => look(path, &mut reach.parents)
                .map(|stamp| stamp.same_but_ctime(&before(file)).then_some(stamp)),
        };
        let failed = |source| ReadBackError {
            path: named.path.to_path(),
            source,
        };
        match stamp {
            Ok(Some(stamp)) => Ok((entry, stamp)),
            Ok(None) => Err(failed(None)),
            Err(error) => Err(failed(Some(error))),
        }
    };
    let mut failure = None;
    content::each(root, made, bytes, work, |read| match read {
        Ok((entry, stamp)) => stamps[entry] = stamp,
        Err(error) => failure = failure.take().or(Some(error)),
    });
    failure.map_or(Ok(stamps), Err)
}

fn written(
    path: &[u8],
    digest: BlobDigest,
    size: u64,
    reach: &mut Reach<'_>,
) -> io::Result<Option<FileStamp>> {
    let mut file = reach.parents.read(path)?;
    let stamp = content::stamp_of(&file)?;
    let (found, read) = content::hash_from_disk(&mut file, size, &mut reach.buffer)?;
    let same = found == digest && read == size && content::stamp_of(&file)? == stamp;
    Ok(same.then_some(stamp))
}

fn look(path: &[u8], parents: &mut Parents<'_>) -> io::Result<FileStamp> {
    let (parent, name) = parents.split(path)?;
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no longer a regular file"));
    }
    Ok(FileStamp::of(&stat))
}
