//! Descriptors that stay open while this process runs another program, named by their numbers.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;
use thiserror::Error;

/// Why a descriptor was not taken.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// It is standard input, output or error, or was taken before.
    #[error("descriptor {number} is not ours to take")]
    NotOurs {
        /// Its number.
        number: RawFd,
    },
    /// It is not open.
    #[error("descriptor {number} was not handed over")]
    Closed {
        /// Its number.
        number: RawFd,
        /// What the system said.
        source: io::Error,
    },
}

/// What the earlier program gives.
#[derive(Debug, Default)]
pub struct Given {
    numbers: Vec<RawFd>,
}

impl Given {
    /// The number under which the next program finds `descriptor`, which must live until then.
    pub fn give(&mut self, descriptor: impl AsFd) -> RawFd {
        let number = descriptor.as_fd().as_raw_fd();
        self.numbers.push(number);
        number
    }

    /// The numbers of all of them.
    #[must_use]
    pub fn numbers(&self) -> &[RawFd] {
        &self.numbers
    }

    /// Whether the next program gets them. Not while anything else may be started here.
    ///
    /// # Errors
    /// When one of them is closed.
    pub fn keep_open(&self, open: bool) -> io::Result<()> {
        let flags = if open { FdFlags::empty() } else { FdFlags::CLOEXEC };
        for number in &self.numbers {
            // SAFETY: borrowed for this call only; a number that is closed is refused by the kernel.
            #[allow(unsafe_code, reason = "descriptors are handed on as numbers")]
            let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
            rustix::io::fcntl_setfd(descriptor, flags)?;
        }
        Ok(())
    }
}

/// What the next program takes, each descriptor once.
#[derive(Debug, Default)]
pub struct Claims {
    taken: BTreeSet<RawFd>,
}

impl Claims {
    /// Takes a descriptor; programs that are started from now on do not get it.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, ClaimError> {
        if number <= 2 || !self.taken.insert(number) {
            return Err(ClaimError::NotOurs { number });
        }
        // SAFETY: borrowed for this call only; a number that is closed is refused by the kernel.
        #[allow(unsafe_code, reason = "descriptors are handed on as numbers")]
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|error| ClaimError::Closed {
            number,
            source: error.into(),
        })?;
        // SAFETY: it is open, and the program before has left it to this one, which takes each number once.
        #[allow(unsafe_code, reason = "descriptors are handed on as numbers")]
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixStream;

    use super::{ClaimError, Claims, Given};

    #[test]
    fn each_is_taken_once_and_only_if_it_is_there() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut given = Given::default();
        let number = given.give(&one);
        given.keep_open(true).unwrap();
        let _ = one.into_raw_fd();
        let mut claims = Claims::default();
        let taken = claims.take(number).unwrap();
        let flags = rustix::io::fcntl_getfd(&taken).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        assert!(matches!(claims.take(number), Err(ClaimError::NotOurs { .. })));
        assert!(matches!(claims.take(1), Err(ClaimError::NotOurs { .. })));
        assert!(matches!(claims.take(9_999), Err(ClaimError::Closed { .. })));
    }
}
