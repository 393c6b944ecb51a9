//! A part of an object as a stream.

use std::io::{self, Read};
use std::ops::Range;

use ship_bundle::Frame;

use super::ObjectReader;

/// Bytes of an object from one place to another.
pub(crate) struct Slice<'a> {
    reader: &'a dyn ObjectReader,
    at: u64,
    end: u64,
}

impl<'a> Slice<'a> {
    /// The bytes of one frame within a bundle.
    pub fn of(reader: &'a dyn ObjectReader, frame: &Frame) -> Self {
        Self::range(reader, frame.offset..frame.offset.saturating_add(frame.len))
    }

    pub fn range(reader: &'a dyn ObjectReader, range: Range<u64>) -> Self {
        Self {
            reader,
            at: range.start,
            end: range.end,
        }
    }

    /// All of it.
    pub fn whole(reader: &'a dyn ObjectReader) -> Self {
        Self::range(reader, 0..reader.len())
    }
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = self.reader.read_at(&mut buffer[..most], self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}
