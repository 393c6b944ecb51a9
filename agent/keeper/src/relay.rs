//! Connections that reached a socket no app accepts from: accepted here and led to the generation that users get.
//!
//! That happens in the moments when a generation gives up its listener without a word. The app sees this host's address as
//! the client's; the client sees nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

/// Connections led at once; more wait in the kernel's queue.
pub const MAX_RELAYS: usize = 128;
const BUFFER: usize = 8 * 1024;

/// One connection led on.
#[derive(Debug)]
pub struct Relay {
    ends: [OwnedFd; 2],
    /// What end `i` sent and the other has not taken yet.
    waiting: [Vec<u8>; 2],
    /// End `i` will send no more.
    finished: [bool; 2],
    broken: bool,
}

impl Relay {
    /// Leads `client` to `server`; both must be non-blocking.
    #[must_use]
    pub fn new(client: OwnedFd, server: OwnedFd) -> Self {
        Self {
            ends: [client, server],
            waiting: [Vec::new(), Vec::new()],
            finished: [false; 2],
            broken: false,
        }
    }

    /// Both ends and whether they will send no more, if nothing waits between them.
    #[must_use]
    pub fn at_rest(&self) -> Option<([BorrowedFd<'_>; 2], [bool; 2])> {
        let empty = self.waiting.iter().all(Vec::is_empty);
        let ends = [self.ends[0].as_fd(), self.ends[1].as_fd()];
        (empty && !self.broken).then_some((ends, self.finished))
    }

    /// One that was at rest in the program before.
    #[must_use]
    pub fn resume(ends: [OwnedFd; 2], finished: [bool; 2]) -> Self {
        let [client, server] = ends;
        Self {
            finished,
            ..Self::new(client, server)
        }
    }

    /// The descriptors to wait on, and what for.
    pub fn waits_on(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        (0..2).map(|end| {
            let mut flags = PollFlags::empty();
            if self.waiting[end].is_empty() && !self.finished[end] {
                flags |= PollFlags::IN;
            }
            if !self.waiting[1 - end].is_empty() {
                flags |= PollFlags::OUT;
            }
            (self.ends[end].as_fd(), flags)
        })
    }

    /// Moves what can be moved; false when the connection is over.
    pub fn advance(&mut self) -> bool {
        for from in 0..2 {
            if self.pass_on(from).is_err() {
                self.broken = true;
            }
        }
        let over = self.finished == [true; 2] && self.waiting.iter().all(Vec::is_empty);
        !(self.broken || over)
    }

    fn pass_on(&mut self, from: usize) -> io::Result<()> {
        loop {
            if self.waiting[from].is_empty() && !self.finished[from] {
                let mut chunk = [0_u8; BUFFER];
                match rustix::net::recv(&self.ends[from], &mut chunk, RecvFlags::DONTWAIT) {
                    Ok((_, 0)) => {
                        self.finished[from] = true;
                        let _ = rustix::net::shutdown(&self.ends[1 - from], Shutdown::Write);
                    }
                    Ok((_, count)) => self.waiting[from].extend_from_slice(&chunk[..count]),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOTCONN) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if self.waiting[from].is_empty() {
                return Ok(());
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.ends[1 - from], &self.waiting[from], flags) {
                Ok(count) => drop(self.waiting[from].drain(..count)),
                // Still connecting, or its buffer is full.
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOTCONN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
