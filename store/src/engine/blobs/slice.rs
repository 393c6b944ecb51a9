//! One frame of an object as a stream.

use std::io::{self, Read};

use ship_bundle::Frame;

use super::ObjectReader;

/// The bytes of one frame within a bundle.
pub(crate) struct Slice<'a> {
    reader: &'a dyn ObjectReader,
    at: u64,
    end: u64,
}

impl<'a> Slice<'a> {
    pub fn of(reader: &'a dyn ObjectReader, frame: &Frame) -> Self {
        Self {
            reader,
            at: frame.offset,
            end: frame.offset.saturating_add(frame.len),
        }
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
