//! Many small commits, killed at random moments.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use ship_model::digest::BundleDigest;
use ship_store::engine::blobs::{FsBlobs, check_whole};
use ship_store::engine::catalog::SledCatalog;
use ship_store::engine::{Blobs, Catalog, Change, Object, Outcome};

use super::child::{acked, acknowledge, inside, scenario, start, work_dir};

/// Commits that never end: each keeps an object and then a record that names it.
#[test]
#[ignore = "a scenario, run by others in this file"]
fn endless_commits() {
    let Some(dir) = work_dir() else { return };
    let (catalog, _) = SledCatalog::open(&dir.join("catalog")).unwrap();
    let blobs = FsBlobs::open(&dir.join("objects")).unwrap();
    let run = catalog.range("run/", None, 10_000).unwrap().len();
    let mark = Change::put(format!("run/{run}"), None, Vec::new());
    assert!(matches!(
        catalog.compare_and_swap(vec![mark]).unwrap(),
        Outcome::Committed(_)
    ));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (catalog, blobs) = (&catalog, &blobs);
            scope.spawn(move || {
                for number in 0.. {
                    let name = format!("k/{run}/{thread}/{number}");
                    let bytes = name.repeat(200).into_bytes();
                    let object = Object::Bundle(BundleDigest::of(&bytes));
                    let mut staged = blobs.stage().unwrap();
                    staged.write_all(&bytes).unwrap();
                    blobs.keep(staged, object).unwrap();
                    let change = Change::put(&name, None, object.hex().into_bytes());
                    let outcome = catalog.compare_and_swap(vec![change]).unwrap();
                    assert!(matches!(outcome, Outcome::Committed(_)));
                    acknowledge(&format!("{name} {}", micros()));
                }
            });
        }
    });
}

fn micros() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()
}

/// Starts the scenario, lets `cut` strike after `count` acknowledgements, and returns all that were given before the moment
/// that `cut` tells, in microseconds of the clock.
pub fn interrupted(
    dir: &Path,
    count: usize,
    cut: impl FnOnce(&mut std::process::Child) -> u128,
) -> Vec<String> {
    let mut child = start(&mut scenario("commits::endless_commits", dir)).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    let mut seen = 0;
    while seen < count {
        let before = text.len();
        assert!(
            output.read_line(&mut text).unwrap() > 0,
            "the scenario ended by itself"
        );
        seen += usize::from(acked(text[before..].trim_end()).is_some());
    }
    let struck = cut(&mut child);
    // What was written before the cut and read after it was acknowledged too.
    output.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    let acked = text.lines().filter_map(acked);
    let acked = acked.map(|line| line.split_once(' ').unwrap());
    let acked = acked.filter(|(_, at)| at.parse::<u128>().unwrap() < struck);
    acked.map(|(name, _)| name.to_owned()).collect()
}

/// Opens what the cut left and looks for everything that was acknowledged.
pub fn assert_all_stand(dir: &Path, names: &[String]) {
    let _open = inside();
    let (catalog, opened) = SledCatalog::open(&dir.join("catalog")).unwrap();
    let blobs = FsBlobs::open(&dir.join("objects")).unwrap();
    for name in names {
        let found = catalog.get(name).unwrap();
        let found = found.unwrap_or_else(|| panic!("{name} is lost of {} ({opened:?})", names.len()));
        let digest: BundleDigest = String::from_utf8(found.bytes).unwrap().parse().unwrap();
        check_whole(&blobs, Object::Bundle(digest)).unwrap();
    }
    // What was not acknowledged may stand, and then it stands whole.
    for entry in catalog.range("k/", None, 1_000_000).unwrap() {
        let digest: BundleDigest = String::from_utf8(entry.value.bytes).unwrap().parse().unwrap();
        check_whole(&blobs, Object::Bundle(digest)).unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for round in 0..8 {
        all.extend(interrupted(dir.path(), 5 + 13 * round, |child| {
            child.kill().unwrap();
            // A process that has said it before it died meant it.
            u128::MAX
        }));
        assert_all_stand(dir.path(), &all);
    }
}
