//! Other codings: made in the background, kept, and each an asset of its own right.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fixture::{Front, JS, PATIENCE, Start, text};
use ship_assets::serve::{Encoding, PortSettings};
use ship_model::digest::BlobDigest;

fn decoded(encoding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let read = match encoding {
        "br" => brotli::Decompressor::new(body, 4096).read_to_end(&mut out),
        "zstd" => zstd::stream::read::Decoder::new(body)
            .unwrap()
            .read_to_end(&mut out),
        _ => flate2::read::GzDecoder::new(body).read_to_end(&mut out),
    };
    read.unwrap();
    out
}

fn kept(front: &Front) -> Vec<String> {
    let listed = fs::read_dir(front.dir.path().join("encoded")).unwrap();
    let mut names: Vec<_> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn each_coding_is_made_once_and_is_a_representation_of_its_own() {
    let js = text(1, 300_000);
    let front = Front::start(Start::of(&[(JS, &js)]));
    let path = format!("/static/{JS}");
    let plain = front.get(&path, "");
    let first = front.get(&path, "Accept-Encoding: br\r\n");
    assert_eq!(first.header("content-encoding"), None, "nobody waits for Brotli");
    assert_eq!((first.status, first.body.len()), (200, js.len()));
    assert!(first.body == js);
    let mut tags = vec![plain.header("etag").unwrap().to_owned()];
    for encoding in ["br", "zstd", "gzip"] {
        let coded = front.encoded(&path, encoding);
        assert_eq!(coded.status, 200);
        assert!(decoded(encoding, &coded.body) == js, "{encoding}");
        assert!(coded.body.len() < js.len() / 2);
        assert_eq!(
            coded.header("content-length"),
            Some(&*coded.body.len().to_string())
        );
        assert_eq!(coded.header("vary"), Some("accept-encoding"));
        assert_eq!(
            coded.header("content-type"),
            Some("text/javascript; charset=utf-8")
        );
        assert_eq!(
            coded.header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        let etag = coded.header("etag").unwrap().to_owned();
        assert!(etag.starts_with('"') && !tags.contains(&etag), "{etag}");
        let accept = format!("Accept-Encoding: {encoding}\r\n");
        let ask = |more: &str| front.get(&path, &format!("{accept}{more}"));

        let unchanged = ask(&format!("If-None-Match: {etag}\r\n"));
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.header("vary"), Some("accept-encoding"));
        assert_eq!(unchanged.header("etag"), Some(&*etag));
        assert_eq!(ask(&format!("If-None-Match: {}\r\n", tags[0])).status, 200);
        assert_eq!(ask(&format!("If-Match: {etag}\r\n")).status, 200);
        assert_eq!(
            ask(&format!("If-Match: W/{etag}\r\n")).status,
            412,
            "strongly compared"
        );
        assert_eq!(ask(&format!("If-Match: {}\r\n", tags[0])).status, 412);
        assert_eq!(ask("If-Match: *\r\n").status, 200);

        let part = ask(&format!("Range: bytes=10-19\r\nIf-Range: {etag}\r\n"));
        assert_eq!((part.status, &part.body[..]), (206, &coded.body[10..20]));
        assert_eq!(part.header("content-encoding"), Some(encoding));
        let range = format!("bytes 10-19/{}", coded.body.len());
        assert_eq!(part.header("content-range"), Some(&*range));
        let other = ask(&format!("Range: bytes=10-19\r\nIf-Range: {}\r\n", tags[0]));
        assert_eq!(
            other.status, 200,
            "a part of one and a part of another make neither"
        );
        let head = front.ask("HEAD", &path, &accept);
        assert_eq!(head.header("content-length"), coded.header("content-length"));
        assert!(head.body.is_empty());
        tags.push(etag);
    }
    assert_eq!(kept(&front).len(), 3);
    // With all of them there: weights first, then size; what is refused is not sent.
    for (accept, encoding) in [
        ("gzip, deflate, br, zstd", Some("br")),
        ("gzip;q=0.9, zstd;q=0.5", Some("gzip")),
        ("br;q=0, *", Some("zstd")),
        ("deflate", None),
        ("identity, br;q=0.1", None),
        ("br;q=0.1, identity;q=0", Some("br")),
    ] {
        let answer = front.get(&path, &format!("Accept-Encoding: {accept}\r\n"));
        assert_eq!(answer.header("content-encoding"), encoding, "{accept}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{accept}");
    }
    let none = front.get(&path, "Accept-Encoding: identity;q=0\r\n");
    assert_eq!(
        (none.status, none.header("cache-control")),
        (406, Some("no-store"))
    );
    assert_eq!(front.get(&path, "").header("vary"), Some("accept-encoding"));
}

#[test]
fn what_was_made_is_there_after_a_restart_and_swept_when_nobody_needs_it() {
    let js = text(2, 50_000);
    let files = [(JS, &js[..])];
    let front = Front::start(Start::of(&files));
    let path = format!("/static/{JS}");
    let made = front.encoded(&path, "zstd");
    let dir = Arc::clone(&front.dir);
    drop(front);
    // Of an asset that no release has, half of one, and something else.
    let encoded = dir.path().join("encoded");
    let (gone, own) = (BlobDigest::of(b"gone"), BlobDigest::of(b"own"));
    fs::write(encoded.join(format!("{gone}-{own}.br")), b"own").unwrap();
    fs::write(encoded.join(format!("{gone}-none.gz")), b"").unwrap();
    fs::write(encoded.join(".tmp-0011223344556677"), b"half").unwrap();
    fs::write(encoded.join("README"), b"?").unwrap();
    let front = Front::start_in(dir, Start::of(&files));
    let again = front.get(&path, "Accept-Encoding: zstd\r\n");
    assert_eq!(again.header("content-encoding"), Some("zstd"), "at once");
    assert!(again.body == made.body);
    assert_eq!(front.assets.sweep(), 3);
    let blob = BlobDigest::of(&js).to_string();
    let names = kept(&front);
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().any(|name| name.starts_with(&blob)), "{names:?}");
    let still = front.get(&path, "Accept-Encoding: zstd\r\n");
    assert_eq!(still.header("content-encoding"), Some("zstd"));
}

