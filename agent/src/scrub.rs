//! Reading again, slowly, everything that lies on this host: a disk that rots tells nobody.
//!
//! One thread for the host. Each release is read whole once in [`Scrub::every`](crate::config::Scrub), which is less than a
//! day; where it stopped is kept in `<app>.scrub` beside the app's record, so that restarts neither begin anew nor skip.
//! What is found is in the stamps of the releases, where the app's loop looks: rot turns every release that uses the
//! inode red, is reported, and is mended from the store.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ship_bundle::stage::{Place, Scrubbed, scrub_staged};
use ship_model::name::AppName;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::Scrub;
use crate::layout::{AppLayout, HostLayout};
use crate::session::chain;

const VERSION: u32 = 1;
/// Between two looks whether something is due.
const LOOK: Duration = Duration::from_secs(60);
/// After so many bytes' time the place is written down.
const SLICE: Duration = Duration::from_secs(60);
/// Inodes remembered as read within a round; beyond it, shared files are read once for each release.
const MAX_SEEN: usize = 500_000;
/// The slowest that is read, in bytes per second.
const SLOWEST: u64 = 4 << 20;
/// A mark is a hundred bytes and releases are few.
const MAX_MARKS: u64 = 1 << 20;

/// How far each release of an app was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    version: u32,
    /// By folder.
    releases: BTreeMap<String, Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// When it was last known to be read whole, in milliseconds since 1970.
    whole_ms: u64,
    /// The entry to go on with.
    #[serde(default)]
    next: u64,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            version: VERSION,
            releases: BTreeMap::new(),
        }
    }
}

impl Marks {
    /// What cannot be read is forgotten: it costs reading.
    fn read(path: &Path) -> Self {
        let small = std::fs::metadata(path).is_ok_and(|found| found.len() <= MAX_MARKS);
        let bytes = small.then(|| std::fs::read(path).ok()).flatten();
        let marks = bytes.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        marks.filter(|marks| marks.version == VERSION).unwrap_or_default()
    }

    fn write(&self, path: &Path) -> Result<(), MarkError> {
        let failed = |source| MarkError {
            path: path.to_owned(),
            source,
        };
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        ship_durable::write_private_file(path, &bytes).map_err(|error| failed(std::io::Error::other(error)))
    }

    /// Takes in new folders, which were read back when they were staged, and forgets those that are gone.
    fn follow(&mut self, folders: &[String], now_ms: u64) {
        self.releases.retain(|folder, _| folders.contains(folder));
        for folder in folders {
            let fresh = Mark {
                whole_ms: now_ms,
                next: 0,
            };
            self.releases.entry(folder.clone()).or_insert(fresh);
        }
    }

    /// The folder that waits longest of those that are due. A time that is still to come was written by a wrong clock.
    fn due(&self, every: Duration, now_ms: u64) -> Option<(String, Mark)> {
        let due = |mark: &Mark| match now_ms.checked_sub(mark.whole_ms) {
            Some(age) => u128::from(age) >= every.as_millis(),
            None => true,
        };
        let late = self.releases.iter().filter(|(_, mark)| due(mark));
        let (folder, mark) = late.min_by_key(|(_, mark)| mark.whole_ms)?;
        Some((folder.clone(), *mark))
    }
}

/// How far a release was read could not be written down; a restart reads it again.
#[derive(Debug, Error)]
#[error("cannot write down how far releases were read, in {}", path.display())]
struct MarkError {
    path: PathBuf,
    source: std::io::Error,
}

/// Reads all releases of the host again and again.
pub struct Scrubber {
    pub layout: HostLayout,
    pub settings: Scrub,
    pub runtime: Handle,
    pub stop: CancellationToken,
    /// Told each app whose files were found to be wrong.
    pub found: Box<dyn Fn(&AppName) + Send>,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Scrubber {
    /// Runs until it is stopped. Blocks.
    pub fn run(self) {
        let look = LOOK.min(self.settings.every / 4).max(Duration::from_millis(50));
        while self.sleep(look) {
            for app in crate::converge::known_apps(&self.layout) {
                self.app(&self.layout.app(&app));
            }
        }
    }

    /// False when it was stopped.
    fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stop.cancelled();
        let slept = self
            .runtime
            .block_on(async { tokio::time::timeout(time, stopped).await });
        slept.is_err()
    }

