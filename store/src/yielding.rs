//! Writing that gives way to what somebody waits for.

use std::io::{self, Write};

use crate::engine::Staged;

/// Asks before each write whether to go on: with [`io::ErrorKind::WouldBlock`] it ends there.
pub(crate) struct Yielding<'a> {
    pub staged: Staged,
    pub ask: &'a dyn Fn() -> io::Result<()>,
}

impl Write for Yielding<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.ask)()?;
        self.staged.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.staged.flush()
    }
}
