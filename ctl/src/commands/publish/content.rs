//! Content on its way, in a file without a name: nothing is left of it whenever this process ends.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};

use bytes::Bytes;
use ship_proto::MAX_PIECE;

use crate::ui::Bar;

/// Bytes that can be sent as often as it takes.
#[derive(Debug)]
pub struct Content {
    /// BLAKE3 of all of them.
    pub digest: [u8; 32],
    pub bytes: u64,
    file: File,
}

impl Content {
    /// `file` holds them, and nothing else.
    pub fn new(digest: [u8; 32], bytes: u64, file: File) -> Self {
        Self { digest, bytes, file }
    }

    /// Reads them from the start, in pieces. Ends early, and well, when nobody takes the pieces any more.
    pub fn read(&self, bar: &Bar, mut take: impl FnMut(Bytes) -> bool) -> io::Result<()> {
        let mut file = &self.file;
        file.rewind()?;
        loop {
            let mut data = vec![0; MAX_PIECE / 4];
            let length = file.read(&mut data)?;
            if length == 0 {
                return Ok(());
            }
            data.truncate(length);
            if !take(data.into()) {
                return Ok(());
            }
            bar.add(length as u64);
        }
    }
}

/// Content that is being written.
#[derive(Debug)]
pub struct Writing {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Writing {
    /// # Errors
    /// When no temporary file can be made; `TMPDIR` names the folder for it.
    pub fn begin() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    pub fn end(self) -> Content {
        Content::new(*self.hasher.finalize().as_bytes(), self.bytes, self.file)
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
