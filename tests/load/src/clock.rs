//! The one place that asks for the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[allow(
    clippy::disallowed_methods,
    reason = "the generator's event loop is where the time enters"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "reports carry the time of day, to be laid beside other logs"
)]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
