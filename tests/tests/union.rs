//! Random assets of random releases, asked for at random hosts while releases come and go: each is there, with the bytes
//! that were published. 20,000 requests; a million with `SHIP_TESTS_LONG=1`, with rollouts to the end.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ship_model::digest::BlobDigest;
use ship_tests::{Fleet, http};

const RELEASES: usize = 8;
const ASKING: u64 = 4;

/// What one release's pages may ask for.
type Assets = Vec<(String, BlobDigest)>;

/// Every release is promoted, and every third promote is taken back, until enough was asked.
#[test]
fn a_union_under_rollouts_misses_nothing() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let enough = if long { 1_000_000 } else { 20_000 };
    let fleet = Fleet::start(2);
    let trees = releases(&fleet.beside("releases"));
    let assets: Vec<Assets> = trees.iter().map(|tree| assets_of(tree)).collect();
    assert!(assets.iter().all(|assets| assets.len() > 15), "{assets:?}");
    fleet.shipctl(&["publish", trees[0].to_str().unwrap()]).expect(0);
    fleet.shipctl(&["promote", "tabs"]).expect(0);
    let bases = fleet.asset_urls("tabs");
    assert!(bases.len() >= 2, "{bases:?}");

    let mut rollouts = 0;
    let (known, asked, done) = (AtomicUsize::new(1), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for seed in 0..ASKING {
            let (known, asked, done) = (&known, &asked, &done);
            let (assets, bases) = (&assets, &bases);
            scope.spawn(move || {
                let mut dice = seed;
                while !done.load(Ordering::Relaxed) {
                    // A page that anybody can have is of a release that was promoted.
                    let release = &assets[roll(&mut dice, known.load(Ordering::Acquire))];
                    let (url, digest) = &release[roll(&mut dice, release.len())];
                    let base = &bases[roll(&mut dice, bases.len())];
                    let answer = http::get_url(&format!("{base}{url}")).unwrap();
                    assert_eq!(answer.status, 200, "{base}{url}: {}", answer.head);
                    assert_eq!(BlobDigest::of(&answer.body), *digest, "{base}{url}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let stop = Stop(&done);
        for tree in &trees[1..] {
            fleet.shipctl(&["publish", tree.to_str().unwrap()]).expect(0);
            fleet.shipctl(&["promote", "tabs"]).expect(0);
            rollouts += 1;
            let present = known.fetch_add(1, Ordering::Release) + 1;
            if present % 3 == 0 {
                fleet.shipctl(&["revert", "tabs"]).expect(0);
                rollouts += 1;
            }
        }
        // To and fro, so that no request is asked in a quiet hour.
        let mut turns = 0;
        while asked.load(Ordering::Relaxed) < enough {
            let before = asked.load(Ordering::Relaxed);
            let number = roll(&mut turns, RELEASES) + 1;
            fleet
                .shipctl(&["promote", &format!("tabs@{number}"), "--force"])
                .expect(0);
            rollouts += 1;
            // Who met a wrong answer has ended.
            ship_tests::wait::until("one more answer", || {
                (asked.load(Ordering::Relaxed) > before).then_some(())
            });
        }
        drop(stop);
    });
    eprintln!(
        "{} requests over {rollouts} rollouts, none missing",
        asked.load(Ordering::Relaxed)
    );
}

/// Ends those who ask, when a rollout fails too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn roll(dice: &mut u64, sides: usize) -> usize {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*dice ^ (*dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    usize::try_from((mixed ^ (mixed >> 27)) % sides as u64).unwrap()
}

/// The releases of `tests/vite`, unpacked.
fn releases(out: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(out).unwrap();
    let packed = concat!(env!("CARGO_MANIFEST_DIR"), "/vite/releases.tar.gz");
    let unpacked = Command::new("tar").args(["-xzf", packed, "-C"]).arg(out).status();
    assert!(unpacked.unwrap().success());
    (1..=RELEASES)
        .map(|number| out.join(number.to_string()))
        .collect()
}

/// All that lies in `assets/`: Vite puts there what has a hash in its name, and nothing else.
fn assets_of(tree: &Path) -> Assets {
    let entries = std::fs::read_dir(tree.join("assets")).unwrap();
    let mut assets: Assets = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            (
                format!("/assets/{name}"),
                BlobDigest::of(&std::fs::read(&path).unwrap()),
            )
        })
        .collect();
    assets.sort_by(|one, other| one.0.cmp(&other.0));
    assets
}
