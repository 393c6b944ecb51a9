//! What a host lets its agent and keepers do reaches whoever asks the fleet.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::process::Command;

use serde_json::Value;
use ship_tests::{Fleet, wait};

/// What `ship-agent doctor` finds missing on this machine, which is the host's too. That the kernel moves no connections is
/// told there and costs nothing.
fn missing_here() -> Vec<String> {
    let asked = Command::new(ship_tests::bin("ship-agent"))
        .args(["doctor", "-o", "json"])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&asked.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["have"] == false && finding["what"] != "tcp_migrate_req")
        .map(|finding| finding["what"].as_str().unwrap().to_owned())
        .collect()
}

/// What `shipctl doctor` says of the host's privileges; none while it has not reported.
fn told_of(fleet: &Fleet, host: &str) -> Option<Vec<Value>> {
    let told = fleet.shipctl(&["doctor", "-o", "json"]).json();
    let findings = told["findings"].as_array()?.iter();
    let of_host = findings.filter(|finding| finding["host"] == host && finding["what"] != host);
    let of_host: Vec<_> = of_host.cloned().collect();
    (!of_host.is_empty()).then_some(of_host)
}

#[test]
fn the_fleets_doctor_tells_what_each_host_lacks() {
    let fleet = Fleet::start(1);
    let told = wait::until("the host to tell what it may do", || told_of(&fleet, "h1"));
    let missing = missing_here();
    if missing.is_empty() {
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(
            (&told[0]["found"], &told[0]["grade"]),
            (&"all there".into(), &"good".into())
        );
        return;
    }
    let lacks: Vec<_> = told.iter().map(|line| line["lacks"].as_str().unwrap()).collect();
    assert_eq!(lacks, missing, "{told:#?}");
    assert!(told.iter().all(|line| line["grade"] == "doubt"), "{told:#?}");
}
