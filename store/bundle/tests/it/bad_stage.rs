//! What stands in a staging's way: leftovers, planted links, foreign folders, a full disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use ship_bundle::stage::{
    BuildError, FetchError, Place, StageError, StagedError, StagedRelease, list_staged, remove_staged, sweep,
};

use crate::fixture::*;

fn sample() -> Published {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    published(tree.path())
}

#[test]
fn leftovers_of_any_kind_give_way_and_are_not_followed() {
    let published = sample();
    let host = Host::new();
    let outside = tempfile::tempdir().unwrap();
    put(outside.path(), "kept", "x");
    let staging = host.releases.join(".staging-1");
    let plants: [&dyn Fn(); 4] = [
        &|| symlink(outside.path(), &staging).unwrap(),
        &|| fs::write(&staging, b"a file").unwrap(),
        &|| {
            fs::create_dir_all(staging.join("lib")).unwrap();
            symlink(outside.path(), staging.join("bin")).unwrap();
        },
        &|| {
            symlink(outside.path().join("kept"), host.releases.join("1.manifest")).unwrap();
            symlink(outside.path().join("kept"), host.releases.join("1.stamps")).unwrap();
        },
    ];
    for plant in plants {
        plant();
        host.stage("1", &published).unwrap();
        assert_eq!(host.names(), ["1", "1.manifest", "1.stamps"]);
        remove_staged(host.place("1")).unwrap();
        assert_eq!(host.names(), [""; 0]);
    }
    assert_eq!(fs::read(outside.path().join("kept")).unwrap(), b"x");
    assert_eq!(names(outside.path()), ["kept"]);
}

#[test]
fn links_planted_while_it_runs_lead_nowhere() {
    let published = sample();
    let host = Host::new();
    let outside = tempfile::tempdir().unwrap();
    let staging = host.releases.join(".staging-1");
    let target = outside.path().to_owned();
    let mut source = Source::of(&[&published]);
    source.before = Some(Box::new(move || {
        fs::rename(staging.join("lib"), staging.join("lib-away")).unwrap();
        symlink(&target, staging.join("lib")).unwrap();
    }));
    let staged = host.stage_from("1", &published.manifest, &[], &[&published], &source);
    assert!(
        matches!(staged, Err(StageError::Build(BuildError::Step { .. }))),
        "{staged:?}"
    );
    assert_eq!(names(outside.path()), [""; 0]);
    assert_eq!(host.names(), [""; 0]);
}

#[test]
fn a_file_planted_while_it_runs_is_not_written_through() {
    let published = sample();
    let host = Host::new();
    let victim = host.dir.path().join("victim");
    fs::write(&victim, b"untouched").unwrap();
    let (staging, to) = (host.releases.join(".staging-1"), victim.clone());
    let mut source = Source::of(&[&published]);
    source.before = Some(Box::new(move || {
        symlink(&to, staging.join("index.html")).unwrap()
    }));
    assert!(
        host.stage_from("1", &published.manifest, &[], &[&published], &source)
            .is_err()
    );
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
}

#[test]
fn a_folder_that_is_not_the_release_is_left_alone() {
    let published = sample();
    let host = Host::new();
    let tree = host.releases.join("1");
    fs::create_dir(&tree).unwrap();
    put(&tree, "foreign", "x");
    assert!(matches!(
        host.stage("1", &published),
        Err(StageError::Damaged { .. })
    ));
    assert_eq!(names(&tree), ["foreign"]);
    remove_staged(host.place("1")).unwrap();
    symlink(host.dir.path(), &tree).unwrap();
    assert!(matches!(
        host.stage("1", &published),
        Err(StageError::Existing(_))
    ));
    assert!(host.dir.path().exists());
    fs::remove_file(&tree).unwrap();
    host.stage("1", &published).unwrap();
    let other = tempfile::tempdir().unwrap();
    put(other.path(), "x", "y");
    let other = crate::fixture::published(other.path());
    assert!(matches!(host.stage("1", &other), Err(StageError::Taken { .. })));
}

