//! Memory for bytes on their way from a file to a client, bounded whatever clients do.
//!
//! A client that reads slowly holds the buffer it was given until it has taken it. So the more is held by all of them
//! together, the smaller the next buffers are: a few fast ones get large buffers, thousands of slow ones small ones.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of a buffer while there is plenty: fewer calls for each byte, and still within a processor's cache.
const LARGE: usize = 128 << 10;
/// Up to so many bytes held in all, buffers are [`LARGE`].
const PLENTY: usize = 12 << 20;
const MIDDLE: usize = 32 << 10;
const SCARCE: usize = 28 << 20;
const LEAST: usize = 8 << 10;
/// Large buffers that are kept for the next.
const IDLE: usize = 32;

/// Where buffers come from and go back to.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Bytes that are held now.
    held: AtomicUsize,
    idle: Mutex<Vec<Vec<u8>>>,
}

/// Bytes of a file; gives its memory back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Of them, those that were read.
    len: usize,
    from: Arc<Buffers>,
}

impl Buffers {
    /// A buffer for `wanted` bytes, or for fewer.
    pub fn take(self: &Arc<Self>, wanted: u64) -> Buffer {
        let most = match self.held.load(Ordering::Relaxed) {
            held if held < PLENTY => LARGE,
            held if held < SCARCE => MIDDLE,
            _ => LEAST,
        };
        let size = usize::try_from(wanted).unwrap_or(LARGE).min(most);
        // A short one out of the stock would hold the memory of a long one.
        let idle = if size > LARGE / 2 { self.pop() } else { None };
        let bytes = idle.unwrap_or_else(|| vec![0; if size > LARGE / 2 { LARGE } else { size }]);
        self.held.fetch_add(bytes.len(), Ordering::Relaxed);
        Buffer {
            bytes,
            len: size,
            from: Arc::clone(self),
        }
    }

    fn pop(&self) -> Option<Vec<u8>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Buffer {
    /// Room to read into.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// Only the first `len` bytes were read.
    pub fn shorten(&mut self, len: usize) {
        self.len = len.min(self.len);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.from.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        if self.bytes.len() != LARGE {
            return;
        }
        let mut idle = self.from.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_slow_clients_share_what_there_is() {
        let buffers = Arc::new(Buffers::default());
        let held: Vec<Buffer> = (0..4096).map(|_| buffers.take(u64::MAX)).collect();
        assert_eq!(held[0].as_ref().len(), LARGE);
        assert_eq!(held[4095].as_ref().len(), LEAST);
        let bytes = buffers.held.load(Ordering::Relaxed);
        assert!(bytes < 64 << 20, "{bytes}");
        drop(held);
        assert_eq!(buffers.held.load(Ordering::Relaxed), 0);
        assert_eq!(buffers.take(u64::MAX).as_ref().len(), LARGE);
        assert_eq!(buffers.take(10).as_ref().len(), 10);
        assert_eq!(buffers.take(LARGE as u64 - 1).as_ref().len(), LARGE - 1);
    }
}
