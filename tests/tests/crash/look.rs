//! What must be true of a fleet, whatever was killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use ship_tests::load::Load;
use ship_tests::sample::APP;
use ship_tests::{Fleet, http, wait};

/// Waits until nothing is under way, and gives the last rollout.
pub fn ended(fleet: &Fleet) -> Value {
    wait::until_within(wait::PATIENCE * 2, "the rollout's end", || {
        let app = try_app(fleet)?;
        (app["rollout"].is_null() && !app["last_rollout"].is_null()).then(|| app["last_rollout"].clone())
    })
}

/// What `status` says of the app; none while the store is away.
pub fn try_app(fleet: &Fleet) -> Option<Value> {
    let ran = fleet.shipctl(&["status", "-o", "json"]);
    let status: Value = serde_json::from_str(&ran.stdout).ok()?;
    let mut apps = status["apps"].as_array()?.iter();
    apps.find(|app| app["app"] == APP).cloned()
}

/// Waits until every host runs `number`, and looks at each as a user and as an operator would.
pub fn all_run(fleet: &Fleet, number: u64) {
    wait::until(&format!("release {number} everywhere"), || {
        let app = try_app(fleet)?;
        let hosts = app["hosts"].as_array()?;
        let there = |host: &Value| host["release"] == number && host["phase"] == "idle";
        (!hosts.is_empty() && hosts.iter().all(there)).then_some(())
    });
    for address in fleet.listening(APP, "http") {
        let page = wait::until("a page", || http::get(address, "/").ok());
        assert_eq!(
            page.header("x-release"),
            Some(&number.to_string()[..]),
            "{address}"
        );
    }
    for host in hosts(fleet) {
        complete(fleet, &host, number);
    }
}

/// The releases on a host are what was published, to the last byte, and `current` leads to `number`.
pub fn complete(fleet: &Fleet, host: &str, number: u64) {
    let current = std::fs::read_link(fleet.home(host, APP).join("current")).unwrap();
    let name = current.file_name().unwrap().to_string_lossy().into_owned();
    assert!(name.starts_with(&format!("{number}-")), "{host}: {name}");
    let said = fleet.on_host(host, &["verify", "--full", "-o", "json"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{host}: {said:?}");
    let verified: Value = serde_json::from_str(&text).unwrap();
    let releases = verified["releases"].as_array().unwrap();
    assert!(!releases.is_empty(), "{host}: {verified:#}");
    for release in releases {
        assert_eq!(
            release["damage"].as_array().map(Vec::len),
            Some(0),
            "{host}: {release:#}"
        );
    }
    let leftovers: Vec<_> = std::fs::read_dir(fleet.home(host, APP).join("releases"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".staging"))
        .collect();
    assert_eq!(leftovers, Vec::<String>::new(), "{host}");
}

/// Names of the fleet's hosts.
pub fn hosts(fleet: &Fleet) -> Vec<String> {
    let hosts = std::fs::read_dir(fleet.dir().join("hosts")).unwrap();
    let mut names: Vec<_> = hosts
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Both populations of users, on every host.
pub fn users(fleet: &Fleet) -> Load {
    // An agent that was just started has yet to ask the keeper.
    let targets = wait::until("a listener on every host", || {
        let found = fleet.listening(APP, "http");
        (found.len() == hosts(fleet).len()).then_some(found)
    });
    Load::start(&targets, "/", 25)
}

/// Ends the load: nothing failed in either population.
pub fn nothing_lost(load: Load) -> Value {
    let summary = load.finish();
    for population in ["connection", "keep_alive"] {
        let ok = summary[population]["ok"].as_u64();
        assert!(ok.is_some_and(|ok| ok > 0), "{population}: {summary:#}");
    }
    assert_eq!(summary["failed"].as_u64(), Some(0), "{summary:#}");
    summary
}

/// Looks all the time whether `current` leads to a release on every host.
pub struct Links {
    stop: Arc<AtomicBool>,
    watching: Option<JoinHandle<Vec<String>>>,
}

impl Links {
    pub fn watch(fleet: &Fleet) -> Self {
        let homes: Vec<PathBuf> = hosts(fleet).iter().map(|host| fleet.home(host, APP)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let watching = std::thread::spawn(move || {
            let mut absent = Vec::new();
            while !told.load(Ordering::Relaxed) && absent.is_empty() {
                absent.extend(homes.iter().filter_map(|home| lost(home)));
                std::thread::sleep(Duration::from_millis(1));
            }
            absent
        });
        Self {
            stop,
            watching: Some(watching),
        }
    }

    pub fn never_absent(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let absent = self.watching.take().unwrap().join().unwrap();
        assert_eq!(absent, Vec::<String>::new());
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Why the host has no whole release as its current one.
fn lost(home: &std::path::Path) -> Option<String> {
    let link = home.join("current");
    for file in ["ship.toml", "bin/server", "templates/index.html"] {
        let path = match std::fs::read_link(&link) {
            Ok(release) => home.join(release).join(file),
            Err(error) => return Some(format!("{}: {error}", link.display())),
        };
        if let Err(error) = std::fs::metadata(&path) {
            return Some(format!("{}: {error}", path.display()));
        }
    }
    None
}
