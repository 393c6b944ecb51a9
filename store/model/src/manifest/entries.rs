//! The entries of a manifest, read from its encoding when they are asked for.

use std::cmp::Ordering;
use std::fmt;

use super::encoding::Reader;
use super::{Entry, EntryKind};
use crate::path::PathRef;

/// One name of a tree, lying in its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef<'a> {
    pub path: PathRef<'a>,
    pub kind: EntryKind<&'a [u8]>,
}

const NOTHING: EntryRef<'static> = EntryRef {
    path: PathRef::known(b""),
    kind: EntryKind::EmptyFolder,
};

impl EntryRef<'_> {
    /// An entry of its own.
    pub fn to_entry(self) -> Entry {
        let kind = match self.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => EntryKind::File {
                executable,
                size,
                digest,
            },
            EntryKind::Link { target } => EntryKind::Link {
                target: target.into(),
            },
            EntryKind::EmptyFolder => EntryKind::EmptyFolder,
        };
        Entry {
            path: self.path.to_path(),
            kind,
        }
    }

    pub const fn is_file(&self) -> bool {
        matches!(self.kind, EntryKind::File { .. })
    }
}

/// All entries of a manifest, by number or one after another, sorted by path.
#[derive(Clone, Copy)]
pub struct Entries<'a> {
    encoded: &'a [u8],
    starts: &'a [u32],
}

impl<'a> Entries<'a> {
    /// `starts`: where entries begin that were read without an error.
    pub(super) const fn new(encoded: &'a [u8], starts: &'a [u32]) -> Self {
        Self { encoded, starts }
    }

    pub const fn len(self) -> usize {
        self.starts.len()
    }

    pub const fn is_empty(self) -> bool {
        self.starts.is_empty()
    }

    pub fn get(self, at: usize) -> Option<EntryRef<'a>> {
        let start = *self.starts.get(at)?;
        read(self.encoded, start)
    }

    /// An entry whose number came from this manifest; for any other number a folder without a name, which no file system
    /// has.
    pub fn at(self, at: usize) -> EntryRef<'a> {
        self.get(at).unwrap_or(NOTHING)
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = EntryRef<'a>> + Clone {
        let read = move |start: &u32| read(self.encoded, *start).unwrap_or(NOTHING);
        self.starts.iter().map(read)
    }

    /// How many entries from the first on `is_before` holds for; it must hold for none after one that it does not hold
    /// for.
    pub fn partition_point(self, is_before: impl Fn(PathRef<'a>) -> bool) -> usize {
        self.starts
            .partition_point(|start| read(self.encoded, *start).is_some_and(|entry| is_before(entry.path)))
    }

    /// The entry of that path, and its number.
    pub fn find(self, path: &[u8]) -> Option<(usize, EntryRef<'a>)> {
        let order = |start: &u32| {
            read(self.encoded, *start).map_or(Ordering::Less, |entry| entry.path.as_bytes().cmp(path))
        };
        let at = self.starts.binary_search_by(order).ok()?;
        Some((at, self.get(at)?))
    }
}

fn read(encoded: &[u8], start: u32) -> Option<EntryRef<'_>> {
    let mut reader = Reader {
        bytes: encoded,
        at: start as usize,
    };
    reader.known_entry().ok()
}

impl fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
