//! Model checking of the code that runs: the rollout's step function, and the agent's rules, in every order in which a fleet's
//! events can happen.
//!
//! ```text
//! space      everything that can happen next          world    a state of everything, as a few numbers
//! machine    the real step function, asked once       hosts    the real agent's rules, asked once
//! properties what must be true, one by one            mutants  each guard left out: the checker must notice
//! search     breadth first, each state once
//! ```
//!
//! `SHIP_TESTS_LONG=1` searches the large worlds as well; `SHIP_CHECK=NAME` one world alone, and prints what it found.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and tells what it did"
)]

#[allow(dead_code, reason = "the simulation uses more of it")]
mod host;
mod hosts;
mod intern;
mod machine;
mod mutants;
mod properties;
mod rules;
mod search;
mod settings;
mod space;
mod world;

use std::time::Instant;

use mutants::Mutant;
use search::{Reached, search};
use settings::{large, small};
use space::{Fleet, Setting};

/// The most memory this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Searches a world and tells how far it came; stops the test at the first thing that must not be.
fn look_at(setting: &Setting, most: usize) -> Reached {
    let began = Instant::now();
    let mut fleet = Fleet::new(setting.clone(), None);
    let reached = search(&mut fleet, most).unwrap_or_else(|found| {
        panic!(
            "{}: {:?}: {}\n{}\nafter {} states",
            setting.name,
            found.violation.property,
            found.violation.what,
            found.way.join("\n"),
            found.reached.states
        )
    });
    let (records, reports, hosts) = fleet.parts();
    println!(
        "{}: {} app hosts{}, {} controllers, any number of lost messages; {:?}\n  {} states, {} ways, depth {}, {}; \
         {records} records, {reports} reports, {hosts} hosts; {:.1} s, peak {} MiB",
        setting.name,
        setting.hosts,
        if setting.asset_host {
            " and an asset host"
        } else {
            ""
        },
        setting.controllers,
        setting.limits,
        reached.states,
        reached.ways,
        reached.depth,
        if reached.exhausted {
            "exhausted"
        } else {
            "NOT exhausted"
        },
        began.elapsed().as_secs_f32(),
        peak_mib(),
    );
    reached
}

#[test]
fn small_worlds_hold_every_property() {
    if std::env::var_os("SHIP_CHECK").is_some() {
        return;
    }
    let all: Vec<_> = small();
    let mut states = 0;
    for setting in &all {
        let reached = look_at(setting, usize::MAX);
        assert!(reached.exhausted);
        states += reached.states;
    }
    println!("{states} states in {} worlds", all.len());
}

#[test]
fn large_worlds_hold_every_property() {
    let one = std::env::var("SHIP_CHECK").ok();
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    if !long && one.is_none() {
        return;
    }
    let most = std::env::var("SHIP_CHECK_STATES").map_or(60_000_000, |most| most.parse().unwrap());
    for setting in large().iter().chain(&small()) {
        if one.as_ref().is_none_or(|one| one == setting.name) {
            look_at(setting, most);
        }
    }
}

fn survives(mutant: &Mutant) -> Option<String> {
    let setting = Setting {
        name: mutant.without,
        hosts: mutant.hosts,
        asset_host: mutant.asset_host,
        controllers: mutant.controllers,
        gated: mutant.gated,
        limits: mutant.limits.to_vec(),
    };
    let began = Instant::now();
    let found = match search(&mut Fleet::new(setting, Some(mutant.clone())), 3_000_000) {
        Ok(reached) => return Some(format!("without \"{}\": {reached:?}", mutant.without)),
        Err(found) => found,
    };
    println!(
        "without \"{}\": {:?} after {} steps, {} states, {:.1} s: {}",
        mutant.without,
        found.violation.property,
        found.way.len() + 1,
        found.reached.states,
        began.elapsed().as_secs_f32(),
        found.violation.what
    );
    let told = mutant.kills.contains(&found.violation.property);
    (!told).then(|| {
        format!(
            "without \"{}\": {:?}, {}, instead of {:?}",
            mutant.without, found.violation.property, found.violation.what, mutant.kills
        )
    })
}

/// A checker that does not notice that a guard is gone proves nothing.
#[test]
fn no_guard_can_be_left_out() {
    let one = std::env::var("SHIP_MUTANT").ok();
    let all = mutants::all();
    let all = all
        .iter()
        .filter(|mutant| one.as_ref().is_none_or(|one| mutant.without.contains(one)));
    let survived: Vec<_> = all.filter_map(survives).collect();
    assert!(survived.is_empty(), "not noticed:\n{}", survived.join("\n"));
}
