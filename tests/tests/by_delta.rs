//! What changed is what travels: from the publisher to the store, and on to the hosts, as one and the same delta.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use ship_tests::Fleet;

struct Scene {
    fleet: Fleet,
    tree: PathBuf,
}

/// Scripts that a bundler made again: most of each stands elsewhere now.
fn write_tree(tree: &Path, version: u64) {
    fs::create_dir_all(tree).unwrap();
    for script in 0..4_u64 {
        let lines = (0..6_000_u64).map(|line| {
            let number = (line + version * 700) % 6_000 + script * 10_000;
            format!("{}\n", blake3::hash(&number.to_le_bytes()).to_hex())
        });
        let text = format!("// version {version}\n{}", lines.collect::<String>());
        fs::write(tree.join(format!("script-{script}.js")), text).unwrap();
    }
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::start(1);
        Self {
            tree: fleet.beside("site"),
            fleet,
        }
    }

    /// Publishes this version of the tree.
    fn publish(&self, version: u64, options: &[&str]) -> Value {
        write_tree(&self.tree, version);
        let tree = self.tree.to_str().unwrap();
        let words = [&["publish", tree, "-a", "site", "-o", "json"], options].concat();
        self.fleet.shipctl(&words).json()
    }

    fn runs(&self, version: u64) -> Value {
        self.fleet.shipctl(&["promote", "site"]).expect(0);
        let wanted = self.fleet.beside("wanted");
        write_tree(&wanted, version);
        let current = self.fleet.home("h1", "site").join("current");
        for script in fs::read_dir(&wanted).unwrap().flatten() {
            let runs = fs::read(current.join(script.file_name())).unwrap();
            assert!(runs == fs::read(script.path()).unwrap(), "{script:?}");
        }
        self.fleet.app("site")["hosts"][0].clone()
    }
}

fn uploaded(published: &Value) -> u64 {
    published["uploaded_bytes"].as_u64().unwrap()
}

#[test]
fn a_publisher_sends_what_changed_and_hosts_fetch_the_same() {
    let scene = Scene::new();
    let first = scene.publish(1, &[]);
    assert_eq!(uploaded(&first), first["stored_bytes"], "{first}");
    scene.runs(1);
    let second = scene.publish(2, &[]);
    assert_eq!(
        (&second["delta_from"], &second["no_delta"]),
        (&1.into(), &Value::Null)
    );
    let (sent, whole) = (uploaded(&second), second["stored_bytes"].as_u64().unwrap());
    assert!(sent * 8 < whole, "{sent} of {whole}");
    let host = scene.runs(2);
    assert_eq!(
        (&host["delta_from"], &host["fetched_bytes"]),
        (&1.into(), &sent.into()),
        "{host}"
    );

    // A machine that has nothing: the earlier release is fetched, and named.
    fs::remove_dir_all(scene.fleet.beside("cache/ship/last")).unwrap();
    let out = scene.fleet.beside("out").join("tree");
    let out = out.to_str().unwrap();
    scene.fleet.shipctl(&["export", "site@2", out]).expect(0);
    let third = scene.publish(3, &["--base", out]);
    assert_eq!(third["delta_from"], 2, "{third}");
    assert!(uploaded(&third) * 8 < whole, "{third}");
    scene.runs(3);
    // Nothing new sends nothing.
    let again = scene.publish(3, &[]);
    assert_eq!(
        (uploaded(&again), &again["delta_from"]),
        (0, &Value::Null),
        "{again}"
    );
}
