//! Taking old releases away: late, one at a time, and only what nobody can need.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
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
        let held = is_held(&self.layout().release(&oldest));
        if held || folders_in_use(self.layout()).contains(&oldest.folder()) {
            self.put_off(oldest);
            return false;
        }
        self.begin(Kind::Remove, oldest, view)
    }
}

/// Whether a command that somebody runs by hand holds the release's folder, whatever that looks like from outside.
fn is_held(release: &Path) -> bool {
    let folder = std::fs::File::open(release);
    folder.is_ok_and(|folder| rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Release folders that a living process has its program, working folder, root or a mapped file in.
pub(super) fn folders_in_use(layout: &AppLayout) -> HashSet<String> {
    let releases = std::fs::canonicalize(layout.releases());
    releases.map(|releases| folders_in(&releases)).unwrap_or_default()
}

fn folders_in(releases: &Path) -> HashSet<String> {
    let mut used = HashSet::new();
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
                used.extend(folder_of(&path, releases));
            }
        }
        let maps = std::fs::read_to_string(process.path().join("maps")).unwrap_or_default();
        let mapped = maps
            .lines()
            .filter_map(|line| line.find('/').map(|at| &line[at..]));
        used.extend(mapped.filter_map(|path| folder_of(Path::new(path), releases)));
    }
    used
}

fn folder_of(path: &Path, releases: &Path) -> Option<String> {
    let below = path.strip_prefix(releases).ok()?;
    below.components().next()?.as_os_str().to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test may fail loudly, and makes a tree by hand"
    )]

    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::{folder_of, folders_in};

    /// A process that lives until its standard input is closed.
    fn living(command: &mut Command) -> Child {
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        command.spawn().unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn a_release_is_in_use_by_working_folder_program_and_mapped_file() {
        let home = tempfile::tempdir().unwrap();
        let releases = std::fs::canonicalize(home.path()).unwrap();
        for name in ["1-cwd", "2-exe", "3-free"] {
            std::fs::create_dir_all(releases.join(name).join("bin")).unwrap();
        }
        let program = releases.join("2-exe/bin/cat");
        let cat = std::fs::canonicalize("/bin/cat").unwrap();
        // By a child: a process that another test is just starting would hold open what this one writes, and it could not be run.
        let copied = Command::new("cp").arg(cat).arg(&program).status().unwrap();
        assert!(copied.success());
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let inside = living(Command::new("cat").current_dir(releases.join("1-cwd/bin")));
        let running = living(Command::new(&program).current_dir("/"));
        let used = folders_in(&releases);
        assert!(used.contains("1-cwd") && used.contains("2-exe"), "{used:?}");
        assert!(!used.contains("3-free"), "{used:?}");
        end(inside);
        assert!(!folders_in(&releases).contains("1-cwd"));
        // One whose release was taken away by hand is still known by its old name.
        std::fs::remove_dir_all(releases.join("2-exe")).unwrap();
        assert!(folders_in(&releases).contains("2-exe"));
        end(running);
        assert!(folders_in(&releases).is_empty());
    }

    #[test]
    fn a_path_outside_is_no_release() {
        let folder = |path| folder_of(Path::new(path), Path::new("/srv/web/releases"));
        assert_eq!(folder("/srv/web/releases/4-a/lib/x.so").as_deref(), Some("4-a"));
        assert_eq!(folder("/srv/web/releases"), None);
        assert_eq!(folder("/srv/web/releases2/4-a"), None);
        assert_eq!(folder("/usr/bin/python3"), None);
    }
}
