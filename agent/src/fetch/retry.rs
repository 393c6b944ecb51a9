//! Waiting between tries: exponential, with full jitter, so that hosts that lost the store together do not return together.

use std::time::Duration;

/// Grows with every failure until it is told that something went well.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            failures: 0,
        }
    }

    /// Failures since the last success.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure and says how long to wait: anything from nothing to `base` doubled per failure, at most `cap`.
    pub fn failed(&mut self) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(fraction())
    }
}

/// A random number from 0 up to 1. Without randomness there is no jitter, which is no reason to stop.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(4) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_begin_anew() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(base, cap);
        assert!(backoff.failed() <= base);
        assert!((0..100).all(|_| backoff.failed() <= cap));
        assert_eq!(backoff.failures(), 101);
        backoff.succeeded();
        assert!(backoff.failed() <= base);
    }
}
