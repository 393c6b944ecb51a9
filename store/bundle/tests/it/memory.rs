//! A file larger than the memory a process may use is published and staged all the same.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ship_bundle::segments::cut_files;
use ship_bundle::stage::{BlobSource, Place, StageTask, stage};
use ship_bundle::{Expected, Parts, pack_parts, verify_bundle, walk};
use ship_model::digest::BundleDigest;

use crate::fixture::*;

const DIR_VARIABLE: &str = "SHIP_BUNDLE_MEMORY_DIR";
const CUT_VARIABLE: &str = "SHIP_BUNDLE_MEMORY_CUT";
/// 256 MiB bounds every process of ours.
const MOST_RESIDENT_KIB: u64 = 256 << 10;
const FILE: usize = 300 << 20;

struct FromFile(fs::File);

impl BlobSource for FromFile {
    fn frames(&self, _: BundleDigest, offset: u64, _: u64) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        use std::io::{Seek, SeekFrom};
        // Each range needs a position of its own.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.0));
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

/// Noise at first, then a piece of it again and again with gaps: it compresses, and not to nothing.
fn write_large(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let noise = noise(5, 8 << 20);
    file.write_all(&noise).unwrap();
    let mut written = noise.len();
    let mut turn = 0_u64;
    while written < FILE {
        turn += 1;
        file.write_all(&turn.to_le_bytes()).unwrap();
        file.write_all(&noise[..64 << 10]).unwrap();
        written += 8 + (64 << 10);
    }
}

#[test]
#[ignore = "a scenario, run by the other test in this file"]
fn scenario() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let dir = Path::new(&dir);
    let (tree, releases, bundle) = (dir.join("tree"), dir.join("releases"), dir.join("bundle"));
    let manifest = walk(&tree, &spec(), &()).unwrap().manifest;
    let wanted = manifest.files().map(|file| file.3).collect();
    let lists = if std::env::var_os(CUT_VARIABLE).is_some() {
        cut_files(&tree, &manifest, &wanted, &()).unwrap()
    } else {
        Vec::new()
    };
    let parts = Parts {
        wanted: &wanted,
        lists: &lists,
        known: &HashSet::new(),
    };
    let packed = pack_parts(
        &tree,
        &manifest,
        &parts,
        3,
        fs::File::create(&bundle).unwrap(),
        &(),
    )
    .unwrap();
    let expected = Expected {
        digest: Some(packed.digest),
        ..Expected::default()
    };
    let verified = verify_bundle(fs::File::open(&bundle).unwrap(), &expected).unwrap();
    stage(&StageTask {
        place: Place::new(&releases, "1").unwrap(),
        manifest: &manifest,
        donors: &[],
        kept: None,
        keep: false,
        delta: None,
        bundles: &[(verified.digest, verified.index)],
        source: &FromFile(fs::File::open(&bundle).unwrap()),
        progress: &(),
    })
    .unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    fs::write(dir.join("peak"), peak.trim().trim_end_matches(" kB")).unwrap();
}

#[test]
fn a_large_file_needs_little_memory_whole() {
    needs_little_memory(false);
}

#[test]
fn a_large_file_needs_little_memory_cut() {
    needs_little_memory(true);
}

fn needs_little_memory(cut: bool) {
    let dir = tempfile::tempdir().unwrap();
    for folder in ["tree", "releases"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    write_large(&dir.path().join("tree/large"));
    put(&dir.path().join("tree"), "small", "x");
    let mut scenario = Command::new(std::env::current_exe().unwrap());
    scenario
        .args(["--exact", "memory::scenario", "--ignored"])
        .env(DIR_VARIABLE, dir.path());
    if cut {
        scenario.env(CUT_VARIABLE, "1");
    }
    let status = scenario.output().unwrap();
    assert!(status.status.success(), "{status:?}");
    let peak: u64 = fs::read_to_string(dir.path().join("peak"))
        .unwrap()
        .parse()
        .unwrap();
    assert!(peak < MOST_RESIDENT_KIB, "{peak} KiB");
    let staged = fs::metadata(dir.path().join("releases/1/large")).unwrap();
    assert!(staged.len() >= FILE as u64);
}
