//! Killing an agent at every point that it passes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// The points that an agent wrote to `trace`, each with how often it was passed.
pub fn points_in(trace: &Path) -> BTreeMap<String, u32> {
    let mut points = BTreeMap::new();
    for point in std::fs::read_to_string(trace).unwrap().lines() {
        *points.entry(point.to_owned()).or_default() += 1;
    }
    points
}

/// Calls `kill_at` for each point with the passage to be killed at, the first and the last of each; two at a time.
pub fn killed_everywhere(points: BTreeMap<String, u32>, kill_at: impl Fn(&str, u32) + Sync) {
    let ends = |(point, times): (String, u32)| [(point.clone(), 1), (point, times)];
    let mut kills: Vec<_> = points.into_iter().flat_map(ends).collect();
    kills.dedup();
    let queue = Mutex::new(kills);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop();
                    let Some((point, turn)) = next else { return };
                    kill_at(&point, turn);
                }
            });
        }
    });
}
