//! A large file that changes a little: a few segments travel, through publisher, store, hosts and back out, in little memory.
//!
//! 64 MiB; 2 GiB with `SHIP_TESTS_LONG=1`.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use ship_tests::{Fleet, http};

use super::memory::{MOST_KIB, assert_fleet_below, run};

/// What an insertion may cost, in bytes: four segments of the largest size.
const FEW: u64 = 16 << 20;
const URL: &str = "/films/film.f00dfeed12345678.bin";
const TOML: &str = "app = \"site\"\n[[assets]]\nroot = \"films\"\nurl = \"/films\"\n";

/// Bytes that do not compress, with `inserted` after the first 100,000.
fn write_film(path: &Path, bytes: u64, inserted: &[u8]) {
    let mut noise = blake3::Hasher::new().update(b"film").finalize_xof();
    let mut file = fs::File::create(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    noise.fill(&mut piece[..100_000]);
    file.write_all(&piece[..100_000]).unwrap();
    file.write_all(inserted).unwrap();
    let mut left = bytes - 100_000;
    while left > 0 {
        let len = left.min(piece.len() as u64) as usize;
        noise.fill(&mut piece[..len]);
        file.write_all(&piece[..len]).unwrap();
        left -= len as u64;
    }
}

fn digest(path: &Path) -> blake3::Hash {
    let mut file = fs::File::open(path).unwrap();
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finalize(),
            got => hasher.update(&piece[..got]),
        };
    }
}

/// Publishes the tree beside the fleet; how many bytes of it were stored.
fn publish(fleet: &Fleet, root: &str) -> u64 {
    let said = fleet.shipctl(&["publish", root, "-o", "json"]).json();
    said["stored_bytes"].as_u64().unwrap()
}

fn changes_a_little(bytes: u64) -> Fleet {
    let fleet = Fleet::start(2);
    let root = fleet.beside("large");
    fs::create_dir_all(root.join("films")).unwrap();
    fs::write(root.join("ship.toml"), TOML).unwrap();
    let tree = root.to_str().unwrap();
    let first = root.join(&URL[1..]);
    write_film(&first, bytes, b"");
    assert!(publish(&fleet, tree) >= bytes);
    fleet.shipctl(&["promote", "site"]).expect(0);
    fs::remove_file(&first).unwrap();
    // With another fingerprint, as a build would name it.
    let second = root.join("films/film.0123456789abcdef.bin");
    write_film(&second, bytes, b"inserted");
    let stored = publish(&fleet, tree);
    assert!(stored < FEW, "{stored}");
    fleet.shipctl(&["promote", "site"]).expect(0);
    let status = fleet.app("site");
    for host in status["hosts"].as_array().unwrap() {
        let fetched = host["fetched_bytes"].as_u64().unwrap();
        assert!(fetched < FEW, "{host}");
    }
    let wanted = digest(&second);
    for host in ["h1", "h2"] {
        let staged = fleet
            .home(host, "site")
            .join("current/films/film.0123456789abcdef.bin");
        assert_eq!(digest(&staged), wanted, "{host}");
    }
    let out = fleet.beside("out").join("tree");
    let peak = run(&fleet, &["export", "site@2", out.to_str().unwrap()]);
    assert!(peak < MOST_KIB, "{peak} KiB");
    assert_eq!(digest(&out.join("films/film.0123456789abcdef.bin")), wanted);
    assert_fleet_below(&fleet, MOST_KIB);
    fleet
}

#[test]
fn an_insertion_into_a_large_file_moves_a_few_segments_and_old_names_stay() {
    let fleet = changes_a_little(64 << 20);
    // The file of the older release is still served, by hosts and store, and so is the new one.
    let first = fleet.beside("first").join("film");
    write_film(&first, 64 << 20, b"");
    let sizes = [
        (URL, 64 << 20),
        ("/films/film.0123456789abcdef.bin", (64 << 20) + 8),
    ];
    for base in fleet.asset_urls("site") {
        for (url, size) in sizes {
            let answer = http::get_url(&format!("{base}{url}")).unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, size), "{base}{url}");
        }
        let old = http::get_url(&format!("{base}{URL}")).unwrap().body;
        assert!(blake3::hash(&old) == digest(&first), "{base}");
    }
}

#[test]
fn an_insertion_into_two_gibibytes_moves_a_few_segments() {
    if std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1") {
        changes_a_little(2 << 30);
    }
}

/// A publisher's own memory, while it cuts, packs and sends.
#[test]
fn publishing_a_large_file_takes_little_memory() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let bytes = if long { 2 << 30 } else { 300 << 20 };
    let fleet = Fleet::start(1);
    let root = fleet.beside("large");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("ship.toml"), "app = \"site\"\n").unwrap();
    for inserted in [&b""[..], b"inserted"] {
        write_film(&root.join("film"), bytes, inserted);
        let peak = run(&fleet, &["publish", root.to_str().unwrap()]);
        assert!(peak < MOST_KIB, "{peak} KiB");
    }
    assert_fleet_below(&fleet, MOST_KIB);
}
