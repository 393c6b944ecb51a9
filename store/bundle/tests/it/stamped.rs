//! What stamps are worth: changes are seen, our own links are not taken for changes, rot turns every sharer red.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use ship_bundle::stage::{Depth, StageError, missing, remove_staged, verify_staged};

use crate::fixture::*;

/// Overwrites the first byte and sets the mtime back, as bit rot would: nothing but the ctime tells.
fn rot(path: &Path) {
    let times = fs::metadata(path).unwrap();
    let mode = times.permissions();
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"\xff", 0).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

fn two_alike(host: &Host) -> Published {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    let published = published(tree.path());
    host.stage("1", &published).unwrap();
    host.stage_from("2", &published.manifest, &["1"], &[], &Source::default())
        .unwrap();
    published
}

fn problems(host: &Host, folder: &str, depth: Depth) -> Vec<String> {
    let report = verify_staged(host.place(folder), depth, &()).unwrap();
    report.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn rot_is_found_and_turns_every_sharer_red() {
    let host = Host::in_memory();
    two_alike(&host);
    rot(&host.releases.join("1/noise"));
    let red = ["\"noise\" has other bytes than the release says"];
    for _ in 0..2 {
        assert_eq!(problems(&host, "1", Depth::Quick), red);
        assert_eq!(problems(&host, "2", Depth::Quick), red);
        assert_eq!(problems(&host, "2", Depth::Full), red);
    }
}

#[test]
fn a_rotten_donor_gives_nothing() {
    let host = Host::in_memory();
    let published = two_alike(&host);
    rot(&host.releases.join("1/noise"));
    assert_eq!(
        missing(&published.manifest, &host.donors(&["1", "2"]), None).len(),
        1
    );
    let source = Source::of(&[&published]);
    let none = host.stage_from("3", &published.manifest, &["1", "2"], &[], &source);
    assert!(matches!(none, Err(StageError::Missing(_))));
    let report = host
        .stage_from("3", &published.manifest, &["1", "2"], &[&published], &source)
        .unwrap();
    assert_eq!(report.written_files, 1);
    assert_eq!(problems(&host, "3", Depth::Full), [""; 0]);
}

#[test]
fn a_stale_stamp_costs_one_hash_and_no_download() {
    let host = Host::in_memory();
    let published = two_alike(&host);
    // As after a crash between linking and renewing the stamps.
    let name = host.dir.path().join("another-name");
    fs::hard_link(host.releases.join("1/noise"), &name).unwrap();
    assert_eq!(missing(&published.manifest, &host.donors(&["1"]), None), []);
    let report = verify_staged(host.place("1"), Depth::Quick, &()).unwrap();
    assert_eq!((report.problems.len(), report.hashed_bytes), (0, 300_000));
    let report = verify_staged(host.place("1"), Depth::Quick, &()).unwrap();
    assert_eq!((report.problems.len(), report.hashed_bytes), (0, 0));
}

#[test]
fn everything_that_differs_is_named() {
    let host = Host::in_memory();
    two_alike(&host);
    remove_staged(host.place("1")).unwrap();
    let tree = host.releases.join("2");
    for folder in ["", "lib", "bin"] {
        fs::set_permissions(tree.join(folder), PermissionsExt::from_mode(0o755)).unwrap();
    }
    put(&tree, "extra\n", "x");
    fs::remove_file(tree.join("index.html")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    std::os::unix::fs::symlink("lib/empty", tree.join("link")).unwrap();
    fs::set_permissions(tree.join("bin/server"), PermissionsExt::from_mode(0o444)).unwrap();
    fs::remove_file(tree.join("lib/a.js")).unwrap();
    fs::create_dir(tree.join("lib/a.js")).unwrap();
    for depth in [Depth::Quick, Depth::Full] {
        assert_eq!(
            problems(&host, "2", depth),
            [
                "\"bin/server\" has other permissions than staged files have",
                "\"index.html\" is missing",
                "\"lib/a.js\" is another kind of thing than the release says",
                "\"link\" leads elsewhere than the release says",
                "\"extra\\n\" does not belong to the release",
            ]
        );
    }
}

#[test]
fn a_copied_releases_folder_is_hashed_once_and_believed() {
    let host = Host::in_memory();
    let published = two_alike(&host);
    let copied = Host::in_memory();
    let cp = std::process::Command::new("cp")
        .args(["-a", "--no-target-directory"])
        .args([&host.releases, &copied.releases])
        .status();
    assert!(cp.unwrap().success());
    let report = verify_staged(copied.place("1"), Depth::Quick, &()).unwrap();
    assert_eq!(report.problems.len(), 0);
    assert_eq!(report.hashed_bytes, published.manifest.total_bytes());
    let report = verify_staged(copied.place("1"), Depth::Quick, &()).unwrap();
    assert_eq!((report.problems.len(), report.hashed_bytes), (0, 0));
}