#[test]
fn a_kept_coding_that_rots_is_made_again() {
    let js = text(3, 400_000);
    let files = [(JS, &js[..])];
    let front = Front::start(Start::of(&files));
    let path = format!("/static/{JS}");
    let made = front.encoded(&path, "gzip");
    let dir = Arc::clone(&front.dir);
    let place = dir.path().join("encoded").join(&kept(&front)[0]);
    drop(front);
    let mut bytes = fs::read(&place).unwrap();
    bytes[5_000] ^= 1;
    fs::remove_file(&place).unwrap();
    fs::write(&place, &bytes).unwrap();
    let front = Front::start_in(dir, Start::of(&files));
    let answer = front.get(&path, "Accept-Encoding: gzip\r\n");
    assert_eq!((answer.status, answer.header("content-encoding")), (200, None));
    assert!(answer.body == js);
    assert!(front.encoded(&path, "gzip").body == made.body);
    assert_eq!(front.assets.counters.broken.load(Ordering::Relaxed), 0);
}

#[test]
fn only_what_becomes_smaller_is_negotiated() {
    let mut noise = vec![0; 40_000];
    blake3::Hasher::new_derive_key("noise")
        .finalize_xof()
        .fill(&mut noise);
    let small = text(4, 900);
    let front = Front::start(Start::of(&[
        ("noise.0123456789abcdef.js", &noise),
        ("small.0123456789abcdef.js", &small),
        ("photo.0123456789abcdef.png", &text(5, 9_000)),
        ("empty.0123456789abcdef.js", b""),
    ]));
    let noisy = "/static/noise.0123456789abcdef.js";
    for name in [
        "small.0123456789abcdef.js",
        "photo.0123456789abcdef.png",
        "empty.0123456789abcdef.js",
    ] {
        let answer = front.get(&format!("/static/{name}"), "Accept-Encoding: br\r\n");
        assert_eq!((answer.status, answer.header("vary")), (200, None), "{name}");
        let none = front.get(&format!("/static/{name}"), "Accept-Encoding: *;q=0\r\n");
        assert_eq!(none.status, 406, "{name}");
    }
    // Tried once, and remembered.
    let begun = std::time::Instant::now();
    front.get(noisy, "Accept-Encoding: br\r\n");
    while kept(&front) != [format!("{}-none.br", BlobDigest::of(&noise))] {
        assert!(begun.elapsed() < PATIENCE, "{:?}", kept(&front));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(
        front
            .get(noisy, "Accept-Encoding: br\r\n")
            .header("content-encoding"),
        None
    );
}

#[test]
fn files_that_the_release_brings_are_used_if_they_say_the_same() {
    let (good, bad) = (text(6, 20_000), text(7, 20_000));
    let gzip = |bytes: &[u8]| {
        let mut out = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
            .read_to_end(&mut out)
            .unwrap();
        out
    };
    let front = Front::start(Start::of(&[
        ("good.0123456789abcdef.js", &good),
        ("good.0123456789abcdef.js.gz", &gzip(&good)),
        ("bad.0123456789abcdef.js", &bad),
        ("bad.0123456789abcdef.js.gz", &gzip(&good)),
        ("page.js", &bad),
        ("page.js.gz", &gzip(&bad)),
    ]));
    let answer = front.encoded("/static/good.0123456789abcdef.js", "gzip");
    assert!(
        answer.body == gzip(&good),
        "as it was brought, though ours would be smaller"
    );
    let answer = front.encoded("/static/bad.0123456789abcdef.js", "gzip");
    assert!(decoded("gzip", &answer.body) == bad, "what lies is not believed");
    let answer = front.encoded("/static/page.js", "gzip");
    assert!(decoded("gzip", &answer.body) == bad);
    assert_eq!(
        answer.header("cache-control"),
        Some("public, max-age=5, must-revalidate"),
        "what is not fingerprinted is kept shortly in every coding"
    );
}

#[test]
fn codings_are_those_that_are_offered() {
    let js = text(8, 20_000);
    let files = [(JS, &js[..])];
    let mut start = Start::of(&files);
    start.settings = PortSettings {
        encode: vec![Encoding::Gzip],
        ..PortSettings::default()
    };
    let front = Front::start(start);
    let path = format!("/static/{JS}");
    front.encoded(&path, "gzip");
    let both = front.get(&path, "Accept-Encoding: br, gzip;q=0.1\r\n");
    assert_eq!(both.header("content-encoding"), Some("gzip"));
    let mut start = Start::of(&files);
    start.encode = false;
    let none = Front::start(start).get(&path, "Accept-Encoding: br\r\n");
    assert_eq!(
        (none.header("vary"), none.header("content-encoding")),
        (None, None)
    );
}

/// Many at once, of many files: each answer is right, whatever is ready.
#[test]
fn a_crowd_gets_right_bytes_while_codings_are_made() {
    let texts: Vec<Vec<u8>> = (10..18).map(|seed| text(seed, 30_000)).collect();
    let names: Vec<String> = (0..8).map(|n| format!("a{n}.0123456789abcde{n}.js")).collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(String::as_str)
        .zip(texts.iter().map(|t| &t[..]))
        .collect();
    let front = Front::start(Start::of(&files));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (front, files) = (&front, &files);
            scope.spawn(move || {
                for round in 0..40 {
                    let (name, bytes) = files[(round + thread) % files.len()];
                    let encoding = ["br", "zstd", "gzip"][(round * 7 + thread) % 3];
                    let accept = format!("Accept-Encoding: {encoding}\r\n");
                    let answer = front.get(&format!("/static/{name}"), &accept);
                    let body = match answer.header("content-encoding") {
                        Some(encoding) => decoded(encoding, &answer.body),
                        None => answer.body,
                    };
                    assert!(body == bytes, "{name} {encoding}");
                }
            });
        }
    });
}

