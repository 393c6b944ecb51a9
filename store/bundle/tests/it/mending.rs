//! What rots is found although nothing but the bytes changed, is named, and is mended where it lies; what was fetched is
//! not fetched again.

use std::collections::HashSet;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ship_bundle::stage::{
    BlobSource, Depth, Kept, StageError, StageTask, missing, repair, scrub_staged, stage, verify_staged,
};
use ship_model::digest::BundleDigest;

use crate::fixture::*;

/// Flips a bit as a disk does: size and mtime stay, and the ctime tells the agent's own stamp nothing new.
fn rot(host: &Host, folders: &[&str], name: &str) {
    let path = host.releases.join(folders[0]).join(name);
    let before = fs::metadata(&path).unwrap();
    let mode = before.permissions();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    fs::set_permissions(&path, mode).unwrap();
    // The stamp is made to fit again: what is left to see is the bytes alone.
    for folder in folders {
        restamp(host, folder, before.ino(), &path);
    }
}

/// Puts the inode's ctime as it is now into the stamps of `folder`, whose form is frozen elsewhere.
fn restamp(host: &Host, folder: &str, inode: u64, path: &Path) {
    let file = host.releases.join(format!("{folder}.stamps"));
    let mut bytes = fs::read(&file).unwrap();
    let now = fs::metadata(path).unwrap();
    let ctime = now.ctime() * 1_000_000_000 + now.ctime_nsec();
    let (head, checksum) = (9 + 32 + 8, 32);
    let end = bytes.len() - checksum;
    let mut found = false;
    for stamp in bytes[head..end].as_chunks_mut::<32>().0 {
        if stamp[..8] == inode.to_le_bytes() {
            stamp[24..].copy_from_slice(&ctime.to_le_bytes());
            found = true;
        }
    }
    assert!(found, "{folder} has no file with inode {inode}");
    let sum = *blake3::hash(&bytes[..end]).as_bytes();
    bytes[end..].copy_from_slice(&sum);
    fs::write(&file, bytes).unwrap();
}

fn scrub(host: &Host, folder: &str) -> Vec<String> {
    let done = scrub_staged(host.place(folder), 0, &mut HashSet::new(), &mut |_| true).unwrap();
    assert_eq!(done.next, None);
    done.problems.iter().map(ToString::to_string).collect()
}

fn damage(host: &Host, folder: &str) -> Vec<String> {
    let report = verify_staged(host.place(folder), Depth::Quick, &()).unwrap();
    report.problems.iter().map(ToString::to_string).collect()
}

/// Two releases that share the inode of `noise`, and the trees they were made of.
fn two_on_a_host() -> (Host, Published, Published, tempfile::TempDir) {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    let one = published(tree.path());
    put(tree.path(), "index.html", "<html>2");
    let two = published_with(tree.path(), &spec(), Some(&one.manifest));
    let host = Host::new();
    host.stage("1", &one).unwrap();
    host.stage_from("2", &two.manifest, &["1"], &[&two], &Source::of(&[&two]))
        .unwrap();
    (host, one, two, tree)
}

fn mend(
    host: &Host,
    folder: &str,
    published: &Published,
    others: &[&Published],
) -> Result<usize, StageError> {
    let bundles: Vec<_> = others.iter().map(|p| (p.digest, p.index.clone())).collect();
    let repaired = repair(&StageTask {
        place: host.place(folder),
        manifest: &published.manifest,
        donors: &host.donors(&["1", "2"]),
        kept: None,
        keep: false,
        delta: None,
        bundles: &bundles,
        source: &Source::of(others),
        progress: &(),
    })?;
    Ok(repaired.paths.len())
}

#[test]
fn rot_in_a_shared_inode_turns_every_release_red_and_is_mended() {
    let (host, one, two, tree) = two_on_a_host();
    let shared = fs::metadata(host.releases.join("1/noise")).unwrap().ino();
    if fs::metadata(host.releases.join("2/noise")).unwrap().ino() != shared {
        // Reflinks: each release has its own inode, and rots by itself.
        return;
    }
    rot(&host, &["1", "2"], "noise");
    assert_eq!(damage(&host, "1"), [""; 0], "nothing but the bytes tells it");
    assert!(!host.donors(&["2"])[0].is_doubtful());
    assert_eq!(
        scrub(&host, "1"),
        ["\"noise\" has other bytes than the release says"]
    );
    for folder in ["1", "2"] {
        assert!(host.donors(&[folder])[0].is_doubtful(), "{folder}");
        assert_eq!(
            damage(&host, folder),
            ["\"noise\" has other bytes than the release says"]
        );
    }
    // Nobody can give it: it stays as it is, by name.
    assert!(matches!(mend(&host, "1", &one, &[]), Err(StageError::Missing(_))));
    assert_eq!(damage(&host, "1").len(), 1);
    // An app that has the file open keeps what it has.
    let mut open = fs::File::open(host.releases.join("2/noise")).unwrap();
    assert_eq!(mend(&host, "2", &two, &[&one]).unwrap(), 1);
    assert_eq!(snapshot(&host.releases.join("2")), snapshot(tree.path()));
    let mut old = Vec::new();
    open.read_to_end(&mut old).unwrap();
    assert_ne!(old, noise(1, 300_000));
    // The other one is mended from its neighbour, without a bundle.
    assert_eq!(mend(&host, "1", &one, &[]).unwrap(), 1);
    for folder in ["1", "2"] {
        assert_eq!(scrub(&host, folder), [""; 0]);
        assert_eq!(damage(&host, folder), [""; 0]);
        assert!(!host.donors(&[folder])[0].is_doubtful());
    }
    assert_eq!(
        host.names(),
        ["1", "1.manifest", "1.stamps", "2", "2.manifest", "2.stamps"]
    );
    let folder = fs::metadata(host.releases.join("2")).unwrap();
    assert_eq!(folder.mode() & 0o777, 0o555);
}

