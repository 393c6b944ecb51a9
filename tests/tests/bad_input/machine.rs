//! What the machine may have in store: a full disk, a port that somebody has, a damaged index.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use ship_tests::{Fleet, bin, shipctl, skipped, wait};

use crate::state::{good, of, refused, tree, with_one_release};

#[test]
fn a_taken_port_and_a_damaged_index_are_told_and_healed() {
    let mut fleet = with_one_release(1);
    let before = of(&fleet);
    // A second one on the same folder.
    let dir = fleet.dir().to_str().unwrap().to_owned();
    let second = shipctl::shipctl(None, &["up", "--dir", &dir]);
    refused(&fleet, &before, second, 8, &["up already: process", "hint:"]);
    a_taken_port_of_an_app(&fleet);
    let before = of(&fleet);

    fleet.stop();
    let context: toml::Table = fs::read_to_string(fleet.context()).unwrap().parse().unwrap();
    let store = context["store"]
        .as_str()
        .unwrap()
        .trim_start_matches("https://")
        .to_owned();
    let holder = TcpListener::bind(&store).unwrap();
    let ran = shipctl::shipctl(None, &["up", "--dir", &dir]).expect(1);
    assert!(
        ran.stderr.contains(&store) && ran.stderr.contains("is taken by another program"),
        "{ran}"
    );
    drop(holder);
    // A process that another test is just starting goes on listening there until it executes.
    wait::until("nobody to listen where the store does", || {
        TcpStream::connect(&store).is_err().then_some(())
    });

    let index = fleet.dir().join("store/catalog/index");
    for file in ["db", "conf"] {
        fs::write(index.join(file), "no longer what it was").unwrap();
    }
    fleet.up(1, &[]);
    assert_eq!(of(&fleet), before);
    assert_eq!(fleet.running("site"), [Some(1)]);
}

/// Somebody on the host has the address that an app wants.
fn a_taken_port_of_an_app(fleet: &Fleet) {
    let host = fs::read_to_string(fleet.dir().join("hosts/h1/agent.toml")).unwrap();
    let host: toml::Table = host.parse().unwrap();
    let address = host["address"].as_str().unwrap();
    let holder = TcpListener::bind((address, 0)).unwrap();
    let taken = holder.local_addr().unwrap();
    let root = fleet.beside("trees").join("web");
    let made = Command::new(bin("ship-sample"))
        .args([
            "make",
            "--version",
            "1",
            "--listen",
            &format!("tcp:{}", taken.port()),
            "--out",
        ])
        .arg(&root)
        .status();
    assert!(made.unwrap().success());
    let published = fleet
        .shipctl(&["publish", root.to_str().unwrap(), "-o", "json"])
        .json();
    let app = published["app"].as_str().unwrap().to_owned();
    let ran = fleet.shipctl(&["promote", &app]).expect(5);
    for word in ["h1", &taken.to_string(), "is taken by another program"] {
        assert!(ran.stderr.contains(word), "{word}: {ran}");
    }
    assert!(!fleet.home("h1", &app).join("current").exists(), "{ran}");
    assert_eq!(fleet.running("site"), [Some(1)]);
    drop(holder);
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, options: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
        let done = mount.status().is_ok_and(|status| status.success());
        done.then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_while_staging_changes_nothing() {
    let mut fleet = Fleet::start(1);
    fleet.stop();
    let apps = fleet.dir().join("hosts/h1/apps");
    let Some(_mounted) = Mounted::new(&apps, "size=8m") else {
        skipped(
            "a_full_disk_while_staging_changes_nothing",
            "a small file system needs root",
        );
        return;
    };
    fleet.up(1, &[]);
    let root = good(&fleet, "first");
    fleet.shipctl(&["publish", root.to_str().unwrap()]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let mut state = 1_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(9 << 17)
    .flatten()
    .collect();
    tree(&root, &[("large", &noise)]);
    fleet.shipctl(&["publish", root.to_str().unwrap()]).expect(0);
    let home = fleet.home("h1", "site");
    let lies = || {
        let entries = fs::read_dir(home.join("releases")).unwrap();
        let names: BTreeSet<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        (names, fs::read_link(home.join("current")).unwrap())
    };
    let before = lies();
    let ran = fleet.shipctl(&["promote", "site@2"]).expect(5);
    for word in ["h1", "not enough space", "remove releases"] {
        assert!(ran.stderr.contains(word), "{word}: {ran}");
    }
    assert_eq!(lies(), before, "{ran}");
    assert_eq!(fleet.running("site"), [Some(1)]);
    fleet.stop();
}
