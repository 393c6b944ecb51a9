//! A fleet that runs one good release, and everything that a refused command must leave alone.

use std::fs;
use std::path::{Path, PathBuf};

use ship_tests::wait::until;
use ship_tests::{Fleet, Ran, Victim};

pub const TOML: &str = "app = \"site\"\n";

/// Files as (name, content).
pub fn tree(root: &Path, files: &[(&str, &[u8])]) -> String {
    fs::create_dir_all(root).unwrap();
    for (name, content) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root.to_str().unwrap().to_owned()
}

/// A new folder with a good release of `site` in it.
pub fn good(fleet: &Fleet, name: &str) -> PathBuf {
    let root = fleet.beside("trees").join(name);
    tree(
        &root,
        &[("ship.toml", TOML.as_bytes()), ("index.html", name.as_bytes())],
    );
    root
}

/// A fleet whose hosts run `site@1`, and whose store does nothing that nobody asked it for: bundles would come and go.
pub fn with_one_release(hosts: usize) -> Fleet {
    let fleet = Fleet::start(hosts);
    let settings = fleet.dir().join("store/store.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let quiet = text.replace("optimize_when_idle = true", "optimize_when_idle = false");
    assert_ne!(text, quiet);
    fs::write(&settings, quiet).unwrap();
    fleet.kill(Victim::Store);
    fleet.whole();
    let root = good(&fleet, "first");
    fleet.shipctl(&["publish", root.to_str().unwrap()]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    fleet
}

/// What lies in the store and on every host: names, and where links lead. Reports, logs and what a process keeps
/// open while it runs are not part of it, nor the deltas that a store makes by itself.
pub fn of(fleet: &Fleet) -> Vec<String> {
    let mut seen = Vec::new();
    let objects = fleet.dir().join("store/objects");
    until("nothing is on its way into the store", || {
        let incoming = fs::read_dir(objects.join("incoming")).unwrap();
        (incoming.count() == 0).then_some(())
    });
    for kind in ["bundle", "manifest", "quarantine"] {
        list(&objects.join(kind), &mut seen);
    }
    let hosts = fs::read_dir(fleet.dir().join("hosts")).unwrap();
    for host in hosts {
        list(&host.unwrap().path().join("apps"), &mut seen);
    }
    let releases = fleet.shipctl(&["releases", "-o", "json"]).json();
    seen.push(releases["releases"].to_string());
    seen.sort();
    seen
}

fn list(folder: &Path, seen: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap().path();
        let link = fs::read_link(&path).ok();
        seen.push(format!("{} {link:?}", path.display()));
        if path.is_dir() && link.is_none() {
            list(&path, seen);
        }
    }
}

/// The command was refused with this exit code, said all of `words` and nothing that a terminal obeys, and `before`
/// is how everything still is.
#[track_caller]
pub fn refused(fleet: &Fleet, before: &[String], ran: Ran, code: i32, words: &[&str]) {
    let ran = ran.expect(code);
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} is not said: {ran}");
    }
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!ran.stderr.contains(obeyed), "{ran}");
    assert!(!ran.stderr.contains("panicked"), "{ran}");
    let after = of(fleet);
    assert_eq!(before, after, "something was left: {ran}");
}
