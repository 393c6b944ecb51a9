//! A file larger than the memory a process may use, and hundreds of thousands of names, travel through a whole fleet.

#![allow(clippy::print_stderr, reason = "figures of a run, beside its verdict")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use ship_model::assets::MAX_ASSETS;
use ship_model::manifest::MAX_ENTRIES;
use ship_tests::{Fleet, shipctl};

use crate::state::TOML;

/// 256 MiB bounds every process of ours, whatever the release.
pub const MOST_KIB: u64 = 256 << 10;
const FILE: usize = 300 << 20;

/// The most memory that a process had resident until now; none when it has ended.
fn peak_kib(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Every process of the fleet, with its peak.
fn peaks(fleet: &Fleet) -> Vec<(String, u64)> {
    let dir = fleet.dir().to_str().unwrap();
    let ours = |pid: &str| {
        let said = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let said = String::from_utf8_lossy(&said).replace('\0', " ");
        said.contains(dir).then_some(said)
    };
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| {
        let pid = entry.ok()?.file_name().into_string().ok()?;
        Some((ours(&pid)?, peak_kib(&pid)?))
    })
    .collect()
}

/// Noise at first, then a piece of it again and again with gaps: it compresses, and not to nothing.
fn write_large(path: &Path) {
    let mut state = 5_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let noise: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(1 << 20)
        .flatten()
        .collect();
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&noise).unwrap();
    let (mut written, mut turn) = (noise.len(), 0_u64);
    while written < FILE {
        turn += 1;
        file.write_all(&turn.to_le_bytes()).unwrap();
        file.write_all(&noise[..64 << 10]).unwrap();
        written += 8 + (64 << 10);
    }
}

/// Runs `shipctl` to its end and gives the most memory it was seen with.
pub fn run(fleet: &Fleet, args: &[&str]) -> u64 {
    let mut command = shipctl::command(Some(&fleet.context()), args);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = child.id().to_string();
    let mut peak = 0;
    loop {
        peak = peak.max(peak_kib(&pid).unwrap_or_default());
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{args:?}: {status}");
            eprintln!("shipctl {}: at most {} MiB", args[0], peak >> 10);
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn a_large_file_travels_in_little_memory() {
    let fleet = Fleet::start(1);
    let root = fleet.beside("large");
    fs::write(root.join("ship.toml"), TOML).unwrap();
    write_large(&root.join("large"));
    let out = fleet.beside("out").join("tree");
    for args in [
        &["publish", root.to_str().unwrap()][..],
        &["promote", "site"],
        &["export", "site@1", out.to_str().unwrap()],
    ] {
        let peak = run(&fleet, args);
        assert!((1..MOST_KIB).contains(&peak), "shipctl {args:?}: {peak} KiB");
    }
    let staged = fleet.home("h1", "site").join("current/large");
    assert!(fs::metadata(staged).unwrap().len() >= FILE as u64);
    assert!(fs::metadata(out.join("large")).unwrap().len() >= FILE as u64);
    assert_fleet_below(&fleet, MOST_KIB);
}

/// Each process of the fleet stayed below so many KiB until now.
pub fn assert_fleet_below(fleet: &Fleet, most: u64) {
    let peaks = peaks(fleet);
    for program in ["shipctl up", "shipstore serve", "ship-agent run"] {
        let (binary, verb) = program.split_once(' ').unwrap();
        let found = peaks
            .iter()
            .find(|(said, _)| said.contains(binary) && said.contains(verb));
        let (said, peak) = found.unwrap_or_else(|| panic!("no {program}: {peaks:?}"));
        eprintln!("{program}: at most {} MiB so far", peak >> 10);
        assert!(*peak < most, "{said}: {peak} KiB, {most} are allowed");
    }
}

/// What a tree is made of.
#[derive(Clone, Copy)]
enum Kind {
    /// As package managers lay them out; no assets.
    Modules,
    /// All of them fingerprinted assets, which stay in the union of every version.
    Assets,
}

impl Kind {
    fn toml(self) -> String {
        match self {
            Self::Modules => TOML.to_owned(),
            Self::Assets => format!("{TOML}[[assets]]\nroot = \"lib\"\nurl = \"/lib\"\n"),
        }
    }

    /// A path of 80 bytes.
    fn path(self, number: u64) -> String {
        let folder = number / 50;
        match self {
            Self::Modules => format!("lib/node_modules/package-{folder:05}/dist/{number:0>40}.js"),
            Self::Assets => format!("lib/pages/of-section-{folder:05}/js/{number:0>32}-{number:08x}.js"),
        }
    }
}

/// Small files, beside `ship.toml` and `salt.txt`.
fn write_names(root: &Path, kind: Kind, names: u64) {
    fs::write(root.join("ship.toml"), kind.toml()).unwrap();
    fs::write(root.join("salt.txt"), "first").unwrap();
    for number in 0..names - 2 {
        let path = root.join(kind.path(number));
        if number % 50 == 0 {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        fs::write(path, number.to_string()).unwrap();
    }
}

/// Publishes and promotes a release of so many names, then one in which a single file is another, so that every host
/// links all of the rest; no process takes more than `most` KiB on the way.
fn travel(kind: Kind, names: u64, most: u64) {
    let fleet = Fleet::start(1);
    let root = fleet.beside("many");
    write_names(&root, kind, names);
    for (number, salt) in [(1, "first"), (2, "second")] {
        fs::write(root.join("salt.txt"), salt).unwrap();
        let root = root.to_str().unwrap();
        for args in [&["lint", root][..], &["publish", root], &["promote", "site"]] {
            let peak = run(&fleet, args);
            assert!(
                (1..most).contains(&peak),
                "shipctl {args:?}: {peak} KiB, {most} are allowed"
            );
        }
        let current = fleet.home("h1", "site").join("current/salt.txt");
        assert_eq!(fs::read_to_string(current).unwrap(), salt, "release {number}");
        assert_fleet_below(&fleet, most);
    }
}

/// Forty MiB for a process that does nothing, most of it the code of a debug build, and the window of 8 MiB that it reads frames
/// with; and 1.2 KiB for a name.
#[test]
fn many_names_travel_in_little_memory() {
    let names = 60_000;
    travel(Kind::Modules, names, (40 << 10) + names * 12 / 10);
}

/// Of assets the store keeps more: what it claims of each in the catalog, of which it caches a part, and what it serves; that
/// takes up to 4.8 KiB for each of so many that come at once, and 2.7 KiB for each of the most that a release may have.
#[test]
fn many_assets_travel_in_little_memory() {
    let names = 20_000;
    travel(Kind::Assets, names, (32 << 10) + names * 48 / 10);
}

/// The limit itself: `SHIP_TESTS_LONG=1`.
#[test]
fn as_many_names_as_a_release_may_have_travel_within_the_bound() {
    if std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1") {
        travel(Kind::Modules, MAX_ENTRIES, MOST_KIB);
    }
}

/// Two files of a release are no assets. `SHIP_TESTS_LONG=1`.
#[test]
fn as_many_assets_as_a_release_may_have_travel_within_the_bound() {
    if std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1") {
        travel(Kind::Assets, MAX_ASSETS as u64 + 2, MOST_KIB);
    }
}
