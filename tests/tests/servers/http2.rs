//! The recipes over HTTP/2, where a server says GOAWAY: by the servers' own clients.

use std::process::Command;

use ship_tests::servers::Subject;

/// What a program says, with a drain file that is not there yet.
fn said(command: &mut Command) -> String {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
    let done = command
        .env("SHIP_DRAIN_FILE", folder.path().join("drain"))
        .output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[test]
fn node_says_goaway_and_finishes_what_runs() {
    let Some(subject) = Subject::node() else {
        return ship_tests::skipped("node over HTTP/2", "node is not installed: run tests/setup");
    };
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
    subject.copy_to(folder.path());
    let mut node = Command::new(&subject.command[0]);
    let told = said(node.arg("http2.js").current_dir(folder.path()));
    assert_eq!(told.lines().collect::<Vec<_>>(), ["goaway", "whole", "closed"]);
}

#[test]
fn go_says_goaway() {
    let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("a temporary folder: {error}"));
    let Some(subject) = Subject::go(folder.path(), "./http2") else {
        return ship_tests::skipped("Go over HTTP/2", "Go is not installed: run tests/setup");
    };
    assert_eq!(said(&mut Command::new(&subject.files[0].0)), "goaway\n");
}
