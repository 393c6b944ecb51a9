//! Releases of the sample app.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Fleet, bin};

/// The app's name.
pub const APP: &str = "web";

impl Fleet {
    /// Writes the tree of a version beside the fleet and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn sample(&self, version: u32) -> PathBuf {
        let out = self.dir().with_file_name(format!("sample-{version}"));
        make(&out, version, false);
        out
    }

    /// A version whose health check fails on one host only.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn sample_sick_on(&self, host: &str, version: u32) -> PathBuf {
        let out = self.sample(version);
        let sick = out.join("sick");
        make(&sick, version, true);
        let moved = std::fs::remove_dir_all(sick.join("bin"))
            .and_then(|()| std::fs::remove_file(sick.join("ship.toml")))
            .and_then(|()| std::fs::rename(out.join("bin/server"), out.join("bin/app")))
            .and_then(|()| std::fs::write(out.join("bin/server"), sick_script(host)))
            .and_then(|()| std::fs::metadata(out.join("bin/app")))
            .and_then(|data| std::fs::set_permissions(out.join("bin/server"), data.permissions()));
        moved.unwrap_or_else(|error| panic!("{}: {error}", out.display()));
        out
    }

    /// Publishes a version and gives its number.
    ///
    /// # Panics
    /// When that fails.
    pub fn publish_sample(&self, version: u32) -> u64 {
        let tree = self.sample(version);
        self.publish_tree(&tree)
    }

    /// Publishes a tree and gives its number.
    ///
    /// # Panics
    /// When that fails.
    pub fn publish_tree(&self, tree: &Path) -> u64 {
        let tree = tree.to_string_lossy();
        let done = self.shipctl(&["publish", &tree, "-o", "json"]).json();
        done["release"].as_u64().unwrap_or_default()
    }
}

pub(crate) fn make(out: &Path, version: u32, broken: bool) {
    let mut command = Command::new(bin("ship-sample"));
    command
        .args(["make", "--version", &version.to_string(), "--out"])
        .arg(out);
    if broken {
        command.arg("--broken");
    }
    let done = command.status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "no sample in {}",
        out.display()
    );
}

fn sick_script(host: &str) -> String {
    format!(
        "#!/bin/sh\n[ \"$SHIP_HOST\" = {host} ] && exec bin/app \"$@\" --root sick\nexec bin/app \"$@\"\n"
    )
}
