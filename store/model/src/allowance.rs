//! How many bytes may pass, by the second.

/// Bytes that pass at most in each second, with a second's worth at once after a pause. Time is an argument.
#[derive(Debug, Clone)]
pub struct Allowance {
    per_second: u64,
    /// When all that was taken is paid for, in nanoseconds.
    paid_ns: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Allowance {
    pub const fn new(per_second: u64) -> Self {
        Self {
            per_second: if per_second == 0 { 1 } else { per_second },
            paid_ns: 0,
        }
    }

    /// Takes `bytes` at `now_ns`: they may pass after so many nanoseconds. Who takes later waits for who took before.
    pub fn take(&mut self, now_ns: u64, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * u128::from(SECOND) / u128::from(self.per_second);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let begin = self.paid_ns.max(now_ns.saturating_sub(SECOND));
        self.paid_ns = begin.saturating_add(cost);
        self.paid_ns.saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_bounded_whoever_takes() {
        let mut allowance = Allowance::new(1000);
        let start = 100 * SECOND;
        // A second's worth at once, then at the rate.
        assert_eq!(allowance.take(start, 600), 0);
        assert_eq!(allowance.take(start, 400), 0);
        assert_eq!(allowance.take(start, 500), SECOND / 2);
        assert_eq!(allowance.take(start, 500), SECOND);
        assert_eq!(allowance.take(start + SECOND, 1000), SECOND);
        // A long pause earns one second, no more.
        assert_eq!(allowance.take(start + 60 * SECOND, 2000), SECOND);
        assert_eq!(Allowance::new(0).take(start, 2), SECOND);
        assert_eq!(Allowance::new(1).take(start, u64::MAX), u64::MAX - start);
    }
}
