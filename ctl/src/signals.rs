//! Ctrl-C and SIGTERM, heard from when this is made: what they ask for can be done in order.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CommandError, Exit};

#[derive(Debug)]
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub fn new() -> Result<Self, CommandError> {
        let hear = |kind| signal(kind).map_err(|source| CommandError::internal("watch for Ctrl-C", source));
        Ok(Self {
            interrupt: hear(SignalKind::interrupt())?,
            terminate: hear(SignalKind::terminate())?,
        })
    }

    /// Returns at the next Ctrl-C or SIGTERM. May be dropped and called again; none is lost.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a command that was stopped ends with, when nothing of it goes on.
pub fn interrupted() -> CommandError {
    CommandError::new(
        Exit::Interrupted,
        "interrupted; everything that was started is stopped",
    )
}
