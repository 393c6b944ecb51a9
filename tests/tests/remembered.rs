//! What `shipctl publish` remembers of a folder: a saving, and never a truth.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use ship_tests::shipctl::{self, Ran};
use ship_tests::{Fleet, wait};

/// Before the files, and of each file.
const HEAD: usize = 9 + 8;
const FILE: usize = 5 * 8 + 1 + 32;
/// More than the fewest that are remembered.
const FILES: usize = 300;

struct Scene {
    fleet: Fleet,
    tree: PathBuf,
    cache: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::start(1);
        let (tree, cache) = (fleet.beside("site"), fleet.beside("cache"));
        fs::create_dir_all(tree.join("some")).unwrap();
        for number in 0..FILES {
            fs::write(tree.join(format!("some/{number}.txt")), format!("file {number}")).unwrap();
        }
        Self { fleet, tree, cache }
    }

    fn command(&self, options: &[&str]) -> (std::process::Command, Vec<String>) {
        let tree = self.tree.to_str().unwrap();
        let words = [&["publish", tree, "-a", "site", "-o", "json"], options].concat();
        let mut command = shipctl::command(Some(&self.fleet.context()), &words);
        command.env("XDG_CACHE_HOME", &self.cache);
        (command, words.into_iter().map(str::to_owned).collect())
    }

    fn publish(&self, options: &[&str]) -> Ran {
        let (command, words) = self.command(options);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        shipctl::finish(command, &words)
    }

    fn id(&self, options: &[&str]) -> String {
        id(&self.publish(options).json())
    }

    /// Where the folder is remembered, once every file is: what was just written is not.
    fn memory(&self) -> PathBuf {
        wait::until("the folder to be remembered", || {
            self.publish(&[]).expect(0);
            let mut found = fs::read_dir(self.cache.join("ship/seen")).ok()?;
            let path = found.next()?.unwrap().path();
            (files(&fs::read(&path).unwrap()) == FILES).then_some(path)
        })
    }
}

fn id(release: &Value) -> String {
    release["id"].as_str().unwrap().to_owned()
}

/// How many are remembered.
fn files(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[9..HEAD].try_into().unwrap()) as usize
}

/// Every digest becomes another one, and nothing shows it.
fn lie(memory: &Path) {
    let mut bytes = fs::read(memory).unwrap();
    bytes.truncate(bytes.len() - 32);
    for file in 0..files(&bytes) {
        bytes[HEAD + file * FILE + 41] ^= 1;
    }
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    fs::write(memory, bytes).unwrap();
}

#[test]
fn nothing_wrong_is_published_whatever_is_remembered() {
    let scene = Scene::new();
    let truth = scene.id(&[]);
    let memory = scene.memory();
    let honest = fs::read(&memory).unwrap();

    // It is believed, so that a lie shows; and what is packed is hashed, so that none is published.
    lie(&memory);
    let refused = scene.publish(&[]).expect(1);
    assert!(
        refused.stderr.contains("changed since it was read first"),
        "{refused}"
    );
    assert!(!memory.exists(), "the next publish must not meet it again");
    assert_eq!(scene.id(&[]), truth);

    assert_eq!(fs::read(&memory).unwrap(), honest);
    lie(&memory);
    assert_eq!(scene.id(&["--paranoid"]), truth);
    assert_eq!(fs::read(&memory).unwrap(), honest, "and it is put right");

    // Damaged, it is nothing.
    let damaged = File::options().write(true).open(&memory).unwrap();
    damaged.write_all_at(b"?", 1000).unwrap();
    assert_eq!(scene.id(&[]), truth);
    assert_eq!(fs::read(&memory).unwrap(), honest);
    fs::write(&memory, b"").unwrap();
    assert_eq!(scene.id(&[]), truth);

    // The size is the same, and the mtime is set back.
    let changed = File::options()
        .write(true)
        .open(scene.tree.join("some/7.txt"))
        .unwrap();
    let mtime = changed.metadata().unwrap().modified().unwrap();
    changed.write_all_at(b"FILE", 0).unwrap();
    changed.set_modified(mtime).unwrap();
    let other = scene.id(&[]);
    assert_ne!(other, truth);
    assert_eq!(scene.id(&["--paranoid"]), other);
}

#[test]
fn two_publishes_of_one_folder_do_not_harm_each_other() {
    let scene = Scene::new();
    let truth = scene.id(&[]);
    let memory = scene.memory();
    for _ in 0..3 {
        fs::remove_file(&memory).unwrap();
        let both = [(); 2].map(|()| {
            let mut command = scene.command(&[]).0;
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        });
        for child in both {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            assert_eq!(id(&serde_json::from_slice(&output.stdout).unwrap()), truth);
        }
        let kept = fs::read(&memory).unwrap();
        let (body, checksum) = kept.split_last_chunk::<32>().unwrap();
        assert_eq!(blake3::hash(body).as_bytes(), checksum);
    }
    let names = fs::read_dir(memory.parent().unwrap()).unwrap();
    assert_eq!(names.count(), 1, "nothing else is left there");
}