    /// Reads what is due of one app.
    fn app(&self, layout: &AppLayout) {
        let path = layout.record.with_extension("scrub");
        let mut marks = Marks::read(&path);
        let before = marks.clone();
        marks.follow(&folders(&layout.releases()), clock::wall_ms());
        if marks != before {
            Self::save(&marks, &path);
        }
        let mut seen = HashSet::new();
        while let Some((folder, mark)) = marks.due(self.settings.every, clock::wall_ms()) {
            let read = self.slice(layout, &folder, mark.next, &mut seen);
            let Some(next) = read else {
                // It cannot be read now: whoever switches to it is told why. It is due again later.
                marks.releases.insert(folder, fresh());
                continue;
            };
            let mark = match next {
                Some(next) => Mark { next, ..mark },
                None => fresh(),
            };
            marks.releases.insert(folder, mark);
            Self::save(&marks, &path);
            if self.stop.is_cancelled() {
                return;
            }
            marks.follow(&folders(&layout.releases()), clock::wall_ms());
        }
    }

    fn save(marks: &Marks, path: &Path) {
        if let Err(error) = marks.write(path) {
            tracing::warn!(error = chain(&error), "releases are read again after a restart");
        }
    }

    /// Reads on for a while; where to go on, or that it was read to its end.
    fn slice(
        &self,
        layout: &AppLayout,
        folder: &str,
        from: u64,
        seen: &mut HashSet<u64>,
    ) -> Option<Option<u64>> {
        if seen.len() > MAX_SEEN {
            seen.clear();
        }
        let releases = layout.releases();
        let place = Place::new(&releases, folder).ok()?;
        let (rate, begun) = (self.rate(), clock::now());
        let mut read = 0_u64;
        let mut pace = |bytes: u64| {
            read += bytes;
            if bytes == 0 && begun.elapsed() >= SLICE {
                return false;
            }
            let due = Duration::from_secs_f64(read as f64 / rate as f64);
            let ahead = due.saturating_sub(begun.elapsed());
            // Short naps are gathered: a timer is not more exact than a few milliseconds.
            let going = ahead < Duration::from_millis(20) || self.sleep(ahead);
            going && !self.stop.is_cancelled()
        };
        match scrub_staged(place, from, seen, &mut pace) {
            Ok(scrubbed) => {
                self.tell(layout, folder, &scrubbed);
                Some(scrubbed.next)
            }
            Err(error) => {
                tracing::warn!(app = %layout.app, folder, error = chain(&error), "release not read again");
                None
            }
        }
    }

    fn tell(&self, layout: &AppLayout, folder: &str, scrubbed: &Scrubbed) {
        let app = &layout.app;
        if let Some(first) = scrubbed.problems.first() {
            let count = scrubbed.problems.len();
            tracing::error!(%app, folder, count, first = %first, "files rotted on this host");
            (self.found)(app);
        }
        if scrubbed.next.is_none() {
            tracing::info!(%app, folder, bytes = scrubbed.read_bytes, "release read again");
        }
    }

    /// Bytes per second: as configured, else so many that everything on the disk is read in half of the time there is.
    fn rate(&self) -> u64 {
        let configured = self.settings.bytes_per_second;
        configured.unwrap_or_else(|| {
            let used = rustix::fs::statvfs(&self.layout.apps).map_or(0, |space| {
                space
                    .f_blocks
                    .saturating_sub(space.f_bfree)
                    .saturating_mul(space.f_frsize)
            });
            let half = (self.settings.every.as_secs() / 2).max(1);
            (used / half).max(SLOWEST)
        })
    }
}

fn fresh() -> Mark {
    Mark {
        whole_ms: clock::wall_ms(),
        next: 0,
    }
}

/// Folders of releases that are complete, by the stamps beside them.
pub fn folders(releases: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(releases).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| name.strip_suffix(".stamps").map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn what_waits_longest_comes_first_and_new_ones_wait() {
        let mut marks = Marks::default();
        marks.follow(&["1-a".to_owned()], 1_000);
        marks.follow(&["1-a".to_owned(), "2-b".to_owned()], 50_000_000);
        assert_eq!(marks.due(DAY, 86_000_000), None);
        assert_eq!(marks.due(DAY, 86_401_000).unwrap().0, "1-a");
        assert_eq!(marks.due(DAY, 999_000_000).unwrap().0, "1-a");
        // A clock that was set back makes all of them due, not none of them for years.
        assert!(marks.due(DAY, 10).is_some());
        marks.follow(&["2-b".to_owned()], 60_000_000);
        assert_eq!(marks.releases.len(), 1);
    }

    #[test]
    fn marks_outlive_a_restart_and_damage_only_costs_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.scrub");
        let mut marks = Marks::default();
        marks
            .releases
            .insert("1-a".to_owned(), Mark { whole_ms: 5, next: 7 });
        marks.write(&path).unwrap();
        assert_eq!(Marks::read(&path), marks);
        ship_durable::write_file(&path, b"{\"version\":1,").unwrap();
        assert_eq!(Marks::read(&path), Marks::default());
    }
}
