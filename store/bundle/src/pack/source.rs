//! Where the content of what is packed is read from: a tree on disk, or blobs wherever they lie.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use ship_model::digest::BlobDigest;

use super::PackError;
use super::plan::Planned;
use crate::beneath::Root;
use crate::delta::{BlobBytes, Stream};

#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Tree(&'a Root),
    Blobs(&'a dyn BlobBytes),
}

/// One file's bytes, not checked against anything yet.
pub(super) enum Content<'a> {
    File(File),
    Blob {
        bytes: &'a dyn BlobBytes,
        digest: BlobDigest,
        stream: Stream<'a>,
    },
}

impl<'a> Source<'a> {
    pub fn open(&self, planned: &Planned) -> Result<Content<'a>, PackError> {
        let member = &planned.member;
        match *self {
            Self::Tree(root) => {
                let path = || member.path.clone();
                let file = root.read(member.path.as_bytes());
                file.map(Content::File).map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound => PackError::Changed { path: path() },
                    _ => PackError::Read { path: path(), source },
                })
            }
            Self::Blobs(bytes) => Ok(Content::Blob {
                bytes,
                digest: planned.digest,
                stream: Stream::new(bytes, planned.digest, 0..member.size),
            }),
        }
    }
}

impl Content<'_> {
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, offset),
            Self::Blob { bytes, digest, .. } => bytes.read_at(*digest, offset, buffer),
        }
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Blob { stream, .. } => stream.read(buffer),
        }
    }
}
