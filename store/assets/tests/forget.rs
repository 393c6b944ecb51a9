//! What has expired is let go, and what has not never is: also when the process is killed at any point of it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and no crash comes between their own writes"
)]

mod fixture;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fixture::release;
use ship_assets::{ForgetError, Union};
use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};
use ship_model::assets::assets_of;
use ship_model::manifest::Manifest;
use ship_model::release::Target;

const DIR: &str = "SHIP_ASSETS_TEST_DIR";
const OLD: [&str; 2] = ["old.3f9a12bc77d01e55.js", "older.77d01e553f9a12bc.js"];
const SAME: &str = "same.00112233aabbccdd.css";
const NEW: &str = "new.ddccbbaa33221100.js";

fn open(dir: &Path) -> Union {
    Union::open(&dir.join("assets"), &dir.join("assets.records")).unwrap()
}

/// Two releases that have one file in common; all else of the first expires.
fn releases(dir: &Path) -> [(Target, Manifest); 2] {
    let first: [(&str, &[u8]); 3] = [(OLD[0], b"one"), (OLD[1], b"two"), (SAME, b"same")];
    let second: [(&str, &[u8]); 2] = [(SAME, b"same"), (NEW, b"new")];
    [
        release(1, &dir.join("t1"), &first),
        release(2, &dir.join("t2"), &second),
    ]
}

fn is_gone(url: &str) -> bool {
    OLD.iter().any(|name| url.ends_with(name))
}

fn stored(dir: &Path, name: &str) -> Option<Vec<u8>> {
    fs::read(dir.join("assets/static").join(name)).ok()
}

#[test]
fn what_expired_goes_and_comes_back_with_a_release_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [(first, manifest), (second, newer)] = releases(dir);
    let union = open(dir);
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    union.add_tree(second, &newer, &dir.join("t2")).unwrap();
    let done = union.forget(union.word(), &is_gone).unwrap();
    assert_eq!((done.files, done.bytes), (2, 6));
    assert_eq!(
        union.forget(union.word(), &is_gone).unwrap().files,
        0,
        "safe to repeat"
    );
    for union in [union, open(dir)] {
        assert_eq!((union.holds(), union.faded()), (vec![second], vec![first]));
        assert_eq!(stored(dir, OLD[0]), None);
        assert_eq!(stored(dir, SAME).unwrap(), b"same");
        let assets = assets_of(&manifest).unwrap();
        assert_eq!(union.missing(&assets).len(), 2);
        assert!(union.missing(&assets_of(&newer).unwrap()).is_empty());
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        union
            .walk_records(|release, url, _, _| here.push((release.number.0, url.to_owned())))
            .unwrap();
        union
            .walk_forgotten(|release, url, _, _| gone.push((release.number.0, url.to_owned())))
            .unwrap();
        assert_eq!((here.len(), gone.len()), (3, 2), "{here:?} {gone:?}");
        assert!(gone.iter().all(|(release, url)| *release == 1 && is_gone(url)));
    }
    let union = open(dir);
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    for union in [union, open(dir)] {
        assert_eq!((union.holds(), union.faded()), (vec![first, second], vec![]));
        assert_eq!(stored(dir, OLD[0]).unwrap(), b"one");
    }
}

/// A word that is overtaken takes nothing more from what counts as held, wherever it was.
#[test]
fn an_overtaken_word_leaves_what_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [(first, manifest), (second, newer)] = releases(dir);
    let union = open(dir);
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    union.add_tree(second, &newer, &dir.join("t2")).unwrap();
    let word = union.word();
    union.word();
    let all = |_: &str| true;
    assert!(matches!(union.forget(word, &all), Err(ForgetError::Overtaken)));
    assert_eq!((union.holds(), union.faded()), (vec![first, second], vec![]));
    // Overtaken in the middle: the first release is faded then, and the second held with all that it needs.
    let word = union.word();
    let overtaken = std::sync::Once::new();
    let in_the_middle = |url: &str| {
        if url.ends_with(NEW) {
            overtaken.call_once(|| {
                union.word();
            });
        }
        true
    };
    assert!(matches!(
        union.forget(word, &in_the_middle),
        Err(ForgetError::Overtaken)
    ));
    for union in [&union, &open(dir)] {
        assert_eq!((union.holds(), union.faded()), (vec![second], vec![first]));
        assert!(union.missing(&assets_of(&newer).unwrap()).is_empty());
    }
    // Whoever needs the first has only to say so.
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    assert_eq!(union.holds(), [first, second]);
    assert_eq!(stored(dir, OLD[0]).unwrap(), b"one");
}

