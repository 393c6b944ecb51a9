//! Taking old releases away: late, one at a time, and only what nobody can need.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use ship_model::release::Target;

use super::app::App;
use super::job::Kind;
use super::view::View;
use crate::clock;
use crate::keeper;
use crate::layout::AppLayout;
use crate::switch::Links;

/// How long an app must have been at rest.
const REST: Duration = Duration::from_secs(60);

impl App {
    /// What may not be removed whatever is desired: what links, keeper and a local hold name.
    pub(super) fn pinned(&self, view: &View) -> Vec<Target> {
        let links = Links::read(self.layout());
        let numbers = self.keeper.status().map(keeper::releases).unwrap_or_default();
        let linked = |target: &Target| {
            let folder = Some(target.folder());
            links.current == folder || links.previous == folder || numbers.contains(&target.number.0)
        };
        let held = self.record().held.iter();
        let held = held.flat_map(|held| held.from.into_iter().chain([held.to]));
        let here = self.here.iter().map(|release| release.target);
        here.filter(linked).chain(held).chain(view.previous).collect()
    }

    /// Begins to remove one of `old` when the app has been at rest long enough; true when it did.
    pub(super) fn retire(&mut self, old: &[Target], view: &View) -> bool {
        if self.job.is_some() || self.asked.is_some() || self.settled.elapsed() < REST {
            return false;
        }
        let now = clock::now();
        let waits = |target: &Target| {
            let given_up = self.given_up.get(target);
            given_up.is_some_and(|given_up| given_up.retry.is_some_and(|retry| retry > now))
        };
        let Some(oldest) = old.iter().find(|target| !waits(target)).copied() else {
            return false;
        };
        if folders_in_use(self.layout()).contains(&oldest.folder()) {
            self.put_off(oldest);
            return false;
        }
        self.begin(Kind::Remove, oldest, view)
    }
}

/// Release folders that a living process has its program, working folder, root or a mapped file in.
pub(super) fn folders_in_use(layout: &AppLayout) -> HashSet<String> {
    let mut used = HashSet::new();
    let Ok(releases) = std::fs::canonicalize(layout.releases()) else {
        return used;
    };
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return used;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        for link in ["cwd", "exe", "root"] {
            // Processes of others cannot be looked into, nor can they be of this app.
            if let Ok(path) = std::fs::read_link(process.path().join(link)) {
                used.extend(folder_of(&path, &releases));
            }
        }
        let maps = std::fs::read_to_string(process.path().join("maps")).unwrap_or_default();
        let mapped = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
        used.extend(mapped.filter_map(|path| folder_of(Path::new(path), &releases)));
    }
    used
}

fn folder_of(path: &Path, releases: &Path) -> Option<String> {
    let below = path.strip_prefix(releases).ok()?;
    below.components().next()?.as_os_str().to_str().map(str::to_owned)
}
