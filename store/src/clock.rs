//! The time of day, handed down: nothing below the doors reads it by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// `2026-11-22T01:05:00Z`, to the second; empty for a time that no calendar has.
pub fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms / 1000).ok();
    let time = time.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
