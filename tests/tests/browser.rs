//! Old tabs of a real browser go on working while an application with lazy pieces is released over and over, and break where
//! assets are kept in one of the two common ways: replacing the folder, and keeping only the version before.
//!
//! Eight promotes and reverts of Ship and of the replaced folder; fifty of all three with `SHIP_TESTS_LONG=1`. What runs is
//! `tests/bench/tabs`.
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
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let (releases, tabs, others) = if long {
        ("50", "6", &["folder replaced", "previous kept"][..])
    } else {
        ("8", "3", &["folder replaced"][..])
    };
    let ways = [&["Ship"], others].concat();
    let ended = Command::new(script)
        .args(["--releases", releases, "--tabs", tabs])
        .args(ways.iter().flat_map(|way| ["--way", way]))
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
    for way in others {
        let lost = &figures[way];
        assert!(
            lost["failed"].as_u64() > Some(0),
            "nothing was lost where something must be: {lost:#}"
        );
    }
    for way in &ways {
        let of = &figures[way];
        let counted = |key: &str| of[key].as_u64().unwrap();
        eprintln!(
            "{way}: {} releases, {} of them reverts; {} pages opened in {} tabs, {} in tabs of another release; {} not loaded",
            counted("releases"),
            counted("reverts"),
            counted("opened") + counted("failed"),
            counted("tabs"),
            counted("old"),
            counted("failed"),
        );
    }
}