/// A file system of one MiB for the folder of encodings; none where mounting is not allowed.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: std::path::PathBuf) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(&at)
            .output();
        mount.is_ok_and(|out| out.status.success()).then(|| Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn on_a_full_disk_files_are_sent_as_they_are_until_there_is_room() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let Some(small) = Small::mount(dir.path().join("encoded")) else {
        return;
    };
    let filler = small.0.join("filler");
    // Until nothing more goes in.
    let mut full = fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut full, &[0; 4096]).is_ok() {}
    drop(full);
    let js = text(1, 300_000);
    let front = Front::start_in(Arc::clone(&dir), Start::of(&[(JS, &js)]));
    let path = format!("/static/{JS}");
    let ours = || -> Vec<String> {
        let names = kept(&front).into_iter();
        names.filter(|name| name != "filler").collect()
    };
    for _ in 0..100 {
        let answer = front.get(&path, "Accept-Encoding: gzip\r\n");
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None));
        assert!(answer.body == js);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // One that is being written may be seen; none is left.
    let begun = std::time::Instant::now();
    while !ours().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "half files: {:?}", ours());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    fs::remove_file(&filler).unwrap();
    let coded = front.encoded(&path, "gzip");
    assert!(decoded("gzip", &coded.body) == js);
    assert_eq!(ours().len(), 1, "{:?}", ours());
    drop(front);
}
