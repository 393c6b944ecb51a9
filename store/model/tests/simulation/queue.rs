//! What will happen, in the order of its time; of two things at once, what was planned first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// See the module.
#[derive(Debug)]
pub struct Queue<T> {
    times: BinaryHeap<Reverse<(u64, u64)>>,
    what: std::collections::HashMap<u64, T>,
    planned: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            times: BinaryHeap::new(),
            what: std::collections::HashMap::new(),
            planned: 0,
        }
    }
}

impl<T> Queue<T> {
    pub fn plan(&mut self, at_ms: u64, what: T) {
        self.times.push(Reverse((at_ms, self.planned)));
        self.what.insert(self.planned, what);
        self.planned += 1;
    }

    pub fn next(&mut self) -> Option<(u64, T)> {
        let Reverse((at_ms, number)) = self.times.pop()?;
        let what = self.what.remove(&number)?;
        Some((at_ms, what))
    }
}