#[test]
fn a_tree_without_its_record_is_read_and_adopted() {
    let published = sample();
    let host = Host::new();
    host.stage("1", &published).unwrap();
    for gone in ["1.stamps", "1.manifest"] {
        fs::remove_file(host.releases.join(gone)).unwrap();
        assert!(StagedRelease::open(host.place("1")).is_err());
        let again = host.stage_from("1", &published.manifest, &[], &[], &Source::default());
        assert!(again.unwrap().already);
        assert!(StagedRelease::open(host.place("1")).is_ok());
    }
    for damaged in ["1.stamps", "1.manifest"] {
        let path = host.releases.join(damaged);
        let good = fs::read(&path).unwrap();
        for at in [0, 8, 9, 40, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(StagedRelease::open(host.place("1")).is_err(), "{damaged} at {at}");
        }
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn a_sweep_takes_what_is_no_release_and_spares_what_it_is_told() {
    let published = sample();
    let host = Host::new();
    host.stage("1", &published).unwrap();
    fs::create_dir_all(host.releases.join(".staging-9/deep")).unwrap();
    fs::create_dir_all(host.releases.join("2-half/lib")).unwrap();
    fs::create_dir_all(host.releases.join("3-runs")).unwrap();
    fs::write(host.releases.join("4.manifest"), b"x").unwrap();
    fs::write(host.releases.join(".tmp-0011"), b"x").unwrap();
    let listed = list_staged(&host.releases).unwrap();
    let good: Vec<_> = listed
        .iter()
        .map(|l| (l.folder.as_str(), l.release.is_ok()))
        .collect();
    assert_eq!(good, [("1", true), ("2-half", false), ("3-runs", false)]);
    let swept = sweep(&host.releases, &["3-runs"], &[]).unwrap();
    assert_eq!(swept, ["2-half", "4.manifest", ".staging-9"]);
    assert_eq!(host.names(), ["1", "1.manifest", "1.stamps", "3-runs"]);
    assert!(sweep(&host.releases.join("absent"), &[], &[]).unwrap().is_empty());
}

#[test]
fn folder_names_cannot_leave_releases() {
    let long = "x".repeat(101);
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "../x",
        ".staging-1",
        "a.stamps",
        "a b",
        "\u{e9}",
        "a\0",
        &long,
    ] {
        assert!(Place::new(Path::new("/x"), bad).is_err(), "{bad:?}");
    }
    assert!(Place::new(Path::new("/x"), "455-3f2a91c07be4").is_ok());
}

#[test]
fn absent_and_half_releases_are_told_apart() {
    let host = Host::new();
    assert!(matches!(
        StagedRelease::open(host.place("1")),
        Err(StagedError::Absent { .. })
    ));
    fs::create_dir(host.releases.join("1")).unwrap();
    assert!(matches!(
        StagedRelease::open(host.place("1")),
        Err(StagedError::Incomplete { .. })
    ));
}

/// A small file system of its own; none where mounting is not allowed.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .output();
        mount.is_ok_and(|out| out.status.success()).then(|| Self(dir))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_stages_nothing() {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..8 {
        put(tree.path(), &format!("f{number}"), noise(number, 300_000));
    }
    let published = published(tree.path());
    let stage_on = |releases: &Path, source: &Source| {
        let bundles = [(published.digest, published.index.clone())];
        ship_bundle::stage::stage(&ship_bundle::stage::StageTask {
            place: Place::new(releases, "1").unwrap(),
            manifest: &published.manifest,
            donors: &[],
            kept: None,
            keep: false,
            delta: None,
            bundles: &bundles,
            source,
            progress: &(),
        })
    };
    let Some(small) = Mounted::new("size=1m") else {
        return;
    };
    let refused = stage_on(small.0.path(), &Source::of(&[&published]));
    assert!(matches!(refused, Err(StageError::NoSpace { .. })), "{refused:?}");
    assert_eq!(names(small.0.path()), [""; 0]);
    // Room when it is asked for, none when it is needed: somebody else writes meanwhile.
    let Some(filling) = Mounted::new("size=4m") else {
        return;
    };
    let mut source = Source::of(&[&published]);
    let filler = filling.0.path().join("filler");
    source.before = Some(Box::new(move || fs::write(&filler, noise(9, 3 << 20)).unwrap()));
    let full = stage_on(filling.0.path(), &source);
    assert!(
        matches!(full, Err(StageError::Build(BuildError::Full { .. }))),
        "{full:?}"
    );
    assert_eq!(names(filling.0.path()), ["filler"]);
    let Some(few) = Mounted::new("size=8m,nr_inodes=5") else {
        return;
    };
    let refused = stage_on(few.0.path(), &Source::of(&[&published]));
    assert!(matches!(refused, Err(StageError::NoSpace { .. })), "{refused:?}");
}

#[test]
fn a_failing_source_is_told_with_its_bundle() {
    let published = sample();
    let host = Host::new();
    let failed = host.stage_from("1", &published.manifest, &[], &[&published], &Source::default());
    match failed {
        Err(StageError::Build(BuildError::Fetch(FetchError::Source { bundle, .. }))) => {
            assert_eq!(bundle, published.digest);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn modes_do_not_depend_on_the_donors() {
    let published = sample();
    let host = Host::new();
    host.stage("1", &published).unwrap();
    // A donor's file with the wrong permissions is no donor.
    let file = host.releases.join("1/index.html");
    fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
    let source = Source::of(&[&published]);
    let report = host
        .stage_from("2", &published.manifest, &["1"], &[&published], &source)
        .unwrap();
    assert_eq!(report.written_files, 1);
    let mode = fs::metadata(host.releases.join("2/index.html"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o444);
}
