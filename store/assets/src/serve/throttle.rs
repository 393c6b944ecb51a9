//! Bytes by the second, for whoever sends or receives them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ship_model::allowance::Allowance;
use tokio::time::{Instant, sleep};

/// An allowance that many transfers share.
#[derive(Debug)]
pub struct Throttle {
    begun: Instant,
    left: Mutex<Allowance>,
}

impl Throttle {
    /// Lets so many bytes a second pass.
    pub fn new(per_second: u64) -> Self {
        Self {
            begun: Instant::now(),
            left: Mutex::new(Allowance::new(per_second)),
        }
    }

    /// Returns when `bytes` may pass.
    pub async fn pass(&self, bytes: u64) {
        let now = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // The clock begins a second in, so that the first second has its allowance too.
        let now = now.saturating_add(1_000_000_000);
        let wait = {
            let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
            left.take(now, bytes)
        };
        if wait > 0 {
            sleep(Duration::from_nanos(wait)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transfers_share_what_may_pass() {
        let throttle = Arc::new(Throttle::new(1_000_000));
        let begun = Instant::now();
        let transfers = (0..4).map(|_| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move {
                for _ in 0..25 {
                    throttle.pass(100_000).await;
                }
            })
        });
        for transfer in transfers.collect::<Vec<_>>() {
            transfer.await.ok();
        }
        // Ten million bytes at a million a second, of which the first second's worth passed at once.
        assert_eq!(begun.elapsed().as_millis(), 9_000);
    }
}
