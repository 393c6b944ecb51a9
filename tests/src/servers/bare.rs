//! gunicorn without a keeper: the same releases, restarted by its own signals as its documentation says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

use super::stage::own_address;
use super::{Subject, Users};
use crate::{http, wait};

/// A gunicorn of nobody's; ends every process it started.
#[derive(Debug)]
pub struct Bare {
    address: SocketAddr,
    root: PathBuf,
    /// The process that was started; after an upgrade it may have ended.
    first: Child,
    _dir: tempfile::TempDir,
}

impl Bare {
    /// Starts release 1; there is a release 2 as well.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn gunicorn(subject: &Subject) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
        let root = std::fs::canonicalize(dir.path()).unwrap_or_else(|_| dir.path().to_owned());
        for release in ["1", "2"] {
            let tree = root.join(release);
            let made = std::fs::create_dir(&tree);
            made.and_then(|()| std::fs::write(tree.join("release"), release))
                .unwrap_or_else(|error| panic!("release {release}: {error}"));
            subject.copy_to(&tree);
        }
        link(&root, "1");
        let address = own_address();
        let first = Command::new(&subject.command[0])
            .args(&subject.command[1..])
            .current_dir(root.join("current"))
            .env("PWD", root.join("current"))
            .env("CURRENT", root.join("current"))
            .env("ADDR", address.to_string())
            .env("SHIP_RUN_DIR", &root)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("gunicorn: {error}"));
        let bare = Self {
            address,
            root,
            first,
            _dir: dir,
        };
        bare.until_all_is("1");
        bare
    }

    #[must_use]
    pub fn users(&self, rate: u32) -> Users {
        Users::of(self.address, rate, true, false)
    }

    /// USR2, and when the new one answers WINCH and TERM to the old one.
    ///
    /// # Panics
    /// When that does not end.
    pub fn upgrade_to(&mut self, release: &str) {
        link(&self.root, release);
        let file = self.root.join("gunicorn.pid");
        let old = wait::until("the old master", || pid_in(&file));
        tell(old, Signal::USR2);
        let beside = self.root.join("gunicorn.pid.2");
        wait::until("the new master", || pid_in(&beside).filter(|new| *new != old));
        wait::until("the new one to answer", || {
            (self.release()? == release).then_some(())
        });
        tell(old, Signal::WINCH);
        tell(old, Signal::TERM);
        wait::until("the old one to end", || {
            let _ = self.first.try_wait();
            (pid_in(&file)? != old).then_some(())
        });
        self.until_all_is(release);
    }

    fn release(&self) -> Option<String> {
        Some(
            http::get(self.address, "/release")
                .ok()?
                .header("x-release")?
                .to_owned(),
        )
    }

    fn until_all_is(&self, release: &str) {
        let mut good = 0;
        wait::until("all answers to be of the release", || {
            good = if self.release().as_deref() == Some(release) {
                good + 1
            } else {
                0
            };
            (good >= 20).then_some(())
        });
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let file = self.root.join("gunicorn.pid");
        if let Some(pid) = pid_in(&file) {
            tell(pid, Signal::TERM);
            let gone = || rustix::process::test_kill_process(pid).is_err();
            for _ in 0..2_000 {
                let _ = self.first.try_wait();
                if gone() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn link(root: &Path, release: &str) {
    let new = root.join("new");
    let done =
        std::os::unix::fs::symlink(release, &new).and_then(|()| std::fs::rename(&new, root.join("current")));
    done.unwrap_or_else(|error| panic!("link to release {release}: {error}"));
}

fn pid_in(file: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    Pid::from_raw(pid).filter(|_| pid > 1)
}

fn tell(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}
