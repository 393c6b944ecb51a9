//! A bundle is an ordinary `.tar.zst` for people who have only tar and zstd.

use std::process::Command;

use crate::fixture::*;

#[test]
fn tar_unpacks_a_bundle() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "plain", "a");
    put(tree.path(), "bin/run*", "#!/bin/sh\n");
    put(tree.path(), "-dash", "b");
    put(tree.path(), "new\nline and space", "c");
    put(
        tree.path(),
        &format!("{}/{}", "d".repeat(200), "e".repeat(200)),
        "long",
    );
    put(tree.path(), &"n".repeat(100), "exactly a header's room");
    put(tree.path(), "large", noise(3, 5 << 20));
    let published = published(tree.path());
    let out = tempfile::tempdir().unwrap();
    let bundle = out.path().join("bundle.tar.zst");
    std::fs::write(&bundle, &published.bytes).unwrap();
    let into = out.path().join("into");
    std::fs::create_dir(&into).unwrap();
    let tar = Command::new("tar")
        .args(["--zstd", "-xf"])
        .arg(&bundle)
        .arg("-C")
        .arg(&into)
        .output()
        .unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    assert_eq!(snapshot(tree.path()), snapshot(&into));
    let zstd = Command::new("zstd").arg("-tq").arg(&bundle).output().unwrap();
    assert!(zstd.status.success(), "{zstd:?}");
}
