//! Who may not, who is somebody else, and what does not exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ship_tests::{Fleet, bin, shipctl, wait};

use crate::state::{good, of, refused, with_one_release};

/// `shipstore` with these words, which must succeed.
#[track_caller]
fn shipstore(words: &[&str]) {
    let output = Command::new(bin("shipstore")).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

fn issue(store: &Path, words: &[&str], out: &Path) {
    let (store, out) = (store.to_str().unwrap(), out.to_str().unwrap());
    shipstore(&[&["issue", "--dir", store, "--out", out], words].concat());
}

/// The fleet's context with the certificate in `tls`.
fn context(fleet: &Fleet, tls: &Path) -> PathBuf {
    let text = fs::read_to_string(fleet.context()).unwrap();
    let path = tls.parent().unwrap().join("context.toml");
    assert!(text.contains("tls/cert.pem"), "{text}");
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn whoever_may_not_is_told_who_may() {
    let fleet = with_one_release(2);
    for name in ["second", "third"] {
        let root = good(&fleet, name);
        fleet.shipctl(&["publish", root.to_str().unwrap()]).expect(0);
    }
    fleet.shipctl(&["promote", "site@2"]).expect(0);
    let before = of(&fleet);
    let store = fleet.dir().join("store");
    for (role, refused_calls) in [
        ("viewer", &[&["promote", "site@3"][..], &["revert", "site"]][..]),
        ("publisher", &[&["promote", "site@3"], &["revert", "site"]]),
    ] {
        let tls = fleet.beside(role).join("tls");
        issue(&store, &["--role", role, "--name", "bob"], &tls);
        let context = context(&fleet, &tls);
        shipctl::shipctl(Some(&context), &["status"]).expect(0);
        for args in refused_calls {
            let ran = shipctl::shipctl(Some(&context), args);
            let who = format!("{role}/bob");
            refused(&fleet, &before, ran, 4, &[&who, "needs the role operator"]);
        }
    }
    unknown(&fleet, &before);
    another_fleet(&fleet, &before);
    another_hosts_name(&fleet);
    assert_eq!(fleet.running("site"), [Some(2), Some(2)]);
}

/// Each unknown thing is named, with what there is or how to see it.
fn unknown(fleet: &Fleet, before: &[String]) {
    for (args, words) in [
        (
            &["promote", "shop"][..],
            &["no app \"shop\"", "there is site"][..],
        ),
        (&["promote", "site@9"], &["site", "9", "hint:"]),
        (&["plan", "site@9"], &["9", "hint:"]),
        (
            &["show", "site@9"],
            &["site has no release 9", "shipctl releases site"],
        ),
        (&["revert", "shop"], &["shop", "there is site"]),
        (&["logs", "site", "--host", "h9"], &["h9", "h1, h2"]),
        (
            &["promote", "site", "-e", "production"],
            &["no environment \"production\"", "there is dev"],
        ),
    ] {
        refused(fleet, before, fleet.shipctl(args), 1, words);
    }
    for (args, words) in [
        (&["promote", "../site"][..], &["../site"][..]),
        (&["promote", "site@x"], &["site@x"]),
    ] {
        refused(fleet, before, fleet.shipctl(args), 2, words);
    }
}

fn another_fleet(fleet: &Fleet, before: &[String]) {
    let (ours, theirs) = (fleet.dir().join("store"), fleet.beside("strangers").join("store"));
    shipstore(&["init", "--dir", theirs.to_str().unwrap(), "--fleet", "strangers"]);
    let tls = fleet.beside("strangers").join("tls");
    issue(&theirs, &["--role", "operator", "--name", "mallory"], &tls);
    // It does not trust our store …
    let context = context(fleet, &tls);
    let ran = shipctl::shipctl(Some(&context), &["revert", "site"]);
    refused(
        fleet,
        before,
        ran,
        1,
        &["not of the fleet whose CA the context names", "hint:"],
    );
    // … and when it does, our store does not trust it.
    fs::copy(ours.join("tls/ca.pem"), tls.join("ca.pem")).unwrap();
    let ran = shipctl::shipctl(Some(&context), &["revert", "site"]);
    refused(fleet, before, ran, 1, &["hint:"]);
}

/// An agent with the certificate of h2 that says it is h1.
fn another_hosts_name(fleet: &Fleet) {
    let own = fleet.beside("impostor");
    let hosts = fleet.dir().join("hosts");
    let text = fs::read_to_string(hosts.join("h1/agent.toml")).unwrap();
    let (theirs, ours) = (hosts.join("h1"), own.to_str().unwrap());
    let text = text.replace(theirs.to_str().unwrap(), ours);
    // Ports that h1 has.
    let taken = |line: &&str| line.starts_with("asset_listen") || line.starts_with("metrics_listen");
    let lines = text.lines().filter(|line| !taken(line));
    fs::write(own.join("agent.toml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
    fs::create_dir_all(own.join("tls")).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        fs::copy(hosts.join("h2/tls").join(file), own.join("tls").join(file)).unwrap();
    }
    let log = own.join("log");
    let mut impostor = Running(
        Command::new(bin("ship-agent"))
            .args(["run", "--config"])
            .arg(own.join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    wait::until("the impostor to be told", || {
        let said = fs::read_to_string(&log).unwrap();
        (said.contains("dev/h1") && said.contains("dev/h2")).then_some(())
    });
    impostor.0.kill().unwrap();
    impostor.0.wait().unwrap();
    assert!(!own.join("apps/site").exists(), "it was told what to run");
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
