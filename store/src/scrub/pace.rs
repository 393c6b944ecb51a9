//! So many bytes a second.

use std::time::{Duration, Instant};

use ship_assets::serve::pause;

use super::Stopped;

/// Naps are gathered: a timer is not more exact than some milliseconds.
const NAP: Duration = Duration::from_millis(20);
/// What was not read in time is not made up for at once.
const CREDIT: Duration = Duration::from_secs(1);

/// Holds whoever reads to a rate.
pub(super) struct Pace<'a> {
    rate: u64,
    /// What was read so far may have been read by then.
    due: Instant,
    ended: &'a dyn Fn() -> bool,
}

impl<'a> Pace<'a> {
    /// `rate`: bytes a second.
    pub fn new(rate: u64, ended: &'a dyn Fn() -> bool) -> Self {
        Self {
            rate: rate.max(1),
            due: Instant::now(),
            ended,
        }
    }

    /// Returns when more may be read.
    pub fn pass(&mut self, bytes: u64) -> Result<(), Stopped> {
        let now = Instant::now();
        let from = now
            .checked_sub(CREDIT)
            .map_or(self.due, |least| self.due.max(least));
        self.due = from + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let ahead = self.due.saturating_duration_since(now);
        let goes_on = match ahead < NAP {
            true => !(self.ended)(),
            false => pause(ahead, self.ended),
        };
        goes_on.then_some(()).ok_or(Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_the_rate_allows_and_an_end_is_heard() {
        let goes_on = || false;
        let mut pace = Pace::new(1 << 20, &goes_on);
        let began = Instant::now();
        for _ in 0..4 {
            assert_eq!(pace.pass(64 << 10), Ok(()));
        }
        assert!(began.elapsed() >= Duration::from_millis(200));
        let ended = || true;
        assert_eq!(Pace::new(1, &ended).pass(1 << 40), Err(Stopped));
    }
}
