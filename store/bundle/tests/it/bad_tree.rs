//! Trees that cannot become a release, and names that can.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ship_bundle::walk::{MAX_OFFENCES, Offence, WalkError, Warning};
use ship_bundle::{Progress, walk};
use ship_model::manifest::ManifestError;

use crate::fixture::*;

fn offences(root: &Path) -> Vec<Offence> {
    match walk(root, &spec(), &()) {
        Err(WalkError::Refused { offences, .. }) => offences,
        other => panic!("{other:?}"),
    }
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn what_a_release_cannot_carry_is_told_at_once() {
    let tree = tempfile::tempdir().unwrap();
    let root = tree.path();
    put(root, "fine", "x");
    fifo(&root.join("a\nfifo"));
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("sticky", 0o1644)] {
        put(root, name, "x");
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let offences = offences(root);
    let texts: Vec<_> = offences.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 5, "{texts:?}");
    assert!(texts[0].starts_with("\"a\\nfifo\" is a FIFO"), "{texts:?}");
    let whole = walk(root, &spec(), &()).unwrap_err().to_string();
    assert_eq!(whole.lines().count(), 6, "{whole}");
    assert!(whole.contains("setuid") && whole.contains("socket"), "{whole}");
}

#[test]
fn many_offences_are_counted() {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..MAX_OFFENCES + 5 {
        fifo(&tree.path().join(format!("f{number}")));
    }
    match walk(tree.path(), &spec(), &()) {
        Err(WalkError::Refused { offences, more, .. }) => {
            assert_eq!((offences.len(), more), (MAX_OFFENCES, 5));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_device_is_refused() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "fine", "x");
    let kind = rustix::fs::FileType::CharacterDevice;
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.path().join("null"),
        kind,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 3),
    );
    // Only root may make one.
    if made.is_ok() {
        assert!(matches!(
            offences(tree.path())[0],
            Offence::Kind { kind: "a device", .. }
        ));
    }
}

#[test]
fn an_unreadable_file_or_folder_is_named() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "fine", "x");
    put(tree.path(), "closed", "x");
    put(tree.path(), "folder/inside", "x");
    fs::set_permissions(tree.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["closed", "folder"] {
        fs::set_permissions(tree.path().join(name), PermissionsExt::from_mode(0o000)).unwrap();
    }
    // Root may read all: the pool's threads become nobody, and with that the walk.
    let nobody = |_| {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .start_handler(nobody);
    let offences = pool.build().unwrap().install(|| offences(tree.path()));
    assert_eq!(offences.len(), 2, "{offences:?}");
    assert!(offences.iter().all(|o| matches!(o, Offence::Unreadable { .. })));
    fs::set_permissions(tree.path().join("folder"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn names_too_long_or_too_deep_are_refused() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "fine", "x");
    let deep = "d/".repeat(300);
    fs::create_dir_all(tree.path().join(&deep)).unwrap();
    assert!(matches!(offences(tree.path())[0], Offence::Name(_)));
    let tree = tempfile::tempdir().unwrap();
    let long = format!("{}/", "l".repeat(250)).repeat(13);
    fs::create_dir_all(tree.path().join(&long)).unwrap();
    assert!(matches!(offences(tree.path())[0], Offence::Name(_)));
}

#[test]
fn an_empty_tree_and_no_tree_are_refused() {
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(tree.path().join("only-a-folder")).unwrap();
    put(tree.path(), ".git/HEAD", "not counted");
    let empty = walk(tree.path(), &spec(), &());
    assert!(matches!(
        empty,
        Err(WalkError::Tree {
            source: ManifestError::Empty,
            ..
        })
    ));
    for bad in [tree.path().join("absent"), tree.path().join(".git/HEAD")] {
        assert!(matches!(walk(&bad, &spec(), &()), Err(WalkError::Root { .. })));
    }
}

#[test]
fn links_that_leave_are_refused() {
    for (link, target) in [
        ("out", "/etc/passwd"),
        ("out", ".."),
        ("a/out", "../../x"),
        ("a/b/c", "../../../x"),
    ] {
        let tree = tempfile::tempdir().unwrap();
        put(tree.path(), "a/b/file", "x");
        symlink(target, tree.path().join(link)).unwrap();
        let walked = walk(tree.path(), &spec(), &());
        assert!(
            matches!(
                walked,
                Err(WalkError::Tree {
                    source: ManifestError::Leaves { .. },
                    ..
                })
            ),
            "{link} -> {target}"
        );
    }
}

#[test]
fn a_link_to_a_secret_is_not_read_through() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "fine", "x");
    let mut spec = spec();
    spec.external_links = vec!["/etc/passwd".to_owned()];
    symlink("/etc/passwd", tree.path().join("link")).unwrap();
    let walked = walk(tree.path(), &spec, &()).unwrap();
    assert_eq!(walked.manifest.files().count(), 1);
}

