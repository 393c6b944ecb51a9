//! Reading one zstd frame of a bundle, and the blobs in it, as a stream in bounded memory.

use std::io::{self, BufRead, Read};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use crate::content::PIECE;
use crate::index::{BlobPlace, Frame};

/// Largest window a frame may ask for: 8 MiB, what level 19 uses.
pub(crate) const MAX_WINDOW_LOG: u32 = 23;

/// Why a frame does not give what the index says.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("cannot read the bundle's frame")]
    Read(#[source] io::Error),
    #[error("the bundle's frame is shorter than its index says")]
    Short,
    #[error("the bundle's frame is longer than its index says")]
    Long,
    #[error("blob {0} was asked for out of order")]
    Order(ship_model::digest::BlobDigest),
    #[error("cannot write what the bundle's frame holds")]
    Write(#[source] io::Error),
}

/// Decompresses exactly one frame from `input` and leaves what follows unread.
///
/// Reading at its end returns 0 for good; a stream that ends inside the frame is an error.
pub(crate) struct FrameDecoder<R> {
    input: R,
    context: DCtx<'static>,
    ended: bool,
    consumed: u64,
    produced: u64,
}

impl<R> std::fmt::Debug for FrameDecoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameDecoder")
            .field("consumed", &self.consumed)
            .field("produced", &self.produced)
            .finish_non_exhaustive()
    }
}

impl<R: BufRead> FrameDecoder<R> {
    pub fn new(input: R) -> io::Result<Self> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .map_err(zstd_error)?;
        Ok(Self {
            input,
            context,
            ended: false,
            consumed: 0,
            produced: 0,
        })
    }

    /// Compressed bytes read so far.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Raw bytes given so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, get_error_name(code))
}

impl<R: BufRead> Read for FrameDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !buffer.is_empty() {
            let bytes = self.input.fill_buf()?;
            let at_end = bytes.is_empty();
            let mut from = InBuffer::around(bytes);
            let mut to = OutBuffer::around(&mut *buffer);
            let left = self
                .context
                .decompress_stream(&mut to, &mut from)
                .map_err(zstd_error)?;
            let (used, made) = (from.pos(), to.pos());
            self.input.consume(used);
            self.consumed += used as u64;
            self.produced += made as u64;
            self.ended = left == 0;
            if made > 0 {
                return Ok(made);
            }
            if at_end && !self.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

/// The blobs of one frame, one after another in the order of the index; those in between are passed over.
#[derive(Debug)]
pub struct FrameReader<'a, R> {
    decoder: FrameDecoder<R>,
    frame: &'a Frame,
    buffer: Vec<u8>,
}

impl<'a, R: BufRead> FrameReader<'a, R> {
    /// `input` stands at the frame's first byte.
    ///
    /// # Errors
    /// [`FrameError::Read`].
    pub fn new(input: R, frame: &'a Frame) -> Result<Self, FrameError> {
        Ok(Self {
            decoder: FrameDecoder::new(input).map_err(FrameError::Read)?,
            frame,
            buffer: vec![0; PIECE],
        })
    }

    /// Whether this is a reader of that frame and has not come past the blob.
    pub(crate) fn is_before(&self, frame: &Frame, blob: &BlobPlace) -> bool {
        self.frame.offset == frame.offset && self.decoder.produced() <= blob.offset
    }

    /// Hands `blob`'s content to `sink`, piece by piece. Its digest is the caller's to check.
    ///
    /// # Errors
    /// [`FrameError`]; what `sink` returns is [`FrameError::Write`].
    pub fn blob(
        &mut self,
        blob: &BlobPlace,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FrameError> {
        let ahead = blob.offset.checked_sub(self.decoder.produced());
        self.advance(ahead.ok_or(FrameError::Order(blob.digest))?, |_| Ok(()))?;
        self.advance(blob.size, &mut sink)
    }

    /// Reads the rest and checks that the frame is exactly as long as the index says.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn finish(mut self) -> Result<(), FrameError> {
        let rest = self.frame.raw_len.checked_sub(self.decoder.produced());
        self.advance(rest.ok_or(FrameError::Long)?, |_| Ok(()))?;
        let more = self
            .decoder
            .read(&mut self.buffer[..1])
            .map_err(FrameError::Read)?;
        match self.decoder.consumed().cmp(&self.frame.len) {
            _ if more > 0 => Err(FrameError::Long),
            std::cmp::Ordering::Less => Err(FrameError::Short),
            std::cmp::Ordering::Greater => Err(FrameError::Long),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }

    fn advance(
        &mut self,
        mut bytes: u64,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FrameError> {
        while bytes > 0 {
            let want = bytes.min(self.buffer.len() as u64) as usize;
            let got = self
                .decoder
                .read(&mut self.buffer[..want])
                .map_err(FrameError::Read)?;
            if got == 0 {
                return Err(FrameError::Short);
            }
            sink(&self.buffer[..got]).map_err(FrameError::Write)?;
            bytes -= got as u64;
        }
        Ok(())
    }
}
