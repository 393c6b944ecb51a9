//! A disk that fills up while the union grows.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and no crash comes between their own writes"
)]

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fixture::release;
use ship_assets::{AddError, Union};

const SMALL: &str = "small.3f9a12bc77d01e55.js";
const LARGE: &str = "zlarge.77d01e553f9a12bc.js";

struct Mounted(PathBuf);

impl Mounted {
    /// None where that is not allowed.
    fn at(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(path);
        let done = mount.status().is_ok_and(|status| status.success());
        done.then(|| Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn what_stands_is_served_and_what_did_not_fit_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let Some(_mounted) = Mounted::at(&disk) else {
        eprintln!(
            "SKIPPED what_stands_is_served_and_what_did_not_fit_leaves_nothing: a small file system needs root"
        );
        return;
    };
    let open = || Union::open(&disk.join("assets"), &disk.join("assets.records")).unwrap();
    let stored = |name: &str| fs::read(disk.join("assets/static").join(name)).ok();
    let union = open();
    let (one, two) = (dir.path().join("t1"), dir.path().join("t2"));
    let (first, manifest) = release(1, &one, &[(SMALL, b"small")]);
    assert_eq!(
        union.add_tree(first, &manifest, &one).unwrap().copied,
        1,
        "another disk"
    );
    let large = vec![7; 3 << 20];
    let (second, manifest) = release(2, &two, &[("a.00112233aabbccdd.js", b"a"), (LARGE, &large)]);
    let refused = union.add_tree(second, &manifest, &two).unwrap_err();
    let AddError::Write { url, source } = refused else {
        panic!("{refused:?}");
    };
    assert!(url.ends_with(LARGE), "{url}");
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    for union in [&union, &open()] {
        assert_eq!(union.holds(), [first]);
        assert_eq!(stored(SMALL).unwrap(), b"small");
        assert_eq!(stored(LARGE), None);
    }
    let left = fs::read_dir(disk.join("assets.records/incoming"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "the room is free again");
    // With room for it, it goes on.
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,size=8m"]).arg(&disk);
    assert!(remount.status().unwrap().success());
    let added = union.add_tree(second, &manifest, &two).unwrap();
    assert_eq!((union.holds(), added.copied), (vec![first, second], 2));
    assert_eq!(stored(LARGE).unwrap(), large);
}
