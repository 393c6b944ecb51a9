//! Kills a process at every fault point of staging and removing: afterwards the release is complete or absent, its
//! neighbour is whole, and going on ends well.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ship_bundle::stage::{Depth, Place, StagedRelease, remove_staged, stage, sweep, verify_staged};
use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};

use crate::fixture::*;

const DIR_VARIABLE: &str = "SHIP_BUNDLE_TEST_DIR";

struct World {
    dir: tempfile::TempDir,
    host: Host,
}

impl World {
    /// Release 1 staged; release 2 published and not staged.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::in_memory();
        write_trees(dir.path());
        host.stage("1", &published(&dir.path().join("one"))).unwrap();
        Self { dir, host }
    }

    fn run(&self, scenario: &str, fault: Option<&str>, trace: Option<&Path>) -> bool {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = format!("crash::{scenario}");
        command
            .args(["--exact", &name, "--ignored"])
            .env(
                DIR_VARIABLE,
                format!("{}:{}", self.dir.path().display(), self.host.releases.display()),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(fault) = fault {
            command.env(FAULT_VARIABLE, fault);
        }
        if let Some(trace) = trace {
            command.env(TRACE_VARIABLE, trace);
        }
        command.status().unwrap().success()
    }
}

fn write_trees(dir: &Path) {
    for name in ["one", "two"] {
        put(&dir.join(name), "same", noise(1, 9000));
        put(&dir.join(name), "also/same*", noise(2, 9000));
        put(&dir.join(name), "differs", name);
        put(&dir.join(name), "also/differs*", name);
    }
}

fn dirs() -> Option<(PathBuf, PathBuf)> {
    let both = std::env::var(DIR_VARIABLE).ok()?;
    let (trees, releases) = both.split_once(':')?;
    Some((trees.into(), releases.into()))
}

fn stage_second(trees: &Path, releases: &Path) {
    let two = published(&trees.join("two"));
    let donors = StagedRelease::open(Place::new(releases, "1").unwrap());
    stage(&ship_bundle::stage::StageTask {
        place: Place::new(releases, "2").unwrap(),
        manifest: &two.manifest,
        donors: &[donors.unwrap()],
        kept: None,
        keep: false,
        delta: None,
        bundles: &[(two.digest, two.index.clone())],
        source: &Source::of(&[&two]),
        progress: &(),
    })
    .unwrap();
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_stage() {
    let Some((trees, releases)) = dirs() else { return };
    stage_second(&trees, &releases);
}

#[test]
#[ignore = "a scenario, run by others in this file"]
fn scenario_remove() {
    let Some((_, releases)) = dirs() else { return };
    remove_staged(Place::new(&releases, "2").unwrap()).unwrap();
}

fn points(world: &World, scenario: &str) -> BTreeMap<String, usize> {
    let trace = tempfile::NamedTempFile::new().unwrap();
    assert!(world.run(scenario, None, Some(trace.path())));
    let mut points = BTreeMap::new();
    for line in fs::read_to_string(trace.path()).unwrap().lines() {
        *points.entry(line.to_owned()).or_insert(0) += 1;
    }
    points
}

fn assert_whole(world: &World, folder: &str, tree: &str, fault: &str) {
    let found = snapshot(&world.host.releases.join(folder));
    assert_eq!(found, snapshot(&world.dir.path().join(tree)), "{fault}");
    let report = verify_staged(world.host.place(folder), Depth::Quick, &()).unwrap();
    assert!(report.problems.is_empty(), "{fault}: {report:?}");
}

#[test]
fn a_killed_staging_leaves_all_or_nothing() {
    let world = World::new();
    let points = points(&world, "scenario_stage");
    assert!(points.len() > 15, "{points:?}");
    for (number, (point, times)) in points.iter().enumerate() {
        for turn in 1..=*times {
            for kind in ["kill", "error"] {
                let world = World::new();
                let fault = format!("{point}={kind}@{turn}");
                let ended_well = world.run("scenario_stage", Some(&fault), None);
                assert!(!ended_well || kind == "error", "{fault} did not kill");
                if let Ok(staged) = StagedRelease::open(world.host.place("2")) {
                    assert_eq!(staged.folder(), "2");
                    assert_whole(&world, "2", "two", &fault);
                }
                assert_whole(&world, "1", "one", &fault);
                if kind == "error" && !ended_well {
                    assert!(
                        !world.host.releases.join(".staging-2").exists() || point.contains("remove"),
                        "{fault}"
                    );
                }
                // Every other one is swept first, as a restarted agent would.
                if number % 2 == 0 {
                    sweep(&world.host.releases, &[], &[]).unwrap();
                }
                stage_second(world.dir.path(), &world.host.releases);
                assert_whole(&world, "2", "two", &fault);
                assert_whole(&world, "1", "one", &fault);
                sweep(&world.host.releases, &[], &[]).unwrap();
                let all = ["1", "1.manifest", "1.stamps", "2", "2.manifest", "2.stamps"];
                assert_eq!(world.host.names(), all, "{fault}");
            }
        }
    }
}

#[test]
fn a_killed_removal_ends_in_nothing() {
    let world = World::new();
    stage_second(world.dir.path(), &world.host.releases);
    for (point, times) in points(&world, "scenario_remove") {
        for turn in 1..=times {
            let world = World::new();
            stage_second(world.dir.path(), &world.host.releases);
            let fault = format!("{point}=kill@{turn}");
            assert!(
                !world.run("scenario_remove", Some(&fault), None),
                "{fault} did not kill"
            );
            if StagedRelease::open(world.host.place("2")).is_ok() {
                assert_whole(&world, "2", "two", &fault);
                remove_staged(world.host.place("2")).unwrap();
            }
            sweep(&world.host.releases, &[], &[]).unwrap();
            assert_eq!(world.host.names(), ["1", "1.manifest", "1.stamps"], "{fault}");
            assert_whole(&world, "1", "one", &fault);
        }
    }
}
