//! A union of 1,000 releases with 500 assets each: what it holds in memory, how long it takes to open, and what a request
//! costs. Figures are said; only memory is judged.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say figures"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ship_assets::{Shelf, Union};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, Target};

const RELEASES: u64 = 1_000;
const ASSETS: u64 = 500;
/// The process may use 256 MiB for everything; this is its largest part.
const MOST_BYTES: u64 = 160 << 20;

fn url(release: u64, asset: u64) -> String {
    let hash = BlobDigest::of(&(release * ASSETS + asset).to_le_bytes());
    format!("/static/js/chunk-{asset:03}.{}.js", &hash.to_string()[..16])
}

/// The records of releases that share nothing, as a union writes them.
fn write_records(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for number in 1..=RELEASES {
        let target = Target {
            number: ReleaseNumber(number),
            id: ReleaseId::of(&number.to_le_bytes()),
        };
        let release = serde_json::to_string(&target).unwrap();
        let mut text = format!("{{\"version\":1,\"release\":{release},\"assets\":[");
        for asset in 0..ASSETS {
            let comma = if asset == 0 { "" } else { "," };
            let digest = BlobDigest::of(&(number * ASSETS + asset).to_le_bytes());
            let url = url(number, asset);
            write!(
                text,
                "{comma}{{\"url\":\"{url}\",\"digest\":\"{digest}\",\"size\":8}}"
            )
            .unwrap();
        }
        text.push_str("]}");
        ship_durable::write_file(&folder.join(target.folder()), text.as_bytes()).unwrap();
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn half_a_million_names_are_held_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("assets.records");
    write_records(&records);
    let before = resident();
    let began = Instant::now();
    let union = Arc::new(Union::open(&dir.path().join("assets"), &records).unwrap());
    let opened = began.elapsed();
    let names = RELEASES * ASSETS;
    let held = resident().saturating_sub(before);
    assert_eq!(union.holds().len() as u64, RELEASES);

    let shelf = Shelf::new();
    let app: AppName = "web".parse().unwrap();
    shelf.set_union(&app, &union);
    let paths: Vec<String> = (0..10_000).map(|n| url(1 + n % RELEASES, n / RELEASES)).collect();
    let began = Instant::now();
    for path in &paths {
        assert!(shelf.find(path).is_some(), "{path}");
    }
    let each = began.elapsed() / paths.len() as u32;
    let began = Instant::now();
    let asked = union.asked_for(4096);
    let walked = began.elapsed();
    assert_eq!(asked.len(), 4096);
    let mut walked_records = 0_u64;
    let began = Instant::now();
    union.walk_records(|_, _, _, _| walked_records += 1).unwrap();
    assert_eq!(walked_records, names);
    eprintln!(
        "{names} names: {} MiB, {} bytes a name; opened in {opened:?}; {each:?} to find one; \
         {walked:?} to gather what was asked for; {:?} to read all records",
        held >> 20,
        held / names,
        began.elapsed()
    );
    assert!(held < MOST_BYTES, "{held} bytes for {names} names");
}
