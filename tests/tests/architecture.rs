//! Is the house still a house? Who may import whom, where `unsafe` may stand, how large rooms may grow.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crate → the crates of ours that it may import. Downwards only, no circles.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ship-model", &[]),
    ("ship-durable", &[]),
    ("ship-proto", &["ship-model"]),
    ("ship-bundle", &["ship-model", "ship-durable"]),
    ("ship-assets", &["ship-model", "ship-durable"]),
    ("ship-bucket", &["ship-model"]),
    ("ship-keeper", &["ship-model", "ship-durable"]),
    (
        "ship-store",
        &[
            "ship-model",
            "ship-durable",
            "ship-bundle",
            "ship-assets",
            "ship-bucket",
            "ship-proto",
        ],
    ),
    (
        "ship-agent",
        &[
            "ship-model",
            "ship-durable",
            "ship-bundle",
            "ship-assets",
            "ship-proto",
            "ship-keeper",
        ],
    ),
    (
        "shipctl",
        &[
            "ship-model",
            "ship-durable",
            "ship-bundle",
            "ship-bucket",
            "ship-proto",
        ],
    ),
    ("ship-sample", &[]),
    ("ship-load", &[]),
];

/// What the ground floor must not depend on, however deep.
const IMPURE: &[&str] = &["tokio", "tonic", "prost", "tracing", "rand", "rustix", "libc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let args = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let output = Command::new(cargo)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

#[test]
fn imports_only_go_down() {
    let allowed: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let name = text(package, "name");
        if name == "ship-tests" {
            continue;
        }
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} has no place in the house"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = text(dependency, "name");
            // What a test sees is no wall of the house.
            if dependency["kind"] == "dev" || !other.starts_with("ship") {
                continue;
            }
            assert!(may.contains(&other), "{name} must not import {other}");
        }
    }
}

#[test]
fn the_ground_floor_is_pure() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let model = packages
        .iter()
        .find(|package| package["name"] == "ship-model")
        .unwrap();
    for dependency in model["dependencies"].as_array().unwrap() {
        let name = text(dependency, "name");
        assert!(!IMPURE.contains(&name), "ship-model depends on {name}");
    }
}

#[test]
fn every_crate_keeps_the_lints_of_the_house() {
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = std::fs::read_to_string(text(package, "manifest_path")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let name = text(package, "name");
        let inherits = manifest["lints"].get("workspace").and_then(toml::Value::as_bool) == Some(true);
        // The keeper's own table exists because it alone may be `unsafe`.
        assert!(
            inherits || name == "ship-keeper",
            "{name} does not inherit [workspace.lints]"
        );
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_stands_in_the_keeper_only() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let keeper = root().join("agent/keeper");
    for file in files.iter().filter(|file| !file.starts_with(&keeper)) {
        let text = std::fs::read_to_string(file).unwrap();
        let found = text.lines().find(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
        });
        let is_this = file.ends_with("tests/tests/architecture.rs");
        assert!(
            found.is_none() || is_this,
            "{}: {}",
            file.display(),
            found.unwrap_or_default()
        );
    }
}

#[test]
fn rooms_stay_small() {
    let mut files = Vec::new();
    sources(&root(), &mut files);
    let mut sizes: Vec<usize> = Vec::new();
    for file in &files {
        let lines = std::fs::read_to_string(file).unwrap().lines().count();
        assert!(
            lines <= 900,
            "{} has {lines} lines: it is several rooms with the walls missing",
            file.display()
        );
        sizes.push(lines);
    }
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    assert!(
        median <= 200,
        "half of all files have more than {median} lines; 150 is the aim"
    );
}

#[test]
fn the_front_yard_is_tidy() {
    let shown: BTreeSet<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "README.md",
        "agent",
        "ctl",
        "proto",
        "store",
        "tests",
    ];
    assert_eq!(shown, expected.map(str::to_owned).into());
}
