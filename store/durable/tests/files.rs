//! Files, links, trees and locks: what they promise while nothing crashes.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ship_durable::{
    FileError, LinkError, LockError, LockFile, create_new, remove_tree, rename, replace_symlink,
    sweep_leftovers, sync_fs, write_file, write_private_file,
};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_written_file_is_whole_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    write_file(&path, b"one").unwrap();
    write_private_file(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    sync_fs(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_leftover() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), b"x").unwrap();
    assert!(write_file(&path, b"one").is_err());
    assert!(write_file(Path::new("/"), b"one").is_err());
    assert_eq!(names(dir.path()), ["a"]);
}

#[test]
fn create_new_refuses_whatever_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    create_new(&path, b"one").unwrap();
    assert!(matches!(create_new(&path, b"two"), Err(FileError::Exists { .. })));
    let dangling = dir.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert!(matches!(
        create_new(&dangling, b"two"),
        Err(FileError::Exists { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(names(dir.path()), ["a", "dangling"]);
}

#[test]
fn of_many_creators_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("number");
    let wins: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16_u8)
            .map(|n| {
                let path = &path;
                scope.spawn(move || usize::from(create_new(path, &[n]).is_ok()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(wins, 1);
}

#[test]
fn a_link_is_never_absent_while_it_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("current");
    for target in ["one", "two"] {
        fs::create_dir(dir.path().join(target)).unwrap();
    }
    replace_symlink(&link, Path::new("one")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..300 {
                replace_symlink(&link, Path::new(["one", "two"][turn % 2])).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        });
        while !done.load(std::sync::atomic::Ordering::Acquire) {
            assert!(fs::metadata(&link).unwrap().is_dir());
        }
    });
    assert_eq!(names(dir.path()), ["current", "one", "two"]);
}

#[test]
fn a_real_folder_is_not_replaced_by_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("current");
    fs::create_dir(&link).unwrap();
    assert!(matches!(
        replace_symlink(&link, Path::new("x")),
        Err(LinkError::NotALink { .. })
    ));
    assert!(link.is_dir());
}

#[test]
fn removing_a_tree_follows_no_link_and_opens_closed_folders() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), b"x").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), b"x").unwrap();
    symlink(&outside, tree.join("a/out")).unwrap();
    fs::set_permissions(tree.join("a/b"), PermissionsExt::from_mode(0o500)).unwrap();
    fs::set_permissions(tree.join("a"), PermissionsExt::from_mode(0o000)).unwrap();
    remove_tree(&tree).unwrap();
    remove_tree(&tree).unwrap();
    symlink(&outside, &tree).unwrap();
    remove_tree(&tree).unwrap();
    assert_eq!(names(dir.path()), ["outside"]);
    assert_eq!(names(&outside), ["kept"]);
}

#[test]
fn rename_moves_between_folders() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::write(dir.path().join("a/x"), b"x").unwrap();
    rename(&dir.path().join("a/x"), &dir.path().join("b/y")).unwrap();
    assert_eq!(fs::read(dir.path().join("b/y")).unwrap(), b"x");
    assert!(rename(&dir.path().join("a/x"), &dir.path().join("b/y")).is_err());
}

#[test]
fn leftovers_are_swept_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(".tmp-1"), b"x").unwrap();
    fs::create_dir_all(dir.path().join(".tmp-2/deep")).unwrap();
    symlink("nowhere", dir.path().join(".tmp-3")).unwrap();
    fs::write(dir.path().join("tmp-kept"), b"x").unwrap();
    assert_eq!(sweep_leftovers(dir.path()).unwrap(), 3);
    assert_eq!(names(dir.path()), ["tmp-kept"]);
    assert_eq!(sweep_leftovers(&dir.path().join("absent")).unwrap(), 0);
}

#[test]
fn a_lock_has_one_holder_and_tells_who() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let held = LockFile::acquire(&path).unwrap();
    match LockFile::acquire(&path) {
        Err(LockError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => unreachable!("{other:?}"),
    }
    drop(held);
    LockFile::acquire(&path).unwrap();
}
