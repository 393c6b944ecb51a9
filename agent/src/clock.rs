//! The two clocks, in one place: the wall's for what people read, the monotonic one for waiting.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 while the wall clock is set before that.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Never goes back, whatever happens to the wall clock.
pub fn now() -> Instant {
    Instant::now()
}
