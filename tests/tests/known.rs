//! What is known of assets: which names are fingerprints, which files are nobody's business, and whether every server has
//! what a page names.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use serde_json::Value;
use ship_tests::{Fleet, http};

const TOML: &str = r#"
app = "site"
[[assets]]
root = "public"
url = "/"
mutable = ["index.html"]
private = ["*.map"]
"#;

/// A name that only the tool's manifest tells to be a fingerprint.
const ENTRY: &str = "assets/index-qwertzui.js";
const LAZY: &str = "assets/lazy-3f9a12bc.js";
const MANIFEST: &str =
    r#"{"src/index.js": {"file": "assets/index-qwertzui.js", "name": "index", "isEntry": true}}"#;
const PAGE: &str = r#"<!doctype html><script type=module src="/assets/index-qwertzui.js"></script>"#;

fn site(fleet: &Fleet, files: &[(&str, &str)]) -> String {
    let tree = fleet.beside("site");
    let _ = fs::remove_dir_all(&tree);
    put(&tree, "ship.toml", TOML);
    put(&tree, "public/index.html", PAGE);
    put(&tree, "public/.vite/manifest.json", MANIFEST);
    put(&tree, &format!("public/{ENTRY}"), "import('./lazy-3f9a12bc.js')");
    put(&tree, &format!("public/{LAZY}"), "lazy()");
    put(
        &tree,
        &format!("public/{LAZY}.map"),
        "{\"sources\": [\"secret\"]}",
    );
    put(&tree, &format!("public/{LAZY}.map.gz"), "the same, packed");
    for (name, text) in files {
        put(&tree, name, text);
    }
    tree.to_str().unwrap().to_owned()
}

