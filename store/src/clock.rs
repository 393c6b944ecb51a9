//! The time of day, handed down: nothing below the doors reads it by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time comes from.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's own clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at whatever `at_ms` holds.
    pub const fn set_by(at_ms: Arc<AtomicU64>) -> Self {
        Self(Source::Set(at_ms))
    }

    /// Milliseconds since 1970. A machine whose clock stands before that is in the year 1970.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::Set(at_ms) => at_ms.load(Ordering::SeqCst),
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
        }
    }
}
