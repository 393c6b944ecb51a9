//! Where programs of ours are.

use std::path::{Path, PathBuf};

/// Finds a program of ours: beside this one, in `SHIP_BIN_DIR`, or in `PATH`.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(Path::to_owned));
    let chosen = std::env::var_os("SHIP_BIN_DIR").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(chosen)
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}