fn put(tree: &Path, name: &str, text: &str) {
    let path = tree.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Every address at which the fleet serves the site's assets, the store's too.
fn servers(fleet: &Fleet) -> Vec<String> {
    let all = fleet.asset_urls("site");
    let store = fleet.status()["store_asset_url"].as_str().unwrap().to_owned();
    assert!(all.contains(&store), "{all:?} and {store}");
    all
}

#[test]
fn a_tools_manifest_makes_a_name_immutable_and_private_files_are_nobodys() {
    let fleet = Fleet::start(2);
    let tree = site(&fleet, &[]);
    fleet.shipctl(&["publish", &tree]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let servers = servers(&fleet);
    assert!(servers.len() >= 3, "{servers:?}");
    for server in &servers {
        let server = server.trim_end_matches('/');
        let cached = |path: &str| {
            let answer = http::get_url(&format!("{server}/{path}")).unwrap();
            assert_eq!(answer.status, 200, "{server}/{path}");
            answer.header("cache-control").unwrap().contains("immutable")
        };
        assert!(cached(ENTRY) && cached(LAZY), "{server}");
        for private in [
            format!("{LAZY}.map"),
            format!("{LAZY}.map.gz"),
            "assets/%6Cazy-3f9a12bc.js.map".to_owned(),
        ] {
            let answer = http::get_url(&format!("{server}/{private}")).unwrap();
            assert_eq!(answer.status, 404, "{server}/{private}");
            assert!(!answer.text().contains("secret"), "{server}/{private}");
        }
    }
    for host in ["h1", "h2"] {
        let home = fleet.home(host, "site");
        let map = format!("{LAZY}.map");
        assert!(
            home.join("current/public").join(&map).is_file(),
            "it is in the release"
        );
        assert!(home.join("assets").join(LAZY).is_file());
        assert!(!home.join("assets").join(&map).exists(), "and not on the shelf");
    }
    let listed = fleet.shipctl(&["asset", "ls", "site", "-o", "json"]).json();
    let listed = listed["assets"].as_array().unwrap();
    assert!(
        listed
            .iter()
            .all(|asset| !asset["url"].as_str().unwrap().contains(".map"))
    );
    let shown = fleet.shipctl(&["show", "site", "-o", "json"]).json();
    assert_eq!(shown["assets_private"], 2);
    assert_eq!(shown["spec"]["assets"][0]["private"][0], "*.map");

    // The next release has neither file: an old page still finds both.
    let tree = fleet.beside("site");
    fs::remove_file(tree.join("public").join(ENTRY)).unwrap();
    fs::remove_file(tree.join("public").join(LAZY)).unwrap();
    fs::remove_file(tree.join("public/.vite/manifest.json")).unwrap();
    put(&tree, "public/index.html", "<p>new</p>");
    fleet.shipctl(&["publish", tree.to_str().unwrap()]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    for server in &servers {
        for path in [ENTRY, LAZY] {
            let answer = http::get_url(&format!("{}/{path}", server.trim_end_matches('/'))).unwrap();
            assert_eq!(answer.status, 200, "{server}/{path}");
        }
    }
}

#[test]
fn lint_against_an_environment_finds_clashes_and_keeps_nothing() {
    let fleet = Fleet::start(1);
    let tree = site(&fleet, &[("public/logo.svg", "<svg/>")]);
    let lint = |env: &str| fleet.shipctl(&["lint", &tree, "--against", env, "-o", "json"]);
    lint("dev").expect(0);
    fleet.shipctl(&["publish", &tree]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let kinds = |ran: &str| -> Vec<String> {
        let told: Value = serde_json::from_str(ran).unwrap();
        let findings = told["findings"].as_array().unwrap().iter();
        findings
            .map(|finding| finding["kind"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds(&lint("dev").expect(0).stdout), ["no-fingerprint"]);
    let site = fleet.beside("site");
    put(&site, "public/logo.svg", "<svg><!-- new --></svg>");
    assert_eq!(
        kinds(&lint("dev").expect(0).stdout),
        ["changes", "no-fingerprint"]
    );
    put(&site, &format!("public/{ENTRY}"), "other()");
    let ran = lint("dev").expect(1);
    assert_eq!(kinds(&ran.stdout), ["clash", "changes", "no-fingerprint"]);
    assert!(ran.stdout.contains(ENTRY), "{ran}");
    let refused = lint("production");
    assert!(
        refused.code != 0 && refused.stderr.contains("production"),
        "{refused}"
    );
    let releases = fleet.shipctl(&["releases", "site", "-o", "json"]).json();
    assert_eq!(
        releases.to_string().matches("\"release\":").count(),
        1,
        "{releases}"
    );
}

/// What stands between users and the fleet, with an old copy of one asset and without another.
fn cdn(files: &'static [(&'static str, &'static str, &'static str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, files);
        }
    });
    address
}

fn answer(mut stream: TcpStream, files: &[(&str, &str, &str)]) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (status, kind, body) = match files.iter().find(|(name, ..)| *name == path) {
        Some((_, kind, body)) => ("200 OK", *kind, *body),
        None => ("404 Not Found", "text/plain", ""),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[test]
fn a_page_is_checked_at_every_server_and_through_what_stands_before_them() {
    let fleet = Fleet::start(2);
    let tree = site(&fleet, &[]);
    fleet.shipctl(&["publish", &tree]).expect(0);
    fleet.shipctl(&["promote", "site"]).expect(0);
    let own = format!("{}/index.html", fleet.asset_urls("site")[0].trim_end_matches('/'));
    let good = fleet.shipctl(&["asset", "check", &own, "-o", "json"]).json();
    let paths: Vec<&str> = good["named"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        paths,
        [format!("/{ENTRY}"), format!("/{LAZY}")],
        "the lazy chunk is found in the entry"
    );
    assert_eq!(good["problems"].as_array().unwrap().len(), 0, "{good}");
    let asked = good["found"].as_array().unwrap();
    assert_eq!(asked.len(), 2 * servers(&fleet).len(), "{good}");
    assert!(asked.iter().all(|found| found["verdict"] == "right"), "{good}");

    let before = cdn(&[
        (
            "/",
            "text/html",
            r#"<script src="/assets/index-qwertzui.js"></script><link rel=stylesheet href="/gone.css">"#,
        ),
        (
            "/assets/index-qwertzui.js",
            "text/javascript",
            "import('./lazy-3f9a12bc.js')",
        ),
        ("/assets/lazy-3f9a12bc.js", "text/javascript", "an old copy"),
    ]);
    let ran = fleet
        .shipctl(&["asset", "check", &format!("http://{before}/"), "-o", "json"])
        .expect(1);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    let mut problems: Vec<(&str, &str, &str)> = Vec::new();
    for found in told["problems"].as_array().unwrap() {
        let text = |key: &str| found[key].as_str().unwrap();
        problems.push((text("path"), text("verdict"), text("at")));
    }
    let at = format!("http://{before}");
    assert_eq!(
        problems,
        [
            ("/assets/lazy-3f9a12bc.js", "wrong", at.as_str()),
            ("/gone.css", "missing", at.as_str())
        ]
    );
    let shown = fleet
        .shipctl(&["asset", "check", &format!("http://{before}/")])
        .expect(1);
    assert!(
        shown.stdout.contains("other bytes") && shown.stdout.contains("missing (404)"),
        "{shown}"
    );

    for (url, code, said) in [
        ("index.html", 2, "not the address of a page"),
        ("ftp://example.com/", 2, "not the address of a page"),
        (format!("http://{before}/absent").as_str(), 1, "answers 404"),
    ] {
        let refused = fleet.shipctl(&["asset", "check", url]).expect(code);
        assert!(refused.stderr.contains(said), "{refused}");
    }
}
