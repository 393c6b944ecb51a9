//! Assets pushed to where a CDN takes them from, in a whole fleet: by the store before any host is switched, and by hand from an
//! operator's machine, to folders and to a real S3 server behind TLS with an authority of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

mod barrier;
mod bucket;
mod folder;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use ship_tests::s3::KEYS;
use ship_tests::shipctl::{self, Ran};
use ship_tests::{Fleet, S3};

const TOML: &str =
    "app = \"site\"\n[[assets]]\nroot = \"public\"\nurl = \"/static\"\nmutable = [\"index.html\"]\n";

/// A name that is a fingerprint.
fn named(bytes: &[u8]) -> String {
    format!("app.{}.js", &blake3::hash(bytes).to_hex()[..16])
}

/// Publishes a site with these files and a page, and gives its number.
fn publish(fleet: &Fleet, files: &[&[u8]]) -> u64 {
    let tree = fleet.beside("site");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("public")).unwrap();
    fs::write(tree.join("ship.toml"), TOML).unwrap();
    fs::write(tree.join("public/index.html"), files.concat()).unwrap();
    for bytes in files {
        fs::write(tree.join("public").join(named(bytes)), bytes).unwrap();
    }
    fleet.publish_tree(&tree)
}

fn has(folder: &Path, bytes: &[u8]) -> bool {
    fs::read(folder.join("static").join(named(bytes))).is_ok_and(|found| found == bytes)
}

/// Where an asset lies in the bucket that all of these push to.
fn object(bytes: &[u8]) -> String {
    format!("/assets/web/static/{}", named(bytes))
}

/// Whether the bucket has an asset, with these bytes and the type of a script, for ever.
fn stands(s3: &S3, bytes: &[u8]) -> bool {
    let answer = s3.object(&object(bytes));
    if answer.status == 404 {
        return false;
    }
    assert_eq!(
        (answer.status, answer.body == bytes),
        (200, true),
        "{}",
        answer.head
    );
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/javascript"), "{}", answer.head);
    let keep = answer.header("cache-control").unwrap_or_default();
    assert!(keep.contains("immutable"), "{}", answer.head);
    true
}

/// `asset push` of `args` to the bucket, with the keys in the environment.
fn by_hand(fleet: &Fleet, s3: &S3, args: &[&str]) -> Command {
    let (endpoint, ca) = (s3.endpoint(), s3.ca());
    let known = ["--endpoint", &endpoint, "--ca", ca.to_str().unwrap()];
    let mut command = bare(fleet, &[args, &known].concat());
    command.envs(KEYS);
    command
}

/// The same without saying how it is reached.
fn bare(fleet: &Fleet, args: &[&str]) -> Command {
    let mut command = shipctl::command(Some(&fleet.context()), &[&["asset", "push"], args].concat());
    for name in [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_CA_BUNDLE",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn run(command: Command) -> Ran {
    shipctl::finish(command, &["asset", "push"])
}

/// Runs `command`, and kills it when `at` says true.
fn killed(mut command: Command, what: &str, mut at: impl FnMut() -> bool) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ship_tests::wait::until(what, || at().then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What came of the only place.
fn pushed(said: &Value) -> (u64, u64, u64) {
    let of = |key: &str| said["pushes"][0][key].as_u64().unwrap();
    (of("sent"), of("there"), of("lacking"))
}
