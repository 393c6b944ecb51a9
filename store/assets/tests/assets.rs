//! The union as a folder and over HTTP, with real files and sockets.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use ship_assets::serve::{Assets, serve};
use ship_assets::{AddError, Shelf, Union};
use ship_model::assets::assets_of;
use ship_model::digest::BlobDigest;
use ship_model::manifest::{Entry, EntryKind, Manifest};
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};
use ship_model::spec::{AssetRoot, ReleaseSpec};

const JS: &str = "main.3f9a12bc77d01e55.js";

fn app() -> AppName {
    AppName::new("web").unwrap()
}

/// Writes a tree of `public/<name>` files and gives its release.
fn release(number: u64, tree: &Path, files: &[(&str, &[u8])]) -> (Target, Manifest) {
    let mut entries = Vec::new();
    for (name, bytes) in files {
        let path = tree.join("public").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        entries.push(Entry {
            path: TreePath::new(format!("public/{name}").as_bytes()).unwrap(),
            kind: EntryKind::File {
                executable: false,
                size: bytes.len() as u64,
                digest: BlobDigest::of(bytes),
            },
        });
    }
    let mut spec = ReleaseSpec::static_files(app());
    spec.assets.push(AssetRoot {
        mutable: files
            .iter()
            .filter(|(name, _)| *name == "index.html")
            .map(|(name, _)| TreePath::new(name.as_bytes()).unwrap())
            .collect(),
        ..AssetRoot::new(TreePath::new(b"public").ok(), "/static")
    });
    let manifest = Manifest::new(spec, entries).unwrap();
    let id = Manifest::id_of(manifest.encoded());
    (
        Target {
            number: ReleaseNumber(number),
            id,
        },
        manifest,
    )
}

fn open(dir: &Path) -> Union {
    Union::open(&dir.join("assets"), &dir.join("assets.records")).unwrap()
}

#[test]
fn a_release_is_linked_in_recorded_and_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let (target, manifest) = release(1, &tree, &[(JS, b"one"), ("index.html", b"page")]);
    let union = open(dir.path());
    let added = union.add_tree(target, &manifest, &tree).unwrap();
    assert_eq!((added.linked, added.copied, added.present), (1, 0, 0));
    let stored = dir.path().join("assets/static").join(JS);
    assert_eq!(
        fs::metadata(&stored).unwrap().ino(),
        fs::metadata(tree.join("public").join(JS)).unwrap().ino()
    );
    assert!(
        !dir.path().join("assets/static/index.html").exists(),
        "mutable files are no part of the union"
    );
    assert_eq!(union.add_tree(target, &manifest, &tree).unwrap().present, 1);

    let again = open(dir.path());
    assert_eq!(again.holds(), [target]);
    assert!(again.missing(&assets_of(&manifest).unwrap()).is_empty());
    fs::remove_file(&stored).unwrap();
    assert_eq!(
        again.missing(&assets_of(&manifest).unwrap()).len(),
        1,
        "a deleted file is missing again"
    );
    again.add_tree(target, &manifest, &tree).unwrap();
    assert_eq!(fs::read(&stored).unwrap(), b"one");
}

#[test]
fn a_link_of_the_tree_stands_as_the_file_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let (target, plain) = release(1, &tree, &[(JS, b"one")]);
    let link = "latest.77d01e553f9a12bc.js";
    let mut entries: Vec<Entry> = plain.entries().iter().map(|entry| entry.to_entry()).collect();
    entries.push(Entry {
        path: TreePath::new(format!("public/{link}").as_bytes()).unwrap(),
        kind: EntryKind::Link {
            target: JS.as_bytes().into(),
        },
    });
    let manifest = Manifest::new(plain.spec().clone(), entries).unwrap();
    let planted = tree.join("public").join(link);
    std::os::unix::fs::symlink(JS, &planted).unwrap();
    let union = open(dir.path());
    union.add_tree(target, &manifest, &tree).unwrap();
    let stored = dir.path().join("assets/static").join(link);
    assert!(fs::symlink_metadata(&stored).unwrap().is_file(), "no link");
    assert_eq!(fs::read(&stored).unwrap(), b"one");
    // Its release may go.
    fs::remove_dir_all(&tree).unwrap();
    assert_eq!(fs::read(&stored).unwrap(), b"one");

    // One that was made to lead out of the tree is not followed, whatever lies there.
    fs::create_dir_all(tree.join("public")).unwrap();
    fs::write(tree.join("public").join(JS), b"one").unwrap();
    fs::write(dir.path().join("outside"), b"one").unwrap();
    std::os::unix::fs::symlink("../../outside", &planted).unwrap();
    let union = open(&dir.path().join("other"));
    assert!(matches!(
        union.add_tree(target, &manifest, &tree),
        Err(AddError::Write { .. })
    ));
    assert!(union.holds().is_empty());
}

