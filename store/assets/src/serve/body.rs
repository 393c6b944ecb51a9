//! A file, or a part of one, as a body: read as fast as the client takes it, 128 KiB ahead at most.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

/// Bytes read at once.
const CHUNK: u64 = 128 << 10;

/// Bytes of a file from an offset on, or bytes that are at hand.
#[derive(Debug)]
pub struct FileBody {
    state: State,
    left: u64,
}

#[derive(Debug)]
enum State {
    AtHand(Bytes),
    Idle {
        file: Arc<File>,
        offset: u64,
    },
    Reading {
        file: Arc<File>,
        offset: u64,
        read: JoinHandle<io::Result<Bytes>>,
    },
    Ended,
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

    pub(super) fn part(file: File, offset: u64, len: u64) -> Self {
        Self {
            state: State::Idle {
                file: Arc::new(file),
                offset,
            },
            left: len,
        }
    }

    /// For HEAD: says how long the body would be, and has none.
    pub(super) fn is_small(len: u64) -> bool {
        len <= CHUNK
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
                State::Idle { file, offset } => {
                    let len = self.left.min(CHUNK);
                    let source = file.clone();
                    let read = tokio::task::spawn_blocking(move || read_exactly(&source, offset, len));
                    self.state = State::Reading { file, offset, read };
                }
                State::Reading {
                    file,
                    offset,
                    mut read,
                } => {
                    let Poll::Ready(done) = Pin::new(&mut read).poll(cx) else {
                        self.state = State::Reading { file, offset, read };
                        return Poll::Pending;
                    };
                    let bytes = done.map_err(io::Error::other)??;
                    self.left -= bytes.len() as u64;
                    self.state = State::Idle {
                        file,
                        offset: offset + bytes.len() as u64,
                    };
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
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

/// A file that became shorter is an error: the client must not take the rest for the whole.
pub(super) fn read_exactly(file: &File, offset: u64, len: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; len as usize];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}
