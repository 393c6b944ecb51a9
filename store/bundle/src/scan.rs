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
    pub device: u64,
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

/// What a scan meets.
#[derive(Debug)]
pub(crate) enum Met {
    Name(Found),
    Unlisted(Unlisted),
}

/// Meets every name below `root`, folder by folder and in no order, but not a top-level name equal to `skip`.
///
/// Memory: the names of the folders on the way down.
///
/// # Errors
/// When the root itself cannot be read; what is wrong below it is met like a name.
pub(crate) fn scan(root: &Root, skip: Option<&[u8]>, meet: &mut dyn FnMut(Met)) -> io::Result<()> {
    let names = names(root)?;
    for name in split(&names).filter(|name| Some(*name) != skip) {
        below(root, &[], name, meet);
    }
    Ok(())
}

/// Meets the name and, when it is a folder, what it holds. As deep as [`TreePath`] allows, no deeper.
fn below(at: &Root, parent: &[u8], name: &[u8], meet: &mut dyn FnMut(Met)) {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    match TreePath::new(&path) {
        Err(error) => meet(Met::Unlisted(Unlisted::Name(error))),
        Ok(path) => {
            if let Err(source) = look(at, name, &path, meet) {
                meet(Met::Unlisted(Unlisted::Io { path, source }));
            }
        }
    }
}

fn look(at: &Root, name: &[u8], path: &TreePath, meet: &mut dyn FnMut(Met)) -> io::Result<()> {
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut found = Found {
        path: path.clone(),
        mode: stat.st_mode,
        #[allow(clippy::unnecessary_cast, reason = "narrower on some architectures")]
        links: stat.st_nlink as u64,
        #[allow(clippy::unnecessary_cast, reason = "narrower on some systems")]
        device: stat.st_dev as u64,
        stamp: FileStamp::of(&stat),
        empty: false,
    };
    if found.kind() != FileType::Directory {
        meet(Met::Name(found));
        return Ok(());
    }
    let folder = at.folder(name)?;
    let inside = names(&folder)?;
    found.empty = inside.is_empty();
    meet(Met::Name(found));
    for name in split(&inside) {
        below(&folder, path.as_bytes(), name, meet);
    }
    Ok(())
}

/// The folder's names, each with a NUL behind it: a folder may hold hundreds of thousands.
fn names(folder: &Root) -> io::Result<Vec<u8>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes_with_nul();
        if name != b".\0" && name != b"..\0" {
            names.extend_from_slice(name);
        }
    }
    Ok(names)
}

fn split(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}
