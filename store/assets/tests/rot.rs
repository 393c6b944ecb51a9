//! Bytes that are no longer what was published: found, never served, told once, and served again when they are mended.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{Front, JS, PATIENCE, Start, text};
use ship_assets::serve::Rotten;
use ship_model::digest::BlobDigest;

const LARGE: usize = 5_000_000;

/// Turns a bit, and leaves size and, as far as it can, times.
fn rot(path: &Path, at: u64) {
    let times = fs::metadata(path).unwrap().modified().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(times).unwrap();
}

/// A file of its own, not the release's inode.
fn alone(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

type Told = Arc<Mutex<Vec<(String, BlobDigest, bool)>>>;

fn watched<'a>(files: &'a [(&'a str, &'a [u8])]) -> (Start<'a>, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let mut start = Start::of(files);
    start.on_rot = Some(Box::new(move |rotten: Rotten| {
        let seen = (rotten.name.to_string(), rotten.digest, rotten.union.is_some());
        tell.lock().unwrap().push(seen);
    }));
    (start, told)
}

#[test]
fn rot_is_found_before_the_first_byte_after_a_start() {
    for (len, at) in [(10, 3), (LARGE, LARGE as u64 - 1)] {
        let js = text(1, len);
        let files = [(JS, &js[..])];
        let front = Front::start(Start::of(&files));
        let dir = Arc::clone(&front.dir);
        alone(&front.stored(JS));
        rot(&front.stored(JS), at);
        drop(front);
        let (start, told) = watched(&files);
        let front = Front::start_in(dir, start);
        let path = format!("/static/{JS}");
        for _ in 0..3 {
            let answer = front.get(&path, "");
            assert_eq!(
                (answer.status, answer.header("cache-control")),
                (503, Some("no-store"))
            );
            assert!(answer.header("retry-after").is_some());
        }
        assert_eq!(
            *told.lock().unwrap(),
            [(format!("static/{JS}"), BlobDigest::of(&js), true)]
        );
        assert_eq!(front.assets.counters.rotten.load(Ordering::Relaxed), 1);
        assert!(!front.stored(JS).exists(), "set aside");
        let aside = front.dir.path().join("assets.records/rotten");
        assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
        // It is missing now, so that whoever owns the union makes it anew.
        let tree = front.dir.path().join("tree");
        let added = front
            .union
            .add_tree(front.target, &front.manifest, &tree)
            .unwrap();
        assert_eq!((added.present, added.linked + added.copied), (0, 1));
        let mended = front.get(&path, "");
        assert_eq!(mended.status, 200);
        assert!(mended.body == js);
    }
}

#[test]
fn rot_is_found_while_a_file_is_in_use() {
    let js = text(2, LARGE);
    let files = [(JS, &js[..])];
    let (start, told) = watched(&files);
    let front = Front::start(start);
    alone(&front.stored(JS));
    let path = format!("/static/{JS}");
    assert!(front.get(&path, "").body == js);
    assert!(front.get(&path, "").body == js);
    rot(&front.stored(JS), 77);
    assert_eq!(front.get(&path, "Range: bytes=1000000-1000009\r\n").status, 503);
    assert_eq!(told.lock().unwrap().len(), 1);
}

/// An answer under way is broken off where the file changed: never other bytes, never a part that looks like the whole.
#[test]
fn an_answer_under_way_is_broken_off() {
    let js = text(3, 40_000_000);
    let front = Front::start(Start::of(&[(JS, &js)]));
    alone(&front.stored(JS));
    let request = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = vec![0; 1000];
    stream.read_exact(&mut said).unwrap();
    // Near the end, far beyond what any buffer holds.
    rot(&front.stored(JS), 39_999_990);
    let _ = stream.read_to_end(&mut said);
    let at = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = &said[at..];
    assert!(body.len() < js.len(), "it was sent whole");
    assert!(js.starts_with(body), "other bytes were sent");
}

/// A release that is staged takes a name more of the file, one that is removed a name less.
#[test]
fn an_answer_under_way_outlives_names_that_come_and_go() {
    let js = text(3, 40_000_000);
    let front = Front::start(Start::of(&[(JS, &js)]));
    let request = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = vec![0; 1000];
    stream.read_exact(&mut said).unwrap();
    let other = front.dir.path().join("next");
    for megabytes in 1..30 {
        if megabytes % 2 == 1 {
            fs::hard_link(front.stored(JS), &other).unwrap();
        } else {
            fs::remove_file(&other).unwrap();
        }
        said.resize(megabytes << 20, 0);
        let at = (megabytes - 1) << 20;
        stream.read_exact(&mut said[at.max(1000)..]).unwrap();
    }
    stream.read_to_end(&mut said).unwrap();
    let at = said.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(said[at..] == js, "{} of {} bytes", said.len() - at, js.len());
}

/// What the release that runs serves under mutable names is checked like the rest, and stays where it lies.
#[test]
fn rot_in_the_running_release_is_not_served() {
    let page = text(4, 100_000);
    let files = [("index.html", &page[..])];
    let (start, told) = watched(&files);
    let front = Front::start(start);
    let place = front.dir.path().join("tree/public/index.html");
    assert!(front.get("/static/", "").body == page);
    rot(&place, 10);
    for _ in 0..3 {
        assert_eq!(front.get("/static/index.html", "").status, 503);
    }
    let seen = ("public/index.html".to_owned(), BlobDigest::of(&page), false);
    assert_eq!(*told.lock().unwrap(), [seen]);
    assert!(place.exists(), "the release's owner mends it");
    rot(&place, 10);
    assert!(front.get("/static/index.html", "").body == page);
}

#[test]
fn a_scrub_finds_what_nobody_asks_for() {
    let (one, two) = (text(5, 3_000), text(6, 300_000));
    let files = [(JS, &one[..]), ("two.77c1aa0099bbccdd.js", &two[..])];
    let (start, told) = watched(&files);
    let front = Front::start(start);
    let all = front.assets.scrub(Duration::ZERO, &|| false).unwrap();
    assert_eq!((all.files, all.bytes, all.rotten), (2, 303_000, 0));
    // Asked for, so that it lies in memory or open: the disk is read all the same.
    front.get("/static/two.77c1aa0099bbccdd.js", "");
    alone(&front.stored(JS));
    rot(&front.stored(JS), 1);
    let again = front.assets.scrub(Duration::ZERO, &|| false).unwrap();
    assert_eq!((again.files, again.rotten), (1, 1));
    assert_eq!(told.lock().unwrap().len(), 1);
    assert!(!front.stored(JS).exists());
    assert_eq!(front.get(&format!("/static/{JS}"), "").status, 503);
    let stopped = front.assets.scrub(Duration::ZERO, &|| true).unwrap();
    assert!(stopped.files <= 1);
}

/// One hash for a crowd that asks for a large file at once, and nobody else waits for it.
#[test]
fn a_crowd_at_a_large_file_waits_for_one_hash() {
    let (large, small) = (text(7, 60_000_000), text(8, 2_000));
    let name = "large.0123456789abcdef.bin";
    let front = Front::start(Start::of(&[(name, &large), (JS, &small)]));
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let part = front.get(&format!("/static/{name}"), "Range: bytes=59999990-\r\n");
                assert_eq!((part.status, &part.body[..]), (206, &large[59_999_990..]));
            });
        }
        for _ in 0..10 {
            assert!(front.get(&format!("/static/{JS}"), "").body == small);
        }
    });
}
