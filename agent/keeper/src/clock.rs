//! The two clocks a keeper reads: milliseconds since boot for decisions, the time of day for people.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, sleep included; the same for every process, so it may be kept in a journal.
#[must_use]
pub fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Microseconds of CLOCK_MONOTONIC, as `MONOTONIC_USEC=` has them: sleep does not count.
#[must_use]
pub fn monotonic_us() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

/// The time of day, since 1970.
#[must_use]
pub fn wall_clock() -> Duration {
    Duration::from_millis(unix_ms())
}

/// Milliseconds of Unix time, for people; it may be set back and forth.
#[must_use]
pub fn unix_ms() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The time of day in UTC, RFC 3339 with milliseconds.
#[must_use]
pub fn rfc3339_now() -> String {
    let now = clock_gettime(ClockId::Realtime);
    rfc3339(now.tv_sec, u32::try_from(now.tv_nsec / 1_000_000).unwrap_or(0))
}

/// As [`rfc3339_now`], `ms` milliseconds from now, to the second: the two clocks drift.
#[must_use]
pub fn rfc3339_in(ms: u64) -> String {
    let now = clock_gettime(ClockId::Realtime);
    let ms = ms.saturating_add(u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0) + 500);
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    rfc3339(now.tv_sec.saturating_add(seconds), 0)
}

fn rfc3339(seconds: i64, millis: u32) -> String {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day of the `days`th day after 1970-01-01, in eras of 400 years that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn known_moments() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399, 7), "2000-02-28T23:59:59.007Z");
        assert_eq!(rfc3339(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_798_761_599, 999), "2026-12-31T23:59:59.999Z");
    }
}