#[test]
fn the_union_only_grows_and_never_changes_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let union = open(dir.path());
    let (first, first_manifest) = release(1, &dir.path().join("t1"), &[(JS, b"one")]);
    let (second, second_manifest) =
        release(2, &dir.path().join("t2"), &[("app.77c1aa0099bbccdd.js", b"two")]);
    let (third, third_manifest) = release(3, &dir.path().join("t3"), &[(JS, b"other bytes")]);
    union
        .add_tree(first, &first_manifest, &dir.path().join("t1"))
        .unwrap();
    union
        .add_tree(second, &second_manifest, &dir.path().join("t2"))
        .unwrap();
    let clash = union.add_tree(third, &third_manifest, &dir.path().join("t3"));
    assert!(matches!(clash, Err(AddError::Clash { .. })), "{clash:?}");
    assert_eq!(union.holds(), [first, second]);
    assert_eq!(
        fs::read(dir.path().join("assets/static").join(JS)).unwrap(),
        b"one"
    );
}

#[test]
fn wrong_bytes_get_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let union = open(dir.path());
    let (target, manifest) = release(1, &dir.path().join("tree"), &[(JS, b"one")]);
    let asset = &assets_of(&manifest).unwrap()[0];
    for wrong in [&b"0ne"[..], b"on", b"", b"one and more"] {
        let refused = union.add_blob(asset, &mut &wrong[..]);
        assert!(matches!(refused, Err(AddError::Digest { .. })), "{refused:?}");
        assert!(!dir.path().join("assets/static").join(JS).exists());
    }
    let endless = union.add_blob(asset, &mut std::io::repeat(b'x'));
    assert!(matches!(endless, Err(AddError::Digest { .. })), "{endless:?}");
    assert!(
        union.record(target, &assets_of(&manifest).unwrap()).is_err(),
        "a record needs every asset"
    );
    union.add_blob(asset, &mut &b"one"[..]).unwrap();
    union.record(target, &assets_of(&manifest).unwrap()).unwrap();
    assert_eq!(open(dir.path()).holds(), [target]);
    assert_eq!(
        fs::read_dir(dir.path().join("assets.records/incoming"))
            .unwrap()
            .count(),
        0
    );
}

/// Half of it, and then what a full disk or a broken line says.
struct Breaks<'a>(&'a [u8]);

impl Read for Breaks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(std::io::ErrorKind::StorageFull.into()),
            read => Ok(read),
        }
    }
}

#[test]
fn what_breaks_off_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let union = open(dir.path());
    let (_, manifest) = release(1, &dir.path().join("tree"), &[(JS, b"one")]);
    let asset = &assets_of(&manifest).unwrap()[0];
    for _ in 0..3 {
        let broken = union.add_blob(asset, &mut Breaks(b"on"));
        assert!(matches!(broken, Err(AddError::Write { .. })), "{broken:?}");
    }
    let incoming = dir.path().join("assets.records/incoming");
    assert_eq!(fs::read_dir(incoming).unwrap().count(), 0);
    assert!(!dir.path().join("assets/static").join(JS).exists());
    assert_eq!(union.missing(std::slice::from_ref(asset)).len(), 1);
}

#[test]
fn leftovers_and_damaged_records_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let (target, manifest) = release(1, &tree, &[(JS, b"one")]);
    open(dir.path()).add_tree(target, &manifest, &tree).unwrap();
    let record = dir.path().join("assets.records").join(target.folder());
    fs::write(&record, b"{\"version\":1").unwrap();
    fs::write(dir.path().join("assets.records/incoming/7"), b"half").unwrap();
    // What a crash between rename and record may leave, or what somebody put there.
    let stored = dir.path().join("assets/static").join(JS);
    fs::remove_file(&stored).unwrap();
    fs::write(&stored, b"bad").unwrap();
    let union = open(dir.path());
    assert_eq!(union.holds(), []);
    assert!(!dir.path().join("assets.records/incoming/7").exists());
    union.add_tree(target, &manifest, &tree).unwrap();
    assert_eq!(fs::read(&stored).unwrap(), b"one");
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let line = self
            .head
            .lines()
            .find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let at = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        head,
        body: bytes[at + 4..].to_vec(),
    }
}

