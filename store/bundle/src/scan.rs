//! Listing a tree through open folders: no link is followed, nothing is read.

use std::io;

use rustix::fs::{AtFlags, Dir, FileType};
use ship_model::path::{PathError, TreePath};

use crate::beneath::Root;
use crate::stamp::FileStamp;

/// One name of a tree on disk.
#[derive(Debug)]
pub(crate) struct Found {
    pub path: TreePath,
    /// `st_mode`: kind and permissions.
    pub mode: u32,
    pub links: u64,
    pub stamp: FileStamp,
    /// A folder with nothing in it.
    pub empty: bool,
}

impl Found {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }
}

/// Why a name could not be listed.
#[derive(Debug)]
pub(crate) enum Unlisted {
    Name(PathError),
    Io { path: TreePath, source: io::Error },
}

#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Sorted by path.
    pub found: Vec<Found>,
    pub unlisted: Vec<Unlisted>,
    /// There was more than the limit; the list stops there.
    pub overfull: bool,
}

/// Lists all below `root`, but not a top-level name equal to `skip`, and at most `limit` names.
///
/// # Errors
/// When the root itself cannot be read; what is wrong below it is listed in the result.
pub(crate) fn scan(root: &Root, skip: Option<&[u8]>, limit: u64) -> io::Result<Listing> {
    let mut scan = Scan {
        listing: Listing::default(),
        limit,
    };
    for name in names(root)? {
        if Some(&name[..]) != skip {
            scan.name(root, &[], &name);
        }
    }
    scan.listing.found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(scan.listing)
}

struct Scan {
    listing: Listing,
    limit: u64,
}

impl Scan {
    /// Lists the name and, when it is a folder, what it holds. As deep as [`TreePath`] allows, no deeper.
    fn name(&mut self, at: &Root, parent: &[u8], name: &[u8]) {
        if self.listing.found.len() as u64 >= self.limit {
            self.listing.overfull = true;
            return;
        }
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let path = match TreePath::new(&path) {
            Ok(path) => path,
            Err(error) => return self.listing.unlisted.push(Unlisted::Name(error)),
        };
        if let Err(source) = self.look(at, name, &path) {
            self.listing.unlisted.push(Unlisted::Io { path, source });
        }
    }

    fn look(&mut self, at: &Root, name: &[u8], path: &TreePath) -> io::Result<()> {
        let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mut found = Found {
            path: path.clone(),
            mode: stat.st_mode,
            #[allow(clippy::unnecessary_cast, reason = "narrower on some architectures")]
            links: stat.st_nlink as u64,
            stamp: FileStamp::of(&stat),
            empty: false,
        };
        if found.kind() != FileType::Directory {
            self.listing.found.push(found);
            return Ok(());
        }
        let folder = at.folder(name)?;
        let inside = names(&folder)?;
        found.empty = inside.is_empty();
        self.listing.found.push(found);
        for name in inside {
            self.name(&folder, path.as_bytes(), &name);
        }
        Ok(())
    }
}

fn names(folder: &Root) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.into());
        }
    }
    Ok(names)
}
