//! Real input: six consecutive releases of streamlit's front end, served by uvicorn over a socket that the
//! keeper hands over, promoted under load and reverted.
//!
//! After every step the page loads, and every fingerprinted asset of every published release answers 200
//! with the published bytes, at the app's own address and at every asset host's.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests fail by panicking, and tell figures of a run beside their verdict"
)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use ship_model::digest::BlobDigest;
use ship_tests::wait::until;
use ship_tests::{Fleet, http, load::Load};

/// Asset URL path → digest of its bytes, over all published releases.
type Published = BTreeMap<String, BlobDigest>;

#[test]
fn six_releases_of_streamlit_travel_and_lose_nothing() {
    let Some(cache) = cache() else { return };
    let fleet = Fleet::start(2);
    let trees = unpack_all(&cache, &fleet.beside("trees"));
    let mut published = Published::new();
    let mut sent = Vec::new();

    for (index, (version, tree)) in trees.iter().enumerate() {
        let number = index as u64 + 1;
        let done = fleet
            .shipctl(&[
                "publish",
                tree.to_str().unwrap(),
                "--label",
                version,
                "-o",
                "json",
            ])
            .json();
        assert_eq!(
            (done["release"].as_u64(), done["app"].as_str()),
            (Some(number), Some("streamlit"))
        );
        note_assets(tree, &mut published);
        let load = (number > 1).then(|| load(&fleet));
        // On a slow machine it takes longer than hosts wait for it.
        until("the delta is made", || {
            (fleet.deltas_made() >= index).then_some(())
        });
        fleet.shipctl(&["promote", "streamlit", "-m", version]).expect(0);
        check(&fleet, number, &published);
        if number > 1 {
            sent.push(sent_little(number, &done));
        }
        moved_little(&fleet, number, done["stored_bytes"].as_u64().unwrap());
        load.into_iter().for_each(nothing_lost);
    }
    let total = |at: usize| sent.iter().map(|both: &[u64; 2]| both[at]).sum::<u64>();
    assert!(total(0) < total(1) / 8, "sent, and of: {sent:?}");
    assert!(
        published.len() > 100,
        "{} assets are no real test",
        published.len()
    );

    let load = load(&fleet);
    fleet.shipctl(&["revert", "streamlit"]).expect(0);
    check(&fleet, trees.len() as u64 - 1, &published);
    nothing_lost(load);
}

/// From the second release on, the publisher sends what changed, in a small part of the bytes of the bundle that is made of it. Gives
/// both.
fn sent_little(number: u64, done: &serde_json::Value) -> [u64; 2] {
    let both = ["uploaded_bytes", "stored_bytes"].map(|key| done[key].as_u64().unwrap());
    let [sent, bundle] = both;
    eprintln!("release {number}: {sent} bytes sent of {bundle}");
    assert_eq!(done["delta_from"].as_u64(), Some(number - 1), "{done}");
    assert!(sent < bundle / 3, "{done}");
    both
}

/// From the second release on, hosts fetch what changed, in a small part of the bytes of the new files.
fn moved_little(fleet: &Fleet, number: u64, bundle: u64) {
    for host in fleet.app("streamlit")["hosts"].as_array().unwrap() {
        let from = host["delta_from"].as_u64();
        assert_eq!(from, Some(number - 1).filter(|from| *from > 0), "{host}");
        let fetched = host["fetched_bytes"].as_u64().unwrap();
        assert!(
            from.is_none() || fetched < bundle / 2,
            "{fetched} of {bundle}: {host}"
        );
    }
}

fn cache() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cache = std::env::var_os("SHIP_TESTS_CACHE").map_or_else(|| root.join(".cache"), PathBuf::from);
    if cache.join("venv/bin/uvicorn").exists() && cache.join("wheels").exists() {
        return Some(cache);
    }
    ship_tests::skipped("streamlit", "no uvicorn or wheels in .cache: run tests/setup");
    None
}

