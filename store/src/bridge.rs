//! The one way from async code to code that blocks: files, the catalog, hashing.
//!
//! A bounded number of jobs runs at once; the rest wait their turn in order, so that a burst of callers cannot take
//! every thread and all memory. A job that has begun runs to its end, even when nobody waits for it any longer: what
//! it acknowledges to the disk is never half done because a client hung up.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A handle to the bounded pool; clones share it.
#[derive(Debug, Clone)]
pub struct Bridge {
    places: Arc<Semaphore>,
}

/// The job did not end: it panicked, or the program is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the work was broken off inside the store")]
pub struct BrokenOff;

impl Bridge {
    /// A bridge on which `at_once` jobs run at a time.
    pub fn new(at_once: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(at_once)),
        }
    }

    /// Runs `job` on a thread where it may block.
    pub async fn run<T, F>(&self, job: F) -> Result<T, BrokenOff>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|_| BrokenOff)?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            job()
        });
        done.await.map_err(|_| BrokenOff)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test may stop at the first surprise"
    )]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn jobs_wait_their_turn_and_a_panic_costs_one_answer() {
        let bridge = Bridge::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..16).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            bridge.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        for done in futures::future::join_all(jobs).await {
            done.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
        let broken: Result<(), _> = bridge.run(|| panic!("on purpose")).await;
        assert_eq!(broken, Err(BrokenOff));
        assert_eq!(bridge.run(|| 7).await, Ok(7));
    }
}
