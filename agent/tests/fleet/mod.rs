//! A store as an agent sees it, an agent as its host runs it, and releases made from real trees.

pub mod agent;
pub mod certificates;
mod expired;
pub mod faults;
pub mod giver;
pub mod ranges;
pub mod release;
pub mod store;

use std::time::{Duration, Instant};

/// Long enough for a loaded machine; nothing is measured by it.
const DEADLINE: Duration = Duration::from_secs(90);

/// Waits for a state.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
