//! A file, or a part of one, as a body: read as fast as the client takes it, one buffer ahead; a sealed one may go without
//! being read at all.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::JoinHandle;

use super::buffers::{Buffer, Buffers};
use super::files::Opened;

/// Set once where the system knows no read that refuses to wait.
static ALWAYS_WAITS: AtomicBool = AtomicBool::new(false);

/// Times that a file may be linked or unlinked while one piece of it is read and hashed.
const DISTURBED: usize = 16;

/// Bytes of a file from an offset on, or bytes that are at hand.
#[derive(Debug)]
pub struct FileBody {
    state: State,
    left: u64,
}

#[derive(Debug)]
enum State {
    AtHand(Bytes),
    File(Source),
    Reading(JoinHandle<io::Result<(Buffer, Source)>>),
    Ended,
}

#[derive(Debug)]
struct Source {
    opened: Arc<Opened>,
    buffers: Arc<Buffers>,
    offset: u64,
}

impl FileBody {
    pub(super) fn empty() -> Self {
        Self::text(Bytes::new())
    }

    pub(super) fn text(bytes: Bytes) -> Self {
        Self {
            left: bytes.len() as u64,
            state: State::AtHand(bytes),
        }
    }

    /// `len` bytes from `offset` on, which the file has.
    pub(super) fn part(opened: Arc<Opened>, buffers: &Arc<Buffers>, offset: u64, len: u64) -> Self {
        if let Some(bytes) = opened.bytes() {
            let end = offset.saturating_add(len).min(bytes.len() as u64);
            return Self::text(bytes.slice(offset.min(end) as usize..end as usize));
        }
        Self {
            state: State::File(Source {
                opened,
                buffers: Arc::clone(buffers),
                offset,
            }),
            left: len,
        }
    }

    /// The file that the rest comes from, unless all is at hand.
    pub(super) fn opened(&self) -> Option<&Arc<Opened>> {
        match &self.state {
            State::File(source) => Some(&source.opened),
            _ => None,
        }
    }

    /// Whether the rest can be sent by [`Self::send_sealed`].
    pub(super) fn is_sealed(&self) -> bool {
        self.left > 0 && self.opened().is_some_and(|opened| opened.sealed().is_some())
    }

    /// Sends at most `most` bytes of a sealed file to `socket`, without a copy of them, as many as it takes.
    pub(super) fn send_sealed(&mut self, socket: impl AsFd, most: u64) -> io::Result<()> {
        let State::File(source) = &mut self.state else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let sealed = source.opened.sealed().ok_or(io::ErrorKind::Unsupported)?;
        let mut offset = source.offset;
        let sent = rustix::fs::sendfile(socket, sealed, Some(&mut offset), self.left.min(most) as usize)?;
        if sent == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        source.offset = offset;
        self.left -= sent as u64;
        Ok(())
    }

    fn hand_on(&mut self, buffer: Buffer, source: Source) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let bytes = Bytes::from_owner(buffer);
        self.left -= bytes.len() as u64;
        self.state = State::File(source);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl Source {
    /// What lies in the page cache; none when a disk must be waited for, or the file changed.
    fn read_now(&mut self, buffer: &mut Buffer) -> io::Result<bool> {
        if ALWAYS_WAITS.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let file = self.opened.file().ok_or(io::ErrorKind::Unsupported)?;
        let mut room = [IoSliceMut::new(buffer.room())];
        match rustix::io::preadv2(file, &mut room, self.offset, ReadWriteFlags::NOWAIT) {
            // Some kernels say nothing where they should say that it would wait.
            Ok(0) => Ok(false),
            Ok(got) => Ok(self.take_over(buffer, got)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                ALWAYS_WAITS.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The client must take neither other bytes nor a part for the whole, so both are errors, which break the answer off.
    fn read_waiting(mut self, mut buffer: Buffer) -> io::Result<(Buffer, Self)> {
        for _ in 0..DISTURBED {
            if !self.opened.is_still_right() {
                break;
            }
            let file = self.opened.file().ok_or(io::ErrorKind::Unsupported)?;
            let got = file.read_at(buffer.room(), self.offset)?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.take_over(&mut buffer, got) {
                return Ok((buffer, self));
            }
        }
        Err(io::Error::other("the file changed while it was sent"))
    }

    /// What was read counts if the file did not change since it was hashed.
    fn take_over(&mut self, buffer: &mut Buffer, got: usize) -> bool {
        if !self.opened.is_unchanged() {
            return false;
        }
        buffer.shorten(got);
        self.offset += got as u64;
        true
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::AtHand(bytes) => {
                    self.left = 0;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                State::File(mut source) => {
                    let mut buffer = source.buffers.take(self.left);
                    if source.read_now(&mut buffer)? {
                        return self.hand_on(buffer, source);
                    }
                    self.state =
                        State::Reading(tokio::task::spawn_blocking(move || source.read_waiting(buffer)));
                }
                State::Reading(mut reading) => {
                    let Poll::Ready(done) = Pin::new(&mut reading).poll(cx) else {
                        self.state = State::Reading(reading);
                        return Poll::Pending;
                    };
                    let (buffer, source) = done.map_err(io::Error::other)??;
                    return self.hand_on(buffer, source);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