/// Makes a release tree of every version, in order.
fn unpack_all(cache: &Path, out: &Path) -> Vec<(String, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("streamlit");
    let versions = fs::read_to_string(here.join("versions")).unwrap();
    let tree_of = |version: &str| {
        let tree = out.join(version);
        let prefix = format!("streamlit-{version}-");
        let wheels = fs::read_dir(cache.join("wheels"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let wheel = wheels
            .into_iter()
            .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix))
            .unwrap_or_else(|| panic!("streamlit {version} is not in the cache: run tests/setup"));
        let python = cache.join("venv/bin/python");
        let unzip = Command::new(&python)
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&tree)
            .status();
        assert!(unzip.unwrap().success());
        fs::copy(here.join("app.py"), tree.join("app.py")).unwrap();
        let recipe = here.join("../../agent/drain/asgi.py");
        fs::copy(recipe, tree.join("drain.py")).unwrap();
        fs::write(tree.join("ship.toml"), ship_toml(&python)).unwrap();
        (version.to_owned(), tree)
    };
    versions
        .lines()
        .filter(|line| !line.is_empty())
        .map(tree_of)
        .collect()
}

fn ship_toml(python: &Path) -> String {
    format!(
        r#"
app = "streamlit"

[process.web]
command = ["{}", "-m", "uvicorn", "--fd", "3", "--log-level", "warning", "app:app"]
class = "web"
listen = {{ http = "tcp:8501" }}
probe = {{ http = "/healthz", times = 3, timeout = "10s" }}
ready_timeout = "120s"
soak = "1s"
drain = "5s"

[[assets]]
root = "streamlit/static"
url = "/"
"#,
        python.display()
    )
}

/// Every fingerprinted file below the release's static folder, read from the tree itself.
fn note_assets(tree: &Path, published: &mut Published) {
    let root = tree.join("streamlit/static");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if has_hash(&path.file_name().unwrap().to_string_lossy()) {
                let url = format!("/{}", path.strip_prefix(&root).unwrap().display());
                published.insert(url, BlobDigest::of(&fs::read(&path).unwrap()));
            }
        }
    }
}

/// Webpack's `main.5513bd04.css`: told without asking the product, which must come to the same answer.
fn has_hash(name: &str) -> bool {
    let hex = |part: &str| part.len() >= 8 && part.bytes().all(|b| b.is_ascii_hexdigit());
    name.split('.').any(hex)
}

fn load(fleet: &Fleet) -> Load {
    let targets = fleet.listening("streamlit", "http");
    assert_eq!(targets.len(), 2);
    Load::start(&targets, "/", 20)
}

fn check(fleet: &Fleet, number: u64, published: &Published) {
    assert_eq!(fleet.running("streamlit"), [Some(number), Some(number)]);
    let apps = fleet.listening("streamlit", "http");
    let hosts = fleet.asset_urls("streamlit");
    assert!(apps.len() == 2 && !hosts.is_empty());
    let bases = apps.iter().map(base).chain(hosts);
    for base in bases {
        for (url, digest) in published {
            let answer = http::get_url(&format!("{base}{url}")).unwrap();
            assert_eq!(answer.status, 200, "{base}{url}");
            assert_eq!(
                BlobDigest::of(&answer.body),
                *digest,
                "{base}{url} has other bytes"
            );
        }
    }
    for app in apps {
        let page = http::get(app, "/").unwrap();
        assert_eq!(
            (page.status, page.header("x-release")),
            (200, Some(&number.to_string()[..]))
        );
        let named = assets_named(&page.text());
        assert!(!named.is_empty(), "the page of release {number} names no asset");
        for url in named {
            assert_eq!(
                http::get(app, &url).unwrap().status,
                200,
                "{url} of release {number}"
            );
        }
    }
}

fn base(address: &SocketAddr) -> String {
    format!("http://{address}")
}

/// What `src` and `href` of a page name, as absolute paths of the same origin.
fn assets_named(page: &str) -> Vec<String> {
    let mut named = Vec::new();
    for attribute in ["src=\"", "href=\""] {
        for part in page.split(attribute).skip(1) {
            let url = part.split('"').next().unwrap_or_default();
            if !url.contains(':') && !url.is_empty() {
                named.push(format!(
                    "/{}",
                    url.trim_start_matches("./").trim_start_matches('/')
                ));
            }
        }
    }
    named
}

fn nothing_lost(load: Load) {
    let summary = load.finish();
    assert!(summary["sent"].as_u64().unwrap() > 0, "{summary:#}");
    assert_eq!(summary["failed"].as_u64(), Some(0), "{summary:#}");
}
