//! Figures and times as people read them, and as programs do.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use ship_model::path::escape;

/// `3.1 MB`: decimal units, as disks and networks are sold.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut amount = count as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    if amount < 9.95 {
        format!("{amount:.1} {}", UNITS[unit])
    } else {
        format!("{amount:.0} {}", UNITS[unit])
    }
}

/// `0.42 s`, `12 s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.as_millis() < 10 => format!("{:.1} ms", length.as_secs_f64() * 1e3),
        0 if length.as_millis() < 1000 => format!("{} ms", length.as_millis()),
        0..10 => format!("{:.1} s", length.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

pub fn millis(count: u64) -> String {
    duration(Duration::from_millis(count))
}

/// Why a text is not a length of time.
#[derive(Debug, thiserror::Error)]
#[error("write a number with ms, s, m or h, as in 90s or 15m")]
pub struct DurationError;

/// `90s`, `15m`, `1h`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| DurationError)?;
    let factor = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(DurationError),
    };
    let ms = number.checked_mul(factor).ok_or(DurationError)?;
    // Timers cannot sleep for ages; thirty years are as good.
    Ok(Duration::from_millis(ms.min(1_000_000_000_000)))
}

/// `1 file`, `2 files`.
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", thousands(number)),
    }
}

/// `1 942`, with a thin gap at every third digit.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// None for "never", and for what no calendar has.
fn moment(ms: u64) -> Option<Timestamp> {
    let ms = i64::try_from(ms).ok().filter(|ms| *ms != 0)?;
    Timestamp::from_millisecond(ms).ok()
}

/// RFC 3339 in UTC, for programs; none for "never".
pub fn rfc3339(ms: u64) -> Option<String> {
    Some(moment(ms)?.to_string())
}

/// The date and time of day in a zone, for people; with the summer time of that day, not of today.
pub fn local(ms: u64, zone: &TimeZone) -> String {
    moment(ms).map_or_else(
        || "-".to_owned(),
        |moment| {
            moment
                .to_zoned(zone.clone())
                .strftime("%Y-%m-%d %H:%M:%S")
                .to_string()
        },
    )
}

/// Text from outside, so that it can neither move the cursor nor break a line.
pub fn clean(text: &str) -> String {
    escape(text.as_bytes())
}

/// A digest's first 12 digits; `-` when it is none.
pub fn short_id(id: &[u8]) -> String {
    ship_model::digest::ReleaseId::from_slice(id).map_or_else(|| "-".to_owned(), |id| id.short())
}

/// A digest in full; none when it is none.
pub fn full_id(id: &[u8]) -> Option<String> {
    ship_model::digest::ReleaseId::from_slice(id).map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn sizes_have_two_digits_or_three() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_950, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (3_100_000, "3.1 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn lengths_of_time_have_two_parts_at_most() {
        for (ms, text) in [
            (0, "0.0 ms"),
            (42, "42 ms"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (60_000, "1m 0s"),
            (3_725_000, "1h 2m"),
            (90_000_000, "1d 1h"),
        ] {
            assert_eq!(millis(ms), text);
        }
    }

    #[test]
    fn typed_lengths_of_time() {
        let parse = |text| parse_duration(text).ok().map(|d| d.as_millis());
        assert_eq!(parse("15m"), Some(900_000));
        assert_eq!(parse("500ms"), Some(500));
        for bad in ["", "5", "m", "-1s", "1d", "1.5s", "99999999999999999999s"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(rfc3339(0), None);
        assert_eq!(
            rfc3339(1_700_000_000_123).as_deref(),
            Some("2023-11-14T22:13:20.123Z")
        );
        assert_eq!(
            rfc3339(1_700_000_000_000).as_deref(),
            Some("2023-11-14T22:13:20Z")
        );
        assert_eq!(local(1_700_000_000_123, &TimeZone::UTC), "2023-11-14 22:13:20");
        assert_eq!(local(u64::MAX, &TimeZone::UTC), "-");
        assert_eq!(local(0, &TimeZone::UTC), "-");
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        assert_eq!(local(1_700_000_000_000, &berlin), "2023-11-14 23:13:20");
        assert_eq!(local(1_690_000_000_000, &berlin), "2023-07-22 06:26:40");
    }

    #[test]
    fn counts() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn text_from_outside_cannot_speak_to_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