/// Does something to the tree the first time bytes were read.
struct Meanwhile<F> {
    done: AtomicBool,
    act: F,
}

impl<F: Fn() + Sync> Progress for Meanwhile<F> {
    fn done(&self, bytes: u64) {
        if bytes > 0 && !self.done.swap(true, Ordering::SeqCst) {
            (self.act)();
        }
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_refused() {
    for size in [1000, 20 << 20] {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("busy");
        let grow = || {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"more").unwrap();
        };
        let overwrite = || {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap();
        };
        let replace = || {
            fs::write(tree.path().join("next"), noise(2, size)).unwrap();
            fs::rename(tree.path().join("next"), &path).unwrap();
        };
        let shrink = || {
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(10)
                .unwrap()
        };
        let vanish = || fs::remove_file(&path).unwrap();
        let acts: [&(dyn Fn() + Sync); 5] = [&grow, &overwrite, &replace, &shrink, &vanish];
        for (number, act) in acts.into_iter().enumerate() {
            fs::write(&path, noise(1, size)).unwrap();
            let meanwhile = Meanwhile {
                done: AtomicBool::new(false),
                act,
            };
            match walk(tree.path(), &spec(), &meanwhile) {
                Err(WalkError::Refused { offences, .. }) => {
                    assert!(
                        matches!(offences[..], [Offence::Changed { .. }]),
                        "{number}: {offences:?}"
                    );
                }
                other => panic!("{number}: {other:?}"),
            }
        }
    }
}

#[test]
fn any_other_name_is_kept() {
    let tree = tempfile::tempdir().unwrap();
    for name in [&b"new\nline"[..], b"not\xffutf8", b"\x1b[31m", b" ", b"..."] {
        fs::write(tree.path().join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    let walked = walk(tree.path(), &spec(), &()).unwrap();
    assert_eq!(walked.manifest.entries().len(), 5);
    assert!(walked.warnings.is_empty());
}

#[test]
fn twins_and_secrets_are_warned_of() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "Readme", "x");
    put(tree.path(), "readme", "y");
    put(tree.path(), "caf\u{e9}", "x");
    put(tree.path(), "cafe\u{301}", "y");
    put(tree.path(), ".env", "PASSWORD=x");
    put(
        tree.path(),
        "tls/server.pem",
        "-----BEGIN PRIVATE KEY-----\nMII\n",
    );
    put(tree.path(), "tls/ca.pem", "-----BEGIN CERTIFICATE-----\nMII\n");
    let warnings = walk(tree.path(), &spec(), &()).unwrap().warnings;
    let secrets = warnings
        .iter()
        .filter(|w| matches!(w, Warning::Secret { .. }))
        .count();
    let twins = warnings
        .iter()
        .filter(|w| matches!(w, Warning::Twin { .. }))
        .count();
    assert_eq!((secrets, twins), (2, 2), "{warnings:?}");
}

#[test]
fn a_shared_name_in_the_tree_is_refused() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "log/production.log", "x");
    let mut spec = spec();
    spec.shared.dirs = vec![ship_model::path::TreePath::new(b"log").unwrap()];
    assert!(matches!(
        walk(tree.path(), &spec, &()),
        Err(WalkError::Shared { .. })
    ));
}
