//! One entry as bytes, and back.

use super::{DecodeError, Entry, EntryKind, EntryRef};
use crate::digest::BlobDigest;
use crate::path::PathRef;

/// Bytes that [`put_entry`] writes.
pub(super) fn encoded_len(entry: &Entry) -> usize {
    let rest = match &entry.kind {
        EntryKind::File { .. } => 8 + 32,
        EntryKind::Link { target } => 2 + target.len(),
        EntryKind::EmptyFolder => 0,
    };
    1 + 2 + entry.path.as_bytes().len() + rest
}

pub(super) fn put_bytes32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_bytes16(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.push(match entry.kind {
        EntryKind::File { executable, .. } => executable.into(),
        EntryKind::Link { .. } => 2,
        EntryKind::EmptyFolder => 3,
    });
    put_bytes16(out, entry.path.as_bytes());
    match &entry.kind {
        EntryKind::File { size, digest, .. } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(digest.as_bytes());
        }
        EntryKind::Link { target } => put_bytes16(out, target),
        EntryKind::EmptyFolder => {}
    }
}

pub(super) struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(DecodeError::Truncated { at: self.bytes.len() })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.at;
        self.take(N)?
            .try_into()
            .map_err(|_| DecodeError::Truncated { at })
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bytes16(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = u16::from_le_bytes(self.array()?);
        self.take(len.into())
    }

    pub fn bytes32(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        if len > limit {
            return Err(DecodeError::Limit {
                what: "a spec",
                limit: limit as u64,
            });
        }
        self.take(len)
    }

    /// An entry of bytes that nobody checked yet.
    pub fn entry(&mut self) -> Result<EntryRef<'a>, DecodeError> {
        let at = self.at;
        let [kind] = self.array()?;
        let path = PathRef::new(self.bytes16()?)?;
        let kind = self.kind(kind, at)?;
        Ok(EntryRef { path, kind })
    }

    /// An entry that was read before: its path is not looked at again.
    pub fn known_entry(&mut self) -> Result<EntryRef<'a>, DecodeError> {
        let at = self.at;
        let [kind] = self.array()?;
        let path = PathRef::known(self.bytes16()?);
        let kind = self.kind(kind, at)?;
        Ok(EntryRef { path, kind })
    }

    fn kind(&mut self, kind: u8, at: usize) -> Result<EntryKind<&'a [u8]>, DecodeError> {
        Ok(match kind {
            0 | 1 => EntryKind::File {
                executable: kind == 1,
                size: self.u64()?,
                digest: BlobDigest::from_bytes(self.array()?),
            },
            2 => EntryKind::Link {
                target: self.bytes16()?,
            },
            3 => EntryKind::EmptyFolder,
            kind => return Err(DecodeError::Kind { kind, at }),
        })
    }
}