fn get(address: SocketAddr, path: &str, more: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n"),
    )
}

/// Serves a release with one fingerprinted file and a page while `check` runs.
fn serving(big: &[u8], check: impl FnOnce(SocketAddr)) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let (target, manifest) = release(
        1,
        &tree,
        &[(JS, big), ("index.html", b"page"), ("plain.txt", b"text")],
    );
    let union = Arc::new(open(dir.path()));
    union.add_tree(target, &manifest, &tree).unwrap();
    let shelf = Arc::new(Shelf::new());
    shelf.set_union(&app(), &union);
    shelf.set_running(&app(), &tree, &manifest).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = runtime.spawn(serve(listener, Assets::new(shelf), async {
        let _ = stopped.await;
    }));
    check(address);
    drop(stop);
    runtime.block_on(served).unwrap();
}

#[test]
fn fingerprinted_assets_are_served_for_ever_and_pages_shortly() {
    let big: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    serving(&big, |address| {
        let path = format!("/static/{JS}");
        let whole = get(address, &path, "");
        assert_eq!(whole.status, 200);
        assert!(whole.body == big);
        assert_eq!(
            whole.header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        assert_eq!(
            whole.header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
        assert_eq!(whole.header("x-content-type-options"), Some("nosniff"));
        let etag = whole.header("etag").unwrap().to_owned();
        assert_eq!(etag, format!("\"{}\"", &BlobDigest::of(&big).to_string()[..32]));

        for unchanged in [etag.clone(), format!("\"x\", W/{etag}"), "*".into()] {
            let answer = get(address, &path, &format!("If-None-Match: {unchanged}\r\n"));
            assert_eq!((answer.status, answer.body.len()), (304, 0));
            assert_eq!(answer.header("etag"), Some(&etag[..]));
        }
        assert_eq!(get(address, &path, "If-None-Match: \"other\"\r\n").status, 200);

        let part = get(address, &path, "Range: bytes=1000-2999999\r\n");
        assert_eq!(
            (part.status, part.header("content-range")),
            (206, Some("bytes 1000-2999999/4000000"))
        );
        assert!(part.body == big[1000..3_000_000]);
        assert_eq!(get(address, &path, "Range: bytes=9-1\r\n").status, 200);
        assert_eq!(get(address, &path, "Range: bytes=4000000-\r\n").status, 416);
        assert_eq!(
            get(address, &path, "Range: bytes=0-1\r\nIf-Range: \"old\"\r\n").status,
            200
        );
        assert_eq!(
            get(
                address,
                &path,
                &format!("Range: bytes=0-1\r\nIf-Range: {etag}\r\n")
            )
            .body,
            &big[..2]
        );

        let head = ask(
            address,
            &format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        );
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("4000000"))
        );
        assert!(head.body.is_empty());

        let page = get(address, "/static/index.html?x=1", "");
        assert_eq!((page.status, &page.body[..]), (200, &b"page"[..]));
        assert!(page.header("cache-control").unwrap().contains("max-age=5"));
        assert_eq!(
            get(address, "/static/plain.txt", "").header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    });
}

#[test]
fn a_folder_is_answered_by_its_index() {
    serving(b"js", |address| {
        let page = get(address, "/static/", "");
        assert_eq!((page.status, &page.body[..]), (200, &b"page"[..]));
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(
            page.header("cache-control"),
            Some("public, max-age=5, must-revalidate")
        );
    });
}

#[test]
fn what_is_not_on_the_shelf_is_not_served() {
    serving(b"js", |address| {
        for path in [
            "/",
            "/static/none/",
            "/static/none.js",
            "/static/../tree/public/index.html",
            "/static/%2e%2e/%2e%2e/etc/passwd",
            "/static/%252e",
            "/static/a%00",
            "//static/index.html",
            "/STATIC/index.html",
            "/static/index.html/",
        ] {
            let answer = get(address, path, "");
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        }
        let post = ask(
            address,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(
            (post.status, post.header("allow")),
            (405, Some("GET, HEAD, OPTIONS"))
        );
    });
}
