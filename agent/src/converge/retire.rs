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
    /// Begins to remove one release if there is one that nobody needs; true when it did.
    pub(super) fn retire(&mut self, view: &View) -> bool {
        let busy = self.job.is_some() || self.asked.is_some() || view.switching.is_some();
        let at_rest = view.running.is_some() && view.running == self.goal();
        if busy || !at_rest {
            self.settled = clock::now();
            return false;
        }
        if self.settled.elapsed() < REST {
            return false;
        }
        let Some(target) = self.superfluous(view) else {
            return false;
        };
        self.begin(Kind::Remove, target, view)
    }

    fn superfluous(&self, view: &View) -> Option<Target> {
        let record = self.record();
        // Without knowing what is wanted, everything may be.
        let desired = record.desired.as_ref()?;
        let mut needed: HashSet<String> = desired.stage.iter().chain(&desired.run).map(Target::folder).collect();
        let held = record.held.iter().flat_map(|held| held.from.into_iter().chain([held.to]));
        needed.extend(held.chain(view.running).chain(view.previous).map(|target| target.folder()));
        let links = Links::read(self.layout());
        needed.extend(links.current.into_iter().chain(links.previous));
        let numbers: HashSet<u64> = self.keeper.status().map(keeper::releases).unwrap_or_default();
        let unneeded = |target: &Target| {
            let waits = self.given_up.get(target).is_some_and(|given_up| {
                given_up.retry.is_some_and(|retry| retry > clock::now())
            });
            !waits && !needed.contains(&target.folder()) && !numbers.contains(&target.number.0)
        };
        let oldest = self.here.iter().map(|release| release.target).find(unneeded)?;
        (!folders_in_use(self.layout()).contains(&oldest.folder())).then_some(oldest)
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
