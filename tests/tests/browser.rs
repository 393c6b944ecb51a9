//! Old tabs of a real browser go on working while an application with lazy pieces is released over and over.
//!
//! The whole comparison is `tests/bench/tabs`; this is a small run of it, and of the folder that is replaced, which must lose
//! something, or nothing was shown.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests stop at the first surprise"
)]

use std::process::Command;

use serde_json::Value;

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[test]
fn old_tabs_find_all_that_they_name() {
    if !["chromium", "chromedriver", "nginx", "python3"]
        .into_iter()
        .all(installed)
    {
        ship_tests::skipped("old tabs", "chromium is not installed: run tests/setup");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let figures = folder.path().join("figures.json");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/tabs");
    let ended = Command::new(script)
        .args([
            "--releases",
            "8",
            "--tabs",
            "3",
            "--way",
            "Ship",
            "--way",
            "folder replaced",
        ])
        .arg("--dir")
        .arg(folder.path())
        .arg("--binaries")
        .arg(ship_tests::bin_dir())
        .arg("--json")
        .arg(&figures)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&figures).unwrap()).unwrap();
    let ship = &figures["Ship"];
    assert_eq!(ship["failures"], Value::Array(Vec::new()), "{ship:#}");
    assert!(ship["old"].as_u64() > Some(8), "{ship:#}");
    let replaced = &figures["folder replaced"];
    assert!(
        replaced["failed"].as_u64() > Some(0),
        "nothing was lost where something must be: {replaced:#}"
    );
}