#[test]
fn whatever_was_done_to_a_tree_is_put_right() {
    let (host, one, _, _) = two_on_a_host();
    let sound = snapshot(&host.releases.join("1"));
    let tree = host.releases.join("1");
    let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    for folder in ["", "lib", "bin", "nothing"] {
        open(&tree.join(folder));
    }
    fs::remove_dir_all(tree.join("bin")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    fs::remove_file(tree.join("lib/a.js")).unwrap();
    fs::create_dir_all(tree.join("lib/a.js/deep")).unwrap();
    fs::remove_dir(tree.join("nothing/here")).unwrap();
    fs::set_permissions(tree.join("noise"), PermissionsExt::from_mode(0o644)).unwrap();
    put(&tree, "lib/__pycache__/extra", "added by the app");
    assert!(damage(&host, "1").len() >= 5);
    assert!(mend(&host, "1", &one, &[&one]).unwrap() >= 5);
    let left = damage(&host, "1");
    assert!(
        left.iter().all(|problem| problem.contains("__pycache__")),
        "{left:?}"
    );
    let mended = snapshot(&tree);
    assert!(sound.iter().all(|(name, what)| mended.get(name) == Some(what)));
    assert_eq!(mend(&host, "1", &one, &[]).unwrap(), 0);
}

#[test]
fn a_scrub_goes_on_where_it_stopped_and_reads_each_inode_once() {
    let (host, one, _, _) = two_on_a_host();
    let bytes = one.manifest.total_bytes();
    let mut seen = HashSet::new();
    let (mut from, mut read, mut turns) = (0, 0, 0);
    while let Some(next) = {
        let mut files = 0;
        let done = scrub_staged(host.place("1"), from, &mut seen, &mut |piece| {
            files += u32::from(piece == 0);
            files < 2
        });
        let done = done.unwrap();
        read += done.read_bytes;
        done.next
    } {
        assert!(next > from, "it stands still at {from}");
        (from, turns) = (next, turns + 1);
    }
    assert!(
        turns > 2 && read <= bytes,
        "{turns} turns, {read} of {bytes} bytes"
    );
    let second = scrub_staged(host.place("2"), 0, &mut seen, &mut |_| true).unwrap();
    assert!(second.read_bytes < 100_000, "{second:?}");
}

/// Counts bytes and breaks after some.
struct Breaking<'a> {
    source: &'a Source,
    given: AtomicUsize,
    breaks_after: usize,
}

impl BlobSource for Breaking<'_> {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> std::io::Result<Box<dyn Read + Send>> {
        let before = self.given.fetch_add(len as usize, Ordering::Relaxed);
        let left = self.breaks_after.saturating_sub(before) as u64;
        Ok(Box::new(self.source.frames(bundle, offset, len)?.take(left)))
    }
}

#[test]
fn what_a_broken_fetch_got_is_not_fetched_again() {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..16 {
        put(tree.path(), &format!("f{number:02}"), noise(number, 3 << 20));
    }
    let published = published(tree.path());
    let whole = published.bytes.len();
    let source = Source::of(&[&published]);
    let host = Host::in_memory();
    let try_once = |breaks_after| {
        let breaking = Breaking {
            source: &source,
            given: AtomicUsize::new(0),
            breaks_after,
        };
        let kept = Kept::take(host.place("1")).unwrap();
        let lacking = missing(&published.manifest, &[], kept.as_ref()).len();
        let staged = stage(&StageTask {
            place: host.place("1"),
            manifest: &published.manifest,
            donors: &[],
            kept: kept.as_ref(),
            keep: true,
            delta: None,
            bundles: &[(published.digest, published.index.clone())],
            source: &breaking,
            progress: &(),
        });
        (lacking, staged, breaking.given.into_inner())
    };
    let (lacking, broken, _) = try_once(whole / 2);
    assert_eq!(lacking, 16);
    assert!(broken.unwrap_err().keeps());
    assert_eq!(host.names(), [".staging-1"]);
    // What the disk lost meanwhile is seen: one file is cut, one has other bytes.
    let left = names(&host.releases.join(".staging-1"));
    assert!(left.len() > 3, "{left:?}");
    let path = |at: usize| host.releases.join(".staging-1").join(&left[at]);
    for at in [0, 1] {
        fs::set_permissions(path(at), PermissionsExt::from_mode(0o644)).unwrap();
    }
    fs::write(path(0), b"").unwrap();
    fs::write(path(1), noise(99, 3 << 20)).unwrap();
    for at in [0, 1] {
        fs::set_permissions(path(at), PermissionsExt::from_mode(0o444)).unwrap();
    }
    let (lacking, staged, given) = try_once(usize::MAX);
    let staged = staged.unwrap();
    assert!((5..16).contains(&lacking), "{lacking} are lacking");
    assert_eq!(staged.kept_files as usize, 16 - lacking);
    assert!(
        given < whole * lacking / 16 + (1 << 20),
        "{given} of {whole} bytes for {lacking}"
    );
    assert_eq!(snapshot(&host.releases.join("1")), snapshot(tree.path()));
    assert_eq!(host.names(), ["1", "1.manifest", "1.stamps"]);
}
