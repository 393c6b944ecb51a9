//! The only place of this crate that asks for the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the clock of this crate")]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Microseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the clock of this crate")]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Nanoseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "the clock of this crate")]
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// A stretch of time that is measured, whatever the clock on the wall does.
#[derive(Debug, Clone, Copy)]
pub struct Watch(Instant);

impl Watch {
    #[allow(clippy::disallowed_methods, reason = "the clock of this crate")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
