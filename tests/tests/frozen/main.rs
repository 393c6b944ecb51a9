//! Yesterday's bytes: today's program must read them, and write the very same.
//!
//! What each file is, who writes and who reads it: `tests/frozen/README.md`. `SHIP_BLESS=1` writes them anew; that is right
//! only for a format that no release has written yet, or together with a new version number, beside the old file.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod host;
mod keeper;
mod kept;
mod leaves;
mod plans;
mod records;
mod sample;
mod settings;
mod wire;

use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("frozen").join(name)
}

/// The frozen bytes.
fn frozen(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What is written today must be what was written then.
#[track_caller]
fn writes_the_same(name: &str, today: &[u8]) {
    if std::env::var_os("SHIP_BLESS").is_some() {
        std::fs::write(path(name), today).unwrap();
    }
    let then = frozen(name);
    assert!(
        today == then,
        "{name} is written otherwise than it was frozen; hosts and stores hold the old bytes.\nthen:  {}\ntoday: {}",
        shown(&then),
        shown(today)
    );
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A new format is frozen and described, a file that nobody checks is not kept.
#[test]
fn every_frozen_file_is_described() {
    let readme = String::from_utf8(frozen("README.md")).unwrap();
    for entry in std::fs::read_dir(path("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || readme.contains(&format!("`{name}`")),
            "tests/frozen/README.md does not describe {name}"
        );
    }
}
