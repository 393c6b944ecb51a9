//! Deterministic simulation: the real controller's step and the real agent's rules on hundreds of hosts, with partitions,
//! restarts, slow hosts, full disks, clocks that jump, releases that fail, and operators who change their minds.
//!
//! One seed is one history, the same on every machine. `SHIP_SEED=N` goes through that one alone, `SHIP_SEEDS=N` through the
//! first N, `SHIP_TESTS_LONG=1` through ten thousand and through one of ten thousand hosts.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise, and tells what it did"
)]

mod chance;
mod fleet;
mod gates;
#[path = "../checking/host.rs"]
mod host;
mod machine;
#[allow(dead_code, reason = "the checker uses more of it")]
#[path = "../checking/properties.rs"]
mod properties;
mod queue;
#[path = "../checking/rules.rs"]
mod rules;
mod store;

use std::collections::BTreeMap;
use std::time::Instant;

use fleet::{Ended, Fleet};

/// Seeds that once found something; each is gone through in every run. 6: a host that was where it should go before its turn
/// came was waited for until the deadline.
const ONCE_WRONG: &[u64] = &[6];

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
    )
}

fn is_long() -> bool {
    std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1")
}

/// Mostly small fleets, in which more things meet; every hundredth is one of 200 hosts.
fn hosts_of(seed: u64) -> usize {
    if seed % 100 == 1 {
        200
    } else {
        1 + (seed as usize * 7) % 24
    }
}

fn history(seed: u64, hosts: usize) -> Ended {
    Fleet::new(seed, hosts)
        .run()
        .unwrap_or_else(|(at_ms, violation)| {
            panic!(
                "SHIP_SEED={seed}: {hosts} hosts, at {at_ms} ms: {:?}: {}",
                violation.property, violation.what
            )
        })
}

#[test]
fn every_history_keeps_every_property_and_ends() {
    let one = number("SHIP_SEED");
    let most = number("SHIP_SEEDS").unwrap_or(if is_long() { 10_000 } else { 300 });
    let seeds: Vec<u64> = match one {
        Some(seed) => vec![seed],
        None => {
            let known = ONCE_WRONG.iter().copied().filter(|seed| *seed > most);
            known.chain(1..=most).collect()
        }
    };
    let began = Instant::now();
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    let (mut steps, mut happened) = (0, 0);
    for seed in &seeds {
        let ended = history(*seed, hosts_of(*seed));
        steps += ended.steps;
        happened += ended.happened;
        for (ending, times) in ended.endings {
            *endings.entry(ending).or_default() += times;
        }
    }
    println!(
        "{} seeds, {happened} events, {steps} steps, {:.1} s: {endings:?}",
        seeds.len(),
        began.elapsed().as_secs_f32()
    );
    if one.is_some() {
        return;
    }
    // Histories in which nothing happens would prove nothing.
    for ending in [
        "Promote Done",
        "Promote Reverted",
        "Promote Failed",
        "Promote Partly",
        "Revert Done",
    ] {
        assert!(endings.contains_key(ending), "{ending}: never: {endings:?}");
    }
}

/// Ten thousand hosts, in the long run; `SHIP_HOSTS=N` for another number.
#[test]
fn a_large_fleet_comes_through() {
    let hosts = match number("SHIP_HOSTS") {
        Some(hosts) => hosts as usize,
        None if is_long() => 10_000,
        None => return,
    };
    let began = Instant::now();
    let ended = history(number("SHIP_SEED").unwrap_or(1), hosts);
    println!("{hosts} hosts: {ended:?}, {:.1} s", began.elapsed().as_secs_f32());
}

#[test]
fn a_seed_is_one_history() {
    let (one, other) = (history(42, 12), history(42, 12));
    assert_eq!((one.steps, one.happened), (other.steps, other.happened));
    assert_eq!(one.endings, other.endings);
}