#[test]
fn a_release_comes_without_what_has_expired() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [(first, manifest), _] = releases(dir);
    let union = open(dir);
    let assets = assets_of(&manifest).unwrap();
    let refused = union.record_kept(first, &assets, &is_gone);
    assert!(refused.is_err(), "what is kept must be here");
    let kept = assets.iter().find(|asset| !is_gone(&asset.url_path)).unwrap();
    union.add_blob(kept, &mut &b"same"[..]).unwrap();
    union.record_kept(first, &assets, &is_gone).unwrap();
    for union in [&union, &open(dir)] {
        assert_eq!((union.holds(), union.faded()), (vec![], vec![first]));
        assert_eq!(union.missing(&assets).len(), 2);
    }
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    union.record_kept(first, &assets, &|_| false).unwrap();
    assert_eq!((union.holds(), union.faded()), (vec![first], vec![]));
}

/// As a program that knows no expired assets would read it: not as a whole release.
#[test]
fn an_older_program_leaves_the_record_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let [(first, manifest), _] = releases(dir);
    let union = open(dir);
    union.add_tree(first, &manifest, &dir.join("t1")).unwrap();
    let record = dir.join("assets.records").join(first.folder());
    let version = || -> u64 {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        record["version"].as_u64().unwrap()
    };
    assert_eq!(version(), 1);
    union.forget(union.word(), &is_gone).unwrap();
    assert_eq!(version(), 2);
}

#[test]
#[ignore = "a scenario, run by the test below"]
fn grows_and_forgets() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let union = open(dir);
    for (at, (target, manifest)) in releases(dir).iter().enumerate() {
        union
            .add_tree(*target, manifest, &dir.join(format!("t{}", at + 1)))
            .unwrap();
    }
    union.forget(union.word(), &is_gone).unwrap();
}

fn run(dir: &Path, variable: &str, value: &str) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "grows_and_forgets", "--ignored", "--test-threads=1"])
        .env(DIR, dir)
        .env(variable, value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().unwrap().success()
}

/// What a release that counts as held needs is all there, and what is there is what it should be.
fn check(dir: &Path, fault: &str) {
    let union = open(dir);
    for (target, manifest) in releases(dir) {
        let assets = assets_of(&manifest).unwrap();
        if union.holds().contains(&target) {
            assert!(union.missing(&assets).is_empty(), "{fault}: {target:?}");
        }
        if union.faded().contains(&target) {
            let missing = union.missing(&assets);
            let kept = missing.iter().find(|asset| !is_gone(&asset.url_path));
            assert_eq!(kept, None, "{fault}: not to be forgotten");
        }
    }
    for (name, bytes) in [(OLD[0], "one"), (OLD[1], "two"), (SAME, "same"), (NEW, "new")] {
        if let Some(found) = stored(dir, name) {
            assert_eq!(found, bytes.as_bytes(), "{fault}: {name}");
        }
    }
}

#[test]
fn killed_anywhere_it_is_as_before_or_as_after() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    assert!(run(dir.path(), TRACE_VARIABLE, trace.to_str().unwrap()));
    let mut points = BTreeMap::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        *points.entry(line.to_owned()).or_insert(0) += 1;
    }
    for needed in [
        "assets.before_rename",
        "assets.after_rename",
        "assets.forget.unlink",
    ] {
        assert!(points.contains_key(needed), "{needed} was not passed: {points:?}");
    }
    for (point, times) in points {
        for turn in 1..=times {
            let fault = format!("{point}=kill@{turn}");
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            assert!(!run(dir, FAULT_VARIABLE, &fault), "{fault} did not kill");
            check(dir, &fault);
            assert!(
                run(dir, FAULT_VARIABLE, "none=kill"),
                "{fault}: not done the second time"
            );
            check(dir, &fault);
            assert_eq!(stored(dir, OLD[0]), None, "{fault}");
            assert_eq!(stored(dir, SAME).unwrap(), b"same", "{fault}");
            let left = fs::read_dir(dir.join("assets.records/incoming")).unwrap().count();
            assert_eq!(left, 0, "{fault}");
        }
    }
}
