//! The two clocks, in one place: the wall's for what people read, the monotonic one for waiting.

use std::sync::OnceLock;
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

/// Milliseconds of the monotonic clock since this process first asked: for rules that reckon in numbers.
pub fn steady_ms(at: Instant) -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = *BEGIN.get_or_init(Instant::now);
    // Nothing is asked about moments before the first; they count as that one.
    u64::try_from(at.saturating_duration_since(begin).as_millis()).unwrap_or(u64::MAX)
}
